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

    def to_grid(self, values: NDArray[Any]) -> Floats:
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
    ranges = _ranges_to_vary(distribution, over)
    axes = [axis for name, allowed in ranges.items() for axis in _axes(name, allowed, points)]
    mesh = np.meshgrid(*(axis.values for axis in axes), indexing="ij")

    # Every parameter takes as many columns of coordinates as it has axes.
    columns = iter(mesh)
    varied: Task = {}
    inside = np.ones(mesh[0].size, bool)
    trained = np.ones(mesh[0].size, bool)
    for name, allowed in ranges.items():
        coordinates = [next(columns).ravel() for _ in range(_num_axes(allowed[0]))]
        varied[name] = _values(allowed[0], coordinates)
        contained = np.stack([range_.contains(varied[name]).numpy() for range_ in allowed])
        inside &= contained.any(axis=0)
        trained &= contained[0]

    first, *_ = (allowed[0] for allowed in ranges.values())
    return TaskGrid(
        axes=tuple(axes),
        tasks=_tasks_of_cells(fixed, varied, inside),
        cells=inside.reshape(mesh[0].shape),
        trained=trained[inside],
        radius=first.radius if isinstance(first, Ball) else None,
        fixed={name: value for name, value in fixed.items() if name not in ranges},
    )


def _tasks_of_cells(fixed: Task, varied: Task, inside: NDArray[np.bool_]) -> Task:
    """The tasks of the cells that have one: a disc does not fill its square.

    Args:
        fixed: one task, leaves (1, …), with every parameter in its place.
        varied: the parameters that vary, leaves (cells, …).
        inside: which cells lie in a range, (cells,).
    """
    num_tasks = int(inside.sum())
    tasks: Task = {}
    for name, value in fixed.items():
        if name in varied:
            tasks[name] = varied[name][torch.from_numpy(inside)]
        else:
            tasks[name] = value.cpu().expand(num_tasks, *value.shape[1:])
    return tasks


def _ranges_to_vary(distribution: TaskDistribution, over: tuple[str, ...]) -> dict[str, list[Range]]:
    """The ranges of each parameter that varies: of the training split first, then of test and ood.

    Raises:
        UserError: unknown parameters, or more than two dimensions.
    """
    names = over or tuple(distribution.train)
    unknown = [name for name in names if name not in distribution.train]
    if unknown or len(set(names)) < len(names):
        raise UserError(f"--over {' '.join(over)}: the task parameters are {', '.join(distribution.train)}")

    if sum(_num_axes(distribution.train[name]) for name in names) > 2:
        sizes = ", ".join(f"{name} ({_num_axes(range_)})" for name, range_ in distribution.train.items())
        raise UserError(
            f"a heat map has one or two dimensions, {distribution.name} has {sizes}; "
            f"choose with --over, such as --over {_suggestion(distribution)}"
        )

    return {name: _ranges_of(name, distribution) for name in names}


def _ranges_of(name: str, distribution: TaskDistribution) -> list[Range]:
    """The ranges of one parameter in all splits that have one."""
    splits = (distribution.train, distribution.test, distribution.ood)
    return [split[name] for split in splits if name in split]


def _suggestion(distribution: TaskDistribution) -> str:
    """One or two parameters that a grid can be made of."""
    scalars = [name for name, range_ in distribution.train.items() if _num_axes(range_) == 1]
    pairs = [name for name, range_ in distribution.train.items() if _num_axes(range_) == 2]
    return " ".join(scalars[:2]) or "".join(pairs[:1]) or "NAME"


def _num_axes(range_: Range) -> int:
    """How many axes the values of a range have; the points of a circle have one, their angle."""
    return 1 if isinstance(range_, Circle) else int(np.prod(range_.shape))


def _values(range_: Range, columns: list[Floats]) -> torch.Tensor:
    """Parameter values, (N, *shape), of coordinates along their axes."""
    if isinstance(range_, Circle):
        angle = np.radians(columns[0])
        columns = [range_.radius * np.cos(angle), range_.radius * np.sin(angle)]
    stacked = torch.from_numpy(np.stack(columns, axis=1)).float()
    return stacked.reshape(len(stacked), *range_.shape)


# ---------------------------------------------------------------------- axes


def _axes(name: str, ranges: list[Range], points: int) -> list[GridAxis]:
    """The axes of one parameter."""
    first = ranges[0]
    units = f", {first.units}" if first.units not in ("", "1") else ""

    if isinstance(first, Circle):
        labels = [f"angle of {name}, degrees"]
    elif first.shape == (2,):
        labels = [f"{name} x{units}", f"{name} y{units}"]
    elif _num_axes(first) == 1:
        labels = [f"{name}{units}"]
    else:
        labels = [f"{name}, {which}{units}" for which in ("first", "second")]
    return [_axis(label, ranges, dimension, points) for dimension, label in enumerate(labels)]


def _axis(label: str, ranges: list[Range], dimension: int, points: int) -> GridAxis:
    """One axis over all the ranges; the first one is that of training."""
    listed = [_listed_values(range_, dimension) for range_ in ranges]
    values = [some for some in listed if some is not None]
    if len(values) == len(ranges):
        return _listed_axis(label, np.unique(np.concatenate(values)), _bounds(ranges[0], dimension), points)

    bounds = [_bounds(range_, dimension) for range_ in ranges]
    low = min(low for low, _ in bounds)
    high = max(high for _, high in bounds)
    if isinstance(ranges[0], LogUniform):
        edges = np.geomspace(low, high, points + 1)
        return GridAxis(label, edges, np.sqrt(edges[1:] * edges[:-1]), bounds[0], logarithmic=True)

    edges = np.linspace(low, high, points + 1)
    return GridAxis(label, edges, (edges[1:] + edges[:-1]) / 2, bounds[0])


def _listed_axis(label: str, values: Floats, train: tuple[float, float], points: int) -> GridAxis:
    """An axis of single values, of which some are left out where there are more than `points`."""
    if len(values) > points:
        values = values[np.unique(np.linspace(0, len(values) - 1, points).round().astype(int))]

    # Each value gets the interval around it: to the middle between it and the next, and as far at the ends.
    between = (values[1:] + values[:-1]) / 2
    reach = (np.diff(values)[[0, -1]] if len(values) > 1 else np.ones(2)) / 2
    edges = np.concatenate([[values[0] - reach[0]], between, [values[-1] + reach[1]]])
    return GridAxis(label, edges, values, (train[0] - reach[0], train[1] + reach[0]))


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
            column = _column(range_, dimension)
            return float(column.min()), float(column.max())
        case Ball():
            return -range_.radius, range_.radius
        case BoxRing():
            return -range_.outer, range_.outer
        case Circle():
            return float(np.degrees(range_.start)), float(np.degrees(range_.end))
    raise UserError(f"a heat map cannot lay a grid over task parameters that are {range_}")


def _listed_values(range_: Range, dimension: int) -> Floats | None:
    """All values along one dimension where they can be listed."""
    match range_:
        case Integers():
            return np.arange(range_.low, range_.high + 1, dtype=float)
        case Choice():
            return np.unique(_column(range_, dimension))
    return None


def _column(choice: Choice, dimension: int) -> Floats:
    """One coordinate of each value that can be chosen."""
    return np.reshape(np.array(choice.values, float), (len(choice.values), -1))[:, dimension]
