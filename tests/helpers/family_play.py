"""Stepping any family with the same actions and the same noise."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_actions(distribution: TaskDistribution, *batch: int, seed: int = 1) -> Tensor:
    """Actions (*batch, A), now and then beyond the bounds, or (*batch,) integers."""
    space = distribution.action_space
    if isinstance(space, Discrete):
        return torch.randint(int(space.n), batch, generator=rng(seed))
    return torch.randn((*batch, *space.shape), generator=rng(seed))


def play(distribution: TaskDistribution, tasks: Task, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Obs (H+1, M, E, O), reward and terminated (H, M, E) of the same noise whatever the tasks."""
    env = distribution.bind(tasks, actions.shape[2])
    obs, steps = [env.reset(rng(2))], []
    for action in actions:
        next_obs, *reward_and_end = env.step(action)
        obs.append(next_obs)
        steps.append(reward_and_end)
    rewards, terminated = zip(*steps, strict=True)
    return torch.stack(obs), torch.stack(rewards), torch.stack(terminated)


def assert_actions_beyond_the_bounds_act_as_the_bounds(env: TaskEnv, state: Tensor, action: float) -> None:
    """Transition and reward of an action (1,) are those of the action clipped to [−1, 1]."""
    params = env.get_default_params()
    assert params is not None
    given = torch.tensor([action])
    clipped = given.clamp(-1.0, 1.0)
    assert torch.equal(env.transition(state, given, rng(), params), env.transition(state, clipped, rng(), params))
    assert torch.equal(env.reward(state, given, state, rng(), params), env.reward(state, clipped, state, rng(), params))
