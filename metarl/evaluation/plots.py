"""Figures of evaluations: adaptation curves and trajectories. They draw without a display."""

import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT
from matplotlib.ticker import ScalarFormatter
from matplotlib.transforms import Transform
from numpy.typing import NDArray
from PIL import Image

from metarl.console import counted, format_number
from metarl.envs.env_family import EnvFamily
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, select_tasks
from metarl.evaluation.evaluation import Evaluation

EPISODES_SHOWN = 5
MOST_TASKS_DRAWN = 100
"""Faint lines of single tasks in a figure: more of them hide its mean."""

REFERENCE_STYLES = {"oracle": "--", "random": ":"}
"""Line styles of the policies that need no adaptation."""

DPI = 200
"""Dots per inch of figures that are kept."""

SCREEN_DPI = 100
"""Of figures that are looked at while a run trains."""

_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def figure_bytes(figure: Figure, file_format: str = "png", dpi: float = DPI) -> bytes:
    """The figure as the content of an image file.

    Args:
        figure: the figure.
        file_format: "png", "svg", "pdf" or another format that matplotlib writes.
        dpi: dots per inch.
    """
    buffer = io.BytesIO()
    # Text in a PDF stays text; the same figure is the same SVG.
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "metarl"}):
        figure.savefig(buffer, format=file_format, dpi=dpi, metadata=_NO_DATE.get(file_format))
    return buffer.getvalue()


_PATHS = matplotlib.colormaps["Blues"]
"""Colours of episodes: dark on white, and light where a page inverts its pictures for its dark mode."""


def for_screen(png: bytes) -> bytes:
    """A figure's PNG with as many pixels as a screen has: TensorBoard leaves out pixels where it shrinks pictures."""
    image = Image.open(io.BytesIO(png))
    width, height = (max(1, round(side * SCREEN_DPI / DPI)) for side in image.size)

    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "png")
    return buffer.getvalue()


def step_colours(count: int) -> NDArray[np.float64]:
    """Colours of k = 0, 1, …: the last matters most, darkest on white and lightest where a page inverts its pictures.

    Returns:
        RGBA, (count, 4).
    """
    return np.asarray(_PATHS(np.linspace(0.5, 0.95, count)))


