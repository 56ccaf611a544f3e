"""Returns, baseline and advantages against plain loops over episodes and numpy's least squares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.gradients.advantages import (
    advantages_of,
    baseline_features,
    discounted_sums,
    fit_linear_baseline,
    generalized_advantages,
    normalize,
)
from metarl.envs.rollout import Episodes
from tests.helpers import slow_maml
from tests.helpers.agent_builders import make_policy, random_episodes, seeded

pytestmark = pytest.mark.usefixtures("float64")

GAMMA, LAMBDA = 0.9, 0.7


def varied_episodes(seed: int = 0) -> Episodes:
    """Episodes of different lengths, rewards and observations; some observations beyond the baseline's clip range."""
    policy = make_policy("gaussian")
    episodes = random_episodes(policy, policy.init(seeded(seed)), seeded(seed), (3, 6, 12))
    assert bool(episodes.terminated.any())
    assert not bool(episodes.terminated.all())
    return replace(episodes, obs=8 * episodes.obs)


def literal_episodes(reward: list[float], mask: list[float]) -> Episodes:
    """One task, one episode; nothing but rewards and mask matters."""
    steps = torch.tensor([[mask]])
    return Episodes(
        obs=torch.zeros(*steps.shape, 1),
        action=torch.zeros(steps.shape),
        reward=torch.tensor([[reward]]),
        mask=steps,
        terminated=torch.tensor([[not all(mask)]]),
        last_obs=torch.zeros(1, 1, 1),
        behaviour={},
    )


def assert_equals_loop(actual: Tensor, expected: list[list[NDArray[np.float64]]], episodes: Episodes) -> None:
    """Compare (M, E, H) with one array for each task and episode, without masked steps; zero where masked."""
    for task, of_task in enumerate(expected):
        for ours, theirs in zip(slow_maml.cut(actual, episodes, task), of_task, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-7, atol=1e-9)
    assert bool((actual[episodes.mask == 0] == 0).all())


# ---------------------------------------------------------------------- discounted sums and GAE


@pytest.mark.parametrize(
    ("discount", "expected"), [(0.5, [2.75, 3.5, 3.0]), (0.0, [1.0, 2.0, 3.0]), (1.0, [6.0, 5.0, 3.0])]
)
def test_discounted_sums_literal(discount: float, expected: list[float]) -> None:
    assert discounted_sums(torch.tensor([1.0, 2.0, 3.0]), discount).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 50), (2, 600)])
def test_discounted_sums_equal_the_recursion(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=seeded(0))
    expected = np.apply_along_axis(slow_maml.discounted, -1, values.numpy(), GAMMA)
    np.testing.assert_allclose(discounted_sums(values, GAMMA).numpy(), expected, rtol=1e-10)


def test_generalized_advantages_literal() -> None:
    values = torch.tensor([[[0.5, 1.0, 2.0]]])
    truncated = generalized_advantages(literal_episodes([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]), values, 0.5, 0.5)
    assert truncated.flatten().tolist() == pytest.approx([1.5625, 2.25, 1.0])
    terminated = generalized_advantages(
        literal_episodes([1.0, 2.0, 0.0], [1.0, 1.0, 0.0]), values * torch.tensor([1.0, 1.0, 0.0]), 0.5, 0.5
    )
    assert terminated.flatten().tolist() == pytest.approx([1.25, 1.0, 0.0])


@pytest.mark.parametrize("gae_lambda", [0.0, LAMBDA, 1.0])
def test_generalized_advantages_equal_the_recursion(gae_lambda: float) -> None:
    episodes = varied_episodes()
    values = torch.randn(episodes.reward.shape, generator=seeded(1)) * episodes.mask
    expected = [
        [
            slow_maml.generalized_advantage(reward.numpy(), value.numpy(), GAMMA, gae_lambda)
            for reward, value in zip(
                slow_maml.cut(episodes.reward, episodes, task), slow_maml.cut(values, episodes, task), strict=True
            )
        ]
        for task in range(3)
    ]
    assert_equals_loop(generalized_advantages(episodes, values, GAMMA, gae_lambda), expected, episodes)


def test_lambda_one_gives_returns_minus_values() -> None:
    episodes = varied_episodes()
    values = torch.randn(episodes.reward.shape, generator=seeded(1)) * episodes.mask
    expected = (discounted_sums(episodes.reward, GAMMA) - values) * episodes.mask
    torch.testing.assert_close(generalized_advantages(episodes, values, GAMMA, 1.0), expected)


