"""Presets: every one builds a learner and says what it is for."""

from typing import Any

import pytest
import torch

from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.registry import AGENTS
from metarl.agents.rl2 import RL2Config
from metarl.envs.registry import ALIASES, FAMILIES, make_distribution
from metarl.errors import UserError
from metarl.run.build import build
from metarl.run.config import TrainConfig, flat_items, from_yaml, to_yaml
from metarl.run.presets import PRESETS, default_config, presets_for

AVAILABLE = [name for name, family in FAMILIES.items() if family.available]


def distinct_presets() -> list[tuple[str, str, str]]:
    """Agent, environment and name of every preset, each for the first environment that has it with these changes."""
    found: dict[str, tuple[str, str, str]] = {}
    for agent in AGENTS:
        for env in AVAILABLE:
            for name, preset in presets_for(agent, env).items():
                found.setdefault(f"{agent} {name} {sorted(preset.changes.items())}", (agent, env, name))
    return list(found.values())


DISTINCT = distinct_presets()


def expected_steps(learner: Any) -> int:
    """K that a learner's configuration asks for."""
    if isinstance(learner, RL2Config):
        return learner.trial_episodes - 1
    inner = learner if isinstance(learner, MAMLConfig) else learner.adaptation
    return int(inner.adaptation_steps)


@pytest.mark.parametrize(("agent", "env", "preset"), DISTINCT)
def test_preset_builds(agent: str, env: str, preset: str) -> None:
    config = default_config(agent, env, preset)
    assert (config.agent, config.env, config.preset) == (agent, env, preset)
    distribution, learner = build(config, torch.Generator())
    assert learner.adaptation_steps == expected_steps(config.learner)
    assert distribution.name == env
    assert from_yaml(to_yaml(config)) == config


def test_presets_belong_to_registered_names_and_have_a_summary() -> None:
    for (agent, env), presets in PRESETS.items():
        assert agent in AGENTS
        assert env in FAMILIES
        for preset in presets.values():
            assert preset.summary
            assert "\n" not in preset.summary


@pytest.mark.parametrize(("agent", "env", "preset"), DISTINCT)
def test_preset_changes_what_it_names_and_nothing_else(agent: str, env: str, preset: str) -> None:
    plain = flat_items(TrainConfig(agent=agent, env=env, preset=preset, learner=AGENTS[agent].config_class()))
    changes = presets_for(agent, env)[preset].changes
    plain_changes = {name: str(value) if isinstance(value, tuple) else value for name, value in changes.items()}
    assert set(changes) <= set(plain)
    assert flat_items(default_config(agent, env, preset)) == plain | plain_changes


def test_alias_has_the_presets_of_what_it_stands_for() -> None:
    for alias, name in ALIASES.items():
        assert presets_for("maml", alias) == presets_for("maml", name)
        config = default_config("maml", alias)
        assert config.env == alias
        assert build(config, torch.Generator()).distribution.name == name


def test_environment_of_the_user_has_a_default_preset() -> None:
    assert default_config("maml", "my_envs:MyDistribution").env == "my_envs:MyDistribution"


def test_unknown_preset_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'defualt'.*did you mean 'default'"):
        default_config("maml", "point-dynamics", "defualt")


@pytest.mark.parametrize(
    ("env", "preset", "expected"),
    [  # tasks, steps, rate, outer, hidden units, KL penalty, iterations, horizon; from the papers' tables
        ("half-cheetah-direction/promp", "promp", (40, 1, 0.1, "ppo", (64, 64), 5e-4, 1000, 100)),
        ("ant-goal", "promp", (40, 2, 0.1, "ppo", (64, 64), 5e-4, 1000, 200)),
        ("hopper-dynamics", "promp", (40, 1, 0.05, "ppo", (64, 64), 1e-3, 1000, 200)),
        ("humanoid-direction", "promp", (40, 1, 0.1, "ppo", (128, 128), 5e-4, 1000, 200)),
        ("half-cheetah-direction", "paper", (40, 1, 0.1, "trpo", (100, 100), 5e-4, 800, 200)),
        ("ant-velocity", "paper", (40, 1, 0.1, "trpo", (100, 100), 5e-4, 800, 200)),
    ],
)
def test_published_settings_of_robots(env: str, preset: str, expected: tuple[object, ...]) -> None:
    config = default_config("maml", env, preset)
    learner = config.learner
    assert isinstance(learner, MAMLConfig)
    found = (config.num_tasks, learner.adaptation_steps, learner.inner_lr, learner.outer, learner.policy.hidden_sizes)
    assert (*found, learner.inner_kl_penalty, config.iterations, make_distribution(env).horizon) == expected
    assert (learner.clip, learner.outer_epochs, learner.outer_lr, learner.gamma) == (0.3, 5, 1e-3, 0.99)


@pytest.mark.parametrize(
    ("env", "preset"),
    [
        ("point-navigation/finn", "maml-trpo"),
        ("point-navigation/finn", "paper"),
        ("half-cheetah-direction", "paper"),
        ("ant-goal", "maml-trpo"),
    ],
)
def test_maml_trpo_as_published_is_plain_and_takes_the_whole_batch(env: str, preset: str) -> None:
    learner = default_config("maml", env, preset).learner
    assert isinstance(learner, MAMLConfig)
    assert (learner.outer, learner.estimator, learner.fvp_fraction) == ("trpo", "plain", 1.0)
    assert (learner.inner_lr_mode, learner.inner_lr) == ("fixed", 0.1)


@pytest.mark.parametrize("env", ["point-navigation/finn", "half-cheetah-direction"])
def test_the_papers_rate_is_halved_beyond_the_step_that_it_trains(env: str) -> None:
    """Once, however many steps follow."""
    learner = build(default_config("maml", env, "paper"), torch.Generator()).learner
    assert isinstance(learner, MAML)
    assert learner.adaptation_steps == 1
    rates = [learner.inner_rates.at(learner.meta_parameters, step) for step in range(4)]
    assert [{*rate.values()} for rate in rates] == [{0.1}, {0.05}, {0.05}, {0.05}]


def test_what_is_as_published_says_that_the_baseline_is_not() -> None:
    for agent, env, name in DISTINCT:
        summary = presets_for(agent, env)[name].summary
        assert ("as published" in summary) == ("with this project's baseline" in summary), summary


@pytest.mark.parametrize(("preset", "iterations", "of_before"), [("default", 60, 0.97), ("long", 150, 0.98)])
def test_the_outer_rate_of_each_iteration_is_that_of_before(preset: str, iterations: int, of_before: float) -> None:
    """0.97 for each of 60 iterations, written as what is left at the end."""
    config = default_config("maml", "point-navigation/finn", preset)
    learner = config.learner
    assert isinstance(learner, MAMLConfig)
    assert (config.iterations, learner.outer_lr_decay) == (iterations, 1.0)
    rates = [learner.outer_lr_final ** (iteration / iterations) for iteration in range(iterations)]
    assert rates == pytest.approx([of_before**iteration for iteration in range(iterations)])
