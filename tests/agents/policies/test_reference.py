"""Reference policies: the random one is uniform, the oracle is as good as the optimum that can be computed."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy import stats

from metarl.agents.policies.reference import OraclePolicy, RandomPolicy
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.rollout import collect
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task


def test_random_actions_are_uniform_over_the_box() -> None:
    space = Box(np.array([-1.0, 2.0], np.float32), np.array([1.0, 5.0], np.float32))
    actions, _ = RandomPolicy(space).apply({}, torch.zeros(40, 50, 3))
    drawn = actions.sample(torch.Generator().manual_seed(0)).reshape(-1, 2)
    assert drawn.shape == (2000, 2)
    for values, low, width in zip(drawn.T.numpy(), (-1, 2), (2, 3), strict=True):
        assert stats.kstest(values, stats.uniform(low, width).cdf).pvalue > 0.01


def test_random_actions_are_uniform_over_the_integers() -> None:
    actions, _ = RandomPolicy(Discrete(3)).apply({}, torch.zeros(30, 50, 1))
    drawn = actions.sample(torch.Generator().manual_seed(0))
    assert drawn.shape == (30, 50)
    assert stats.chisquare(drawn.flatten().bincount().numpy()).pvalue > 0.01


def test_random_policy_needs_bounds() -> None:
    with pytest.raises(ValueError, match="bounded"):
        RandomPolicy(Box(-np.inf, np.inf, (1,)))


def test_oracle_needs_a_family_that_defines_one() -> None:
    assert not TaskEnv().has_oracle
    with pytest.raises(ValueError, match="no oracle"):
        OraclePolicy(TaskEnv())


def oracle_returns(name: str, split: str, num_tasks: int = 50) -> tuple[torch.Tensor, Task]:
    distribution = make_distribution(name)
    tasks = distribution.sample(num_tasks, split)
    env = distribution.bind(tasks, 1)
    return collect(env, OraclePolicy(distribution.env), tasks, torch.Generator().manual_seed(0)).returns[:, 0], tasks


@pytest.mark.parametrize("split", ["test", "ood"])
@pytest.mark.parametrize("reward", ["pearl", "finn"])
def test_oracle_on_point_navigation_is_the_sum_over_the_steps_to_the_goal(reward: str, split: str) -> None:
    """Each coordinate shrinks by 0.1 a step until it is 0: the distances on the way are known."""
    returns, tasks = oracle_returns(f"point-navigation/{reward}", split)
    for goal, measured in zip(tasks["goal"], returns, strict=True):
        distances = [float((goal.abs() - 0.1 * step).clamp(min=0).norm()) for step in range(1, 21)]
        assert measured.item() == pytest.approx(-sum(distances), abs=0.02)  # ends a step early within 0.01


def test_oracle_on_point_dynamics_comes_to_rest_at_the_goal() -> None:
    distribution = make_distribution("point-dynamics")
    tasks = distribution.sample(200, "test")
    episodes = collect(
        distribution.bind(tasks, 1), OraclePolicy(distribution.env), tasks, torch.Generator().manual_seed(0)
    )
    position, velocity = episodes.last_obs[:, 0, :2], episodes.last_obs[:, 0, 2:]
    assert (position - tasks["goal"]).norm(dim=-1).max() < 0.01
    assert velocity.norm(dim=-1).max() < 0.01


def test_oracle_on_point_dynamics_is_near_what_search_finds() -> None:
    """The best of many open-loop plans, a constant action for n steps and then the oracle's, is hardly better."""
    distribution = make_distribution("point-dynamics")
    tasks = distribution.sample(20, "test")
    directions = torch.linspace(0, 2 * torch.pi, 65)[:-1]
    plans = torch.stack([directions.cos(), directions.sin()], dim=-1) * 2**0.5
    best = torch.full((20,), -torch.inf)
    generator = torch.Generator().manual_seed(0)
    for steps in range(9):
        env = distribution.bind(tasks, len(plans))
        obs, total = env.reset(generator), torch.zeros(20, len(plans))
        params = {name: value.unsqueeze(1).expand(-1, len(plans), *value.shape[1:]) for name, value in tasks.items()}
        for step in range(env.horizon):
            oracle = distribution.env.oracle_action(obs, params, step)
            obs, reward, _ = env.step(plans.clamp(-1, 1).expand(20, -1, -1) if step < steps else oracle)
            total += reward
        best = torch.maximum(best, total.amax(dim=1))
    returns, _ = oracle_returns("point-dynamics", "test", 20)
    assert (best - returns).max() < 0.01


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.gymnasium_id])
def test_oracle_beats_random_on_every_task(name: str) -> None:
    distribution = make_distribution(name)
    if not distribution.env.has_oracle:
        pytest.skip("no oracle")
    for split in ("test", *(["ood"] if distribution.ood else [])):
        tasks = distribution.sample(50, split)
        env = distribution.bind(tasks, 20)
        oracle, random = (
            collect(env, policy, params, torch.Generator().manual_seed(0)).returns.mean(dim=1)
            for policy, params in (
                (OraclePolicy(distribution.env), tasks),
                (RandomPolicy(distribution.action_space), {}),
            )
        )
        assert (oracle > random).all()
