"""What the pages say is true: snippets run, commands exist, links lead somewhere, files and numbers are there."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.agents.learner import MetaBatch
from metarl.agents.policies.reference import RandomPolicy
from metarl.agents.rl2 import RL2, RL2Config
from metarl.cli.main import COMMANDS, main
from metarl.deployment.policy import SpecialisedPolicy
from metarl.deployment.specialise import without_noise
from metarl.envs.adapters.arguments import own_spaces
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.run.build import build
from metarl.run.config import TrainConfig
from tests.helpers import own_agent
from tests.helpers.agent_builders import perturb, seeded
from tests.helpers.without_figures import empty_figures
from tests.metarl.deployment.test_policy import CARD

pytest_plugins = ["tests.helpers.run_fixtures"]

pytest_plugins = ["tests.helpers.run_fixtures"]

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("envs", "agents", "metarl")
REFERENCE = ROOT / "runs" / "reference"

FRONT_PAGE = ROOT / "README.md"
PAGES = [
    FRONT_PAGE,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "runs" / "README.md",
    REFERENCE / "README.md",
    *(page for folder in (*FLOORS, "tests") for page in sorted((ROOT / folder).rglob("README.md"))),
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def name_of(page: Path) -> str:
    """A page as test reports name it."""
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)

MOST_LINES = 250
LONGEST_LINE = 120
MINUS = "\N{MINUS SIGN}"
INVENTED = {
    "my-agent": "maml",
    "agents/my_agent.py": "agents/reptile.py",
    "envs/families/rotor.py": "envs/families/navigation.py",
    "tests/envs/families/test_rotor.py": "tests/envs/families/test_families.py",
}
"""What pages call things that the reader is to write → something of that kind that exists."""


def code_blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXTS[page], flags=re.DOTALL)


def without_blocks(page: Path) -> str:
    """The text of a page outside its fenced blocks."""
    return re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)


def shell_lines(page: Path) -> list[str]:
    """The commands of a page: inline, and line by line in its blocks, without comments."""
    blocks = "".join(code_blocks(page, "bash")).replace("\\\n", " ")
    in_blocks = [line.partition("#")[0] for line in blocks.splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", without_blocks(page))]
    return [line.strip() for line in in_blocks + inline]


def commands() -> list[str]:
    """Every `metarl …` of every page."""
    return [line for page in PAGES for line in shell_lines(page) if re.match(r"metarl \w", line)]


def the_command(part: str) -> list[str]:
    """The arguments of the one command that contains this."""
    (command,) = {command for command in commands() if part in command}
    return shlex.split(command)[1:]


SNIPPETS = {
    "own environment": (FRONT_PAGE, "class MyDistribution"),
    "own family": (ROOT / "envs" / "families" / "README.md", "class Rotor"),
    "registered ids": (ROOT / "envs" / "README.md", "gymnasium.make_vec("),
    "Gymnasium tasks": (ROOT / "envs" / "README.md", "GymnasiumTasks("),
    "SB3's VecEnv": (ROOT / "envs" / "adapters" / "README.md", "make_sb3_vec_env("),
    "meta-iteration": (ROOT / "metarl" / "README.md", "learner.begin("),
    "from Python": (ROOT / "metarl" / "README.md", "metarl.compare("),
    "ONNX alone": (ROOT / "metarl" / "deployment" / "README.md", "class PointNavigation"),
    "learning alone": (ROOT / "metarl" / "deployment" / "README.md", "explorer/memory.npz"),
    "learning from Python": (ROOT / "metarl" / "deployment" / "README.md", "policy.reset()"),
    "adapted from Python": (ROOT / "metarl" / "deployment" / "README.md", "evaluate_policy("),
    "own agent": (ROOT / "agents" / "README.md", "class MyLearner"),
    "same tensors": (ROOT / "CONTRIBUTING.md", "load_file("),
}
"""Name → page and a part of the snippet: all Python of all pages, each run by a test below."""


def snippet(name: str) -> str:
    """A snippet by its name in SNIPPETS."""
    page, part = SNIPPETS[name]
    (found,) = (block for block in code_blocks(page, "python") if part in block)
    return found


def test_every_snippet_is_run() -> None:
    assert sum(len(code_blocks(page, "python")) for page in PAGES) == len({snippet(name) for name in SNIPPETS})


# ---------------------------------------------------------------- pages


def test_the_front_page_is_short() -> None:
    assert len(TEXTS[FRONT_PAGE].splitlines()) <= MOST_LINES


def test_both_set_up_commands_stand_on_the_first_screen() -> None:
    first_screen = TEXTS[FRONT_PAGE][:1800]
    assert "python -m pip install -e . -c constraints.txt && metarl train" in first_screen
    assert "python -m pip install -e '.[test]' -c constraints.txt && pytest" in first_screen


def test_the_front_page_shows_twelve_commands_and_leaves_none_out() -> None:
    rows = [line for line in TEXTS[FRONT_PAGE].splitlines() if re.match(r"\| .* \| `metarl ", line)]
    assert len(rows) == 12
    assert len({shlex.split(row.split("`")[1])[1] for row in rows}) == 12

    everywhere = [line for line in shell_lines(FRONT_PAGE) if line.startswith("metarl ")]
    assert {shlex.split(line)[1] for line in everywhere} == set(COMMANDS)


@every_page
def test_lines_are_short(page: Path) -> None:
    assert [line for line in TEXTS[page].splitlines() if len(line) > LONGEST_LINE] == []


@every_page
def test_tables_have_a_head_and_as_many_cells_in_each_row(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", without_blocks(page), flags=re.MULTILINE):
        rows = table.splitlines()
        assert re.fullmatch(r"\|( --- \|)+", rows[1]), rows[0]
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        assert set(cells) == {cells[1]}, rows[0]


def folders_of_the_tree() -> list[Path]:
    """The folders that the file tree of the front page names."""
    (tree,) = (block for block in code_blocks(FRONT_PAGE, "text") if block.startswith("envs/"))
    folders: list[Path] = []
    path = [ROOT]  # the folders that lead to the one of the line, two spaces a level
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = [*path[: depth + 1], path[depth] / line.split()[0]]
        folders.append(path[-1])
    return folders


def test_every_folder_of_the_tree_has_a_page_that_is_linked() -> None:
    linked = {(ROOT / link).resolve() for link, _ in links(FRONT_PAGE)}
    for folder in folders_of_the_tree():
        assert folder.is_dir(), folder
        assert folder / "README.md" in PAGES, folder
        assert folder / "README.md" in linked, folder


def test_the_tree_names_every_room() -> None:
    rooms = {path.parent for floor in FLOORS for path in (ROOT / floor).rglob("__init__.py")}
    assert rooms <= set(folders_of_the_tree())


# ---------------------------------------------------------------- links and files


def links(page: Path) -> list[tuple[str, str]]:
    """The relative links of a page: file ("" for the page itself) and heading ("" for none)."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_blocks(page))
    parts = (target.partition("#") for target in targets if "://" not in target)
    return [(file, heading) for file, _, heading in parts]


