"""A family of one's own: tanks of different sizes are to be filled to different levels.

From the directory of this file:

    metarl check own_family:tanks
    metarl train maml own_family:tanks
"""

from typing import Any

import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import LogUniform, Task, Uniform


class Tank(TaskEnv):
    """The agent sees the level and opens or closes a valve; how fast the level rises depends on the tank's area."""

    observation_space = Box(-10, 10, (1,))
    action_space = Box(-1, 1, (1,))
    horizon = 20

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """An empty tank, (*batch, 1)."""
        return torch.zeros_like(params["area"]).unsqueeze(-1)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """The level rises by flow / area, (*batch, 1)."""
        flow = 0.2 * action.clamp(-1, 1)
        return state + flow / params["area"].unsqueeze(-1)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """Minus the distance to the level that is asked for, (*batch,)."""
        return -(next_state.squeeze(-1) - params["level"]).abs()


def tanks(**changes: Any) -> TaskDistribution:
    """Tanks of 0.5 to 2 m², filled to a level between 0.2 and 1 m."""
    ranges = {"area": LogUniform(0.5, 2, "m²"), "level": Uniform(0.2, 1, "m")}
    return TaskDistribution(Tank(), train=ranges, ood={"area": Uniform(2, 3, "m²")}, **changes)
