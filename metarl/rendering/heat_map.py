"""Where in the task distribution is the policy weak? Its return before and after adaptation over a grid of tasks."""

import textwrap
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from metarl.agents.learner import MetaLearner
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import tasks_to_json
from metarl.evaluation.adaptation import adaptation_episodes
from metarl.evaluation.evaluation import summarize
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
        candidates = np.flatnonzero(self.grid.trained) if self.grid.trained.any() else np.arange(len(self.returns[-1]))
        return int(candidates[np.argmin(self.returns[-1][candidates])])

    def to_json(self) -> dict[str, Any]:
        """Plain data: every task with its returns."""
        rows = zip(tasks_to_json(self.grid.tasks), self.grid.trained.tolist(), self.returns.T.tolist(), strict=True)
        return {
            "adaptation_steps": len(self.returns) - 1,
            "total_env_steps": self.env_steps,
            "tasks": [{"task": task, "in_training_range": inside, "return": curve} for task, inside, curve in rows],
        }


def heat_map(
    learner: MetaLearner,
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
    evaluation = summarize(adaptation_episodes(learner, distribution, tasks, steps, episodes, generator))
    return HeatMap(grid, evaluation.returns, evaluation.total_env_steps)


def draw(heat: HeatMap, title: str, note: str = "") -> Figure:
    """Maps beside each other, each with a scale of its own; over one dimension, curves.

    Where the grid reaches beyond the training range, a third map shows that range alone.

    Args:
        heat: the returns.
        title: of the figure.
        note: a second line.
    """
    steps = len(heat.returns) - 1
    after = f"after {steps} adaptation step{'s' * (steps != 1)}"
    if len(heat.grid.axes) == 1:
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        _curves(figure.subplots(), heat, after)
    else:
        everything, trained = np.ones_like(heat.grid.trained), heat.grid.trained
        maps = [(0, "before adaptation", everything)] + [(-1, after, everything)] * (steps > 0)
        if trained.any() and not trained.all():
            maps.append((-1, f"{'after' if steps else 'before'}, inside alone", trained))
        figure = Figure(figsize=(4.4 * len(maps), 4.1), layout="constrained")
        for axes, (k, name, shown) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
            _map(figure, axes, heat, heat.returns[k], name, shown)
    wrapped = textwrap.wrap(note, int(14 * figure.get_figwidth()))
    figure.suptitle("\n".join([title, *wrapped]), fontsize=10)
    return figure


def _map(figure: Figure, axes: Axes, heat: HeatMap, values: Floats, name: str, shown: NDArray[np.bool_]) -> None:
    """One map of the tasks that are to be shown."""
    grid = heat.grid
    x, y = grid.axes
    mesh = axes.pcolormesh(x.edges, y.edges, grid.spread(np.where(shown, values, np.nan)).T, cmap="viridis")
    figure.colorbar(mesh, ax=axes, label="return", shrink=0.8)
    axes.set(xlabel=x.label, ylabel=y.label)
    _set_scale(axes, "x", x)
    _set_scale(axes, "y", y)
    if not shown.all():
        axes.set(xlim=x.train, ylim=y.train)
    if x.label.split()[0] == y.label.split()[0]:  # coordinates of one vector
        axes.set_aspect("equal")
    if shown.all() and not grid.trained.all():
        edge = _boundary(grid)
        edge.set(facecolor="none", edgecolor="red", linewidth=1.6, linestyle="--")
        axes.add_patch(edge)
    inside, outside = values[shown & grid.trained], values[shown & ~grid.trained]
    means = [f"{part.mean():.1f} {where}" for part, where in ((inside, "inside"), (outside, "outside")) if len(part)]
    summary = " and ".join(means) if len(outside) else means[0].split()[0]
    axes.set_title(f"{name}\nmean {summary.replace('-', '−')}", fontsize=10)


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


def _curves(axes: Axes, heat: HeatMap, after: str) -> None:
    axis: GridAxis = heat.grid.axes[0]
    axes.axvspan(*axis.train, color="tab:green", alpha=0.1, linewidth=0, label="training range")
    if len(heat.returns) > 1:
        axes.plot(axis.values, heat.grid.spread(heat.returns[-1]), "o-", color="tab:blue", markersize=4, label=after)
    before = heat.grid.spread(heat.returns[0])
    axes.plot(axis.values, before, "o-", color="grey", markersize=4, label="before adaptation")
    axes.set(xlabel=axis.label, ylabel="return", xlim=(axis.edges[0], axis.edges[-1]))
    _set_scale(axes, "x", axis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
