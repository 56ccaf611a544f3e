"""Reptile: its update against a loop over tasks, and where it ends on families whose fixed point is known."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from scipy.optimize import brentq
from torch import Tensor

from metarl.agents.fine_tuning import AdaptationConfig
from metarl.agents.learner import MetaBatch
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.optimizer import MetaOptimizer
from metarl.agents.policies.parameters import Parameters
from metarl.agents.reptile import Reptile, ReptileConfig
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_space import Task
from tests.helpers.agent_builders import (
    ACTION_SPACES,
    OBSERVATION_SPACE,
    TINY,
    OneState,
    assert_same_state,
    meta_parameters,
    random_meta_batch,
    seeded,
)
from tests.helpers.slow_maml import adapted_by_loop

ADAPTATION = AdaptationConfig(adaptation_steps=2, inner_lr=0.5, inner_lr_decay=0.5, gae_lambda=0.9)
CONFIG = ReptileConfig(policy=TINY, adaptation=ADAPTATION)
INNER = {"policy gradient": ADAPTATION, "ppo": replace(ADAPTATION, inner_objective="ppo", inner_epochs=3)}


def make_reptile(config: ReptileConfig = CONFIG, head: str = "gaussian", num_threads: int = 1) -> Reptile:
    return Reptile(OBSERVATION_SPACE, ACTION_SPACES[head], config, seeded(0), num_threads)


# ---------------------------------------------------------------------- one update


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@pytest.mark.parametrize("head", ACTION_SPACES)
@pytest.mark.parametrize("progress", [0.0, 0.25])
def test_update_is_that_of_a_loop_over_tasks(
    head: str, inner: AdaptationConfig, progress: float, float64: None
) -> None:
    learner = make_reptile(replace(CONFIG, adaptation=inner, outer_lr=0.8), head)
    support, _ = random_meta_batch(learner, seeded(2))
    start = meta_parameters(learner)
    adapted = [adapted_by_loop(inner, start, support, task) for task in range(3)]
    metrics = learner.update(MetaBatch(support, None, progress))
    rate = 0.8 * (1 - progress)
    moved = meta_parameters(learner)
    for name, leaf in start.items():
        displacement = torch.stack([one[name] - leaf for one in adapted]).mean(dim=0)
        assert float(displacement.norm()) > 1e-4
        torch.testing.assert_close(moved[name], leaf + rate * displacement, rtol=1e-9, atol=1e-11)
    assert metrics["outer_lr"] == pytest.approx(rate)


def test_annealing_ends_at_zero_or_is_left_out() -> None:
    for annealing, expected in (("linear", [0.5, 0.25, 0.0]), ("none", [0.5, 0.5, 0.5])):
        learner = make_reptile(replace(CONFIG, annealing=cast(Any, annealing)))
        support, _ = random_meta_batch(learner, seeded(2))
        rates = [learner.update(MetaBatch(support, None, progress))["outer_lr"] for progress in (0.0, 0.5, 1.0)]
        assert rates == pytest.approx(expected)


def test_adam_takes_the_displacement_as_its_gradient(float64: None) -> None:
    """Two steps of Adam by its published equations."""
    learner = make_reptile(replace(CONFIG, outer="adam", outer_lr=0.01, annealing="none"))
    support, _ = random_meta_batch(learner, seeded(2))
    expected = meta_parameters(learner)
    first = {name: torch.zeros_like(leaf) for name, leaf in expected.items()}
    second = {name: torch.zeros_like(leaf) for name, leaf in expected.items()}
    for step in (1, 2):
        adapted = [adapted_by_loop(ADAPTATION, expected, support, task) for task in range(3)]
        for name, leaf in expected.items():
            gradient = torch.stack([one[name] - leaf for one in adapted]).mean(dim=0)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            expected[name] = leaf + 0.01 * mean / (square.sqrt() + 1e-8)
        learner.update(MetaBatch(support, None))
    for name, leaf in meta_parameters(learner).items():
        torch.testing.assert_close(leaf, expected[name], rtol=1e-7, atol=1e-9)


def test_it_collects_no_query_unless_asked() -> None:
    assert (make_reptile().sampling.support, make_reptile().sampling.query) == (2, False)
    asked = make_reptile(replace(CONFIG, collect_query=True))
    support, query = random_meta_batch(asked, seeded(2))
    asked.update(MetaBatch(support, query))
    unasked = make_reptile()
    unasked.update(MetaBatch(support, None))
    assert (asked.sampling.support, asked.sampling.query) == (2, True)
    assert_same_state(asked.state_dict(), unasked.state_dict())  # the query is only looked at


# ---------------------------------------------------------------------- where it ends


class QuadraticAdaptation:
    """Gradient steps φ ← φ − α A_i (φ − c_i) on the losses ½ (φ − c_i)ᵀ A_i (φ − c_i) instead of a policy's."""

    rate, steps = 0.1, 3

    def __init__(self) -> None:
        roots = torch.randn(5, 4, 4, generator=seeded(1))
        self.curvature = roots @ roots.mT
        self.centre = torch.randn(5, 4, generator=seeded(2))

    def batch(self, episodes: Any) -> Any:
        """Tasks are told apart by their number."""
        return _TaskNumbers(torch.arange(5))

    def step(self, params: Parameters, batch: Any, step: int, factor: float = 1.0) -> Parameters:
        """One gradient step for each task of a chunk."""
        curvature, centre = self.curvature[batch.obs], self.centre[batch.obs]
        slope = torch.einsum("mij,mj->mi", curvature, params["x"] - centre)
        return {"x": params["x"] - factor * self.rate * slope}

    def fixed_point(self) -> Tensor:
        """θ* = (Σ W_i)⁻¹ Σ W_i c_i with W_i = I − (I − α A_i)^K, where the mean displacement vanishes."""
        shrinking = torch.eye(4) - self.rate * self.curvature
        weight = torch.eye(4) - torch.linalg.matrix_power(shrinking, self.steps)
        total = torch.einsum("mij,mj->i", weight, self.centre)
        point: Tensor = torch.linalg.solve(weight.sum(dim=0), total)
        return point


