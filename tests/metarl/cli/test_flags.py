"""The flags of the commands: none is lost, `train` shows them in groups, and what runs share is checked once."""

import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metarl.agents.maml import MAMLConfig
from metarl.agents.registry import AGENTS
from metarl.cli.adapt import Adapt
from metarl.cli.evaluate import Evaluate
from metarl.cli.flags.run_selection import AdaptationSelection, TaskSelection
from metarl.cli.main import main, parse
from metarl.cli.render import Render
from metarl.cli.train import GROUPS, Train
from metarl.errors import EXIT_BAD_INPUT
from metarl.run.config import TrainConfig
from metarl.run.presets import default_config
from tests.helpers.workbench import RUN, complaint

pytest_plugins = ["tests.helpers.run_fixtures"]

FLAGS = {
    "train": (
        "preset seed device iterations max-env-steps num-tasks episodes eval-interval eval-tasks test-tasks "
        "action-scale normalize-obs checkpoint-interval logger num-threads curriculum curriculum-buffer "
        "curriculum-fresh curriculum-correction compile-env cuda-graphs physics-determinism trust start-from "
        "env-timeout name run-dir resume config seeds env-file set adaptation-steps inner-lr inner-lr-decay "
        "log-std-lr-factor inner-lr-mode "
        "estimator first-order adapted-layers exploration-credit objective-steps outer outer-lr "
        "outer-lr-decay outer-lr-final outer-epochs clip inner-kl-penalty gamma gae-lambda fvp-fraction fvp-memory "
        "task-chunk hidden-sizes activation init-log-std policy max-kl cg-iterations cg-damping "
        "line-search-steps line-search-backtrack"
    ),
    "evaluate": "split task num-tasks steps episodes seed checkpoint device json out run-dir trust",
    "adapt": (
        "out task task-file env steps episodes measure-episodes seed checkpoint device no-onnx json run-dir "
        "action-limit keep noise-scale pause env-timeout resume trust"
    ),
    "render": (
        "out heat-map over grid split task num-tasks steps episodes seed checkpoint device fps every json run-dir trust"
    ),
    "report": "out split num-tasks figures device run-dir trust",
    "compare": (
        "baselines num-tasks budget seeds split episodes steps quick device num-threads sb3-settings out run-dir json "
        "trust"
    ),
    "tensorboard": "run-dir port",
    "bench": (
        "num-tasks episodes horizon hidden-size recurrent num-envs seconds no-compile repeats num-threads fvp-fraction "
        "fvp-memory device no-plain json out"
    ),
}
"""Every flag that users may have in their scripts, without the leading dashes."""


Help = Callable[..., str]


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch) -> Help:
    """The help text of a command, as a terminal shows it: the parser draws boxes where standard output is UTF-8."""

    def text(*arguments: str) -> str:
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr("sys.stdout", terminal)
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--help"])
        assert stop.value.code == 0
        terminal.seek(0)
        return terminal.read()

    return text


def boxes(text: str) -> dict[str, list[str]]:
    """Title of each box of a help text, and the flags in it."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        title = re.match(r"╭─ (.*?) ─+╮", line)
        flag = re.match(r"│ (--[a-z0-9-]+)", line)
        if title:
            found[title[1]] = []
        elif flag:
            found[list(found)[-1]].append(flag[1])
    return found


def leaves(config: Any) -> Iterator[str]:
    """The field names of a configuration that are flags or positional arguments."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value)
        else:
            yield field.name


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_is_there(command: str, help_of: Help) -> None:
    shown = [flag for flags in boxes(help_of(command)).values() for flag in flags]
    assert sorted(shown) == sorted(f"--{flag}" for flag in FLAGS[command].split())


def test_train_shows_its_flags_in_groups(help_of: Help) -> None:
    found = boxes(help_of("train"))
    of_learner = ["learner options", "policy options", "trust region options"]
    assert list(found) == ["positional arguments", "options", *(f"{group} options" for group in GROUPS), *of_learner]
    for group, fields in GROUPS.items():
        named = [name.replace("config_file", "config") for name in fields]
        assert found[f"{group} options"] == [f"--{name.replace('_', '-')}" for name in named]
    assert found["policy options"] == ["--hidden-sizes", "--activation", "--init-log-std", "--policy"]
    assert "--inner-lr" in found["learner options"]
    assert "--max-kl" in found["trust region options"]


