"""A family whose action space is a parameter: follow a target with the mean of the action, in the space's own units."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, MultiBinary, MultiDiscrete, Space
from torch import Tensor

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Task, Uniform


class Follow(TaskEnv):
    """Reward −|mean(action) − target|; the observation, and state, is the last action, flat, and the time.

    The oracle gives the target in each element, as near as the space has it.
    """

    horizon = 4

    def __init__(self, action_space: Space[Any]) -> None:
        self.action_space = action_space
        size = int(np.prod(action_space.shape or ()))
        self.observation_space = Box(-np.inf, np.inf, (size + 1,), np.float32)

    def initial(self, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.initial."""
        target = params["target"]
        return torch.zeros((*target.shape, *self.observation_space.shape), device=target.device)

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.transition."""
        flat = action.reshape(*state.shape[:-1], -1).to(torch.float32)
        return torch.cat([flat, state[..., -1:] + 1], dim=-1)

    def reward(self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        distance: Tensor = (next_state[..., :-1].mean(-1) - params["target"]).abs()
        return -distance

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """See EnvFamily.oracle_action."""
        shape = (*obs.shape[:-1], *(self.action_space.shape or ()))
        extra = len(self.action_space.shape or ())
        action = params["target"].reshape(*params["target"].shape, *(1,) * extra).expand(shape)
        whole = np.dtype(self.action_space.dtype).kind != "f"
        return torch.round(action).long() if whole else action


class LiveFollow(gymnasium.Env[Any, Any]):
    """The same with numpy, for one target; it refuses an action that is not of its space."""

    def __init__(self, action_space: Space[Any], target: float = 0.0) -> None:
        self.action_space = action_space
        self.target = target
        self.observation_space = Box(-np.inf, np.inf, (int(np.prod(action_space.shape or ())) + 1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See gymnasium.Env.reset."""
        self.last = np.zeros(self.observation_space.shape or (), np.float32)
        return self.last, {}

    def step(self, action: Any) -> Any:
        """See gymnasium.Env.step."""
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        flat = np.asarray(action, np.float32).reshape(-1)
        self.last = np.append(flat, self.last[-1] + 1).astype(np.float32)
        return self.last, -abs(float(flat.mean()) - self.target), False, False, {}


TARGET = {"target": Uniform(0.0, 1.0)}


def follow(action_space: Space[Any]) -> TaskDistribution:
    return TaskDistribution(Follow(action_space), TARGET, name="follow")


def live_follow(action_space: Space[Any]) -> GymnasiumTasks:
    return GymnasiumTasks(
        "follow", TARGET, horizon=4, make=lambda target: LiveFollow(action_space, target), num_workers=0
    )


# For the command line, and live environments of the same spaces.


def wide() -> TaskDistribution:
    return follow(Box(-3.0, 12.0, (2,)))


def unbounded() -> TaskDistribution:
    return follow(Box(np.array([2, -np.inf], np.float32), np.array([np.inf, np.inf], np.float32)))


def choices() -> TaskDistribution:
    return follow(MultiDiscrete([2, 3], start=[0, -1]))


def switches() -> GymnasiumTasks:
    return live_follow(MultiBinary(3))


def steps() -> GymnasiumTasks:
    return live_follow(Box(0, 3, (2, 2), np.int64))


def live_wide() -> LiveFollow:
    return LiveFollow(Box(-3.0, 12.0, (2,)), 0.5)


def live_unbounded() -> LiveFollow:
    return LiveFollow(unbounded().env.action_space, 0.5)


def live_choices() -> LiveFollow:
    return LiveFollow(MultiDiscrete([2, 3], start=[0, -1]), 0.5)


def live_switches() -> LiveFollow:
    return LiveFollow(MultiBinary(3), 0.5)


def live_steps() -> LiveFollow:
    return LiveFollow(Box(0, 3, (2, 2), np.int64), 0.5)
