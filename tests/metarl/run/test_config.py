"""The configuration: YAML and back, and every field a documented flag."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from metarl.agents.maml import MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.registry import AGENTS
from metarl.cli.main import main
from metarl.errors import UserError
from metarl.run.config import TrainConfig, differences, flat_items, from_yaml, require_whole, to_json, to_yaml
from metarl.run.presets import default_config, presets_for

CHANGED = TrainConfig(
    env="point-dynamics",
    seed=5,
    device="cpu",
    name="mine",
    learner=MAMLConfig(policy=PolicyConfig(hidden_sizes=(7, 5, 3)), first_order=True, outer="ppo", inner_lr=1e-5),
)


@pytest.mark.parametrize("config", [TrainConfig(), CHANGED], ids=["defaults", "changed"])
def test_yaml_round_trip(config: TrainConfig) -> None:
    assert from_yaml(to_yaml(config)) == config


def test_whole_number_is_a_float_as_well() -> None:
    learner = from_yaml("agent: maml\nlearner: {inner_lr: 1}").learner
    assert isinstance(learner, MAMLConfig)
    assert learner.inner_lr == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not a training configuration"),
        ("- maml", "not a training configuration"),
        ("agent: [maml", "not YAML"),
        ("agent: !!python/object/apply:os.getcwd []", "not YAML"),
        ("seed: 1", "unknown agent"),
        ("agent: mamm", "did you mean 'maml'"),
        ("agent: maml\nsed: 1", "TrainConfig has no field ['sed']"),
        ("agent: maml\nlearner: {policy: {hidden: [8]}}", "PolicyConfig has no field ['hidden']"),
        ("agent: maml\nlearner: 3", "learner: must be an object"),
        ("agent: maml\nlearner: {policy: 3}", "policy"),
        ("agent: maml\nlearner: {policy: {hidden_sizes: 8}}", "hidden_sizes"),
        ("agent: maml\nlearner: {policy: {hidden_sizes: [8, x]}}", "hidden_sizes"),
        ("agent: maml\nlearner: {first_order: 1}", "first_order"),
        ("agent: maml\nlearner: {outer: sgd}", "outer"),
        ("agent: maml\nlearner: {inner_lr: fast}", "inner_lr"),
        ("agent: maml\nnum_tasks: 2.5", "num_tasks"),
        ("agent: maml\niterations: '3'", "iterations"),
        ("agent: maml\ndevice: 0", "device"),
        ("agent: maml\nseed: true", "seed"),
        ("agent: maml\nname:", "name"),
    ],
)
def test_broken_yaml_is_named(text: str, named: str) -> None:
    with pytest.raises(UserError) as error:
        from_yaml(text)
    assert named in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 0},
        {"num_tasks": -1},
        {"episodes": 0},
        {"eval_interval": 0},
        {"eval_tasks": 1001},
        {"test_tasks": 1001},
        {"checkpoint_interval": 0},
        {"num_threads": -1},
        {"seed": -1},
        {"seed": 2**32},
        {"name": "a/b"},
        {"name": ".."},
    ],
    ids=str,
)
def test_value_out_of_range_is_named(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(UserError) as error:
        replace(TrainConfig(), **changes)
    assert name in str(error.value)
    assert str(value) in str(error.value)


def test_flat_items_are_plain_and_complete() -> None:
    flat = flat_items(CHANGED)
    assert flat["seed"] == 5
    assert flat["learner.outer"] == "ppo"
    assert flat["learner.policy.hidden_sizes"] == "(7, 5, 3)"
    assert all(isinstance(value, (int, float, str, bool)) for value in flat.values())


def field_names(config: Any) -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from field_names(value)
        else:
            yield field.name


@pytest.mark.parametrize("agent", AGENTS)
def test_every_field_is_a_flag_with_its_default(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", agent, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    names = list(field_names(default_config(agent, "point-navigation/finn")))
    assert {"seed", "outer_lr", "hidden_sizes"} <= set(names)
    flags = ["ENV"] + [f"--{name.replace('_', '-')}" for name in names if name not in ("agent", "env")]
    assert [flag for flag in flags if flag not in text] == []

    # The parser leaves out AGENT, which is given; a default that is nothing, yes or no, is not said.
    config = flat_items(default_config(agent, "point-navigation/finn"))
    silent = [name for name, value in config.items() if value in (None, "", False, True)]
    assert text.count("(default: ") >= len(names) - len(silent) - 1


def test_defaults_in_the_help_are_those_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    env, iterations = "point-navigation/finn", set()
    for preset in presets_for("maml", env):
        config = default_config("maml", env, preset)
        with pytest.raises(SystemExit):
            main(["train", "maml", env, "--preset", preset, "--help"])
        assert isinstance(config.learner, MAMLConfig)
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert f"meta-iterations. (default: {config.iterations})" in text
        assert f"optimises for. (default: {config.learner.adaptation_steps})" in text
        iterations.add(config.iterations)
    assert len(iterations) > 1, "all have the same defaults: the test shows nothing"


def test_what_a_runs_configuration_lost_is_told_from_what_is_newer_than_the_run() -> None:
    config = TrainConfig(seed=3, episodes=7)
    recorded = json.loads(to_json(config))
    lines = to_yaml(config).splitlines(keepends=True)
    assert differences("".join(lines), recorded) == []
    assert differences(to_yaml(dataclasses.replace(config, iterations=900, device="cuda", name="x")), recorded) == []

    # Both lack a field: the run is older than the field.
    lost = "".join(line for line in lines if not line.startswith("env_timeout"))
    assert differences(lost, {name: value for name, value in recorded.items() if name != "env_timeout"}) == []
    assert differences(lost, recorded) == ["it lacks env_timeout"]
    assert differences("".join(lines).replace("seed: 3", "seed: 4"), recorded) == ["seed is 4, and was 3"]


def test_the_beginning_of_a_run_s_configuration_is_no_configuration() -> None:
    """Wherever it is cut, but where a user could have written it: after AGENT, ENV, the preset or the seed."""
    text = to_yaml(default_config("maml", "point-navigation/finn"))
    lines = text.splitlines(keepends=True)
    require_whole(text, from_yaml(text))

    cuts = ["".join(lines[:count]) for count in range(5, len(lines))]
    cuts += ["".join(lines[:2])[:-1], "".join(lines[:2])[:-2], text[:-1]]
    for cut in cuts:
        with pytest.raises(UserError):
            require_whole(cut, from_yaml(cut))

    by_hand = "agent: reptile\nenv: cart-pole\nseed: 3\niterations: 5\nlearner: {outer_lr: 0.1}\n"
    require_whole(by_hand, from_yaml(by_hand))


def test_a_setting_given_twice_is_none() -> None:
    with pytest.raises(UserError, match="the key 'seed' comes twice"):
        from_yaml("agent: maml\nseed: 3\nseed: 4\n")
