"""Random tabular MDPs against exact dynamic programming in numpy and the published value of random play."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from metarl.agents.policies.reference import OraclePolicy, RandomPolicy
from metarl.envs.families.tabular_mdp import TabularMDP, tabular_mdp
from metarl.envs.rollout import collect
from metarl.envs.task_space import Task

HORIZON, NUM_STATES, NUM_ACTIONS = 10, 10, 5


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expected_return(task: Task, index: int, optimal: bool) -> float:
    """V(state 0) over the horizon, of the optimal policy or of uniform actions, by backward induction."""
    transition = task["transition"][index].double().numpy()
    reward = task["reward"][index].double().numpy()
    value: NDArray[np.float64] = np.zeros(NUM_STATES)
    for _ in range(HORIZON):
        q = np.array(
            [
                [
                    reward[s, a] + sum(transition[s, a, n] * value[n] for n in range(NUM_STATES))
                    for a in range(NUM_ACTIONS)
                ]
                for s in range(NUM_STATES)
            ]
        )
        value = q.max(axis=1) if optimal else q.mean(axis=1)
    return float(value[0])


@pytest.mark.parametrize("optimal", [False, True])
def test_returns_match_dynamic_programming(optimal: bool) -> None:
    """The mean over 2,000 episodes of each MDP; the oracle is the optimal policy of the horizon."""
    distribution = tabular_mdp()
    tasks = distribution.sample(8, "test")
    policy = OraclePolicy(distribution.env) if optimal else RandomPolicy(distribution.action_space)
    returns = collect(distribution.bind(tasks, 2000), policy, tasks if optimal else {}, rng()).returns
    for index, measured in enumerate(returns):
        error = float(measured.std()) / len(measured) ** 0.5
        assert float(measured.mean()) == pytest.approx(expected_return(tasks, index, optimal), abs=4 * error)


def test_random_play_earns_what_the_rl2_paper_reports() -> None:
    """Table 2 there: 100.1, 250.2 and 499.7 in trials of 10, 25 and 50 episodes."""
    distribution = tabular_mdp()
    env = distribution.bind(distribution.sample(1000, "test"), 50)
    returns = collect(env, RandomPolicy(distribution.action_space), {}, rng()).returns
    for episodes, published in ((10, 100.1), (25, 250.2), (50, 499.7)):
        assert float(returns[:, :episodes].sum(dim=1).mean()) == pytest.approx(published, rel=0.02)


def test_next_states_follow_the_row_of_state_and_action() -> None:
    env = TabularMDP()
    task = {name: value[0] for name, value in tabular_mdp().sample(1, "test").items()}
    draws = 20_000
    params = {name: value.expand(draws, *value.shape) for name, value in task.items()}
    for state, action in ((0, 0), (3, 4), (9, 2)):
        states, actions = torch.full((draws,), state), torch.full((draws,), action)
        drawn = env.transition(states, actions, rng(state), params)
        expected = task["transition"][state, action].double().numpy()
        counts = np.bincount(drawn.numpy(), minlength=NUM_STATES)
        assert stats.chisquare(counts, draws * expected / expected.sum()).pvalue > 1e-4
        noise = env.reward(states, actions, drawn, rng(state), params) - task["reward"][state, action]
        assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-4


def test_the_tasks_are_drawn_as_in_the_rl2_paper() -> None:
    """Each probability of a flat Dirichlet with ten outcomes is Beta(1, 9); mean rewards are N(1, 1)."""
    tasks = tabular_mdp().sample(200, "train", rng())
    probabilities = tasks["transition"][..., 3].flatten()[:5000].numpy()
    assert stats.kstest(probabilities, stats.beta(1, 9).cdf).pvalue > 1e-4
    assert stats.kstest(tasks["reward"].flatten()[:5000].numpy(), stats.norm(1, 1).cdf).pvalue > 1e-4
