"""Classical strategies for Bernoulli bandits: published means, closed forms, and where they are refused."""

from pathlib import Path

import pytest
import torch

from metarl.baselines.bandits import BANDIT_STRATEGIES, BanditStrategy, gittins_table
from metarl.comparison.plan import check_baselines
from metarl.envs.families.bandit import BernoulliBandit, bernoulli
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.errors import UserError
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory

# Duan et al. 2016, table 1: means of 1,000 trials, printed with one digit.
PUBLISHED = {
    (10, 5): {"gittins": 6.6, "thompson": 5.7, "ucb1": 6.7, "epsilon-greedy": 6.6, "greedy": 6.6},
    (10, 10): {"gittins": 6.6, "thompson": 5.5, "ucb1": 6.7, "epsilon-greedy": 6.6, "greedy": 6.6},
    (10, 50): {"gittins": 6.5, "thompson": 5.2, "ucb1": 6.6, "epsilon-greedy": 6.5, "greedy": 6.5},
    (100, 5): {"gittins": 78.3, "thompson": 74.7, "ucb1": 78.0, "epsilon-greedy": 75.4, "greedy": 74.8},
    (100, 10): {"gittins": 82.8, "thompson": 76.7, "ucb1": 82.4, "epsilon-greedy": 77.4, "greedy": 77.1},
    (100, 50): {"gittins": 85.2, "thompson": 64.5, "ucb1": 84.3, "epsilon-greedy": 78.3, "greedy": 78.0},
}
PUBLISHED_TRIALS = 1000
NUM_TASKS = {10: 16_000, 100: 3000}
"""By the number of pulls."""

ERRORS = 3.5
"""Standard errors by which a mean may miss the published one: any of 30 right ones misses by more once in 70 tries."""


def returns_of(name: str, num_arms: int, num_pulls: int) -> torch.Tensor:
    """Return of one trial on each of many tasks, drawn as in training, (M,)."""
    generator = torch.Generator().manual_seed(3)
    tasks = {"mean": torch.rand(NUM_TASKS[num_pulls], num_arms, generator=generator)}
    distribution = bernoulli(num_arms, num_pulls)
    strategy = BanditStrategy(name, distribution.env)
    return collect(distribution.bind(tasks, 1), strategy, {}, generator).returns.squeeze(1)


@pytest.mark.parametrize(("num_pulls", "num_arms"), PUBLISHED)
@pytest.mark.parametrize("name", BANDIT_STRATEGIES)
def test_means_are_the_published_ones(name: str, num_pulls: int, num_arms: int) -> None:
    returns = returns_of(name, num_arms, num_pulls)
    error = float(returns.std()) * (1 / PUBLISHED_TRIALS + 1 / len(returns)) ** 0.5
    published = PUBLISHED[num_pulls, num_arms][name]
    assert float(returns.mean()) == pytest.approx(published, abs=0.05 + ERRORS * error)


def test_gittins_index_of_one_pull_is_the_mean() -> None:
    assert gittins_table(4)[0, 2, 1] == pytest.approx(3 / 5, abs=1e-4)


def test_gittins_index_of_two_pulls() -> None:
    """2λ = ½ (1 + ⅔) + ½ λ: after a win the arm pays ⅔, after a loss one goes back to λ."""
    assert gittins_table(4)[1, 0, 0] == pytest.approx(5 / 9, abs=1e-4)


def test_counts_are_those_of_the_arm_that_was_pulled() -> None:
    strategy = BanditStrategy("greedy", BernoulliBandit(3, 5))
    _, memory = strategy.apply({}, torch.ones(1, 2, 1))
    ended = torch.zeros(1, 2, dtype=torch.bool)
    memory = strategy.observe(memory, torch.tensor([[2, 0]]), torch.tensor([[1.0, 0.0]]), ended)
    assert memory["wins"].tolist() == [[[0, 0, 1], [0, 0, 0]]]
    assert memory["losses"].tolist() == [[[0, 0, 0], [1, 0, 0]]]


@pytest.mark.parametrize("env", ["grid-navigation", "bandit/gaussian"])
def test_other_families_are_refused(env: str) -> None:
    subject = RunDirectory(Path("runs/none"), default_config("maml", env))
    with pytest.raises(UserError, match=f"gittins plays Bernoulli bandits only, not {env}"):
        check_baselines(["gittins"], subject, make_distribution(env))
