"""The command that a report gives is read back by the command line to the same configuration."""

import dataclasses
import shlex

import pytest

from metarl.agents.maml import MAMLConfig
from metarl.agents.registry import AGENTS
from metarl.cli.main import parse
from metarl.run.config import TrainConfig
from metarl.run.presets import AGENT_PRESETS, default_config
from metarl.run.reproduce import train_command


def read_back(command: str) -> TrainConfig:
    program, *arguments = shlex.split(command)
    assert program == "metarl"
    command_read = parse(arguments)
    assert isinstance(command_read, TrainConfig)
    return TrainConfig(**{f.name: getattr(command_read, f.name) for f in dataclasses.fields(TrainConfig)})


@pytest.mark.parametrize(("agent", "preset"), [(agent, preset) for agent in AGENTS for preset in AGENT_PRESETS[agent]])
def test_a_preset_needs_no_more_than_its_name(agent: str, preset: str) -> None:
    config = default_config(agent, "point-dynamics", preset)
    command = train_command(config)
    assert command == f"metarl train {agent} point-dynamics" + (f" --preset {preset}" if preset != "default" else "")
    assert read_back(command) == config


@pytest.mark.parametrize("agent", AGENTS)
def test_changed_settings_are_read_back(agent: str) -> None:
    config = default_config(agent, "point-navigation/finn")
    policy = dataclasses.replace(config.learner.policy, hidden_sizes=(7, 9), init_log_std=-0.25)
    changed = dataclasses.replace(
        config,
        seed=5,
        iterations=17,
        compile_env=True,
        device="cpu",
        learner=dataclasses.replace(config.learner, policy=policy),
    )
    command = train_command(changed)
    assert "--hidden-sizes 7 9" in command
    assert "--compile-env" in command
    assert read_back(command) == changed
    assert train_command(dataclasses.replace(changed, name="a b", run_dir="elsewhere")) == command


def test_a_switch_is_read_back() -> None:
    config = default_config("maml", "point-dynamics")
    assert isinstance(config.learner, MAMLConfig)
    config = dataclasses.replace(config, learner=dataclasses.replace(config.learner, first_order=True))
    assert read_back(train_command(config)) == config


def test_a_described_environment_is_named_by_its_file() -> None:
    config = dataclasses.replace(default_config("maml", "some where/my_env.yaml"), seed=3)
    assert train_command(config) == "metarl train maml --env-file 'some where/my_env.yaml' --seed 3"
