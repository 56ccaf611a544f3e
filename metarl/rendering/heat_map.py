"""Where in the task distribution is the policy weak? Its return before and after adaptation over a grid of tasks."""

import textwrap
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from metarl.agents.learner import Learner
from metarl.console import format_number
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import tasks_to_json
from metarl.evaluation.adaptation import adaptation_episodes
from metarl.evaluation.evaluation import summarize
from metarl.evaluation.plots import group_thousands
from metarl.rendering.task_grid import Floats, GridAxis, TaskGrid


@dataclass(frozen=True)
class HeatMap:
    """Returns over a grid of N tasks.

    Attributes:
        grid: the tasks.
        returns: mean return of each task's episodes after k = 0 … K steps, (K+1, N).
        env_steps: environment steps that it took.
    """

    grid: TaskGrid
    returns: Floats
    env_steps: int

    @property
    def weakest(self) -> int:
        """The task of the training ranges (of all, if none is) with the least return after the last step."""
        last = self.returns[-1]
        candidates = np.flatnonzero(self.grid.trained)
        if len(candidates) == 0:
            candidates = np.arange(len(last))
        return int(candidates[np.argmin(last[candidates])])

    def to_json(self) -> dict[str, Any]:
        """Plain data: every task with its returns."""
        rows = zip(tasks_to_json(self.grid.tasks), self.grid.trained.tolist(), self.returns.T.tolist(), strict=True)
        return {
            "adaptation_steps": len(self.returns) - 1,
            "total_env_steps": self.env_steps,
            "tasks": [{"task": task, "in_training_range": inside, "return": curve} for task, inside, curve in rows],
        }


