"""Memory is asked before it is taken, in every command, and the estimate is near what is taken."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.agents.policies.memory.base import RecurrentConfig
from metarl.agents.policies.memory.make import make_memory_policy
from metarl.agents.policies.memory.recurrent import RecurrentPolicy
from metarl.agents.policies.mlp import MLPPolicy
from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes, collect
from metarl.errors import EXIT_BAD_INPUT, UserError
from metarl.evaluation.memory import COPIES_OF_EPISODES, episode_bytes, parameter_bytes, require_memory
from metarl.run.build import build
from metarl.run.presets import default_config
from tests.helpers.workbench import ENV, RUN, complaint, files_under, train_arguments

pytest_plugins = ["tests.helpers.run_fixtures"]

HUGE = "100000000000"

COMMANDS = {
    "evaluate": (["evaluate", RUN, "--num-tasks", "1000", "--episodes", HUGE], "--episodes"),
    "evaluate a task": (["evaluate", RUN, "--task", "goal=1,0", "--num-tasks", HUGE], "--num-tasks"),
    "adapt": (["adapt", RUN, "--task", "goal=1,0", "--episodes", HUGE, "--out", "x", "--no-onnx"], "--episodes"),
    "measure": (
        ["adapt", RUN, "--task", "goal=1,0", "--measure-episodes", HUGE, "--out", "x", "--no-onnx"],
        "--measure",
    ),
    "render": (["render", RUN, "--episodes", HUGE, "--out", "x.png"], "--episodes"),
    "report": (["report", RUN, "--split", "train", "--num-tasks", HUGE], "--num-tasks"),
    "compare": (["compare", RUN, "--episodes", HUGE], "--episodes"),
    "sb3 n_steps": (["compare", RUN, "--sb3-settings", '{"ppo": {"n_steps": 1000000000}}'], "n_steps"),
    "sb3 buffer": (["compare", RUN, "--sb3-settings", '{"sac": {"buffer_size": 100000000000}}'], "buffer_size"),
    "bench envs": (["bench", "envs", "cart-pole", "--num-envs", HUGE], "--num-envs"),
    "bench": (["bench", "iteration", "--episodes", HUGE], "--episodes"),
    "bench rollouts": (["bench", "rollouts", "--hidden-size", "10000000"], "--hidden-size"),
    "hidden sizes": (["train", "maml", ENV, "--hidden-sizes", "100000000", "100000000"], "--hidden-sizes"),
    "tasks": (["train", "maml", ENV, "--num-tasks", HUGE], "--num-tasks"),
    "steps": (["train", "maml", ENV, "--adaptation-steps", HUGE], "--adaptation-steps"),
    "eval tasks": (train_arguments(Path("runs"), "--name", "new", "--episodes", HUGE), "--episodes"),
    "teachers": (["train", "distill", ENV, "--teacher", RUN, "--num-teachers", HUGE], "--num-teachers"),
    "experts": (["train", "distill", ENV, "--teacher", "ppo", "--num-teachers", HUGE], "--num-teachers"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_does_not_fit_is_refused_before_the_work(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, flag = COMMANDS[name]
    before = files_under(workplace)
    assert main(arguments) == EXIT_BAD_INPUT
    message = complaint(capsys)
    assert "need about" in message
    assert f"lower {flag}" in message or flag in message.partition("lower ")[2]
    assert files_under(workplace) == before


def test_the_estimate_is_what_episodes_take() -> None:
    """Two copies while they are put together, and besides what is stored what is made of it."""
    distribution = make_distribution(ENV)
    generator = torch.Generator().manual_seed(0)
    policy = MLPPolicy(distribution.observation_space, distribution.action_space)
    env = distribution.bind(distribution.sample(3, "train", generator), 5)
    episodes: Episodes = collect(env, policy, policy.init(generator), generator)
    tensors = [leaf for leaf in vars(episodes).values() if isinstance(leaf, torch.Tensor)]
    stored = sum(leaf.numel() * leaf.element_size() for leaf in [*tensors, *episodes.behaviour.values()])
    assert stored < episode_bytes(distribution, 15) / COPIES_OF_EPISODES < 2 * stored


def test_the_estimate_of_a_network_counts_its_parameters() -> None:
    distribution = make_distribution(ENV)
    policy = MLPPolicy(distribution.observation_space, distribution.action_space)
    numbers = sum(leaf.numel() for leaf in policy.init(torch.Generator()).values())
    assert policy.num_parameters == numbers
    assert {name: tuple(leaf.shape) for name, leaf in policy.init(torch.Generator()).items()} == policy.shapes
    assert parameter_bytes(numbers, num_tasks=7) == 4 * numbers * 12


NETWORKS_WITH_MEMORY = {
    "gru": RecurrentConfig(recurrent_size=5, hidden_sizes=(4, 3), observation_again=True),
    "lstm": RecurrentConfig(recurrent_size=5, cell="lstm", separate_networks=True),
    "hypernetwork": RecurrentConfig(recurrent_size=5, hidden_sizes=(4,), hypernetwork=True, embedding_size=6),
    "fast-weights": RecurrentConfig(recurrent_size=5, cell="fast-weights", hidden_sizes=(4,), memory_rows=3),
}


@pytest.mark.parametrize("env", [ENV, "grid-navigation"])
@pytest.mark.parametrize("network", NETWORKS_WITH_MEMORY)
def test_the_shapes_of_a_network_with_memory_are_known_before_it_is_made(network: str, env: str) -> None:
    distribution = make_distribution(env)
    spaces = distribution.observation_space, distribution.action_space
    policy = make_memory_policy(*spaces, NETWORKS_WITH_MEMORY[network])
    assert {name: tuple(leaf.shape) for name, leaf in policy.init(torch.Generator()).items()} == policy.shapes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recurrent_size": 100_000}, r"parameters of recurrent_size 100000 need about .*; lower --recurrent-size$"),
        (
            {"hidden_sizes": (20_000, 20_000), "hypernetwork": True},
            r"recurrent_size 64 and hidden_sizes 20000 20000 need about .*; lower --recurrent-size or --hidden-sizes$",
        ),
    ],
    ids=["recurrent", "hypernetwork"],
)
def test_a_network_with_memory_that_does_not_fit_is_not_made(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("metarl.evaluation.memory.available_bytes", lambda device: 8_000_000_000)
    monkeypatch.setattr(RecurrentPolicy, "init", lambda self, generator: pytest.fail("it was made"))
    config = default_config("rl2", "grid-navigation")
    config = replace(config, learner=replace(config.learner, policy=RecurrentConfig(**options)))
    with pytest.raises(UserError, match=said):
        build(config, torch.Generator())


def test_what_fits_passes_and_no_number_is_too_large_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory(1000, "a thing", "--size")
    monkeypatch.setattr("metarl.evaluation.memory.available_bytes", lambda device: 2_000_000_000)
    with pytest.raises(UserError, match=r"a thing need about 3\.0 GB, and 2\.0 GB are free on cpu; lower --size"):
        require_memory(3_000_000_000, "a thing", "--size")
    with pytest.raises(UserError, match="more memory than any machine has"):
        require_memory(10**400, "a thing", "--size")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6, "in kB: nothing of it was taken"
