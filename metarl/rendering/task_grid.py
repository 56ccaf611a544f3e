"""A grid of tasks over the one or two dimensions of a task space, or over one or two chosen parameters of many."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Ball, BoxRing, Choice, Circle, Integers, LogUniform, Normal, Range, Task, Uniform
from metarl.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GridAxis:
    """One dimension of the grid.

    Attributes:
        label: parameter and units.
        edges: ends of its n intervals, (n + 1,).
        values: the tasks' values, one in each interval, (n,).
        train: ends of the training range.
        logarithmic: whether it is to be drawn so.
    """

    label: str
    edges: Floats
    values: Floats
    train: tuple[float, float]
    logarithmic: bool = False


@dataclass(frozen=True)
class TaskGrid:
    """Tasks in the cells of a grid.

    Attributes:
        axes: one or two.
        tasks: those of the N cells that lie in the task space, leaves (N, …).
        cells: which cells these are, bool (n,) or (n_x, n_y), in the order of the tasks.
        trained: which of the N tasks lie in the training ranges, bool (N,).
        radius: of the training range where it is a disc.
        fixed: the parameters that are the same everywhere, leaves (1, …).
    """

    axes: tuple[GridAxis, ...]
    tasks: Task
    cells: NDArray[np.bool_]
    trained: NDArray[np.bool_]
    radius: float | None
    fixed: Task

    def spread(self, values: NDArray[Any]) -> Floats:
        """Values of the N tasks in the shape of the grid, NaN in the other cells."""
        full = np.full(self.cells.shape, np.nan)
        full[self.cells] = values
        return full


def task_grid(distribution: TaskDistribution, over: tuple[str, ...], fixed: Task, points: int) -> TaskGrid:
    """A grid over everything that a task may be: the training, test and ood ranges.

    Args:
        distribution: what the tasks are of.
        over: parameters to vary; none: all of them.
        fixed: one task, leaves (1, …), which the other parameters are taken from.
        points: cells along each dimension, fewer where there are fewer values.

    Raises:
        UserError: unknown parameters, more than two dimensions, or a range that has no axis.
    """
    names = over or tuple(distribution.train)
    unknown = [name for name in names if name not in distribution.train]
    if unknown or len(set(names)) < len(names):
        raise UserError(f"--over {' '.join(over)}: the task parameters are {', '.join(distribution.train)}")
    allowed = {
        name: [ranges[name] for ranges in (distribution.train, distribution.test, distribution.ood) if name in ranges]
        for name in names
    }
    if sum(_dimensions(ranges[0]) for ranges in allowed.values()) > 2:
        sizes = ", ".join(f"{name} ({_dimensions(range_)})" for name, range_ in distribution.train.items())
        raise UserError(
            f"a heat map has one or two dimensions, {distribution.name} has {sizes}; "
            f"choose with --over, such as --over {_suggestion(distribution)}"
        )
    axes = [axis for name in names for axis in _axes(name, allowed[name], points)]
    mesh = np.meshgrid(*(axis.values for axis in axes), indexing="ij")
    columns = iter(mesh)
    tasks: Task = {name: value.cpu() for name, value in fixed.items()}
    inside, trained = np.ones(mesh[0].size, bool), np.ones(mesh[0].size, bool)
    for name in names:
        tasks[name] = _values(allowed[name][0], [next(columns).ravel() for _ in range(_dimensions(allowed[name][0]))])
        contained = np.stack([range_.contains(tasks[name]).numpy() for range_ in allowed[name]])
        inside &= contained.any(axis=0)
        trained &= contained[0]
    count = int(inside.sum())
    tasks = {
        name: value[torch.from_numpy(inside)] if name in names else value.expand(count, *value.shape[1:])
        for name, value in tasks.items()
    }
    first = distribution.train[names[0]]
    return TaskGrid(
        axes=tuple(axes),
        tasks=tasks,
        cells=inside.reshape(mesh[0].shape),
        trained=trained[inside],
        radius=first.radius if isinstance(first, Ball) else None,
        fixed={name: value for name, value in fixed.items() if name not in names},
    )


def _suggestion(distribution: TaskDistribution) -> str:
    """One or two parameters that a grid can be made of."""
    scalars = [name for name, range_ in distribution.train.items() if _dimensions(range_) == 1]
    pairs = [name for name, range_ in distribution.train.items() if _dimensions(range_) == 2]
    return " ".join(scalars[:2]) or "".join(pairs[:1]) or "NAME"


def _dimensions(range_: Range) -> int:
    """How many axes the values of a range have; the points of a circle have one."""
    return 1 if isinstance(range_, Circle) else int(np.prod(range_.shape))


def _values(range_: Range, columns: list[Floats]) -> torch.Tensor:
    """Parameter values, (N, *shape), of coordinates along their axes."""
    if isinstance(range_, Circle):
        angle = np.radians(columns[0])
        columns = [range_.radius * np.cos(angle), range_.radius * np.sin(angle)]
    stacked = torch.from_numpy(np.stack(columns, axis=1)).float()
    return stacked.reshape(len(stacked), *range_.shape)


def _axes(name: str, ranges: list[Range], points: int) -> list[GridAxis]:
    """The axes of one parameter."""
    units = f", {ranges[0].units}" if ranges[0].units not in ("", "1") else ""
    if isinstance(ranges[0], Circle):
        return [_axis(f"angle of {name}, degrees", ranges, 0, points)]
    count = _dimensions(ranges[0])
    labels = [f"{name}{units}"] if count == 1 else [f"{name}, {axis}{units}" for axis in ("first", "second")]
    if ranges[0].shape == (2,):
        labels = [f"{name} {axis}{units}" for axis in ("x", "y")]
    return [_axis(label, ranges, dimension, points) for dimension, label in enumerate(labels)]


def _axis(label: str, ranges: list[Range], dimension: int, points: int) -> GridAxis:
    bounds = [_bounds(range_, dimension) for range_ in ranges]
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    listed = [_listed(range_, dimension) for range_ in ranges]
    if all(values is not None for values in listed):
        values = np.unique(np.concatenate([values for values in listed if values is not None]))
        if len(values) > points:
            values = values[np.unique(np.linspace(0, len(values) - 1, points).round().astype(int))]
        between = (values[1:] + values[:-1]) / 2
        reach = (np.diff(values)[[0, -1]] if len(values) > 1 else np.ones(2)) / 2
        edges = np.concatenate([[values[0] - reach[0]], between, [values[-1] + reach[1]]])
        half = reach[0]
        return GridAxis(label, edges, values, (bounds[0][0] - half, bounds[0][1] + half))
    if isinstance(ranges[0], LogUniform):
        edges = np.geomspace(low, high, points + 1)
        return GridAxis(label, edges, np.sqrt(edges[1:] * edges[:-1]), bounds[0], logarithmic=True)
    edges = np.linspace(low, high, points + 1)
    return GridAxis(label, edges, (edges[1:] + edges[:-1]) / 2, bounds[0])


def _bounds(range_: Range, dimension: int) -> tuple[float, float]:
    """Least and largest value along one dimension; ± 2 standard deviations of a normal.

    Raises:
        UserError: there is no such thing.
    """
    match range_:
        case Uniform() | LogUniform() | Integers():
            return range_.low, range_.high
        case Normal():
            return range_.mean - 2 * range_.std, range_.mean + 2 * range_.std
        case Choice():
            column = np.reshape(np.array(range_.values, float), (len(range_.values), -1))[:, dimension]
            return float(column.min()), float(column.max())
        case Ball():
            return -range_.radius, range_.radius
        case BoxRing():
            return -range_.outer, range_.outer
        case Circle():
            return float(np.degrees(range_.start)), float(np.degrees(range_.end))
    raise UserError(f"a heat map cannot lay a grid over task parameters that are {range_}")


def _listed(range_: Range, dimension: int) -> Floats | None:
    """All values along one dimension where they can be listed."""
    match range_:
        case Integers():
            return np.arange(range_.low, range_.high + 1, dtype=float)
        case Choice():
            return np.unique(np.reshape(np.array(range_.values, float), (len(range_.values), -1))[:, dimension])
    return None
