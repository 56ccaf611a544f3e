"""Figure of a curriculum: the tasks that are replayed against those of the training distribution."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.task_space import Task

PLOTTED_TASKS = 2_000
"""Samples of the training distribution that are plotted to show it."""

BINS = 10
MAX_PANELS = 9


def task_densities(tasks: Task, probability: NDArray[np.float64], uniform: Task) -> Figure:
    """Points in the plane where a task is one two-dimensional parameter, else a histogram of each coordinate.

    Args:
        tasks: the N tasks of the buffer.
        probability: of each in the replay, (N,).
        uniform: samples of the training distribution.
    """
    replayed = _coordinates(tasks)
    trained = _coordinates(uniform)
    # Two parameters of one coordinate each have units of their own, so they are no plane.
    if len(replayed) == 2 and len(tasks) == 1:
        return _in_the_plane(replayed, probability, trained)
    return _histograms(replayed, probability, trained)


def _in_the_plane(
    replayed: dict[str, NDArray[np.float64]], probability: NDArray[np.float64], trained: dict[str, NDArray[np.float64]]
) -> Figure:
    """Tasks as points; colour and size show how often each is replayed."""
    (x_name, x), (y_name, y) = replayed.items()
    figure = Figure(figsize=(5.4, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(trained[x_name], trained[y_name], s=3, color="0.85", label="training distribution")

    relative = probability * len(probability)
    order = np.argsort(relative)  # tasks that are replayed often are drawn last, on top
    points = axes.scatter(
        x[order], y[order], c=relative[order], s=30 * np.sqrt(relative[order]), cmap="viridis", label="buffer"
    )

    figure.colorbar(points, label="probability in the replay, times uniform")
    axes.set(xlabel=x_name, ylabel=y_name, aspect="equal")
    axes.set_title(_title(probability, 0), fontsize="small")
    return figure


def _histograms(
    replayed: dict[str, NDArray[np.float64]], probability: NDArray[np.float64], trained: dict[str, NDArray[np.float64]]
) -> Figure:
    """A panel for each of the first coordinates: the replay over the training distribution."""
    names = list(replayed)[:MAX_PANELS]
    num_columns = min(len(names), 3)
    num_rows = int(np.ceil(len(names) / 3))
    figure = Figure(figsize=(3.4 * num_columns, 2.6 * num_rows + 0.5), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()

    for axes, name in zip(panels, names, strict=False):
        edges = np.histogram_bin_edges(np.concatenate([replayed[name], trained[name]]), BINS)
        axes.hist(trained[name], edges, density=True, color="0.8", label="training distribution")
        axes.hist(replayed[name], edges, density=True, weights=probability, histtype="step", lw=1.5, label="replay")
        axes.set(xlabel=name, yticks=[])
    for axes in panels[len(names) :]:
        axes.set_axis_off()

    panels[0].legend(fontsize="x-small")
    figure.suptitle(_title(probability, len(replayed) - len(names)), fontsize="small")
    return figure


def _coordinates(tasks: Task) -> dict[str, NDArray[np.float64]]:
    """Every coordinate of the N tasks by its name, each (N,)."""
    coordinates = {}
    for name, value in tasks.items():
        flat = _flat(value)
        if flat.shape[1] == 1:
            coordinates[name] = flat[:, 0]
        else:
            coordinates |= {f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
    return coordinates


def _flat(value: Tensor) -> NDArray[np.float64]:
    """(N, …) -> (N, n)."""
    return np.asarray(value.reshape(len(value), -1).double().cpu().numpy())


def _title(probability: NDArray[np.float64], left_out: int) -> str:
    effective = 1 / np.square(probability).sum()
    more = f"; {left_out} more coordinates" if left_out else ""
    return f"replay over {len(probability)} tasks, effectively {effective:.0f}{more}"
