"""The command line: bad input is one line and changes nothing; every command does what it says."""

import dataclasses
import importlib.metadata
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from metarl.agents.registry import AGENTS
from metarl.cli.main import COMMANDS, main
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TRAINING_FAILED
from metarl.run.build import build
from metarl.run.config import MAX_SEED
from metarl.run.presets import default_config, presets_for
from metarl.training.machine.memory import check_memory
from tests.helpers.workbench import (
    ENV,
    EPISODES,
    RUN,
    TEST_TASKS,
    complaint,
    files_under,
    final_evaluation_of,
    forget_config,
    train,
    train_arguments,
)

pytest_plugins = ["tests.helpers.run_fixtures"]

PNG = b"\x89PNG\r\n\x1a\n"


def evaluate(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """What `metarl evaluate runs/run --json` prints: one JSON object and nothing else."""
    assert main(["evaluate", f"runs/{RUN}", "--json", "--num-tasks", str(TEST_TASKS), *flags]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert isinstance(report, dict)
    return report


# ---------------------------------------------------------------------- bad input


def assert_refused(
    arguments: list[str], named: str, place: Path, capsys: pytest.CaptureFixture[str], code: int = EXIT_BAD_INPUT
) -> None:
    """One line on standard error that names what is wrong, the exit code, and no file made, changed or lost."""
    before = files_under(place)
    capsys.readouterr()
    assert main(arguments) == code
    assert named in complaint(capsys)
    assert files_under(place) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("trian", "did you mean 'train'"),
        ("--nonsense", "--nonsense"),
        ("train mamm", "did you mean 'maml'"),
        ("train --outer tpro", "did you mean 'trpo'"),
        ("evaluate run --split tset", "did you mean 'test'"),
        ("completion bahs", "did you mean 'bash'"),
        ("metrics gian", "did you mean 'gain'"),
        ("tensorboard rum", "did you mean 'run'"),
        ("evaluate maml-point-navigatoin --run-dir nowhere", "did you mean 'maml-point-navigation'"),
        ("train maml point-navigation/fin", "did you mean 'point-navigation/finn'"),
        ("train maml no_such_module:Env", "no_such_module"),
        ("train maml json:nothing", "'json' is Python's own, and defines no environment"),
        ("train maml metarl.envs.families.navigation:nothing", "no attribute 'nothing'"),
        ("train maml json:loads", "'json:loads'"),
        ("train --preset papr", "preset"),
        ("train --learning-rat 1", "--learning-rat"),
        ("train maml point-dynamics surplus", "surplus"),
        ("train --seed 1 maml point-dynamics", "right after 'train'"),
        ("train --seed one", "'one'"),
        ("train --seed -1", "seed"),
        (f"train --seed {MAX_SEED + 1}", "seed"),
        ("train --iterations 0", "iterations must be at least 1, got 0"),
        ("train --num-tasks 0", "num_tasks must be at least 1"),
        ("train --episodes -3", "episodes must be at least 1"),
        ("train --eval-interval 0", "eval_interval must be at least 1"),
        ("train --eval-tasks 1001", "eval_tasks must be at most 1000"),
        ("train --test-tasks 1001", "test_tasks must be at most 1000"),
        ("train --checkpoint-interval 0", "checkpoint_interval must be at least 1"),
        ("train --num-threads -1", "num_threads"),
        ("train --adaptation-steps 0", "adaptation_steps must be at least 1"),
        ("train --hidden-sizes 0", "hidden_sizes"),
        ("train --inner-lr -0.1", "inner_lr must be positive"),
        ("train --inner-lr nan", "inner_lr must be"),
        ("train --gamma 1.5", "gamma must be between 0 and 1"),
        ("train --outer adam", "'adam'"),
        ("train --iterations", "--iterations"),
        ("train --device tpu", "'tpu'"),
        ("train --device cuda:x", "'cuda:x'"),
        ("train --device cpu:0", "'cpu:0'"),
        ("train --device cuda:99", "'cuda:99' is not there"),
        ("train --name a/b", "'a/b'"),
        (f"train --name {RUN}", f"run runs/{RUN} exists"),
        ("train --run-dir file", "file cannot be written"),
        ("train --run-dir /proc/no-runs", "/proc/no-runs cannot be written"),
        ("train --resume rum", "did you mean 'run'"),
        ("train --resume", "--resume"),
        ("train --resume file", "'file'"),
        (f"train maml point-dynamics --resume {RUN}", "env"),
        ("evaluate", "RUN"),
        ("evaluate rum", "did you mean 'run'"),
        ("evaluate file", "'file'"),
        ("evaluate /proc/nothing", "/proc/nothing"),
        ("evaluate runs", "not a run"),
        ("evaluate anything --run-dir nowhere", "nowhere/"),
        (f"evaluate {RUN} --split validate", "'validate'"),
        (f"evaluate {RUN} --num-tasks 0", "num_tasks must be at least 1"),
        (f"evaluate {RUN} --num-tasks 1001", "at most 1000"),
        (f"evaluate {RUN} --steps -1", "steps must be at least 0"),
        (f"evaluate {RUN} --episodes 0", "episodes must be at least 1"),
        (f"evaluate {RUN} --seed -1", "seed"),
        (f"evaluate {RUN} --seed {MAX_SEED + 1}", "seed"),
        (f"evaluate {RUN} --checkpoint 99", "best, last, 3, 2, 1"),
        (f"evaluate {RUN} --device cuda:99", "'cuda:99' is not there"),
        (f"evaluate {RUN} --task goal", "malformed"),
        (f"evaluate {RUN} --task goal=a,b", "malformed"),
        (f"evaluate {RUN} --task goal=1", "shape"),
        (f"evaluate {RUN} --task gaol=0,1", "gaol"),
        (f"evaluate {RUN} --task goal=0,5", "outside its range"),
        (f"evaluate {RUN} --task goal=nan,0", "outside its range"),
        (f"evaluate {RUN} --task {{goal}}", "JSON"),
        (f"evaluate {RUN} --task {{}}", "needs ['goal']"),
        (f"evaluate {RUN} --num-tasks 2 --out file", "file"),
        ("envs point-nav", "unknown environment"),
        ("bench iteration point-nav", "unknown environment"),
        ("bench iteration json:loads", "unknown environment"),
        ("bench --num-tasks 0", "num_tasks must be at least 1"),
        ("bench --repeats 0", "repeats must be at least 1"),
        ("tensorboard --port 70000", "port"),
        ("tensorboard --run-dir nowhere", "'nowhere'"),
        ("completion fish", "'fish'"),
        ("completion", "SHELL"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    arguments: str, named: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "file").touch()
    assert_refused(arguments.split(), named, workplace, capsys)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --num-tasks 0", "num_tasks must be at least 1, got 0"),
        ("train --outer adam", "--outer cannot be 'adam'; it is one of trpo, ppo"),
        ("train --nonsense", "metarl train has no flag --nonsense"),
        ("evaluate", "Missing from metarl evaluate: RUN a run's directory, or its name below run_dir. (required)"),
    ],
)
def test_complaint_of_the_parser_is_taken_out_of_its_frame(
    arguments: str,
    message: str,
    encoding: str,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parser draws another frame where standard output is not UTF-8."""
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert main(arguments.split()) == EXIT_BAD_INPUT
    assert complaint(capsys) == f"metarl: {message} (see metarl --help)\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", ["train", f"evaluate {RUN}"])
def test_cuda_is_refused_where_there_is_none(command: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused([*command.split(), "--device", "cuda"], "'cuda' is not there", workplace, capsys)


USERS_MODULE = """
import gymnasium
from metarl.envs.families.navigation import pearl

def wrong_actions():
    distribution = pearl()
    distribution.env.action_space = gymnasium.spaces.Text(3)
    return distribution

def without_ood():
    distribution = pearl()
    distribution.ood = {}
    return distribution

def broken():
    raise KeyError("oops")
"""


@pytest.mark.parametrize(
    ("attribute", "named"),
    [
        ("wrong_actions", "users_module:wrong_actions: actions must be a Box"),
        ("broken", "oops"),
    ],
)
def test_environment_that_cannot_be_built_is_refused(
    attribute: str, named: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "users_module.py").write_text(USERS_MODULE)
    main(["envs", "users_module:without_ood"])  # so that its bytecode is there already
    assert_refused(["train", "maml", f"users_module:{attribute}"], named, workplace, capsys)


@pytest.mark.usefixtures("without_figures")
def test_split_that_the_environment_lacks_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "users_module.py").write_text(USERS_MODULE)
    run = train(workplace, env="users_module:without_ood")
    assert_refused(["evaluate", str(run), "--split", "ood"], "no split 'ood'", workplace, capsys)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "truncated or corrupt"),
        (lambda path: path.write_bytes(b""), "truncated or corrupt"),
        (flip_a_byte, "corrupt"),
        (lambda path: save_file({"weight": torch.zeros(1)}, path), "not a checkpoint of this program"),
        (lambda path: torch.save({"weight": torch.zeros(1)}, path), "truncated or corrupt"),
        (lambda path: path.unlink(), "there is no checkpoint"),
    ],
    ids=["truncated", "empty", "bit-flipped", "foreign", "pickle", "missing"],
)
def test_damaged_checkpoint_is_refused(
    damage: Callable[[Path], None], named: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(workplace / "runs" / RUN / "checkpoints" / "best.safetensors")
    assert_refused(["evaluate", RUN], named, workplace, capsys)


def test_checkpoint_of_another_learner_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = workplace / "runs" / RUN / "config.yaml"
    config.write_text(config.read_text().replace("    - 8\n", "    - 9\n"))
    forget_config(workplace / "runs" / RUN)
    assert_refused(["evaluate", RUN], "the state is not this learner's", workplace, capsys)


@pytest.mark.parametrize("command", [["evaluate", RUN], ["train", "--resume", RUN]], ids=["evaluate", "resume"])
@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("agent: maml", "agent: [maml", "not YAML"),
        ("agent: maml", "agent: reptile-5", "unknown agent"),
        (f"env: {ENV}", "env: elsewhere", f"env is 'elsewhere', and was '{ENV}'"),
        ("num_tasks: 2", "num_tasks: two", "num_tasks"),
        ("num_tasks: 2", "num_taks: 2", "num_taks"),
        ("  outer: ppo\n", "", "it lacks learner.outer. Restore it, or remove it"),
        ("device: cpu", "device: 0", "device"),
        ("seed: 0", "seed: \xff\x00", "config.yaml"),
    ],
)
def test_broken_configuration_is_refused(
    old: str, new: str, named: str, command: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = workplace / "runs" / RUN / "config.yaml"
    text = config.read_text()
    assert old in text
    config.write_bytes(text.replace(old, new).encode("latin-1"))
    assert_refused(command, named, workplace, capsys)


def test_name_made_up_for_a_run_gets_a_number_where_it_is_taken(
    tmp_path: Path, without_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    unnamed = train_arguments(tmp_path, "--name", "", "--iterations", "1")
    for _ in range(2):
        assert main(unnamed) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "maml-point-navigation-pearl-seed0",
        "maml-point-navigation-pearl-seed0-2",
    ]


def test_port_in_use_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        assert_refused(["tensorboard", "--port", str(port)], f"port {port} is in use", workplace, capsys)


def test_traceback_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown command"):
        main(["trian"])


@pytest.mark.parametrize(
    ("error", "code"),
    [(FloatingPointError("not finite"), EXIT_TRAINING_FAILED), (KeyboardInterrupt(), EXIT_INTERRUPTED)],
    ids=["not finite", "Ctrl-C"],
)
def test_evaluation_that_fails_is_one_line(
    error: BaseException,
    code: int,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("metarl.reporting.run_evaluation.adaptation_loop", fail)
    assert_refused(["evaluate", RUN], str(error) or "interrupted", workplace, capsys, code)


# ---------------------------------------------------------------------- evaluate


def test_report_has_the_documented_keys(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_under(workplace)
    report = evaluate(capsys, "--steps", "2", "--episodes", "4")
    assert (report["agent"], report["env"], report["split"]) == ("maml", ENV, "test")
    assert (report["num_tasks"], report["episodes_per_step"]) == (TEST_TASKS, 4)
    assert report["env_steps"] == [0.0, 80.0, 160.0]
    assert report["total_env_steps"] == 3 * 80 * TEST_TASKS
    assert len(report["return_mean"]) == len(report["return_ci95"]) == 3
    for mean, (low, high) in zip(report["return_mean"], report["return_ci95"], strict=True):
        assert low <= mean <= high
    assert report["gain_mean"] == pytest.approx(report["return_mean"][-1] - report["return_mean"][0])
    low, high = report["gain_ci95"]
    assert low <= report["gain_mean"] <= high
    assert files_under(workplace) == before


def test_evaluation_of_training_is_that_of_the_command(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(capsys)
    report.pop("run")
    assert report == final_evaluation_of(workplace / "runs" / RUN)
    assert report["episodes_per_step"] == EPISODES


def test_seed_decides_the_evaluation(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluate(capsys, "--seed", "3")
    assert evaluate(capsys, "--seed", "3") == first
    assert evaluate(capsys, "--seed", "4")["return_mean"] != first["return_mean"]


def test_splits_hold_different_tasks(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [evaluate(capsys, "--split", split) for split in ("test", "ood", "train", "validation")]
    assert [report["split"] for report in reports] == ["test", "ood", "train", "validation"]
    assert len({report["return_mean"][0] for report in reports}) == 4


def test_one_task_in_both_notations(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(capsys, "--task", "goal=0,1")
    assert evaluate(capsys, "--task", '{"goal": [0, 1]}')["return_mean"] == report["return_mean"]
    assert evaluate(capsys, "--task", "goal=1,0")["return_mean"] != report["return_mean"]
    assert (report["task"], report["split"]) == ("goal=0,1", None)


def test_evaluation_without_adaptation(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(capsys, "--steps", "0")
    assert report["env_steps"] == [0.0]
    assert report["return_mean"] == evaluate(capsys)["return_mean"][:1]
    assert report["gain_mean"] == 0
    assert report["gain_ci95"] == [0, 0]


def test_checkpoint_to_evaluate_is_chosen(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, last = evaluate(capsys, "--checkpoint", "1"), evaluate(capsys, "--checkpoint", "last")
    assert (one["checkpoint_iteration"], last["checkpoint_iteration"]) == (1, 3)
    assert one["training_env_steps"] * 3 == last["training_env_steps"]
    assert one["return_mean"] != last["return_mean"]
    assert evaluate(capsys, "--checkpoint", "3") == last


@pytest.mark.parametrize(
    ("flags", "label"), [([], "test"), (["--split", "ood"], "ood"), (["--task", "goal=0,1"], "task")]
)
def test_figures_and_report_are_written_where_asked(
    flags: list[str], label: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluate(capsys, "--out", "new/figures", *flags)
    written = files_under(workplace / "new" / "figures")
    figures = {"adaptation", "trajectories", "parameter-change", *(["direction-similarity"] if label != "task" else [])}
    assert set(written) == {f"evaluation-{label}.json", *(f"{name}-{label}.png" for name in figures)}
    assert json.loads(written.pop(f"evaluation-{label}.json")) == report
    assert all(content.startswith(PNG) for content in written.values())
    evaluate(capsys, "--out", "new/figures", "--steps", "0", *flags)
    left = {f"evaluation-{label}.json", f"adaptation-{label}.png", f"trajectories-{label}.png"}
    assert set(files_under(workplace / "new" / "figures")) == left, "figures of the earlier evaluation are left"


def test_table_shows_the_report(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(capsys)
    assert main(["evaluate", RUN, "--num-tasks", str(TEST_TASKS)]) == 0
    table = capsys.readouterr().out
    for mean in report["return_mean"]:
        assert f"{mean:.2f}".replace("-", "−") in table
    assert f"{report['gain_mean']:+.2f}".replace("-", "−") in table
    assert report["intervals_over"] == "tasks"
    assert "intervals are over tasks: of other seeds of the training they say nothing" in table
    assert f"{TEST_TASKS} tasks, fewer than 20: where an agent fails by far" in " ".join(table.split())


# ---------------------------------------------------------------------- the other commands


def test_training_says_what_to_do_next(
    tmp_path: Path, without_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, "--iterations", "1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"in {run}")
    commands = [line.split() for line in lines[lines.index("next:") + 1 :]]
    assert [command[:2] for command in commands] == [
        ["metarl", name] for name in ("evaluate", "evaluate", "tensorboard")
    ]
    assert main(commands[0][1:]) == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"metarl {importlib.metadata.version('metarl-testbed')}\n"


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "metarl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"metarl {importlib.metadata.version('metarl-testbed')}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: metarl" in text
    if len(arguments) < 2:
        assert [name for name in COMMANDS if name not in text] == []


def test_environments_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["envs"]) == 0
    text = capsys.readouterr().out
    for family in FAMILIES.values():
        (line,) = (line for line in text.splitlines() if line.split()[0] == family.name)
        assert family.summary in line


def test_environments_take_a_line_each_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["envs"]) == 0
    families = capsys.readouterr().out.splitlines()[: len(FAMILIES)]
    assert [line.split()[0] for line in families] == list(FAMILIES)
    assert max(map(len, families)) <= 80

    monkeypatch.setenv("COLUMNS", "20")
    assert main(["envs"]) == 0
    printed = capsys.readouterr().out.splitlines()[: 2 * len(FAMILIES)]
    assert printed[::2] == list(FAMILIES)
    assert [line.strip() for line in printed[1::2]] == [family.summary for family in FAMILIES.values()]


def test_agents_and_presets_fit_into_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word is lost at its right end."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["agents"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80

    shown = " ".join(line[53:].strip() for line in lines)
    for agent in AGENTS.values():
        assert all(preset.summary in shown for preset in presets_for(agent.name, "").values())


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.available])
def test_environment_is_shown_with_ranges_units_and_splits(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["envs", name]) == 0
    text = capsys.readouterr().out
    distribution = make_distribution(name)
    assert FAMILIES[name].gymnasium_id in text
    assert ", ".join(distribution.splits) in text
    for parameter, range_ in distribution.train.items():
        (row,) = (line for line in text.splitlines() if f"│ {parameter} " in line)
        assert str(range_) in row
        assert f" {range_.units} " in row
        if distribution.ood:
            assert str(distribution.ood.get(parameter, "as in training")) in row


def test_agents_and_presets_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each agent, preset and summary, with the environments that share it."""
    monkeypatch.setenv("COLUMNS", "700")
    assert main(["agents"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith(" "):  # further environments of a row
            rows[-1][2] += line.strip()
        else:
            rows.append(re.split(" {2,}", line.strip()))

    for agent in AGENTS.values():
        assert any(agent.name in line and agent.summary in line for line in lines)
        anywhere = presets_for(agent.name, "")
        for env in ("any", *FAMILIES):
            for name, preset in presets_for(agent.name, env).items():
                listed = [row for row in rows if row[:2] == [agent.name, name] and env in row[2].split(",")]
                if env == "any" or preset is not anywhere.get(name):
                    assert [row[3] for row in listed] == [preset.summary]
                else:
                    assert listed == []


def test_completion_is_a_script_for_bash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "--adaptation-steps" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_terminal_without_unicode_gets_question_marks() -> None:
    command = [sys.executable, "-m", "metarl", "envs", "point-dynamics"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    poor = subprocess.run(command, env=ascii_only, capture_output=True, text=True, check=False)
    assert (poor.returncode, poor.stderr) == (0, "")
    assert "rotation" in poor.stdout


def test_an_unusable_output_directory_is_said_before_the_work(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "metarl.reporting.run_evaluation.adaptation_loop", lambda *arguments, **options: pytest.fail("evaluated first")
    )
    (tmp_path / "file").touch()
    assert main(["evaluate", str(trained_run), "--out", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_batch_that_does_not_fit_is_refused_before_a_run_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_arguments(tmp_path / "runs", "--num-tasks", "2000", "--episodes", "1000000")) == 2
    error = capsys.readouterr().err
    assert "num_tasks 2000 × episodes 1000000 × horizon 20 in 2 batches need about" in error
    assert "lower --num-tasks or --episodes" in error
    assert not (tmp_path / "runs").exists()


def test_where_the_system_does_not_say_what_is_free_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl.evaluation.memory.available_bytes", lambda device: None)
    config = dataclasses.replace(
        default_config("maml", "point-navigation/finn"), num_tasks=10, episodes=10**7, device="cpu"
    )
    check_memory(config, *build(config, torch.Generator()))
