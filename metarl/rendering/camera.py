"""Camera: records one episode of each task while `collect` steps the environments."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metarl.envs.env_family import RenderableEnv

Frame = NDArray[np.uint8]
"""An image, (height, width, 3)."""

EPISODE = 0
"""Which of a task's E episodes is recorded."""


@dataclass
class Clip:
    """One recorded episode.

    Attributes:
        frames: at the steps 0, stride, 2 · stride, …, and at the end.
        steps: length of the episode so far.
    """

    frames: list[Frame] = field(default_factory=list)
    steps: int = 0


class Camera:
    """A BatchedEnv that records the first episode of every task of another one, and changes nothing in it.

    Args:
        env: M tasks × E episodes.
        size: longer side of the frames, pixels.
        stride: environment steps from one frame to the next.

    Attributes:
        horizon: H.
        batch_shape: (M, E).
        clips: of each batch of episodes begun, k = 0 … K, the clips of the M tasks.
    """

    def __init__(self, env: RenderableEnv, size: int, stride: int = 1) -> None:
        self.horizon = env.horizon
        self.batch_shape = env.batch_shape
        self.clips: list[list[Clip]] = []
        self._env = env
        self._size = size
        self._stride = stride
        self._running: list[bool] = []

    def reset(self, generator: torch.Generator) -> Tensor:
        """See BatchedEnv.reset."""
        obs = self._env.reset(generator)

        num_tasks = self.batch_shape[0]
        self._running = [True] * num_tasks
        self.clips.append([Clip([self._render(task)]) for task in range(num_tasks)])
        return obs

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See BatchedEnv.step."""
        obs, reward, terminated = self._env.step(action)

        ended = terminated[:, EPISODE].tolist()
        for task, clip in enumerate(self.clips[-1]):
            if not self._running[task]:
                continue
            clip.steps += 1
            self._running[task] = not ended[task]
            # The last state is always shown, whatever the stride.
            if ended[task] or clip.steps % self._stride == 0 or clip.steps == self.horizon:
                clip.frames.append(self._render(task))
        return obs, reward, terminated

    def success(self) -> Tensor | None:
        """See BatchedEnv.success."""
        return self._env.success()

    def _render(self, task: int) -> Frame:
        """A frame of the size asked for, so that a long video fits into memory."""
        image = Image.fromarray(self._env.render(task, EPISODE))
        scale = self._size / max(image.size)
        width, height = (max(round(side * scale), 1) for side in image.size)
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
