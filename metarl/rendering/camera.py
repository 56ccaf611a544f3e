"""Camera: records one episode of each task while `collect` steps the environments."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from metarl.envs.env_family import EnvFamily, Polyline, RenderableEnv

Frame = NDArray[np.uint8]
"""An image, (height, width, 3)."""

EPISODE = 0
"""Which of a task's E episodes is recorded."""

TRAIL, NOW = "#8fb0f0", "royalblue"
"""Colours of the way that an episode has taken, and of where it is."""

TRAIL_WIDTH, NOW_RADIUS = 2, 4
"""Pixels in the family's own pictures."""


@dataclass
class Clip:
    """One recorded episode.

    Attributes:
        frames: at the steps 0, stride, 2 · stride, …, and at the end.
        steps: length of the episode so far.
        ending: how it ended, such as "reached", where that can be said; "" for one that ran for all its steps.
    """

    frames: list[Frame] = field(default_factory=list)
    steps: int = 0
    ending: str = ""


class Camera:
    """A BatchedEnv that records the first episode of every task of another one, and changes nothing in it.

    Args:
        env: M tasks × E episodes.
        family: what the environments are of; knows the plane and how episodes end.
        size: longer side of the frames, pixels.
        stride: environment steps from one frame to the next.

    Attributes:
        horizon: H.
        batch_shape: (M, E).
        clips: of each batch of episodes begun, k = 0 … K, the clips of the M tasks.
    """

    def __init__(self, env: RenderableEnv, family: EnvFamily, size: int, stride: int = 1) -> None:
        self.horizon = env.horizon
        self.batch_shape = env.batch_shape
        self.clips: list[list[Clip]] = []
        self._env = env
        self._family = family
        self._size = size
        self._stride = stride
        self._running: list[bool] = []
        self._trails: list[Polyline] = []

    def reset(self, generator: torch.Generator) -> Tensor:
        """See BatchedEnv.reset."""
        obs = self._env.reset(generator)

        num_tasks = self.batch_shape[0]
        self._running = [True] * num_tasks
        self._trails = [[] for _ in range(num_tasks)]
        for task in range(num_tasks):
            self._extend_trail(task, obs)
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
            self._extend_trail(task, obs)

            # The last state is always shown, whatever the stride.
            is_last = ended[task] or clip.steps == self.horizon
            if is_last or clip.steps % self._stride == 0:
                clip.frames.append(self._render(task))
            if is_last:
                clip.ending = self._ending(task, obs, ended[task])
        return obs, reward, terminated

    def success(self) -> Tensor | None:
        """See BatchedEnv.success."""
        return self._env.success()

    def _ending(self, task: int, obs: Tensor, terminated: bool) -> str:
        """What is to be said of the end of an episode: whether it succeeded, where the environment tells."""
        success = self._env.success()
        if success is not None:
            return "succeeded" if success[task, EPISODE] else "failed"
        return self._family.ending(obs[task, EPISODE]) if terminated else ""

    def _extend_trail(self, task: int, obs: Tensor) -> None:
        """Note where the episode is, in a family whose pictures show the plane."""
        if self._family.plane_view is None:
            return
        position = self._family.plane_position(obs[task, EPISODE])
        if position is not None:
            x, y = position.tolist()
            self._trails[task].append((x, y))

    def _render(self, task: int) -> Frame:
        """A frame of the size asked for, so that a long video fits into memory."""
        image = Image.fromarray(self._env.render(task, EPISODE))
        if self._family.plane_view is not None:
            draw_trail(image, self._trails[task], self._family.plane_view)
        scale = self._size / max(image.size)
        width, height = (max(round(side * scale), 1) for side in image.size)
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def draw_trail(image: Image.Image, trail: Sequence[tuple[float, float]], plane_view: float) -> None:
    """Draw the way that an episode has taken on a square picture of the plane.

    Args:
        image: drawn on.
        trail: positions in the plane, from the start; at least one.
        plane_view: half the side of the picture in the plane, whose origin is the picture's middle.
    """
    scale = image.width / (2 * plane_view)
    pixels = [(image.width / 2 + x * scale, image.height / 2 - y * scale) for x, y in trail]

    drawing = ImageDraw.Draw(image)
    drawing.line(pixels, fill=TRAIL, width=TRAIL_WIDTH, joint="curve")

    # Where it is now must not vanish below the trail.
    x, y = pixels[-1]
    drawing.ellipse((x - NOW_RADIUS, y - NOW_RADIUS, x + NOW_RADIUS, y + NOW_RADIUS), fill=NOW)
