"""Figure of a curriculum: the tasks that are replayed against those of the training distribution."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.task_space import Task

PICTURED_TASKS = 2_000
"""Draws from the training distribution that stand for it."""

BINS = 10
MAX_PANELS = 9


def task_densities(tasks: Task, probability: NDArray[np.float64], uniform: Task) -> Figure:
    """Tasks of one parameter in the plane as points, all others as a histogram of each coordinate.

    Args:
        tasks: the N tasks of the buffer.
        probability: of each in the replay, (N,).
        uniform: draws from the training distribution.
    """
    columns, others = _columns(tasks), _columns(uniform)
    if len(columns) == 2 and len(tasks) == 1:
        return _in_the_plane(columns, probability, others)
    names = list(columns)[:MAX_PANELS]
    rows = int(np.ceil(len(names) / 3))
    figure = Figure(figsize=(3.4 * min(len(names), 3), 2.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, min(len(names), 3), squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        edges = np.histogram_bin_edges(np.concatenate([columns[name], others[name]]), BINS)
        axes.hist(others[name], edges, density=True, color="0.8", label="training distribution")
        axes.hist(columns[name], edges, density=True, weights=probability, histtype="step", lw=1.5, label="replay")
        axes.set(xlabel=name, yticks=[])
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize="x-small")
    figure.suptitle(_title(probability, len(columns) - len(names)), fontsize="small")
    return figure


def _in_the_plane(
    columns: dict[str, NDArray[np.float64]], probability: NDArray[np.float64], others: dict[str, NDArray[np.float64]]
) -> Figure:
    (x, across), (y, up) = columns.items()
    figure = Figure(figsize=(5.4, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(others[x], others[y], s=3, color="0.85", label="training distribution")
    relative = probability * len(probability)
    order = np.argsort(relative)  # the frequent ones on top
    points = axes.scatter(
        across[order], up[order], c=relative[order], s=30 * np.sqrt(relative[order]), cmap="viridis", label="buffer"
    )
    figure.colorbar(points, label="probability in the replay, times uniform")
    axes.set(xlabel=x, ylabel=y, aspect="equal")
    axes.set_title(_title(probability, 0), fontsize="small")
    return figure


def _columns(tasks: Task) -> dict[str, NDArray[np.float64]]:
    """Every coordinate of the tasks by its name, each (N,)."""
    return {
        name if flat.shape[1] == 1 else f"{name}[{place}]": np.asarray(flat[:, place])
        for name, flat in ((name, _flat(value)) for name, value in tasks.items())
        for place in range(flat.shape[1])
    }


def _flat(value: Tensor) -> NDArray[np.float64]:
    """(N, …) -> (N, n)."""
    return np.asarray(value.reshape(len(value), -1).double().cpu().numpy())


def _title(probability: NDArray[np.float64], left_out: int) -> str:
    effective = 1 / np.square(probability).sum()
    more = f"; {left_out} more coordinates" if left_out else ""
    return f"replay over {len(probability)} tasks, effectively {effective:.0f}{more}"