# ---------------------------------------------------------------------- baseline


def test_baseline_features_literal() -> None:
    obs = torch.tensor([[[[0.5, -3.0], [20.0, -11.0]]]])
    expected = [[0.5, -3.0, 0.25, 9.0, 0.0, 0.0, 0.0], [10.0, -10.0, 100.0, 100.0, 0.01, 1e-4, 1e-6]]
    torch.testing.assert_close(baseline_features(obs)[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_baseline_equals_least_squares_of_each_task(dtype: torch.dtype) -> None:
    episodes = varied_episodes()
    episodes = replace(episodes, obs=episodes.obs.to(dtype), mask=episodes.mask.to(dtype))
    returns = discounted_sums(episodes.reward, GAMMA).to(dtype)
    values = fit_linear_baseline(episodes, returns)
    assert values.dtype == dtype
    tolerance = 1e-7 if dtype == torch.float64 else 1e-4
    for task in range(3):
        of_episodes = [g.double().numpy() for g in slow_maml.cut(returns, episodes, task)]
        expected = slow_maml.baseline_values(slow_maml.cut(episodes.obs, episodes, task), of_episodes)
        for ours, theirs in zip(slow_maml.cut(values, episodes, task), expected, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=tolerance, atol=tolerance)
    assert bool((values[episodes.mask == 0] == 0).all())


def test_baseline_finds_a_return_that_is_linear_in_its_features() -> None:
    episodes = varied_episodes()
    returns = (baseline_features(episodes.obs) @ torch.arange(1.0, 8.0) + 8) * episodes.mask
    torch.testing.assert_close(fit_linear_baseline(episodes, returns), returns, rtol=1e-3, atol=1e-2)


def test_more_features_than_steps_make_no_matrix_of_features() -> None:
    """200 observations in 18 steps: the fit is numpy's, from a matrix of 18 × 18."""
    reward = torch.randn(1, 3, 6, generator=seeded(0))
    obs = torch.randn(1, 3, 6, 200, generator=seeded(1))
    episodes = replace(literal_episodes([0.0], [1.0]), obs=obs, reward=reward, mask=torch.ones_like(reward))
    expected = slow_maml.baseline_values(list(obs[0]), [r.numpy() for r in reward[0]])
    np.testing.assert_allclose(fit_linear_baseline(episodes, reward)[0].numpy(), expected, rtol=1e-6, atol=1e-8)


def test_the_intercept_is_not_shrunk() -> None:
    episodes = varied_episodes()
    returns = discounted_sums(episodes.reward, GAMMA) * episodes.mask
    raised = fit_linear_baseline(episodes, returns + 1e6 * episodes.mask)
    expected = fit_linear_baseline(episodes, returns) + 1e6 * episodes.mask
    torch.testing.assert_close(raised, expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- what says nothing of the actions


def whole_episodes(horizon: int = 200, seed: int = 0) -> Episodes:
    """Episodes that all last to the horizon, in float32, with rewards that differ."""
    policy = make_policy("gaussian")
    episodes = random_episodes(policy, policy.init(seeded(seed)), seeded(seed), (2, 4, horizon))
    reward = torch.rand(2, 4, horizon, generator=seeded(seed + 1))
    mask = torch.ones_like(reward)
    return replace(episodes, obs=episodes.obs.float(), reward=reward.float(), mask=mask.float())


@pytest.mark.parametrize("bonus", [-30.0, 100.0])
@pytest.mark.parametrize("gae_lambda", [0.9, 1.0])
def test_a_bonus_on_every_step_changes_nothing(bonus: float, gae_lambda: float) -> None:
    episodes = whole_episodes()
    with_bonus = replace(episodes, reward=episodes.reward + bonus)
    plain = advantages_of(episodes, 0.99, gae_lambda)
    torch.testing.assert_close(advantages_of(with_bonus, 0.99, gae_lambda), plain, rtol=0, atol=2e-4)


def test_a_bonus_still_pays_where_an_episode_ends_early() -> None:
    episodes = whole_episodes(horizon=10)
    mask = episodes.mask.clone()
    mask[:, 0, 5:] = 0
    ended = replace(episodes, mask=mask, reward=(episodes.reward + 100) * mask)
    assert bool((advantages_of(ended, 0.99, 1.0)[:, 0, 4] < -0.5).all())


@pytest.mark.parametrize("reward", [-1.0, 0.1, 7e4])
def test_equal_rewards_give_no_advantages(reward: float) -> None:
    episodes = whole_episodes()
    equal = replace(episodes, reward=torch.full_like(episodes.reward, reward))
    for normalized in (True, False):
        assert float(advantages_of(equal, 0.99, 1.0, normalized).abs().max()) <= 1e-9 * abs(reward)


def test_rewards_that_only_depend_on_time_give_no_advantages() -> None:
    episodes = whole_episodes()
    same = episodes.reward[:, :1].expand_as(episodes.reward)
    assert float(advantages_of(replace(episodes, reward=same), 0.99, 1.0).abs().max()) == 0


def test_one_task_without_information_leaves_the_others_alone() -> None:
    episodes = whole_episodes()
    reward = episodes.reward.clone()
    reward[0] = -1
    advantages = advantages_of(replace(episodes, reward=reward), 0.99, 1.0)
    assert float(advantages[0].abs().max()) == 0
    assert torch.equal(advantages[1], advantages_of(episodes, 0.99, 1.0)[1])


def test_a_single_episode_still_has_advantages() -> None:
    episodes = whole_episodes()
    alone = replace(episodes, obs=episodes.obs[:, :1], reward=episodes.reward[:, :1], mask=episodes.mask[:, :1])
    assert float(advantages_of(alone, 0.99, 1.0).std()) == pytest.approx(1, abs=0.01)


# ---------------------------------------------------------------------- normalisation and the whole


def test_advantages_are_normalised_within_each_task() -> None:
    mask = varied_episodes().mask
    advantages = 5 + 3 * torch.randn(mask.shape, generator=seeded(1)) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    normalized = normalize(advantages, mask)
    for task in range(3):
        taken = normalized[task][mask[task] > 0].numpy()
        assert taken.mean() == pytest.approx(0, abs=1e-9)
        assert taken.std() == pytest.approx(1)
    assert bool((normalized[mask == 0] == 0).all())


def test_equal_advantages_normalise_to_zero() -> None:
    mask = varied_episodes().mask
    torch.testing.assert_close(normalize(torch.full(mask.shape, 4.0), mask), torch.zeros(mask.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalized", [True, False])
def test_advantages_equal_the_loop_over_tasks_and_episodes(normalized: bool) -> None:
    episodes = varied_episodes()
    expected = [slow_maml.task_advantages(episodes, task, GAMMA, LAMBDA, normalized) for task in range(3)]
    assert_equals_loop(advantages_of(episodes, GAMMA, LAMBDA, normalized), expected, episodes)


def test_observations_of_masked_steps_have_no_influence() -> None:
    episodes = varied_episodes()
    garbage = 7 * torch.randn(episodes.obs.shape, generator=seeded(2)) * (1 - episodes.mask.unsqueeze(-1))
    changed = replace(episodes, obs=episodes.obs + garbage, last_obs=-episodes.last_obs)
    torch.testing.assert_close(
        advantages_of(changed, GAMMA, LAMBDA), advantages_of(episodes, GAMMA, LAMBDA), rtol=0, atol=0
    )


def test_masked_steps_at_the_end_have_no_influence() -> None:
    episodes = varied_episodes()

    def longer(values: Tensor) -> Tensor:
        return torch.cat([values, torch.zeros_like(values[:, :, :5])], dim=2)

    padded = replace(
        episodes, obs=longer(episodes.obs), reward=longer(episodes.reward), mask=longer(episodes.mask), behaviour={}
    )
    torch.testing.assert_close(
        advantages_of(padded, GAMMA, LAMBDA), longer(advantages_of(episodes, GAMMA, LAMBDA)), rtol=1e-7, atol=1e-9
    )


def test_the_horizon_counts_as_an_end_like_termination() -> None:
    episodes = varied_episodes()
    flipped = replace(episodes, terminated=~episodes.terminated)
    assert torch.equal(advantages_of(flipped, GAMMA, LAMBDA), advantages_of(episodes, GAMMA, LAMBDA))


def test_tasks_do_not_influence_each_other() -> None:
    episodes = varied_episodes()
    alone = advantages_of(episodes.tasks(slice(1, 2)), GAMMA, LAMBDA)
    torch.testing.assert_close(advantages_of(episodes, GAMMA, LAMBDA)[1:2], alone, rtol=1e-9, atol=1e-10)