class _TaskNumbers:
    """Stands for a Batch whose observations are the numbers of the tasks."""

    def __init__(self, numbers: Tensor) -> None:
        self.obs = numbers

    def tasks(self, index: slice) -> "_TaskNumbers":
        return _TaskNumbers(self.obs[index])


@pytest.mark.parametrize("outer", ["interpolate", "adam"])
def test_quadratic_tasks_end_in_the_fixed_point_known_in_closed_form(outer: Any, float64: None) -> None:
    tasks = QuadraticAdaptation()
    learner = make_reptile(ReptileConfig(outer=outer, outer_lr=0.5 if outer == "interpolate" else 0.05, task_chunk=2))
    learner.adaptation = cast(Any, tasks)
    learner.optimizer = MetaOptimizer({"x": torch.zeros(4)})
    updates = 400
    nothing = cast(list[Episodes], [_TaskNumbers(torch.arange(5))] * tasks.steps)
    for update in range(updates):
        learner.update(MetaBatch(nothing, None, update / updates))
    expected = tasks.fixed_point()
    assert float((expected - tasks.centre.mean(dim=0)).norm()) > 0.1  # no mere mean of the tasks' optima
    torch.testing.assert_close(meta_parameters(learner)["x"], expected, rtol=1e-3, atol=1e-3)


class Target(OneState):
    """One action on a line, paid by minus its squared distance from a hidden target."""

    action_space = Box(-10.0, 10.0, (1,))
    horizon = 1

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """−(a − target)²."""
        assert params is not None
        return -(action.squeeze(-1) - params["target"]).square()


def test_quadratic_rewards_end_where_the_policy_gradients_of_the_tasks_cancel() -> None:
    """The whole way through episodes, baseline and normalised advantages.

    With a ~ N(μ, σ²) the reward −(a − c)² has the policy gradient −2 (μ − c) and the variance 4 σ² (μ − c)² + 2 σ⁴;
    normalised advantages divide the one by the root of the other. One inner step ends where the sum over tasks is 0.
    """
    targets, sigma = np.array([-1.0, 0.0, 2.0]), float(np.exp(-0.5))
    env = Target().bind({"target": torch.tensor(targets, dtype=torch.float32)}, 2_000)
    adaptation = AdaptationConfig(adaptation_steps=1, inner_lr=0.1, log_std_lr_factor=1e-9)
    config = ReptileConfig(policy=PolicyConfig(hidden_sizes=(), init_log_std=-0.5), adaptation=adaptation, outer_lr=1.0)
    learner = Reptile(Target.observation_space, Target.action_space, config, seeded(0))
    generator = seeded(1)
    updates = 150
    for update in range(updates):
        support = [collect(env, learner.policy, learner.begin(3).params, generator)]
        learner.update(MetaBatch(support, None, update / updates))
    params = meta_parameters(learner)
    mean = float(params["layer0.weight"] + params["layer0.bias"])
    expected = brentq(
        lambda mu: np.sum((targets - mu) / np.sqrt(4 * sigma**2 * (mu - targets) ** 2 + 2 * sigma**4)), -1, 2
    )
    assert abs(expected - targets.mean()) > 0.1
    assert mean == pytest.approx(expected, abs=0.03)


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outer_lr": 0.0}, "outer_lr must be positive, got 0.0"),
        ({"outer": "sgd"}, "outer must be one of .*interpolate.*adam.*, got 'sgd'"),
        ({"annealing": "cosine"}, "annealing must be one of .*linear.*none.*, got 'cosine'"),
        ({"task_chunk": -1}, "task_chunk must not be negative, got -1"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReptileConfig(**changes)
