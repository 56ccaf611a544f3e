"""Camera: films one episode of each task while `collect` steps the environments."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metarl.envs.env_family import RenderableEnv

Picture = NDArray[np.uint8]
"""(height, width, 3)."""

EPISODE = 0
"""Which of a task's E episodes is filmed."""


@dataclass
class Clip:
    """One filmed episode.

    Attributes:
        frames: pictures at the steps 0, stride, 2 · stride, …, and at the end.
        steps: length of the episode so far.
    """

    frames: list[Picture] = field(default_factory=list)
    steps: int = 0


class Camera:
    """A BatchedEnv that films the first episode of every task of another one, and changes nothing in it.

    Args:
        env: M tasks × E episodes.
        size: longer side of the pictures, pixels.
        stride: environment steps from one frame to the next.

    Attributes:
        horizon: H.
        batch_shape: (M, E).
        clips: of each batch of episodes begun, k = 0 … K, the clips of the M tasks.
    """

    def __init__(self, env: RenderableEnv, size: int, stride: int = 1) -> None:
        self.horizon, self.batch_shape = env.horizon, env.batch_shape
        self.clips: list[list[Clip]] = []
        self._env, self._size, self._stride = env, size, stride
        self._running: list[bool] = []

    def reset(self, generator: torch.Generator) -> Tensor:
        """See BatchedEnv.reset."""
        obs = self._env.reset(generator)
        self.clips.append([Clip() for _ in range(self.batch_shape[0])])
        self._running = [True] * self.batch_shape[0]
        for task, clip in enumerate(self.clips[-1]):
            clip.frames.append(self._picture(task))
        return obs

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See BatchedEnv.step."""
        obs, reward, terminated = self._env.step(action)
        for task, (clip, over) in enumerate(zip(self.clips[-1], terminated[:, EPISODE].tolist(), strict=True)):
            if not self._running[task]:
                continue
            clip.steps += 1
            self._running[task] = not over
            if over or clip.steps % self._stride == 0 or clip.steps == self.horizon:
                clip.frames.append(self._picture(task))
        return obs, reward, terminated

    def success(self) -> Tensor | None:
        """See BatchedEnv.success."""
        return self._env.success()

    def _picture(self, task: int) -> Picture:
        """As large as asked for, so that a long film fits into memory."""
        image = Image.fromarray(self._env.render(task, EPISODE))
        scale = self._size / max(image.size)
        width, height = (max(round(side * scale), 1) for side in image.size)
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
