"""Adaptation as a video, as a still image, and as a heat map of the return over the task space."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from metarl.agents.learner import Learner
from metarl.envs.env_family import RenderableEnv
from metarl.envs.rollout import Episodes
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of
from metarl.errors import UserError
from metarl.evaluation import plots
from metarl.evaluation.adaptation import adapt_in
from metarl.rendering import heat_map
from metarl.rendering.camera import Camera
from metarl.rendering.captions import task_text, video_rows
from metarl.rendering.encode import STILL, checked_output, still_bytes, write_video
from metarl.rendering.heat_map import HeatMap
from metarl.rendering.task_grid import TaskGrid
from metarl.rendering.video import STRIP_LENGTH, Row, Video, image_size, strip
from metarl.run.files import write_atomically

MOST_FRAMES = 250
"""Videos of longer episodes show every second step, every third, …; they last as long as with all steps."""


def is_still(out: str) -> bool:
    """Whether a file name asks for a still image rather than a video."""
    return out.lower().endswith(STILL)


@dataclass(frozen=True)
class Pace:
    """How fast a video plays.

    Attributes:
        fps: frames per second; None: the family's own pace.
        every: environment steps from one frame to the next; None: 1, and more for episodes of over 250 steps.
    """

    fps: float | None = None
    every: int | None = None

    def stride(self, distribution: TaskDistribution) -> int:
        """Environment steps from one frame to the next."""
        return self.every or math.ceil(distribution.horizon / MOST_FRAMES)

    def frames_per_second(self, distribution: TaskDistribution) -> float:
        """By default the family's own pace, however many steps lie between two frames."""
        return self.fps or distribution.env.render_fps / self.stride(distribution)


def has_plane(distribution: TaskDistribution) -> bool:
    """Whether the family's trajectories can be drawn as lines in a plane."""
    observation = torch.zeros(1, *distribution.observation_space.shape, dtype=float_dtype())
    return distribution.env.plane_path(observation) is not None


@dataclass(frozen=True)
class ShownAdaptation:
    """What is adapted to be shown.

    Attributes:
        distribution: the family of the tasks.
        learner: adapts; left bit-identical.
        tasks: M tasks.
        steps: K, adaptation steps.
        episodes: E, episodes per task and step.
    """

    distribution: TaskDistribution
    learner: Learner
    tasks: Task
    steps: int
    episodes: int


def draw_trajectories(out: str, shown: ShownAdaptation, generator: torch.Generator) -> list[Episodes]:
    """Adapt to tasks and draw the trajectories before and after each adaptation step in the family's plane.

    Args:
        out: file to write: .png.
        shown: what is adapted.
        generator: draws the rollouts.

    Returns:
        The episodes after k = 0 … K adaptation steps.

    Raises:
        UserError: the file cannot be written.
    """
    path = checked_output(out)  # before the work, so that a bad path costs nothing
    env = shown.distribution.bind(shown.tasks, shown.episodes)
    batches = adapt_in(env, shown.learner, shown.steps, generator).batches

    figure = plots.trajectories(shown.distribution, shown.tasks, batches, num_tasks_of(shown.tasks))
    assert figure is not None
    write_atomically(path, plots.figure_bytes(figure))
    return batches


def draw_episodes(
    out: str, title: str, task_label: str, shown: ShownAdaptation, generator: torch.Generator, pace: Pace
) -> list[Episodes]:
    """Adapt to tasks and show the first episode of each before and after each adaptation step, side by side.

    Args:
        out: file to write: .mp4 or .gif, a video; .png, a few images of each episode.
        title: of the page: agent and environment.
        task_label: what a task is called; tasks are numbered where there are several.
        shown: what is adapted.
        generator: draws the rollouts; the images take no random numbers.
        pace: of a video.

    Returns:
        The episodes after k = 0 … K adaptation steps.

    Raises:
        UserError: the family draws no images, or the file cannot be written.
    """
    path = checked_output(out)  # before the work, so that a bad path costs nothing
    stride = pace.stride(shown.distribution)
    size = image_size(STRIP_LENGTH if is_still(out) else shown.steps + 1)
    recording = record(task_label, shown, generator, size, stride)

    if is_still(out):
        image = strip(f"{title}: before and after each adaptation step", recording.rows, stride)
        write_atomically(path, still_bytes(image))
    else:
        video = Video(title, recording.rows, shown.distribution.horizon, stride)
        write_video(path, video, pace.frames_per_second(shown.distribution))
    return recording.batches


class Recording(NamedTuple):
    """Images of an adaptation.

    Attributes:
        rows: one for each task.
        batches: the episodes after k = 0 … K adaptation steps.
    """

    rows: list[Row]
    batches: list[Episodes]


def record(task_label: str, shown: ShownAdaptation, generator: torch.Generator, size: int, stride: int) -> Recording:
    """Adapt to tasks and record the first episode of each before and after each adaptation step.

    Args:
        task_label: what a task is called; tasks are numbered where there are several.
        shown: what is adapted.
        generator: draws the rollouts.
        size: longer side of the images, pixels.
        stride: environment steps from one image to the next.

    Raises:
        UserError: the family draws no images.
    """
    with _environments_with_images(shown) as env:
        camera = Camera(env, shown.distribution.env, size, stride)
        batches = adapt_in(camera, shown.learner, shown.steps, generator).batches

    rows = video_rows(shown.tasks, batches, camera, task_label, shown.learner.sampling.pooled)
    return Recording(rows, batches)


def draw_heat_map(out: str, title: str, shown: ShownAdaptation, grid: TaskGrid, generator: torch.Generator) -> HeatMap:
    """Adapt to every task of a grid and draw the return before and after adaptation over the task space.

    Args:
        out: file to write: .png.
        title: of the figure.
        shown: what is adapted; its tasks are those of the grid.
        grid: where they lie in the task space.
        generator: draws the rollouts.

    Raises:
        UserError: the file cannot be written.
    """
    path = checked_output(out)  # before the work, so that a bad path costs nothing
    heat = heat_map.heat_map(shown.learner, shown.distribution, grid, shown.steps, shown.episodes, generator)
    write_atomically(path, plots.figure_bytes(heat_map.draw(heat, title, fixed_parameters(grid))))
    return heat


def fixed_parameters(grid: TaskGrid) -> str:
    """The task parameters that a heat map does not vary, with their values; '' where it varies all of them."""
    return f"the others at {task_text(grid.fixed)}" if grid.fixed else ""


@contextlib.contextmanager
def _environments_with_images(shown: ShownAdaptation) -> Iterator[RenderableEnv]:
    """Environments that draw images, M tasks × E episodes; closed at the end.

    Raises:
        UserError: the family draws no images.
    """
    distribution = shown.distribution
    try:
        env = distribution.env.bind_for_rendering(shown.tasks, shown.episodes)
    except ValueError as error:
        raise UserError(
            f"{distribution.name} cannot be rendered: {error}; 'metarl render --heat-map' needs no images"
        ) from None
    try:
        yield env
    finally:
        env.close_renderers()