def anchors(text: str) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for file, heading in links(page):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), file
        if heading:
            assert heading in anchors(TEXTS[target]), f"{file}#{heading}"


@every_page
def test_tests_and_extras_that_a_page_names_exist(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in shell_lines(page):
        for test in re.findall(r"\btests/[\w/]+(?:\.py|\.sh)?", line):
            assert (ROOT / INVENTED.get(test, test)).exists(), test
        for named in re.findall(r"'\.\[([\w,]+)\]'", line):
            assert set(named.split(",")) <= set(extras), line
        for constraints in re.findall(r"-c (\S+)", line if "pip install" in line else ""):
            assert (ROOT / constraints).is_file(), line


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "CHANGELOG"], ids=name_of)
def test_files_that_a_page_names_by_their_path_exist(page: Path) -> None:
    for code in re.findall(r"`([^`]+)`", without_blocks(page)):
        for path in re.findall(r"(?<![\w/])(?:\w+/)+\w+\.py\b", code):
            known = INVENTED.get(path, path)
            assert (ROOT / known).is_file() or (page.parent / known).is_file(), path


ROOMS = [page for page in PAGES if (page.parent / "__init__.py").exists()]


@pytest.mark.parametrize("page", ROOMS, ids=name_of)
def test_the_page_of_a_room_names_its_files(page: Path) -> None:
    text = without_blocks(page)
    in_table = {name for line in text.splitlines() if line.startswith("|") for name in re.findall(r"`(\w+\.py)`", line)}
    files = {path.name for path in page.parent.glob("*.py") if not path.name.startswith("__")}
    assert in_table <= files, f"there is no {in_table - files}"
    assert files <= in_table, f"nothing is said of {files - in_table}"


# ---------------------------------------------------------------- numbers


def test_the_numbers_of_the_front_page_are_those_of_the_reference_run() -> None:
    found = json.loads((REFERENCE / "point-navigation-finn" / "evaluation-test.json").read_text())
    (table,) = (block for block in code_blocks(FRONT_PAGE, "text") if "mean return" in block)
    assert f"{found['num_tasks']} test tasks, {found['episodes_per_step']} episodes a step" in table

    shown = [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[0] == "│"]
    expected = []
    for step, interval in enumerate(found["return_ci95"]):
        episodes, steps = found["episodes"][step], found["env_steps"][step]
        low, high = interval
        numbers = [f"{step}", f"{episodes}", f"{steps:,.0f}", f"{found['return_mean'][step]:.2f}"]
        expected.append([*numbers, f"[{low:.2f}, {high:.2f}]"])
    low, high = found["gain_ci95"]
    expected.append(["gain", "", "", f"{found['gain_mean']:+.2f}", f"[{low:+.2f}, {high:+.2f}]"])
    assert shown == [[cell.replace("-", MINUS) for cell in row] for row in expected]


