"""What learners compute between rollouts, captured: the same numbers as called. No GPU is needed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from metarl.agents.gradients.parallel import ChunkPool
from metarl.agents.gradients.trust_region import TrustRegionConfig
from metarl.agents.learner import Learner
from metarl.agents.policies.memory.base import RecurrentConfig
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import expand_to_tasks
from metarl.agents.registry import AGENTS
from metarl.agents.teachers import Teachers
from metarl.envs.graphs import fuse
from metarl.envs.graphs.capture import Capture
from metarl.envs.graphs.functions import FunctionGraphs
from metarl.envs.registry import make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.training.meta_iteration import sample_iteration
from tests.helpers.captured_steps import again, recorded
from tests.helpers.family_play import rng

NUM_TASKS = 3

CASES: list[tuple[str, dict[str, Any]]] = [
    ("maml", {}),
    ("maml", {"outer": "ppo", "adaptation_steps": 2, "exploration_credit": 1.0, "inner_lr_mode": "meta-sgd"}),
    ("maml", {"estimator": "dice", "objective_steps": "all+0", "adaptation_steps": 2, "fvp_fraction": 1.0}),
    ("reptile", {}),
    ("multitask", {}),
    ("reptile", {"outer": "adam"}),
    ("distill", {"fvp_fraction": 1.0, "trust_region": TrustRegionConfig(cg_iterations=2)}),
    ("distill", {"outer": "ppo", "match": "initial"}),
    ("rl2", {"minibatches": 2, "entropy_annealing": "linear"}),
    ("rl2", {"policy": RecurrentConfig(8, cell="lstm", separate_networks=True)}),
    ("rl2", {"policy": RecurrentConfig(8, cell="fast-weights")}),
    ("rl2", {"policy": RecurrentConfig(8, hypernetwork=True, embedding_size=4)}),
]


def trained(
    agent: str, changes: dict[str, Any], env: str, capture: Capture | None, updates: int = 3, fuse: bool = False
) -> dict[str, Any]:
    """A learner's state after some meta-iterations, captured or called, and what they returned."""
    distribution = make_distribution(env)
    distribution.env.horizon = 6
    entry = AGENTS[agent]
    spaces = distribution.observation_space, distribution.action_space
    learner: Any = entry.make(*spaces, entry.config_class(**changes), rng(1), 1)
    if agent == "distill":
        policy = MLPPolicy(*spaces)
        params = expand_to_tasks(policy.init(rng(2)), NUM_TASKS)
        learner.teachers = Teachers(policy, params, distribution.sample(NUM_TASKS, "train", rng(0)))
    said: list[str] = []
    if capture is not None:
        learner.pool.graphs = FunctionGraphs(capture, torch.device("cpu"), said.append, fuse)
    metrics = [_update(learner, distribution, seed) for seed in range(updates)]
    assert not said
    return {"metrics": metrics, "state": learner.state_dict()}


def _update(learner: Learner, distribution: TaskDistribution, seed: int) -> dict[str, float]:
    teachers = getattr(learner, "teachers", None)
    tasks = distribution.sample(NUM_TASKS, "train", rng(seed)) if teachers is None else teachers.tasks
    batch = sample_iteration(distribution, learner, tasks, 4, rng(seed)).batch
    return learner.update(replace(batch, progress=seed / 3))


@pytest.mark.parametrize(("agent", "changes"), CASES)
def test_captured_updates_equal_called_ones(agent: str, changes: dict[str, Any]) -> None:
    """Three iterations on different tasks: the later ones replay what the first one has recorded."""
    env = "point-navigation/finn" if agent in ("maml", "distill") else "cart-pole"
    called, captured = (trained(agent, changes, env, capture) for capture in (None, recorded))
    exact = changes.get("outer") != "ppo"  # its epochs take the Adam of a GPU, which rounds otherwise than a CPU's
    _assert_same(captured, called, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("agent", "changes"),
    [
        ("maml", {}),
        ("reptile", {}),
        pytest.param("maml", {"outer": "ppo", "inner_lr_mode": "meta-sgd"}, marks=pytest.mark.slow),
        pytest.param(*CASES[2], marks=pytest.mark.slow),
    ],
)
def test_fused_updates_equal_called_ones(agent: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision, with few iterations of conjugate gradient, which makes much of what rounding does."""
    monkeypatch.setattr(fuse, "_kernels", lambda graph, inputs: graph)
    few = dict(changes)
    if agent == "maml":
        few |= {"outer_epochs": 2, "trust_region": TrustRegionConfig(cg_iterations=2, cg_damping=0.1)}
    called, fused_too = (
        trained(agent, few, "point-navigation/finn", capture, 2, capture is again) for capture in (None, again)
    )
    _assert_same(fused_too, called, rtol=1e-7, atol=1e-9)


def _assert_same(actual: dict[str, Any], expected: dict[str, Any], rtol: float, atol: float) -> None:
    """The metrics of each update, and the state after the last one."""
    for one, other in zip(actual["metrics"], expected["metrics"], strict=True):
        assert one == pytest.approx(other, rel=rtol, abs=atol)
    torch.testing.assert_close(actual["state"], expected["state"], rtol=rtol, atol=atol)
    assert expected["metrics"][0] != expected["metrics"][1]


def test_what_waits_for_the_device_is_said_once_and_called() -> None:
    def waiting(values: torch.Tensor) -> torch.Tensor:
        return values + 1 if bool(values.sum() > 0) else values

    said: list[str] = []
    graphs = FunctionGraphs(recorded, torch.device("cpu"), said.append)
    assert torch.equal(graphs.run(waiting, torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(graphs.run(waiting, -torch.ones(2)), -torch.ones(2))
    assert len(said) == 1
    assert "waiting is not captured as a CUDA graph: operation not permitted" in said[0]


def test_an_error_that_says_nothing_is_named_by_its_kind() -> None:
    def refuse(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        raise RuntimeError

    said: list[str] = []
    assert FunctionGraphs(refuse, torch.device("cpu"), said.append).run(torch.ones(2).add, 1).tolist() == [2.0, 2.0]
    assert said == ["Tensor.add is not captured as a CUDA graph: RuntimeError"]


def test_results_are_tensors_of_their_own() -> None:
    pool = ChunkPool(1)
    pool.graphs = FunctionGraphs(recorded, torch.device("cpu"), pytest.fail)

    def doubled(values: torch.Tensor, factor: int) -> dict[str, torch.Tensor]:
        return {"product": factor * values}

    first = pool.run(doubled, torch.ones(2), 2)
    second = pool.run(doubled, torch.full((2,), 5.0), 2)
    other = pool.run(doubled, torch.ones(2), 3)  # what is no tensor tells graphs apart
    assert [result["product"][0].item() for result in (first, second, other)] == [2.0, 10.0, 3.0]
