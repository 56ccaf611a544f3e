"""Figures of evaluations: adaptation curves and trajectories. They draw without a display."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from envs.rollout import Episodes
from envs.task_distribution import TaskDistribution
from envs.task_space import Task
from metarl.evaluate import Evaluation

EPISODES_SHOWN = 5


def adaptation_curve(evaluation: Evaluation, title: str) -> Figure:
    """Return against episodes of experience on a new task: mean with its 95% interval, and each task faintly."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    episodes = np.arange(len(evaluation.returns)) * evaluation.episodes_per_step
    axes.plot(episodes, evaluation.returns, color="tab:blue", alpha=0.08, linewidth=0.8)
    low, high = evaluation.return_ci95.T
    axes.fill_between(episodes, low, high, color="tab:blue", alpha=0.3, label="95% interval of the mean")
    axes.plot(episodes, evaluation.return_mean, "o-", color="tab:blue", label="mean")
    for x, y in zip(episodes, evaluation.return_mean, strict=True):
        axes.annotate(f"{y:.1f}", (x, y), textcoords="offset points", xytext=(6, -12))
    axes.set(xlabel="episodes of experience on the new task", ylabel="return", xticks=episodes)
    axes.set_title(title, fontsize="small")
    axes.margins(x=0.1)
    axes.legend(loc="best")
    axes.grid(alpha=0.3)
    return figure


def trajectories(
    distribution: TaskDistribution, tasks: Task, batches: list[Episodes], num_tasks: int = 4
) -> Figure | None:
    """Paths in the plane: a row per task, a column per adaptation step; None for families without a plane.

    Args:
        distribution: knows where an observation lies in the plane.
        tasks: M tasks.
        batches: episodes after k = 0 … K adaptation steps.
        num_tasks: rows, at most M.
    """
    env = distribution.env
    first = env.plane_position(batches[0].obs)
    if first is None:
        return None
    goals = env.plane_goal(tasks)
    rows = min(num_tasks, len(first))
    figure = Figure(figsize=(2.4 * len(batches), 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, len(batches), squeeze=False, sharex=True, sharey=True)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, EPISODES_SHOWN))
    extent = 0.0
    for k, batch in enumerate(batches):
        for task in range(rows):
            axes = grid[task, k]
            for episode, colour in enumerate(colours[: batch.reward.shape[1]]):
                path = _path(distribution, batch, task, episode)
                # A wandering episode must not shrink the picture of the others: the view follows most of the points.
                extent = max(extent, float(np.quantile(np.abs(path), 0.9)))
                axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.9)
            if goals is not None:
                extent = max(extent, float(goals[task].abs().max()))
                axes.plot(*goals[task].tolist(), "rx", markersize=9, markeredgewidth=2)
            axes.set_aspect("equal")
            axes.set_title(f"k={k}  return {batch.returns[task].mean().item():.1f}", fontsize=9)
    grid[0, 0].set_xlim(-1.2 * extent, 1.2 * extent)
    grid[0, 0].set_ylim(-1.2 * extent, 1.2 * extent)
    figure.suptitle(f"{distribution.name}: {EPISODES_SHOWN} episodes before and after k adaptation steps")
    return figure


def _path(distribution: TaskDistribution, batch: Episodes, task: int, episode: int) -> np.ndarray:
    """Positions of one episode, its end included, (steps + 1, 2)."""
    steps = int(batch.mask[task, episode].sum())
    obs = [*batch.obs[task, episode, :steps], batch.last_obs[task, episode]]
    positions = [distribution.env.plane_position(o) for o in obs]
    return np.array([p.tolist() for p in positions if p is not None])