class _Grouped(ScalarFormatter):
    """Matplotlib's own numbers, with the thousands apart."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """See matplotlib."""
        return re.sub(r"\d+", lambda digits: f"{int(digits[0]):,}", super().__call__(x, pos), count=1)


def group_thousands(*axes: Axis) -> None:
    """Write the numbers of an axis as tables do: −1,500."""
    for axis in axes:
        axis.set_major_formatter(_Grouped(useOffset=False))


def set_margins(figure: Figure, left: float, right: float, bottom: float, top: float, **between: float) -> None:
    """Leave fixed margins, in inches: a layout that measures every label would take most of the time of drawing.

    Args:
        figure: the figure, its axes made or not.
        left: inches left of the axes.
        right: inches right of them.
        bottom: inches below.
        top: inches above.
        between: `wspace` and `hspace` of `Figure.subplots_adjust`.
    """
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height, **between
    )


def set_title(axes: Axes, title: str, fontsize: float | str) -> None:
    """Write a title directly above the axes, which have no ticks there.

    Looking for ticks to keep clear of, as matplotlib does otherwise, takes half of the time of drawing.

    Args:
        axes: where.
        title: what.
        fontsize: in points, or as matplotlib names it.
    """
    axes.set_title(title, fontsize=fontsize, y=1.0)


@dataclass(frozen=True)
class LineEnd:
    """Where a line ends, and what is written there.

    Attributes:
        name: of the line.
        x: of its last point.
        y: of its last point.
        colour: of the line.
    """

    name: str
    x: float
    y: float
    colour: Any


def label_ends(axes: Axes, ends: list[LineEnd], fontsize: float = 8.5) -> None:
    """Write names right of the axes, at the height where the lines end or as near to it as they do not overlap.

    Args:
        axes: with all their lines; the figure's margins are fixed and leave room on the right.
        ends: of the lines.
        fontsize: in points.
    """
    axes.autoscale_view()  # limits that are not set are found when a figure is drawn, or now
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = [float(to_fraction.transform((end.x, end.y))[1]) for end in ends]

    figure = axes.get_figure(root=True)
    assert figure is not None
    line_height = 1.35 * fontsize / 72 * figure.dpi / axes.bbox.height
    for end, height, place in zip(ends, heights, _apart(heights, line_height), strict=True):
        # A line that leaves the picture is named where it does.
        visible = min(max(height, 0.0), 1.0)
        y = float(to_fraction.inverted().transform((0.0, visible))[1])
        leader = {"arrowstyle": "-", "color": end.colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 1}
        axes.annotate(
            f"{end.name} ↓" if height < 0 else end.name,
            xy=(end.x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            color=end.colour,
            fontsize=fontsize,
            arrowprops={**leader, "relpos": (0, 0.5)},
        )


def _apart(heights: list[float], gap: float) -> list[float]:
    """Heights in [0, 1], in the same order from top to bottom, at least `gap` apart where there is room."""
    order = sorted(range(len(heights)), key=lambda index: -heights[index])
    places = list(heights)

    ceiling = 1.0
    for index in order:
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap

    # Those pushed out at the bottom push the others up again.
    floor = 0.0
    for index in reversed(order):
        places[index] = max(places[index], floor)
        floor = places[index] + gap

    return places


def adaptation_curve(evaluation: Evaluation, title: str) -> Figure:
    """Return against episodes of experience on a new task: mean with its 95% interval, and each task faintly."""
    figure = Figure(figsize=(6, 4.6))
    set_margins(figure, left=0.75, right=0.1, bottom=1.05, top=0.35)
    axes = figure.subplots()
    episodes = np.arange(len(evaluation.returns)) * evaluation.episodes_informing
    axes.plot(episodes, evaluation.returns[:, :MOST_TASKS_DRAWN], color="tab:blue", alpha=0.08, linewidth=0.8)

    _references(axes, evaluation, episodes)
    if evaluation.optimum:
        axes.plot(episodes, evaluation.optimum, "k_-.", linewidth=1, markersize=10, label="Bayes optimum")

    low, high = evaluation.return_ci95.T
    axes.fill_between(episodes, low, high, color="tab:blue", alpha=0.3, label="95% interval of the mean")
    axes.plot(episodes, evaluation.return_mean, "o-", color="tab:blue", label="mean")
    for x, y in zip(episodes, evaluation.return_mean, strict=True):
        axes.annotate(format_number(y, ".1f"), (x, y), textcoords="offset points", xytext=(6, -12))

    axes.set(xlabel="episodes of experience on the new task", ylabel="return", xticks=episodes)
    group_thousands(axes.xaxis, axes.yaxis)
    set_title(axes, title, fontsize="small")
    axes.margins(x=0.14)
    axes.grid(alpha=0.3)
    # Below the axes, where it hides no curve.
    figure.legend(loc="lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def _references(axes: Axes, evaluation: Evaluation, episodes: NDArray[np.int64]) -> None:
    """The means of random policy and oracle as lines, and the area that is lost to the oracle while adapting."""
    for name, style in REFERENCE_STYLES.items():
        if name in evaluation.references:
            axes.axhline(evaluation.references[name].mean(), color="grey", linestyle=style, linewidth=1, label=name)

    if evaluation.return_lost is not None:
        oracle = np.full(len(episodes), evaluation.references["oracle"].mean())
        label = f"return lost while adapting: {format_number(evaluation.return_lost.value, '.0f')}"
        axes.fill_between(
            episodes, evaluation.return_mean, oracle, step="post", color="grey", alpha=0.1, linewidth=0, label=label
        )


def trajectories(
    distribution: TaskDistribution, tasks: Task, batches: list[Episodes], num_tasks: int = 4
) -> Figure | None:
    """Paths in the plane: a row per task, a column per adaptation step; None for families without a plane.

    Args:
        distribution: knows where observations lie in the plane.
        tasks: M tasks.
        batches: episodes after k = 0 … K adaptation steps.
        num_tasks: rows, at most M.
    """
    family = distribution.env
    if family.plane_path(batches[0].obs[0, 0]) is None:
        return None

    num_tasks = min(num_tasks, len(batches[0].obs))
    num_episodes = min(EPISODES_SHOWN, batches[0].obs.shape[1])

    row_height = 2.5 if family.plane_axes is None else 1.9
    figure = Figure(figsize=(2.4 * len(batches) + 0.4, row_height * num_tasks + 0.95))
    set_margins(figure, left=0.6, right=0.15, bottom=0.65, top=0.8, wspace=0.12, hspace=0.2)
    grid = figure.subplots(num_tasks, len(batches), squeeze=False, sharex=True, sharey=True)

    extents: list[np.ndarray] = []
    for row in range(num_tasks):
        only = slice(row, row + 1)
        for k, batch in enumerate(batches):
            axes = grid[row, k]
            extents += _draw_task(axes, family, select_tasks(tasks, only), batch.tasks(only), num_episodes)
            value = format_number(batch.returns[row].mean().item(), ".1f")
            set_title(axes, f"{_experience(k)}return {value}" if row == 0 else f"return {value}", fontsize=9)

    _set_view(grid[0, 0], np.max(extents, axis=0), family, _first(tasks))
    _label_plane(figure, grid, family)
    _mark_inner_ticks(grid)
    figure.suptitle(
        f"{distribution.name}: a row for each task, {counted(num_episodes, 'episode')} in each picture", fontsize=11
    )
    _explain_marks(figure, family.plane_goal(tasks) is not None)
    return figure


def _experience(k: int) -> str:
    """What a column shows."""
    return "before adaptation\n" if k == 0 else f"after {k} adaptation step{'s' * (k > 1)}\n"


def _explain_marks(figure: Figure, with_goal: bool) -> None:
    """The legend below the pictures: what is drawn, and in which colour."""
    marks = [Line2D([], [], color=_PATHS(0.75), linewidth=1.2, label="one episode each")]
    marks.append(Line2D([], [], color="black", marker="o", markersize=4, linestyle="", label="start"))
    if with_goal:
        marks.append(Line2D([], [], color="red", marker="x", markeredgewidth=2, linestyle="", label="goal"))
    figure.legend(handles=marks, loc="lower right", ncols=len(marks), frameon=False, fontsize=8)


def _draw_task(axes: Axes, family: EnvFamily, task: Task, batch: Episodes, num_episodes: int) -> list[np.ndarray]:
    """Draw walls, paths and the goal of one task; returns how far each reaches from the origin, (2,) each.

    Args:
        axes: where to draw.
        family: knows the plane.
        task: leaves (1, …).
        batch: episodes of the task, (1, E, …).
        num_episodes: how many of them to draw.
    """
    for line in family.plane_lines(_first(task)):
        axes.plot(*np.transpose(line), color="dimgrey", linewidth=1.2)

    # A wandering episode must not shrink the others: where both directions are free, the view follows most points.
    quantile = 0.9 if family.plane_axes is None else 1.0
    extents = []
    starts: list[np.ndarray] = []
    colours = _PATHS(np.linspace(0.55, 0.95, EPISODES_SHOWN))
    for episode, colour in enumerate(colours[:num_episodes]):
        path = _path(family, batch, episode)
        extents.append(np.quantile(np.abs(path), quantile, axis=0))

        # On a grid, episodes lie on the same lines: each is drawn a little beside the others.
        offset = 0.08 * family.plane_cell * (episode - (num_episodes - 1) / 2)
        axes.plot(path[:, 0] + offset, path[:, 1] + offset, color=colour, linewidth=0.9)
        starts.append(path[0] + offset)

    axes.plot(*np.transpose(starts), "o", color="black", markersize=3, zorder=3)
    goals = family.plane_goal(task)
    if goals is not None:
        extents.append(np.abs(goals[0].cpu().numpy()))
        axes.plot(*goals[0].tolist(), "rx", markersize=9, markeredgewidth=2)

    return extents


def _set_view(axes: Axes, extent: np.ndarray, family: EnvFamily, task: Task) -> None:
    """Show what lies within `extent` (2,) of the origin, and the walls; where the plane has axes, forwards of it only.

    Args:
        axes: one of axes that share their limits.
        extent: half the width and half the height to show.
        family: knows the plane.
        task: leaves without a leading dimension; the walls are its.
    """
    lines = family.plane_lines(task)
    walls = np.abs(np.concatenate(lines)).max(axis=0) if lines else np.zeros(2)

    if family.plane_axes is not None:
        axes.set(xlim=(0, 1.03 * extent[0]), ylim=1.2 * max(extent[1], walls[1]) * np.array([-1, 1]))
        return

    half = max(1.2 * extent.max(), 1.1 * walls.max())
    axes.set(xlim=(-half, half), ylim=(-half, half))


def _label_plane(figure: Figure, grid: np.ndarray, family: EnvFamily) -> None:
    """Name the axes where the plane has some; where it has none, keep its proportions."""
    for axes in grid.flat:
        axes.tick_params(labelsize=8)
        if family.plane_cell:
            axes.set(xticks=[], yticks=[])
        if family.plane_axes is None:
            axes.set_aspect("equal")

    if family.plane_axes is not None:
        figure.supxlabel(family.plane_axes[0], fontsize=9)
        figure.supylabel(family.plane_axes[1], fontsize=9)


def _mark_inner_ticks(grid: np.ndarray) -> None:
    """Draw the ticks that have no numbers, those inside the grid, as one line of marks for each axis.

    A tick of matplotlib is five artists; those of a grid took two thirds of the time of drawing it.
    """
    outer = grid[-1, 0]
    outer.apply_aspect()  # where the ticks lie depends on the size of the axes
    (left, right), (bottom, top) = outer.get_xlim(), outer.get_ylim()
    columns = [tick for tick in outer.get_xticks() if left <= tick <= right]
    rows = [tick for tick in outer.get_yticks() if bottom <= tick <= top]

    for axes in grid[:-1].flat:
        _add_marks(axes, columns, np.zeros(len(columns)), TICKDOWN, axes.get_xaxis_transform())
        axes.xaxis.set_visible(False)
    for axes in grid[:, 1:].flat:
        _add_marks(axes, np.zeros(len(rows)), rows, TICKLEFT, axes.get_yaxis_transform())
        axes.yaxis.set_visible(False)


def _add_marks(axes: Axes, x: Any, y: Any, marker: Any, transform: Transform) -> None:
    """Marks as matplotlib draws the ticks of an axis."""
    marks = Line2D(
        x,
        y,
        linestyle="",
        marker=marker,
        markersize=matplotlib.rcParams["xtick.major.size"],
        markeredgewidth=matplotlib.rcParams["xtick.major.width"],
        color=matplotlib.rcParams["xtick.color"],
        transform=transform,
        clip_on=False,
        zorder=axes.xaxis.get_zorder(),
    )
    axes.add_artist(marks)


def _path(family: EnvFamily, batch: Episodes, episode: int) -> np.ndarray:
    """Positions of one episode of the first task, its end included, (steps + 1, 2)."""
    steps = int(batch.mask[0, episode].sum())
    observed = torch.cat([batch.obs[0, episode, :steps], batch.last_obs[0, episode].unsqueeze(0)])
    path = family.plane_path(observed)
    assert path is not None
    return path.cpu().numpy()


def _first(tasks: Task) -> Task:
    """The first of M tasks, leaves without a leading dimension."""
    return {name: value[0] for name, value in tasks.items()}
