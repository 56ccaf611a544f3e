"""Joint training: its update against a loop over tasks, and whether it learns what all tasks have in common."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.agents.fine_tuning import AdaptationConfig, PolicyGradientAdaptation
from metarl.agents.learner import MetaBatch
from metarl.agents.multitask import Multitask, MultitaskConfig
from metarl.agents.policies.parameters import Parameters, flatten
from metarl.envs.families.navigation import pearl
from metarl.envs.rollout import Episodes, collect
from tests.helpers.agent_builders import (
    ACTION_SPACES,
    OBSERVATION_SPACE,
    TINY,
    meta_parameters,
    perturb,
    random_meta_batch,
    seeded,
)
from tests.helpers.slow_maml import act, clipped, finite_differences, gradient_of, objective, task_episodes, value_of

CONFIG = MultitaskConfig(
    policy=TINY, adaptation=AdaptationConfig(gae_lambda=0.9), clip=0.1, entropy_bonus=0.3, outer_lr=0.05
)


def make_multitask(config: MultitaskConfig = CONFIG, head: str = "gaussian", num_threads: int = 1) -> Multitask:
    return Multitask(OBSERVATION_SPACE, ACTION_SPACES[head], config, seeded(0), num_threads)


class SlowMultitask:
    """The objective of joint PPO, task by task."""

    def __init__(self, config: MultitaskConfig, query: Episodes) -> None:
        self.config = config
        gamma, gae_lambda = config.adaptation.gamma, config.adaptation.gae_lambda
        self.tasks = [task_episodes(query, task, gamma, gae_lambda) for task in range(len(query.obs))]

    def __call__(self, params: Parameters) -> Tensor:
        """Mean over tasks of the clipped surrogate, and of the entropy at its weight."""
        totals = []
        for episodes in self.tasks:
            entropy = torch.cat([act(params, episode.obs).entropy() for episode in episodes]).mean()
            surrogate = objective(params, episodes, clipped(self.config.clip))
            totals.append(surrogate + self.config.entropy_bonus * entropy)
        return torch.stack(totals).mean()


# ---------------------------------------------------------------------- one update


@pytest.mark.parametrize("head", ACTION_SPACES)
@pytest.mark.parametrize("task_chunk", [1, 2, 10])
def test_gradient_is_that_of_a_loop_over_tasks_and_of_differences(head: str, task_chunk: int, float64: None) -> None:
    learner = make_multitask(replace(CONFIG, task_chunk=task_chunk), head)
    perturb(learner, 0.1, seeded(1))  # biases away from zero
    _, query = random_meta_batch(learner, seeded(2))
    perturb(learner, 0.1, seeded(3))  # as in a second epoch: some ratios are clipped
    slow, params = SlowMultitask(learner.config, query), meta_parameters(learner)
    batch = PolicyGradientAdaptation(learner.policy, learner.config.adaptation).batch(query)
    value, gradient = learner.value_and_gradient(batch)
    assert value == pytest.approx(value_of(slow, params))
    expected, differences = gradient_of(slow, params), finite_differences(slow, params)
    for name, leaf in gradient.items():
        torch.testing.assert_close(leaf, expected[name], rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(leaf, differences[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("progress", [0.0, 0.6])
def test_update_is_adam_on_that_gradient(progress: float, float64: None) -> None:
    learner = make_multitask(replace(CONFIG, outer_epochs=3))
    _, query = random_meta_batch(learner, seeded(2))
    slow = SlowMultitask(learner.config, query)
    expected = {name: leaf.clone().requires_grad_() for name, leaf in meta_parameters(learner).items()}
    adam = torch.optim.Adam(expected.values(), lr=0.05 * (1 - progress), maximize=True)
    first_norm = float(flatten(gradient_of(slow, expected).values()).norm())
    for _ in range(3):
        adam.zero_grad()
        slow(expected).backward()  # type: ignore[no-untyped-call]
        adam.step()
    metrics = learner.update(MetaBatch([], query, progress))
    for name, leaf in meta_parameters(learner).items():
        torch.testing.assert_close(leaf, expected[name].detach())
    assert metrics["gradient_norm"] == pytest.approx(first_norm)
    assert metrics["outer_lr"] == pytest.approx(0.05 * (1 - progress))


def test_it_trains_without_adapting_and_adapts_as_configured() -> None:
    learner = make_multitask(replace(CONFIG, adaptation=AdaptationConfig(adaptation_steps=4)))
    assert (learner.sampling.support, learner.sampling.query, learner.adaptation_steps) == (0, True, 4)


# ---------------------------------------------------------------------- learning


def test_it_learns_what_the_tasks_have_in_common() -> None:
    """Goals on a half circle above the start: up is right for all of them, and nothing more can be known."""
    distribution = pearl()
    config = MultitaskConfig(policy=replace(TINY, hidden_sizes=(16,)), outer_lr=0.02, annealing="none")
    learner = Multitask(distribution.observation_space, distribution.action_space, config, seeded(0))
    tasks = distribution.sample(40, "test")

    def measured() -> tuple[float, Tensor]:
        env = distribution.bind(tasks, 10)
        episodes = collect(env, learner.policy, learner.begin(40).params, seeded(7))
        return float(episodes.returns.mean()), episodes.last_obs.mean(dim=(0, 1))

    generator = seeded(1)
    before, _ = measured()
    for _ in range(30):
        env = distribution.bind(distribution.sample(20, "train", generator), 10)
        learner.update(MetaBatch([], collect(env, learner.policy, learner.begin(20).params, generator)))
    after, (x, y) = measured()
    assert after > before + 2
    assert float(y) > 0.3
    assert abs(float(x)) < 0.3


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outer_epochs": 0}, "outer_epochs must be at least 1, got 0"),
        ({"outer_lr": -1.0}, "outer_lr must be positive, got -1.0"),
        ({"clip": 0.0}, "clip must be positive, got 0.0"),
        ({"entropy_bonus": -0.1}, "entropy_bonus must not be negative, got -0.1"),
        ({"annealing": "cosine"}, "annealing must be one of .*linear.*none.*, got 'cosine'"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultitaskConfig(**changes)
