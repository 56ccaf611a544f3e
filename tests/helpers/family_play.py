"""Stepping any family with the same actions and the same noise."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.envs.task_distribution import TaskDistribution
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
        seen, *paid = env.step(action)
        obs.append(seen)
        steps.append(paid)
    rewards, terminated = zip(*steps, strict=True)
    return torch.stack(obs), torch.stack(rewards), torch.stack(terminated)
