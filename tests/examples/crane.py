"""A small crane as its maker delivers it: readings in raw units, motors that want odd numbers.

The load is wanted at a spot that the crane is not told, and how strongly it must be held depends on its mass: the two
are the task. `crane.yaml` says between which numbers they vary. From the directory of this file:

    metarl check crane.yaml
    metarl train maml --env-file crane.yaml
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

Readings = dict[str, NDArray[Any]]

TICKS_PER_MM = 8
TICKS_AT_THE_MIDDLE = 32_768
AMPERES_PER_KG = 1.0
ROOM_TEMPERATURE = 22.0


class Crane(gymnasium.Env[Any, NDArray[np.float32]]):
    """A trolley on a servo and a hoist on a current, over a bench of 1 m × 1 m.

    Args:
        x: where the load is wanted, mm right of the middle.
        z: the same, mm above the middle.
        mass: of the load, kg.
    """

    def __init__(self, x: float = 0.0, z: float = 0.0, mass: float = 1.2) -> None:
        self.spot = np.array([x, z])
        self.mass = mass

        # A pulse of 1,500 µs stops the trolley; the hoist knows no negative current: it lets the load sink.
        self.action_space = Box(np.array([1100, 0.0], np.float32), np.array([1850, 2.6], np.float32), dtype=np.float32)
        self.observation_space = Dict(
            speed=Box(-2_000, 2_000, (2,), np.float32),  # mm/s
            encoder=Box(0, 65_535, (2,), np.int32),  # ticks
            temperature=Box(-40, 125, (1,), np.float32),  # of the hoist, °C
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Readings, dict[str, Any]]:
        """The load hangs still in the middle; the hoist is as warm as the room."""
        super().reset(seed=seed)
        self.position, self.speed = np.zeros(2), np.zeros(2)
        self.temperature = ROOM_TEMPERATURE
        return self._readings(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Readings, float, bool, bool, dict[str, Any]]:
        """A tenth of a second; the reward is minus the distance to the spot, mm."""
        pulse, current = map(float, action)
        wanted = np.array([0.8 * (pulse - 1500), 300 * (current - AMPERES_PER_KG * self.mass)])  # mm/s

        self.speed = 0.3 * self.speed + 0.7 * wanted
        self.position = np.clip(self.position + 0.1 * self.speed, -500, 500)
        self.temperature += 0.2 * current**2 - 0.02 * (self.temperature - ROOM_TEMPERATURE)

        distance = float(np.linalg.norm(self.position - self.spot))
        return self._readings(), -distance, False, False, {"is_success": distance < 25}

    def _readings(self) -> Readings:
        """What the instruments say."""
        return {
            "speed": self.speed.astype(np.float32),
            "encoder": np.rint(TICKS_AT_THE_MIDDLE + TICKS_PER_MM * self.position).astype(np.int32),
            "temperature": np.array([self.temperature], np.float32),
        }


def bench() -> Crane:
    """The crane on one's own bench. Nobody told the program what hangs on it, and where it is wanted."""
    return Crane(x=180.0, z=-140.0, mass=1.5)


gymnasium.register("Crane-v0", entry_point="crane:Crane", max_episode_steps=40)
