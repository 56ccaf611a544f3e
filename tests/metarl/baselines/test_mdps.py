"""Classical strategies for tabular MDPs: published means, planning against brute force, and where they are refused."""

import itertools
from pathlib import Path

import pytest
import torch

from metarl.baselines.mdps import MDP_STRATEGIES, MDPStrategy, best_mean, values_of
from metarl.baselines.strategies import StrategyLearner
from metarl.comparison.plan import check_baselines
from metarl.envs.families.tabular_mdp import tabular_mdp
from metarl.envs.registry import make_distribution
from metarl.errors import UserError
from metarl.evaluation.adaptation import adaptation_episodes
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory
from tests.helpers.agent_builders import seeded

# Duan et al. 2016, table 2: means of 1,000 trials of 10 and of 25 episodes.
PUBLISHED = {
    10: {"psrl": 138.1, "opsrl": 144.1, "ucrl2": 146.6},
    25: {"psrl": 408.8, "opsrl": 425.2, "ucrl2": 424.1},
}
DEVIATION = {10: 26.0, 25: 58.0}
"""Standard deviation of a trial, by its episodes."""


def mean_returns(name: str, num_tasks: int, episodes: int = 10) -> list[float]:
    """Mean return of each episode of a trial, on tasks drawn as in training."""
    distribution = tabular_mdp()
    generator = seeded(5)
    tasks = distribution.sample(num_tasks, "train", generator)
    learner = StrategyLearner(name, distribution.env, episodes - 1, generator)
    batches = adaptation_episodes(learner, distribution, tasks, episodes - 1, 1, generator)
    return [float(batch.returns.mean()) for batch in batches]


@pytest.mark.parametrize("name", MDP_STRATEGIES)
def test_they_learn_from_episode_to_episode(name: str) -> None:
    """Chance earns 10 ± 0.5 in an episode on so many tasks."""
    returns = mean_returns(name, 60, episodes=6)
    assert returns[-1] > 12 > returns[0]


@pytest.mark.parametrize("num_tasks", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("episodes", PUBLISHED)
@pytest.mark.parametrize("name", MDP_STRATEGIES)
def test_means_are_the_published_ones(name: str, episodes: int, num_tasks: int) -> None:
    error = DEVIATION[episodes] * (1 / 1000 + 1 / num_tasks) ** 0.5
    total = sum(mean_returns(name, num_tasks, episodes))
    assert total == pytest.approx(PUBLISHED[episodes][name], abs=3 * error)


def test_values_are_those_of_the_best_of_all_plans() -> None:
    """Two states, two actions, three steps: each of the 2^6 deterministic plans, evaluated by itself."""
    generator = seeded(0)
    transition = torch.rand(2, 2, 2, generator=generator)
    transition = transition / transition.sum(-1, keepdim=True)
    reward = torch.randn(2, 2, generator=generator)
    moves, pays = transition.tolist(), reward.tolist()

    best = [-float("inf")] * 2
    for plan in itertools.product(range(2), repeat=6):
        value = [0.0, 0.0]
        for time in reversed(range(3)):
            later = value
            value = []
            for state, action in enumerate(plan[2 * time : 2 * time + 2]):
                row = moves[state][action]
                value.append(pays[state][action] + row[0] * later[0] + row[1] * later[1])
        best = [max(pair) for pair in zip(best, value, strict=True)]
    assert values_of(transition, reward, 3)[0].amax(-1).tolist() == pytest.approx(best, abs=1e-5)


def test_the_best_mean_is_that_of_all_distributions_near_by() -> None:
    """Against a grid of all distributions of three outcomes."""
    given = torch.tensor([0.2, 0.5, 0.3])
    value = torch.tensor([1.0, -2.0, 0.5])
    steps = torch.arange(0, 101) / 100
    grid = torch.cartesian_prod(steps, steps)
    grid = torch.cat([grid, 1 - grid.sum(-1, keepdim=True)], dim=-1)
    for slack in (0.0, 0.3, 0.9, 5.0):
        near = grid[(grid[:, 2] > -1e-6) & ((grid - given).abs().sum(-1) < slack + 1e-5)]
        ours = best_mean(given.reshape(1, 1, 3), value, torch.full((1, 1), slack))
        assert float(ours) == pytest.approx(float((near @ value).max()), abs=1e-4)


def test_what_was_seen_is_counted_and_the_end_of_an_episode_is_no_transition() -> None:
    distribution = tabular_mdp(3, 2, 2)
    strategy = MDPStrategy("psrl", distribution.env, seeded(0))
    states = torch.eye(3)
    _, memory = strategy.apply({}, states[[0]][None])
    pairs = [int(memory["last"])]
    ended = torch.zeros(1, 1, dtype=torch.bool)
    memory = strategy.observe(memory, memory["last"] % 2, torch.tensor([[2.0]]), ended)
    _, memory = strategy.apply({}, states[[1]][None], memory)
    pairs.append(int(memory["last"]))
    memory = strategy.observe(memory, memory["last"] % 2, torch.tensor([[-1.0]]), ended)
    _, memory = strategy.apply({}, states[[0]][None], strategy.next_episode(memory))

    assert memory["moves"].nonzero()[:, 2:].tolist() == [[pairs[0] // 2, pairs[0] % 2, 1]]
    assert memory["visits"].sum() == 2
    assert memory["paid"].flatten()[pairs].tolist() == [2, -1]


@pytest.mark.parametrize("env", ["grid-navigation", "bandit/bernoulli"])
def test_other_families_are_refused(env: str) -> None:
    subject = RunDirectory(Path("runs/none"), default_config("maml", env))
    with pytest.raises(UserError, match=f"ucrl2 plays tabular Markov decision processes only, not {env}"):
        check_baselines(["ucrl2"], subject, make_distribution(env))
