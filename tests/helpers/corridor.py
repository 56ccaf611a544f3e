"""A small family for tests of the adapters: a dict state, discrete actions, nothing rendered."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Task, Uniform


class Corridor(TaskEnv):
    """Walk left, stay or right to the "exit", starting near 0; a dict state, a Discrete action, no images.

    x' = x + a − 1, n' = n + 1, r = −|x' − exit| + 0.01 n'; "noise" spreads the start.
    """

    observation_space = Box(-100.0, 100.0, (2,), np.float32)
    action_space = Discrete(3)
    horizon = 5

    def initial(self, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.initial."""
        spread = torch.rand(params["exit"].shape, generator=rng)
        return {"x": params["noise"] * spread, "n": torch.zeros_like(spread)}

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.transition."""
        return {"x": state["x"] + action - 1, "n": state["n"] + 1}

    def observation(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        return torch.stack([state["x"], state["n"]], dim=-1)

    def reward(self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return torch.add(0.01 * next_state["n"], -(next_state["x"] - params["exit"]).abs())

    def terminal(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        return torch.ge(state["x"], params["exit"])


def corridor() -> TaskDistribution:
    return TaskDistribution(Corridor(), {"exit": Uniform(1.0, 5.0), "noise": Uniform(0.0, 0.5)}, name="corridor")
