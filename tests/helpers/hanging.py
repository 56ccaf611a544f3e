"""An environment that hangs when told to, in a module of its own: workers import it and nothing else of the tests."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

FIRST_CHECKPOINT = Path("runs/run/checkpoints/iteration-0000001.safetensors")


class Hanging(gymnasium.Env[Any, Any]):
    """Hangs in the step in which the file `hang` is there; "PID N" in it asks that trainer N times to stop."""

    observation_space, action_space = Box(-5, 5, (1,)), Box(-1, 1, (1,))

    def __init__(self, goal: float = 0.0) -> None:
        self.goal, self.resets = goal, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start at 0."""
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hang, where it is time to."""
        if FIRST_CHECKPOINT.exists() and Path("hang").exists():
            trainer, signals = map(int, (Path("hang").read_text() or "0 0").split())
            for _ in range(signals):
                os.kill(trainer, signal.SIGTERM)
                time.sleep(0.3)
            while True:
                time.sleep(0.05)
        return np.zeros(1, np.float32), -abs(self.goal), False, False, {}


gymnasium.register("Hanging-v0", lambda **keywords: Hanging(**keywords), max_episode_steps=3)