def test_the_numbers_of_the_runs_to_try_are_those_of_their_evaluations() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| \[([^|]+)\] \| ", TEXTS[REFERENCE / "README.md"], re.MULTILINE)
    assert {name for name, _, _ in rows} == {path.parent.name for path in REFERENCE.glob("*/checkpoints")}
    for name, returns, gain in rows:
        found = json.loads((REFERENCE / name / "evaluation-test.json").read_text())
        assert_rounds_to(returns, found["return_mean"])
        assert_rounds_to(gain, found["gain_ci95"])


def assert_rounds_to(shown: str, values: list[float]) -> None:
    """The numbers, listed with commas, are these to their last digit."""
    for text, value in zip(shown.replace(MINUS, "-").split(", "), values, strict=True):
        decimals = len(text.partition(".")[2])
        assert abs(float(text) - value) <= 0.5001 * 10**-decimals, f"{text} is not {value}"


# ---------------------------------------------------------------- commands


def flags_by_command() -> dict[tuple[str, ...], set[str]]:
    """Subcommand, with the AGENT and ENV that its flags depend on → every flag that the pages give it."""
    flags: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for command in commands():
        subcommand, *arguments = shlex.split(command.partition(">")[0])[1:]
        leading: list[str] = []
        if subcommand == "train":
            leading = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
        known = (INVENTED.get(name, name) for name in leading)
        flags[subcommand, *known] |= {a.partition("=")[0] for a in arguments if a.startswith("--") and a != "--help"}
    return flags


FLAGS = flags_by_command()


@pytest.mark.parametrize("words", sorted(FLAGS), ids=" ".join)
def test_every_command_has_its_subcommand_and_flags(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words[0] in COMMANDS
    own_agent.write(tmp_path)  # a page's command may name it
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in FLAGS[words]:
        assert flag in text, flag


# ---------------------------------------------------------------- snippets


def test_user_defined_family_trains_from_the_users_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without_figures: None
) -> None:
    family = snippet("own environment")
    assert len([line for line in family.splitlines() if line.strip()]) <= 30
    (tmp_path / "my_envs.py").write_text(family)
    small = "--iterations 2 --num-tasks 3 --episodes 4 --eval-tasks 2 --test-tasks 3 --name mine"
    arguments = the_command("train maml my_envs:MyDistribution") + small.split()
    evaluate = ["evaluate", "mine", "--split", "ood", "--num-tasks", "2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(arguments) == 0
    assert "3 test tasks" in capsys.readouterr().out
    assert main(evaluate) == 0
    assert "2 ood tasks" in capsys.readouterr().out


def test_python_trains_evaluates_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    shutil.copytree(REFERENCE / "maml-point-navigation", tmp_path / "runs" / "maml-point-navigation")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet("from Python"), names)
    assert (names["run"].path / "report.html").is_file()
    assert "goal" in str(names["policy"].card)


def test_a_new_family_gives_episodes() -> None:
    names: dict[str, Any] = {}
    exec(snippet("own family"), names)
    distribution: TaskDistribution = names["rotor"]()
    generator = torch.Generator().manual_seed(0)
    env = distribution.bind(distribution.sample(3, "ood", generator), 2)
    episodes = collect(env, RandomPolicy(distribution.action_space), {}, generator)
    assert episodes.obs.shape == (3, 2, distribution.horizon, 2)


def test_gymnasium_environment_trains_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without_figures: None
) -> None:
    (description,) = code_blocks(ROOT / "envs" / "README.md", "yaml")
    (tmp_path / "my_env.yaml").write_text(
        description.replace("horizon: 100", "horizon: 5").replace("num_workers: 2", "num_workers: 0")
    )
    small = "--num-tasks 2 --episodes 2 --eval-tasks 2 --test-tasks 3 --name mine"
    arguments = the_command("--env-file my_env.yaml --iterations")
    arguments[arguments.index("--iterations") + 1] = "1"
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, *small.split()]) == 0
    assert "my_env.yaml: 3 test tasks" in capsys.readouterr().out


def test_gymnasium_tasks_snippet_makes_a_distribution() -> None:
    names: dict[str, Any] = {}
    exec(snippet("Gymnasium tasks"), names)
    distribution = names["low_gravity"]()
    assert distribution.horizon == 200
    assert distribution.observation_space.shape == (4,)


