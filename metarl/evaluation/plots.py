"""Figures of evaluations: adaptation curves and trajectories. They draw without a display."""

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.envs.env_family import EnvFamily
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.evaluation.evaluation import Evaluation

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
        distribution: knows where observations lie in the plane.
        tasks: M tasks.
        batches: episodes after k = 0 … K adaptation steps.
        num_tasks: rows, at most M.
    """
    env = distribution.env
    if env.plane_path(batches[0].obs[0, 0]) is None:
        return None
    goals = env.plane_goal(tasks)
    rows, shown = min(num_tasks, len(batches[0].obs)), min(EPISODES_SHOWN, batches[0].obs.shape[1])
    flat = env.plane_axes is not None
    figure = Figure(figsize=(2.4 * len(batches), (1.9 if flat else 2.5) * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, len(batches), squeeze=False, sharex=True, sharey=True)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, EPISODES_SHOWN))
    ends: list[np.ndarray] = []
    for k, batch in enumerate(batches):
        for task in range(rows):
            axes = grid[task, k]
            for line in env.plane_lines({name: value[task] for name, value in tasks.items()}):
                axes.plot(*np.transpose(line), color="dimgrey", linewidth=1.2)
            for episode, colour in enumerate(colours[:shown]):
                path = _path(env, batch, task, episode)
                # A wandering episode must not shrink the picture of the others: the view follows most of the points.
                ends.append(np.quantile(np.abs(path), 1.0 if flat else 0.9, axis=0))
                beside = 0.08 * env.plane_cell * (episode - (shown - 1) / 2)
                axes.plot(path[:, 0] + beside, path[:, 1] + beside, color=colour, linewidth=0.9)
            if goals is not None:
                ends.append(np.abs(goals[task].cpu().numpy()))
                axes.plot(*goals[task].tolist(), "rx", markersize=9, markeredgewidth=2)
            axes.set_title(f"k={k}  return {batch.returns[task].mean().item():.1f}", fontsize=9)
            axes.tick_params(labelsize=8)
            if env.plane_cell:
                axes.set(xticks=[], yticks=[])
    _set_view(grid[0, 0], np.max(ends, axis=0), env, {name: value[0] for name, value in tasks.items()})
    if env.plane_axes is not None:
        figure.supxlabel(env.plane_axes[0], fontsize=9)
        figure.supylabel(env.plane_axes[1], fontsize=9)
    else:
        for axes in grid.flat:
            axes.set_aspect("equal")
    figure.suptitle(f"{distribution.name}: {shown} episodes before and after k adaptation steps", fontsize=11)
    return figure


def _set_view(axes: Axes, end: np.ndarray, env: EnvFamily, task: Task) -> None:
    """Show what lies within `end` (2,) of the origin, and the walls; where the plane has axes, forwards of it only."""
    lines = env.plane_lines(task)
    walls = np.abs(np.concatenate(lines)).max(axis=0) if lines else np.zeros(2)
    if env.plane_axes is not None:
        axes.set(xlim=(0, 1.03 * end[0]), ylim=1.2 * max(end[1], walls[1]) * np.array([-1, 1]))
        return
    half = max(1.2 * end.max(), 1.1 * walls.max())
    axes.set(xlim=(-half, half), ylim=(-half, half))


def _path(env: EnvFamily, batch: Episodes, task: int, episode: int) -> np.ndarray:
    """Positions of one episode, its end included, (steps + 1, 2)."""
    steps = int(batch.mask[task, episode].sum())
    path = env.plane_path(torch.cat([batch.obs[task, episode, :steps], batch.last_obs[task, episode].unsqueeze(0)]))
    assert path is not None
    return path.cpu().numpy()
