"""The README's own text is run: the user-defined family, the Gymnasium snippet, the commands."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metarl.cli.main import COMMANDS, main

README = (Path(__file__).parent.parent / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    in_tables = re.findall(r"`(metarl [^`]+)`", README)
    in_blocks = [line.split("#")[0] for block in code_blocks("bash") for line in block.splitlines()]
    return [c.strip() for c in in_tables + in_blocks if re.match(r"metarl \w", c)]


def test_user_defined_family_trains_from_the_users_own_module(tmp_path: Path) -> None:
    (family,) = (block for block in code_blocks("python") if "class MyDistribution" in block)
    (command,) = (c for c in commands() if "my_envs:MyDistribution" in c)
    assert len([line for line in family.splitlines() if line.strip()]) <= 30
    (tmp_path / "my_envs.py").write_text(family)
    small = "--iterations 2 --num-tasks 3 --episodes 4 --eval-tasks 2 --test-tasks 3 --name mine"
    arguments = shlex.split(command.removeprefix("metarl ")) + small.split()
    done = subprocess.run(
        [sys.executable, "-m", "metarl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 test tasks" in done.stdout
    evaluated = subprocess.run(
        [sys.executable, "-m", "metarl", "evaluate", "mine", "--split", "ood", "--num-tasks", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert evaluated.returncode == 0, evaluated.stderr


def test_gymnasium_environment_trains_from_the_file(tmp_path: Path) -> None:
    (description,) = code_blocks("yaml")
    (command,) = (c for c in commands() if "--env-file my_env.yaml --iterations" in c)
    (tmp_path / "my_env.yaml").write_text(description.replace("horizon: 100", "horizon: 5"))
    small = "--iterations 1 --num-tasks 2 --episodes 2 --eval-tasks 2 --test-tasks 3 --name mine"
    arguments = shlex.split(command.removeprefix("metarl ").replace("--iterations 20", "")) + small.split()
    done = subprocess.run(
        [sys.executable, "-m", "metarl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "my_env.yaml: 3 test tasks" in done.stdout


def test_gymnasium_tasks_snippet_makes_a_distribution() -> None:
    (snippet,) = (block for block in code_blocks("python") if "GymnasiumTasks(" in block)
    names: dict[str, Any] = {}
    exec(snippet, names)
    distribution = names["low_gravity"]()
    assert distribution.horizon == 200
    assert distribution.observation_space.shape == (4,)


def test_gymnasium_snippet_runs() -> None:
    (snippet,) = (block for block in code_blocks("python") if "gymnasium.make_vec(" in block)
    names: dict[str, object] = {}
    exec(snippet, names)
    assert names["obs"] is not None


ALONE = """\
import sys


class Refused:
    \"\"\"Nothing of this project, and no PyTorch, can be imported.\"\"\"

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("metarl", "agents", "envs", "torch", "stable_baselines3"):
            raise ImportError(f"the script imports {name}")


sys.meta_path.insert(0, Refused())
exec(compile(sys.stdin.read(), "script.py", "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def place_of_quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a smaller run of that name."""
    place = tmp_path_factory.mktemp("quick")
    small = ["--iterations", "2", "--num-tasks", "4", "--episodes", "4", "--eval-tasks", "2", "--test-tasks", "3"]
    assert main(["train", "--name", "quick", *small, "--run-dir", str(place / "runs")]) == 0
    return place


def test_script_without_this_project_earns_what_adapt_reports(
    place_of_quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place_of_quick)
    (script,) = (block for block in code_blocks("python") if "InferenceSession(" in block)
    (command,) = (c for c in commands() if c.startswith("metarl adapt quick --task"))
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    capsys.readouterr()
    assert main([*shlex.split(command.removeprefix("metarl ")), "--episodes", "4", "--json"]) == 0
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


def test_adapt_and_evaluate_policy_snippet_runs(
    place_of_quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place_of_quick)
    (snippet,) = (block for block in code_blocks("python") if "evaluate_policy" in block)
    names: dict[str, Any] = {}
    exec(snippet.replace("episodes=20", "episodes=2"), names)
    assert names["action"].shape == (2,)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_has_its_subcommand_and_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    subcommand, *arguments = shlex.split(command.split(">")[0])[1:]
    assert subcommand in COMMANDS
    leading = list(itertools.takewhile(lambda a: not a.startswith("-"), arguments)) if subcommand == "train" else []
    with pytest.raises(SystemExit) as stop:
        main([subcommand, *leading, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in (a.split("=")[0] for a in arguments if a.startswith("--") and a != "--help"):
        assert flag in text


def test_both_set_up_commands_stand_on_the_first_screen() -> None:
    first_screen = README[:1800]
    assert "python -m pip install -e . -c constraints.txt && metarl train" in first_screen
    assert "python -m pip install -e '.[test]' -c constraints.txt && pytest" in first_screen
