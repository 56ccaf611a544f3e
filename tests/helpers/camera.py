"""A camera whose brightness says nothing, and a task that says which of two actions pays."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Uniform

SIZE = (36, 36, 1)


class Camera(gymnasium.Env[Any, Any]):
    """Random pixels; the reward is 1 for the action that the task wants."""

    action_space = Discrete(2)
    observation_space = Box(0, 255, SIZE, np.uint8)

    def __init__(self, wanted: float = 0.5) -> None:
        self.wanted = wanted

    def _obs(self) -> NDArray[np.uint8]:
        return self.np_random.integers(0, 256, SIZE, dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """See gymnasium.Env.reset."""
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See gymnasium.Env.step."""
        return self._obs(), float(action == (self.wanted > 0.5)), False, False, {}


def camera() -> TaskDistribution:
    """Episodes of three steps."""
    return GymnasiumTasks("Camera", {"wanted": Uniform(0.1, 0.9)}, horizon=3, make=Camera, num_workers=0)
