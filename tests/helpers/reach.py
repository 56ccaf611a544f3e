"""A robot that reaches for a hidden target, and reports in metres and radians or in millimetres and encoder ticks."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Uniform


class Reach(gymnasium.Env[Any, Any]):
    """Reward −|x − target|; the sensors report position and speed, in units and from an origin of their own."""

    action_space = Box(-1, 1, (1,), np.float32)
    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, target: float = 0.5, unit: float = 1.0, origin: float = 0.0) -> None:
        self.target, self.unit, self.origin = target, unit, origin

    def _obs(self) -> NDArray[np.float32]:
        return np.array([self.x * self.unit + self.origin, 4.096 * self.speed * self.unit], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin near 0."""
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-0.1, 0.1))
        self.speed = 0.0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The action accelerates."""
        self.speed = 0.8 * self.speed + 0.1 * float(np.clip(action[0], -1, 1))
        self.x += 0.5 * self.speed
        return self._obs(), -abs(self.x - self.target), False, False, {}


def _reach(unit: float, origin: float = 0.0) -> TaskDistribution:
    return GymnasiumTasks(
        "Reach",
        {"target": Uniform(-1, 1)},
        horizon=8,
        make=Reach,
        fixed={"unit": unit, "origin": origin},
        num_workers=0,
    )


def metres() -> TaskDistribution:
    """Numbers of about 1."""
    return _reach(1.0)


def millimetres() -> TaskDistribution:
    """Numbers of about 1000, around another origin."""
    return _reach(1000.0, 500.0)
