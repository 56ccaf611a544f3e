"""Adaptation as a video, as a still picture, and as a heat map of the return over the task space."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

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
    """Whether a file name asks for a picture rather than a video."""
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


def draw_trajectories(
    out: str,
    distribution: TaskDistribution,
    learner: Learner,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> list[Episodes]:
    """Adapt to tasks and draw the trajectories before and after each adaptation step in the family's plane.

    Args:
        out: file to write: .png.
        distribution: the family of the tasks; it has a plane.
        learner: adapts.
        tasks: M tasks.
        steps: K, adaptation steps.
        episodes: E, episodes per task and step.
        generator: draws the rollouts.

    Returns:
        The episodes after k = 0 … K adaptation steps.

    Raises:
        UserError: the file cannot be written.
    """
    path = checked_output(out)  # before the work, so that a bad path costs nothing
    batches = adapt_in(distribution.bind(tasks, episodes), learner, steps, generator).batches

    figure = plots.trajectories(distribution, tasks, batches, num_tasks_of(tasks))
    assert figure is not None
    write_atomically(path, plots.figure_bytes(figure))
    return batches


def draw_pictures(
    out: str,
    title: str,
    task_label: str,
    distribution: TaskDistribution,
    learner: Learner,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
    pace: Pace,
) -> list[Episodes]:
    """Adapt to tasks and show the first episode of each before and after each adaptation step, side by side.

    Args:
        out: file to write: .mp4 or .gif, a video; .png, a few pictures of each episode.
        title: of the page: agent and environment.
        task_label: what a task is called; tasks are numbered where there are several.
        distribution: as in `draw_trajectories`, and so are the next five.
        learner: adapts.
        tasks: M tasks.
        steps: K.
        episodes: E.
        generator: draws the rollouts; the pictures take no random numbers.
        pace: of a video.

    Raises:
        UserError: the family draws no pictures, or the file cannot be written.
    """
    path = checked_output(out)  # before the work, so that a bad path costs nothing
    stride = pace.stride(distribution)
    size = image_size(STRIP_LENGTH if is_still(out) else steps + 1)
    rows, batches = record(task_label, distribution, learner, tasks, steps, episodes, generator, size, stride)

    if is_still(out):
        image = strip(f"{title}: before and after each adaptation step", rows, stride)
        write_atomically(path, still_bytes(image))
    else:
        video = Video(title, rows, distribution.horizon, stride)
        write_video(path, video, pace.frames_per_second(distribution))
    return batches


def record(
    task_label: str,
    distribution: TaskDistribution,
    learner: Learner,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
    size: int,
    stride: int,
) -> tuple[list[Row], list[Episodes]]:
    """Adapt to tasks and record the first episode of each before and after each adaptation step.

    Args:
        task_label: as in `draw_pictures`, and so are those up to `generator`.
        distribution: the family of the tasks.
        learner: adapts.
        tasks: M tasks.
        steps: K.
        episodes: E.
        generator: draws the rollouts.
        size: longer side of the images, pixels.
        stride: environment steps from one image to the next.

    Returns:
        A row for each task, and the episodes after k = 0 … K adaptation steps.

    Raises:
        UserError: the family draws no pictures.
    """
    with _environments_with_pictures(distribution, tasks, episodes) as env:
        camera = Camera(env, distribution.env, size, stride)
        batches = adapt_in(camera, learner, steps, generator).batches
    return video_rows(tasks, batches, camera, task_label, learner.sampling.pooled), batches


def draw_heat_map(
    out: str,
    title: str,
    distribution: TaskDistribution,
    learner: Learner,
    grid: TaskGrid,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> HeatMap:
    """Adapt to every task of a grid and draw the return before and after adaptation over the task space.

    Args:
        out: file to write: .png.
        title: of the picture.
        distribution: the family of the tasks.
        learner: adapts.
        grid: the tasks.
        steps: K, adaptation steps.
        episodes: E, episodes per task and step.
        generator: draws the rollouts.

    Raises:
        UserError: the file cannot be written.
    """
    path = checked_output(out)  # before the work, so that a bad path costs nothing
    heat = heat_map.heat_map(learner, distribution, grid, steps, episodes, generator)
    write_atomically(path, plots.figure_bytes(heat_map.draw(heat, title, fixed_parameters(grid))))
    return heat


def fixed_parameters(grid: TaskGrid) -> str:
    """The task parameters that a heat map does not vary, with their values; '' where it varies all of them."""
    return f"the others at {task_text(grid.fixed)}" if grid.fixed else ""


@contextlib.contextmanager
def _environments_with_pictures(distribution: TaskDistribution, tasks: Task, episodes: int) -> Iterator[RenderableEnv]:
    """Environments that draw pictures, M tasks × E episodes; closed at the end.

    Raises:
        UserError: the family draws no pictures.
    """
    try:
        env = distribution.env.bind_for_rendering(tasks, episodes)
    except ValueError as error:
        raise UserError(
            f"{distribution.name} cannot be filmed: {error}; 'metarl render --heat-map' needs no pictures"
        ) from None
    try:
        yield env
    finally:
        env.close_renderers()