def test_gymnasium_snippet_runs() -> None:
    names: dict[str, object] = {}
    exec(snippet("registered ids"), names)
    assert names["obs"] is not None


def test_sb3_trains_on_our_environments() -> None:
    names: dict[str, Any] = {}
    exec(snippet("SB3's VecEnv"), names)
    assert names["model"].num_timesteps == 1024


def test_the_meta_iteration_is_what_a_learner_does() -> None:
    config = TrainConfig()
    generator = torch.Generator().manual_seed(0)
    distribution, learner = build(config, generator)
    before = learner.state_dict()
    given = {"M": 3, "E": 4, "K": learner.adaptation_steps}
    names = {**given, "distribution": distribution, "learner": learner, "generator": generator}
    names |= {"collect": collect, "MetaBatch": MetaBatch}
    exec(snippet("meta-iteration"), names)
    assert any(not torch.equal(before[name], value) for name, value in learner.state_dict().items())


ALONE = """\
import sys


class Refused:
    \"\"\"Nothing of this project, and no PyTorch, can be imported.\"\"\"

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("metarl", "torch", "stable_baselines3"):
            raise ImportError(f"the script imports {name}")


sys.meta_path.insert(0, Refused())
exec(compile(sys.stdin.read(), "script.py", "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def place_of_quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a smaller run of that name."""
    place = tmp_path_factory.mktemp("quick")
    small = ["--iterations", "2", "--num-tasks", "4", "--episodes", "4", "--eval-tasks", "2", "--test-tasks", "3"]
    with pytest.MonkeyPatch.context() as patch:
        empty_figures(patch.setattr)
        assert main(["train", "--name", "quick", *small, "--run-dir", str(place / "runs")]) == 0
    return place


def test_script_without_this_project_earns_what_adapt_reports(
    place_of_quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place_of_quick)
    script = snippet("ONNX alone")
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    capsys.readouterr()
    assert main([*the_command("metarl adapt quick --task"), "--episodes", "4", "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)["deterministic"]["return_mean"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (printed,) = re.findall(r"^return (-\d+\.\d\d)$", done.stdout, flags=re.MULTILINE)
    assert float(printed) == pytest.approx(reported, abs=0.0051)
    for forbidden in ("metarl", "torch"):
        refused = subprocess.run(
            [sys.executable, "-I", "-c", ALONE],
            input=f"import {forbidden}",
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"the script imports {forbidden}" in refused.stderr


def test_a_policy_that_learns_plays_a_whole_trial_without_this_project_as_it_does_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With parameters that lead it about, to a goal on its way, which the pages' scripts are told instead of theirs."""
    distribution = make_distribution("grid-navigation")
    learner = RL2(distribution.observation_space, distribution.action_space, RL2Config(), seeded(0))
    perturb(learner, 0.8, seeded(1))
    monkeypatch.chdir(tmp_path)
    params = {name: leaf[0] for name, leaf in learner.begin(1).params.items()}
    SpecialisedPolicy(learner.policy, params, *own_spaces(distribution), distribution.action_space, CARD).save(
        "explorer"
    )

    env = distribution.bind({"goal": torch.tensor([[4.0, 4.0]])}, 1)
    cells = collect(env, without_noise(learner.policy), learner.begin(1), seeded(0)).obs[0, 0].argmax(dim=-1).tolist()
    x, y = next((cell % 5, cell // 5) for cell in cells if max(cell % 5, cell // 5) > 1)

    exec(snippet("learning from Python").replace("[3, 2]", f"[{x}, {y}]"), {})
    expected = capsys.readouterr().out
    earned = re.findall(r"return (-?\d+\.\d\d)", expected)
    assert len(earned) == 4
    assert set(earned) != {"-1.50"}
    script = snippet("learning alone").replace("(3, 2)", f"({x}, {y})")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE], input=script, capture_output=True, text=True, check=False
    )
    assert done.stdout == expected, done.stderr


def test_adapt_and_evaluate_policy_snippet_runs(
    place_of_quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place_of_quick)
    names: dict[str, Any] = {}
    exec(snippet("adapted from Python").replace("episodes=20", "episodes=2"), names)
    assert names["action"].shape == (2,)


def test_the_comparison_of_tensors_finds_a_difference(place_of_quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place_of_quick)
    runs = place_of_quick / "runs"
    for name in ("before", "after"):
        shutil.copytree(runs / "quick", runs / name)
    exec(snippet("same tensors"), {})

    checkpoints = runs / "after" / "checkpoints"
    shutil.copy(checkpoints / "iteration-0000000.safetensors", checkpoints / "iteration-0000002.safetensors")
    with pytest.raises(AssertionError):
        exec(snippet("same tensors"), {})
