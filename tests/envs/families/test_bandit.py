"""Bandits: the published value of random play, the oracle's closed form, and the noise of the rewards."""

import pytest
import torch
from scipy import stats

from metarl.agents.policies.reference import OraclePolicy, RandomPolicy
from metarl.envs.families.bandit import bernoulli, gaussian
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def play(distribution: TaskDistribution, oracle: bool, num_tasks: int = 1000, episodes: int = 2) -> Episodes:
    tasks = distribution.sample(num_tasks, "test")
    env = distribution.bind(tasks, episodes)
    if oracle:
        return collect(env, OraclePolicy(distribution.task_env), tasks, rng())
    return collect(env, RandomPolicy(distribution.action_space), {}, rng())


@pytest.mark.parametrize(
    ("num_pulls", "num_arms", "published"),
    [(10, 5, 5.0), (10, 10, 5.0), (10, 50, 5.1), (100, 5, 49.9), (100, 10, 49.9), (100, 50, 49.8), (500, 5, 249.8)],
)
def test_random_play_earns_what_the_rl2_paper_reports(num_pulls: int, num_arms: int, published: float) -> None:
    """Table 1 there, an average over as many bandits as here; the mean of ours has a standard error of its own."""
    returns = play(bernoulli(num_arms, num_pulls), oracle=False, episodes=8).returns.mean(dim=1)
    error = 2 * float(returns.std()) / len(returns) ** 0.5  # both averages have one
    assert float(returns.mean()) == pytest.approx(published, abs=3 * error + 0.05)


def test_the_default_bernoulli_bandit_has_ten_arms_and_a_hundred_pulls() -> None:
    assert float(play(bernoulli(), oracle=False).returns.mean()) == pytest.approx(49.9, abs=1.0)


@pytest.mark.parametrize(("num_arms", "best"), [(5, 5 / 6), (10, 10 / 11), (50, 50 / 51)])
def test_the_oracle_earns_the_expected_maximum_of_uniform_variables(num_arms: int, best: float) -> None:
    """E max of k variables U[0, 1] = k / (k + 1)."""
    returns = play(bernoulli(num_arms), oracle=True).returns
    assert float(returns.mean()) / 100 == pytest.approx(best, abs=0.015)


def test_the_oracle_of_the_gaussian_bandit_earns_the_expected_maximum_of_ten_normals() -> None:
    returns = play(gaussian(), oracle=True).returns
    assert float(returns.mean()) / 100 == pytest.approx(1.5388, abs=0.05)  # Harter 1961, n = 10
    assert float(play(gaussian(), oracle=False).returns.mean()) / 100 == pytest.approx(0.0, abs=0.03)


def test_rewards_of_an_arm_follow_its_distribution() -> None:
    mean = torch.linspace(0.05, 0.95, 10)
    arms = torch.arange(10).expand(20_000, 10).reshape(-1)
    params = {"mean": mean.expand(len(arms), 10)}
    rewards = bernoulli().task_env.reward(arms, arms, arms, rng(), params).reshape(-1, 10)
    assert set(rewards.flatten().tolist()) == {0.0, 1.0}
    for arm, probability in enumerate(mean.tolist()):
        assert stats.binomtest(int(rewards[:, arm].sum()), len(rewards), probability).pvalue > 1e-4
    noisy = gaussian().task_env.reward(arms, arms, arms, rng(), params).reshape(-1, 10) - mean
    assert stats.kstest(noisy.flatten().numpy(), "norm").pvalue > 1e-4


def test_the_observation_says_nothing() -> None:
    episodes = play(gaussian(), oracle=True, num_tasks=3)
    assert torch.equal(episodes.obs, torch.ones(3, 2, 100, 1))
    assert not episodes.terminated.any()
