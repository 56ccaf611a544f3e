"""Adaptation as a video, as a still picture, and as a heat map of the return over the task space."""

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure

from metarl.agents.learner import MetaLearner
from metarl.envs.env_family import PicturedEnv
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of
from metarl.errors import UserError
from metarl.evaluation import plots
from metarl.evaluation.adaptation import adapt_in
from metarl.rendering import heat_map
from metarl.rendering.camera import Camera
from metarl.rendering.captions import film_rows, task_text
from metarl.rendering.encode import STILL, checked_output, write_film, write_still
from metarl.rendering.heat_map import HeatMap
from metarl.rendering.task_grid import TaskGrid
from metarl.rendering.video import STRIP_LENGTH, Film, Row, picture_size, strip
from metarl.run.files import write_atomically

MOST_FRAMES = 250
"""Videos of longer episodes show every second step, every third, …; they last as long as with all steps."""

DPI = 110


def is_still(out: str) -> bool:
    """Whether a file name asks for a picture rather than a video."""
    return out.lower().endswith(STILL)


def draw_adaptation(
    out: str,
    title: str,
    task_label: str,
    distribution: TaskDistribution,
    learner: MetaLearner,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
    fps: float | None = None,
    every: int | None = None,
) -> list[Episodes]:
    """Adapt to tasks and draw the policy before and after each adaptation step, side by side.

    A video shows the first episode of each task. A still shows the trajectories where the family has a plane, else
    pictures through the first episode.

    Args:
        out: file to write: .mp4, .gif or .png.
        title: of the page: agent and environment.
        task_label: what each task is called; tasks are numbered where there are several.
        distribution: the family of the tasks.
        learner: adapts.
        tasks: M tasks.
        steps: K, adaptation steps.
        episodes: E, episodes per task and step.
        generator: draws the rollouts; drawing takes no random numbers.
        fps: frames per second of a video; None: the family's own pace.
        every: environment steps from one frame to the next; None: 1, and more for episodes of over 250 steps.

    Returns:
        The episodes after k = 0 … K adaptation steps.

    Raises:
        UserError: the family draws no pictures, or the file cannot be written.
    """
    still = is_still(out)
    if still and _has_plane(distribution):
        return _draw_trajectories(checked_output(out), distribution, learner, tasks, steps, episodes, generator)

    with _environments_with_pictures(distribution, tasks, episodes) as env:
        path = checked_output(out)
        columns = STRIP_LENGTH if still else steps + 1
        stride = every or math.ceil(distribution.horizon / MOST_FRAMES)
        camera = Camera(env, picture_size(columns), stride)
        batches = adapt_in(camera, learner, steps, generator).batches

    rows = film_rows(tasks, batches, camera, task_label)
    if still:
        write_still(path, strip(f"{title}: before and after each adaptation step", rows, stride))
    else:
        _write_video(path, title, rows, distribution, stride, fps)
    return batches


def draw_heat_map(
    out: str,
    title: str,
    distribution: TaskDistribution,
    learner: MetaLearner,
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
    write_atomically(path, _png(heat_map.draw(heat, title, fixed_parameters(grid))))
    return heat


def fixed_parameters(grid: TaskGrid) -> str:
    """The task parameters that a heat map does not vary, with their values; '' where it varies all of them."""
    return f"the others at {task_text(grid.fixed)}" if grid.fixed else ""


def _has_plane(distribution: TaskDistribution) -> bool:
    """Whether the family's trajectories can be drawn as lines in a plane."""
    observation = torch.zeros(1, *distribution.observation_space.shape)
    return distribution.env.plane_path(observation) is not None


def _draw_trajectories(
    path: Path,
    distribution: TaskDistribution,
    learner: MetaLearner,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> list[Episodes]:
    """Adapt to tasks and draw the trajectories in the family's plane."""
    batches = adapt_in(distribution.bind(tasks, episodes), learner, steps, generator).batches
    figure = plots.trajectories(distribution, tasks, batches, num_tasks_of(tasks))
    assert figure is not None
    write_atomically(path, _png(figure))
    return batches


def _write_video(
    path: Path, title: str, rows: list[Row], distribution: TaskDistribution, stride: int, fps: float | None
) -> None:
    """Write a video; by default at the family's own pace, however many steps lie between two frames."""
    video = Film(title, rows, distribution.horizon, stride)
    write_film(path, video, fps or distribution.env.render_fps / stride)


@contextlib.contextmanager
def _environments_with_pictures(distribution: TaskDistribution, tasks: Task, episodes: int) -> Iterator[PicturedEnv]:
    """Environments that draw pictures, M tasks × E episodes; closed at the end.

    Raises:
        UserError: the family draws no pictures.
    """
    try:
        env = distribution.env.bind_for_pictures(tasks, episodes)
    except ValueError as error:
        raise UserError(
            f"{distribution.name} cannot be filmed: {error}; 'metarl render --heat-map' needs no pictures"
        ) from None
    try:
        yield env
    finally:
        env.close_pictures()


def _png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()
