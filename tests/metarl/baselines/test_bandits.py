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

NUM_TASKS = 1000


def mean_return(name: str, num_arms: int, num_pulls: int) -> float:
    """Mean return of a trial on tasks drawn as in training."""
    generator = torch.Generator().manual_seed(3)
    tasks = {"mean": torch.rand(NUM_TASKS, num_arms, generator=generator)}
    distribution = bernoulli(num_arms, num_pulls)
    strategy = BanditStrategy(name, distribution.env)
    return float(collect(distribution.bind(tasks, 4), strategy, {}, generator).returns.mean())


# Duan et al. 2016, table 1: means of 1,000 trials, of standard error 0.06, printed with one digit. Ours have 0.06 too.
PUBLISHED = {"gittins": 6.6, "thompson": 5.7, "ucb1": 6.7, "epsilon-greedy": 6.6, "greedy": 6.6}


@pytest.mark.parametrize("name", BANDIT_STRATEGIES)
def test_means_are_the_published_ones(name: str) -> None:
    assert mean_return(name, 5, 10) == pytest.approx(PUBLISHED[name], abs=0.05 + 3 * 2**0.5 * 0.06)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("gittins", 78.3), ("thompson", 74.7), ("ucb1", 78.0)])
def test_means_of_longer_trials_are_the_published_ones(name: str, published: float) -> None:
    assert mean_return(name, 5, 100) == pytest.approx(published, abs=0.05 + 3 * 2**0.5 * 0.5)


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