def test_each_setting_of_a_run_is_in_one_group() -> None:
    """Otherwise it is no flag, and the command line cannot set it."""
    grouped = [name for fields in GROUPS.values() for name in fields]
    settings = {field.name for field in dataclasses.fields(Train)} - {"agent", "env", "learner"}
    assert sorted(grouped) == sorted(settings)


@pytest.mark.parametrize("agent", AGENTS)
def test_each_setting_of_an_agent_is_a_flag_with_its_own_help(agent: str, help_of: Help) -> None:
    text = help_of("train", agent, "point-dynamics")
    flags = [flag for found in boxes(text).values() for flag in found]
    config = default_config(agent, "point-dynamics")
    for name in set(leaves(config)) - {"agent", "env"}:
        assert f"--{name.replace('_', '-')}" in flags
    words = " ".join(re.sub(r"[│\n]", " ", text).split())
    assert "seed of the initial parameters, the tasks and the rollouts. (default: 0)" in words
    assert "units of each hidden layer" in words
    assert "continue this run exactly where it stopped." in words


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (
            "train maml pendulum --hiden-sizes 8",
            "metarl train has no flag --hiden-sizes (did you mean --hidden-sizes?)",
        ),
        ("evaluate maml-point-navigation --step=3", "metarl evaluate has no flag --step (did you mean --steps?)"),
        ("report maml-point-navigation --zzz", "metarl report has no flag --zzz"),
        (
            "train maml pendulum --name x --iterations 3 --eval-every 5",
            "metarl train has no flag --eval-every (did you mean --eval-interval?)",
        ),
    ],
)
def test_a_mistyped_flag_is_named_with_the_one_that_is_meant(
    arguments: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the terminal is so wide that the parser sets the boxes of its help text side by side."""
    monkeypatch.setenv("COLUMNS", "250")
    assert main(arguments.split()) == EXIT_BAD_INPUT
    assert complaint(capsys) == f"metarl: {hint} (see metarl --help)\n"


@pytest.mark.parametrize("command", FLAGS)
def test_help_texts_say_nothing_of_empty_defaults(command: str, help_of: Help) -> None:
    text = help_of(command)
    for words in ("{None}", "default: None", "default: ''", "default: )", "default: True", "default: False"):
        assert words not in text


@pytest.mark.parametrize("agent", AGENTS)
def test_without_flags_the_defaults_are_those_of_the_preset(agent: str) -> None:
    command = parse(["train", agent, "pendulum"])
    assert isinstance(command, Train)
    assert command.config == default_config(agent, "pendulum")


def test_flags_of_nested_settings_arrive_where_they_belong() -> None:
    flags = "--seed 4 --curriculum hard-first --cuda-graphs off --inner-lr 0.3 --hidden-sizes 5 6 --max-kl 0.2"
    command = parse(["train", "maml", "pendulum", *flags.split()])
    default = default_config("maml", "pendulum")
    assert isinstance(default.learner, MAMLConfig)
    policy = dataclasses.replace(default.learner.policy, hidden_sizes=(5, 6))
    trust_region = dataclasses.replace(default.learner.trust_region, max_kl=0.2)
    learner = dataclasses.replace(default.learner, inner_lr=0.3, policy=policy, trust_region=trust_region)
    changes: dict[str, Any] = {"seed": 4, "curriculum": "hard-first", "cuda_graphs": "off", "learner": learner}
    assert command.config == dataclasses.replace(default, **changes)
    assert isinstance(command, TrainConfig)


# ---------------------------------------------------------------------- what the commands on a run share


@pytest.mark.parametrize("command", ["evaluate", "adapt", "render"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--steps -1", "steps must be at least 0, got -1"),
        ("--episodes 0", "episodes must be at least 1, got 0"),
        ("--seed -1", "seed must be at least 0, got -1"),
        ("--seed 4294967296", "seed must be at most 4294967295, got 4294967296"),
    ],
)
def test_each_command_refuses_the_same_values_in_the_same_words(
    command: str, flags: str, message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ["--task", "goal=0,1", "--out", "out.png" if command == "render" else "out"]
    assert main([command, RUN, *task, *flags.split()]) == EXIT_BAD_INPUT
    assert complaint(capsys) == f"metarl: {message} (see metarl --help)\n"


def test_commands_that_adapt_share_their_flags() -> None:
    assert issubclass(Adapt, AdaptationSelection)
    assert issubclass(Evaluate, TaskSelection)
    assert issubclass(Render, TaskSelection)