def heat_map(
    learner: Learner,
    distribution: TaskDistribution,
    grid: TaskGrid,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> HeatMap:
    """Adapt to all tasks of the grid in one batch; leaves the learner bit-identical.

    Args:
        learner: begins at its meta-trained parameters.
        distribution: what the tasks are of.
        grid: N tasks.
        steps: K ≥ 0.
        episodes: E per task and step.
        generator: drives the rollouts.
    """
    tasks = {name: value.to(generator.device) for name, value in grid.tasks.items()}
    batches = adaptation_episodes(learner, distribution, tasks, steps, episodes, generator)
    evaluation = summarize(batches, pooled=learner.sampling.pooled)
    return HeatMap(grid, evaluation.returns, evaluation.total_env_steps)


def draw(heat: HeatMap, title: str, note: str = "") -> Figure:
    """Maps beside each other, before and after on one scale of colours; over one dimension, curves.

    Args:
        heat: the returns.
        title: of the figure.
        note: a second line.
    """
    figure = _draw_curves(heat) if len(heat.grid.axes) == 1 else _draw_maps(heat)
    wrapped = textwrap.wrap(note, int(14 * figure.get_figwidth()))
    figure.suptitle("\n".join([title, *wrapped]), fontsize=10)
    return figure


def _after(heat: HeatMap) -> str:
    """How the returns after the last adaptation step are called."""
    steps = len(heat.returns) - 1
    return f"after {steps} adaptation step{'s' * (steps != 1)}"


# ---------------------------------------------------------------------- two dimensions


def _draw_maps(heat: HeatMap) -> Figure:
    """Before and after adaptation; where the grid reaches beyond the training range, also that range alone."""
    trained = heat.grid.trained
    everything = np.ones_like(trained)
    adapts = len(heat.returns) > 1

    maps = [(0, "before adaptation", everything)]
    if adapts:
        maps.append((-1, _after(heat), everything))
    num_of_one_scale = len(maps)

    # Returns far outside take up the scale of colours: inside alone, differences can be seen.
    if trained.any() and not trained.all() and np.ptp(heat.returns[-1, trained]) > 0:
        maps.append((-1, f"{'after' if adapts else 'before'}, training range alone", trained))

    figure = Figure(figsize=(4.2 * len(maps), 4.1), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]

    shared = _scale(heat.returns[[0, -1]])
    for number, (axes, (k, name, shown)) in enumerate(zip(panels, maps, strict=True)):
        own_scale = number >= num_of_one_scale
        colours = _scale(heat.returns[k, shown]) if own_scale else shared
        mesh = _draw_map(axes, heat.grid, heat.returns[k], name, shown, colours)
        if own_scale:
            bar = figure.colorbar(mesh, ax=axes, label="return, a scale of its own", shrink=0.8)
            group_thousands(bar.ax.yaxis)
        elif number == num_of_one_scale - 1:
            bar = figure.colorbar(mesh, ax=panels[:num_of_one_scale], label="return", shrink=0.8)
            group_thousands(bar.ax.yaxis)
    return figure


def _scale(returns: Floats) -> Normalize:
    """The scale of colours from the least to the largest return."""
    return Normalize(float(np.min(returns)), float(np.max(returns)))


def _draw_map(
    axes: Axes, grid: TaskGrid, values: Floats, name: str, shown: NDArray[np.bool_], colours: Normalize
) -> QuadMesh:
    """One map of the tasks that are to be shown.

    Args:
        axes: where to draw.
        grid: N tasks.
        values: their returns, (N,).
        name: of the map.
        shown: which tasks, bool (N,): all, or those of the training range.
        colours: the scale of colours.
    """
    x, y = grid.axes
    field = grid.to_grid(np.where(shown, values, np.nan)).T
    mesh = axes.pcolormesh(x.edges, y.edges, field, cmap="viridis", norm=colours)

    axes.set(xlabel=x.label, ylabel=y.label)
    _set_scale(axes, "x", x)
    _set_scale(axes, "y", y)
    if x.label.split()[0] == y.label.split()[0]:  # coordinates of one vector
        axes.set_aspect("equal")

    # A map of the training range is cut to it; a larger one shows where it ends.
    if not shown.all():
        axes.set(xlim=x.train, ylim=y.train)
    elif not grid.trained.all():
        edge = _boundary(grid)
        edge.set(facecolor="none", edgecolor="red", linewidth=1.6, linestyle="--")
        axes.add_patch(edge)

    mean = _mean_text(values[shown & grid.trained], values[shown & ~grid.trained])
    axes.set_title(f"{name}\nmean {mean}", fontsize=10)
    return mesh


def _mean_text(inside: Floats, outside: Floats) -> str:
    """Mean return of the tasks inside and outside the training range, of which one may be empty."""
    means = []
    if len(inside):
        means.append(format_number(inside.mean(), ".1f") + " inside" * bool(len(outside)))
    if len(outside):
        means.append(f"{format_number(outside.mean(), '.1f')} outside")
    return " and ".join(means)


def _set_scale(axes: Axes, which: Literal["x", "y"], axis: GridAxis) -> None:
    """Few ticks, and plain numbers on a logarithmic scale."""
    drawn = axes.xaxis if which == "x" else axes.yaxis
    if axis.logarithmic:
        axes.set(**{f"{which}scale": "log"})
        drawn.set_major_locator(LogLocator(subs=(1, 2, 5)))
        drawn.set_major_formatter("{x:g}")
        drawn.set_minor_locator(NullLocator())
    else:
        drawn.set_major_locator(MaxNLocator(6))


def _boundary(grid: TaskGrid) -> Circle | Rectangle:
    """The edge of the training range."""
    if grid.radius is not None:
        return Circle((0, 0), grid.radius)
    (left, right), (low, high) = (axis.train for axis in grid.axes)
    return Rectangle((left, low), right - left, high - low)


# ---------------------------------------------------------------------- one dimension


def _draw_curves(heat: HeatMap) -> Figure:
    """Return over the one parameter, before and after adaptation."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axis: GridAxis = heat.grid.axes[0]
    axes.axvspan(*axis.train, color="tab:green", alpha=0.1, linewidth=0, label="training range")

    if len(heat.returns) > 1:
        after = heat.grid.to_grid(heat.returns[-1])
        axes.plot(axis.values, after, "o-", color="tab:blue", markersize=4, label=_after(heat))
    before = heat.grid.to_grid(heat.returns[0])
    axes.plot(axis.values, before, "o-", color="grey", markersize=4, label="before adaptation")

    axes.set(xlabel=axis.label, ylabel="return", xlim=(axis.edges[0], axis.edges[-1]))
    group_thousands(axes.yaxis)
    _set_scale(axes, "x", axis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure
