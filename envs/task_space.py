"""Tasks and the ranges they are sampled from.

Shape legend used by every docstring of the project:

    M tasks · E episodes per task · H steps (horizon) · O observation size · A action size · K adaptation steps
    P a policy's parameters, dict[str, Tensor]; a "task-batched" P has leaves (M, …)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.spaces.precision import float_dtype

Task = dict[str, Tensor]
"""Named task parameters; every leaf is (M, …). A task is held over many episodes and is never part of the state."""


class Range(ABC):
    """The set of values that one task parameter may take, and a distribution over it.

    Attributes:
        units: physical units of the value, "" where it has none.
        shape: shape of one value, () for a scalar.
    """

    units: str
    shape: tuple[int, ...]

    @abstractmethod
    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """Sample values, (M, *shape), float32 on the generator's device."""

    @abstractmethod
    def contains(self, value: Tensor) -> Tensor:
        """Tell which values lie in the range: (M, *shape) -> bool (M,)."""

    @property
    def count(self) -> int | None:
        """Number of values that it holds; None where these are not counted."""
        return None

    @abstractmethod
    def __str__(self) -> str: ...


_TOLERANCE = 1e-6
"""A value written as a decimal and stored as float32 still counts as its own bound."""

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
"""Task parameters are float32: beyond these they become infinite, below them they lose digits and become 0."""

_BLOCK = 16
"""Normal numbers that torch makes at once on a CPU."""

_MAX_LISTED = 8
"""A Choice of more values than these is described by its first and its last."""


def _rand(num_tasks: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform on [0, 1), (M, *shape)."""
    return torch.rand((num_tasks, *shape), generator=generator, device=generator.device, dtype=float_dtype())


def _randn(num_tasks: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal, (M, *shape).

    `torch.randn` computes 16 numbers and more with the widest instructions that a CPU has, and their last bit differs
    from CPU to CPU. Here the same random numbers go through the same formula in double precision.
    """
    count = num_tasks * math.prod(shape)
    if generator.device.type != "cpu" or count < _BLOCK or float_dtype() != torch.float32:
        return torch.randn((num_tasks, *shape), generator=generator, device=generator.device, dtype=float_dtype())

    uniform = torch.rand(count, generator=generator, dtype=torch.float32).double().numpy()
    normal = _box_muller(uniform[: count - count % _BLOCK])
    if count % _BLOCK:
        # Torch draws the last block anew where it is not whole, and lets it overlap the one before.
        last = _box_muller(torch.rand(_BLOCK, generator=generator, dtype=torch.float32).double().numpy())
        normal = np.concatenate([normal[: count - _BLOCK], last])
    return torch.from_numpy(normal).float().reshape(num_tasks, *shape)


def _box_muller(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard normal numbers of as many uniform ones, a multiple of 16: each block pairs its halves, as torch's do."""
    blocks = uniform.reshape(-1, _BLOCK)
    radius = np.sqrt(-2 * np.log(1 - blocks[:, : _BLOCK // 2]))
    angle = 2 * math.pi * blocks[:, _BLOCK // 2 :]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _randint(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Whole numbers low … high − 1, int64 of this shape."""
    return torch.randint(low, high, shape, generator=generator, device=generator.device)


def _all_elements(inside: Tensor) -> Tensor:
    """Whether all elements of each value are inside, (M, …) -> (M,)."""
    return inside.reshape(len(inside), -1).all(dim=1)


def _dimensions(shape: tuple[int, ...]) -> str:
    """How many independent values there are: "^n", or nothing for one."""
    return f"^{math.prod(shape)}" if shape else ""


def _norm(vector: Tensor) -> Tensor:
    """Euclidean norm, (M, n) -> (M,)."""
    norm: Tensor = torch.linalg.vector_norm(vector, dim=1)
    return norm


@dataclass(frozen=True)
class Uniform(Range):
    """Uniform on [low, high], independently for each element of `shape`."""

    low: float
    high: float
    units: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty or infinite range, and numbers that a float32 cannot hold."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Uniform needs finite low < high, got low={self.low}, high={self.high}")

        # Neither the bounds nor their difference may overflow.
        if max(abs(self.low), abs(self.high), self.high - self.low) > _LARGEST:
            raise ValueError(f"Uniform needs numbers within ±{_LARGEST:.3g}, got low={self.low}, high={self.high}")
        if np.float32(self.low) == np.float32(self.high):
            raise ValueError(
                f"Uniform needs low and high further apart: as float32 both {self.low} and {self.high} are "
                f"{np.float32(self.low)}"
            )

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        return self.low + (self.high - self.low) * _rand(num_tasks, self.shape, generator)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        return _all_elements((value >= self.low - _TOLERANCE) & (value <= self.high + _TOLERANCE))

    def __str__(self) -> str:
        return f"uniform in [{self.low:g}, {self.high:g}]{_dimensions(self.shape)}"


@dataclass(frozen=True)
class LogUniform(Range):
    """Uniform in the logarithm on [low, high], for scales: 1/2 and 2 are equally likely around 1."""

    low: float
    high: float
    units: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty range and one that is not positive."""
        if not (0 < self.low < self.high < math.inf):
            raise ValueError(f"LogUniform needs 0 < low < high, got low={self.low}, high={self.high}")
        if self.low < _SMALLEST or self.high > _LARGEST:
            raise ValueError(
                f"LogUniform needs numbers in [{_SMALLEST:.3g}, {_LARGEST:.3g}], got low={self.low}, high={self.high}"
            )

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        low, high = math.log(self.low), math.log(self.high)
        return torch.exp(low + (high - low) * _rand(num_tasks, self.shape, generator))

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        return _all_elements((value >= self.low * (1 - _TOLERANCE)) & (value <= self.high * (1 + _TOLERANCE)))

    def __str__(self) -> str:
        return f"log-uniform in [{self.low:g}, {self.high:g}]{_dimensions(self.shape)}"


@dataclass(frozen=True)
class Normal(Range):
    """Normal, independently for each element of `shape`; it contains every number."""

    mean: float = 0.0
    std: float = 1.0
    units: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject what is no normal distribution."""
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"Normal needs a finite mean and std > 0, got mean={self.mean}, std={self.std}")

        # A float32 normal variable stays within 10 standard deviations.
        if abs(self.mean) + 10 * self.std > _LARGEST:
            raise ValueError(f"Normal needs mean ± 10 std within ±{_LARGEST:.3g}, got mean={self.mean}, std={self.std}")

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        return self.mean + self.std * _randn(num_tasks, self.shape, generator)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        return _all_elements(value.isfinite())

    def __str__(self) -> str:
        return f"normal, mean {self.mean:g}, std {self.std:g}{_dimensions(self.shape)}"


@dataclass(frozen=True)
class Simplex(Range):
    """Probabilities of `size` outcomes, uniform on the simplex (Dirichlet(1, …, 1)), independently for each of `rows`.

    A value has the shape (*rows, size).
    """

    size: int
    rows: tuple[int, ...] = ()
    units: str = ""
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject fewer than two outcomes: there would be nothing to draw."""
        if self.size < 2:
            raise ValueError(f"Simplex needs size >= 2, got {self.size}")
        object.__setattr__(self, "shape", (*self.rows, self.size))

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample; independent exponential variables divided by their sum."""
        weights = torch.empty((num_tasks, *self.shape), device=generator.device, dtype=float_dtype())
        weights = weights.exponential_(generator=generator)
        return weights / weights.sum(dim=-1, keepdim=True)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains; the sum to 1e-3, so that a task may be written with few decimals."""
        sums_to_one = (value.sum(dim=-1) - 1).abs() <= 1e-3
        return _all_elements(value >= 0) & _all_elements(sums_to_one)

    def __str__(self) -> str:
        return f"uniform on the simplex of {self.size} outcomes{_dimensions(self.rows)}"


@dataclass(frozen=True)
class Integers(Range):
    """Whole numbers low … high, each equally likely, independently for each element of `shape`."""

    low: int
    high: int
    units: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty range, and numbers that a float32 cannot hold."""
        if not (isinstance(self.low, Integral) and isinstance(self.high, Integral)):
            raise ValueError(f"Integers needs whole numbers, got low={self.low!r}, high={self.high!r}")
        if not (self.low <= self.high and max(abs(self.low), abs(self.high)) <= 2**24):
            raise ValueError(f"Integers needs low <= high within ±2^24, got low={self.low}, high={self.high}")

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        return _randint(self.low, self.high + 1, (num_tasks, *self.shape), generator).float()

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        return _all_elements((value >= self.low) & (value <= self.high) & (value == value.round()))

    @property
    def count(self) -> int:
        """See Range.count."""
        return (self.high - self.low + 1) ** math.prod(self.shape)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return f"whole number in [{self.low}, {self.high}]{_dimensions(self.shape)}"


@dataclass(frozen=True)
class Choice(Range):
    """One of a finite list of values, each equally likely."""

    values: Sequence[float] | Sequence[Sequence[float]]
    units: str = ""
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject an empty list."""
        if len(self.values) == 0:
            raise ValueError("Choice needs at least one value")

        try:
            table = self._table()
            finite = bool(table.isfinite().all())
        except (TypeError, ValueError, RuntimeError):
            finite = False
        if not finite:
            allowed = f"finite numbers within ±{_LARGEST:.3g}, or lists of them of one length"
            raise ValueError(f"Choice needs {allowed}, got {self.values!s:.200}")
        object.__setattr__(self, "shape", tuple(table.shape[1:]))

    def _table(self) -> Tensor:
        """The values, (n, *shape)."""
        return torch.tensor(self.values, dtype=torch.float32)

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        table = self._table().to(generator.device)
        return table[_randint(0, len(table), (num_tasks,), generator)]

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        # Every value against every entry of the table: (M, n, *shape).
        near = (value.unsqueeze(1) - self._table().to(value)).abs() <= _TOLERANCE
        return near.reshape(*near.shape[:2], -1).all(dim=2).any(dim=1)

    @property
    def count(self) -> int:
        """See Range.count."""
        return len(torch.unique(self._table(), dim=0))

    def __str__(self) -> str:
        if len(self.values) > _MAX_LISTED:
            return f"one of {len(self.values)} values, {self.values[0]} … {self.values[-1]}"
        return f"one of {list(self.values)}"


@dataclass(frozen=True)
class Ball(Range):
    """Uniform in the ball of `radius` around the origin of a `dim`-dimensional space."""

    radius: float
    dim: int = 2
    units: str = ""
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject an empty ball."""
        if not (self.radius > 0 and self.dim >= 1):
            raise ValueError(f"Ball needs radius > 0 and dim >= 1, got {self.radius} and {self.dim}")
        object.__setattr__(self, "shape", (self.dim,))

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        direction = _randn(num_tasks, (self.dim,), generator).double()

        # The volume within a radius grows as radius^dim, so the root makes points equally dense everywhere. In double
        # precision, because the last bit of a root differs from CPU to CPU.
        radius = self.radius * _rand(num_tasks, (1,), generator).double() ** (1 / self.dim)
        return (radius * direction / _norm(direction).unsqueeze(1)).to(float_dtype())

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        return _norm(value) <= self.radius + _TOLERANCE

    def __str__(self) -> str:
        return f"uniform in the {self.dim}-ball of radius {self.radius:g}"


@dataclass(frozen=True)
class Circle(Range):
    """Uniform on an arc of the circle of `radius` around the origin of the plane; angles in radians."""

    radius: float = 1.0
    start: float = 0.0
    end: float = 2 * math.pi
    units: str = ""
    shape: tuple[int, ...] = (2,)

    def __post_init__(self) -> None:
        """Reject an empty arc, and one longer than the circle."""
        if not (self.radius > 0 and self.start < self.end <= self.start + 2 * math.pi + _TOLERANCE):
            raise ValueError(
                f"Circle needs radius > 0 and start < end <= start + 2π, "
                f"got radius={self.radius}, start={self.start}, end={self.end}"
            )

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        angle = self.start + (self.end - self.start) * _rand(num_tasks, (), generator)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains; on the circle to 1e-3 of its radius, so that a task may be written with 3 decimals."""
        tolerance = 1e-3
        on_circle = (_norm(value) - self.radius).abs() <= tolerance * self.radius

        # An angle just before the start of the arc appears as almost a full turn.
        angle = torch.atan2(value[:, 1], value[:, 0])
        from_start = torch.remainder(angle - self.start, 2 * math.pi)
        on_arc = (from_start <= self.end - self.start + tolerance) | (from_start >= 2 * math.pi - tolerance)
        return on_arc & on_circle

    def __str__(self) -> str:
        degrees = f"{math.degrees(self.start):g}°–{math.degrees(self.end):g}°"
        return f"uniform on the circle of radius {self.radius:g}, {degrees}"


@dataclass(frozen=True)
class BoxRing(Range):
    """Uniform in the cube [-outer, outer]^dim without the cube [-inner, inner]^dim."""

    inner: float
    outer: float
    dim: int = 2
    units: str = ""
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject an empty ring."""
        if not (0 <= self.inner < self.outer < math.inf and self.dim >= 1):
            raise ValueError(f"BoxRing needs 0 <= inner < outer, got inner={self.inner}, outer={self.outer}")
        object.__setattr__(self, "shape", (self.dim,))

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample.

        The largest coordinate r has density ∝ r^(dim-1), since r^dim is uniform. The point is uniform on a randomly
        chosen face of the cube of half-width r.
        """
        inner, outer = self.inner**self.dim, self.outer**self.dim
        volume = inner + (outer - inner) * _rand(num_tasks, (1,), generator)
        # A square root has the same last bit on every CPU, other roots have so in double precision only.
        radius = volume**0.5 if self.dim == 2 else (volume.double() ** (1 / self.dim)).to(volume)

        # A face fixes one coordinate, at +r or at −r.
        point = radius * (2 * _rand(num_tasks, (self.dim,), generator) - 1)
        face = _randint(0, 2 * self.dim, (num_tasks, 1), generator)
        return point.scatter(1, face // 2, torch.where(face % 2 == 0, radius, -radius))

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        radius = value.abs().amax(dim=1)
        return (radius >= self.inner - _TOLERANCE) & (radius <= self.outer + _TOLERANCE)

    def __str__(self) -> str:
        outer = f"[-{self.outer:g}, {self.outer:g}]^{self.dim}"
        inner = f"[-{self.inner:g}, {self.inner:g}]^{self.dim}"
        return f"uniform in {outer} outside {inner}"


@dataclass(frozen=True)
class LogBoxRing(Range):
    """Scales outside [1/inner, inner] and within [1/outer, outer]: at least one element of a value lies outside.

    The logarithms of all elements are uniform in a cube without a smaller cube, as of BoxRing: none of these values is
    one of LogUniform(1/inner, inner), and their elements are as far apart from 1 as an extrapolation asks for.
    """

    inner: float
    outer: float
    units: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty ring."""
        if not (1 <= self.inner < self.outer <= _LARGEST):
            raise ValueError(f"LogBoxRing needs 1 <= inner < outer, got inner={self.inner}, outer={self.outer}")

    @property
    def _logarithms(self) -> BoxRing:
        return BoxRing(math.log(self.inner), math.log(self.outer), dim=math.prod(self.shape))

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        logarithms = self._logarithms.sample(num_tasks, generator)
        return logarithms.double().exp().to(logarithms).reshape(num_tasks, *self.shape)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        positive = _all_elements(value > 0)
        flat = value.reshape(len(value), -1).clamp(min=_SMALLEST)
        return positive & self._logarithms.contains(flat.log())

    def __str__(self) -> str:
        outer = f"[{1 / self.outer:g}, {self.outer:g}]{_dimensions(self.shape)}"
        return f"log-uniform in {outer} outside [{1 / self.inner:g}, {self.inner:g}]{_dimensions(self.shape)}"


def select_tasks(tasks: Task, index: int | slice | tuple[int, ...] | Tensor) -> Task:
    """Some of a batch of tasks, by an index of their leading dimensions."""
    return {name: value[index] for name, value in tasks.items()}


def concatenate_tasks(batches: Sequence[Task]) -> Task:
    """The tasks of several batches, one batch after the other."""
    joined: Task = {}
    for name in batches[0]:
        joined[name] = torch.cat([batch[name] for batch in batches])
    return joined


def num_tasks_of(tasks: Task) -> int:
    """Number of tasks M in a batch of tasks."""
    return len(next(iter(tasks.values())))


def task_text(task: Mapping[str, Any], limit: int = 200) -> str:
    """One task as an error message shows it, {'goal': [0.3, 0.2]}, cut off after `limit` characters.

    Args:
        task: leaves (…) without a leading dimension, tensors or arrays.
        limit: characters.
    """
    values = {}
    for name, value in task.items():
        on_host = value.cpu() if isinstance(value, Tensor) else value
        values[name] = _shortest(np.asarray(on_host))

    text = str(values)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _shortest(array: NDArray[Any]) -> Any:
    """Nested lists of numbers with as few digits as tell a float32 from its neighbours: 0.3, not 0.30000001192."""
    if array.ndim:
        return [_shortest(part) for part in array]
    return float(str(array.item() if array.dtype != np.float32 else array[()]))


def tasks_to_json(tasks: Task) -> list[dict[str, object]]:
    """One JSON object per task, e.g. [{"goal": [0.3, 0.2]}]."""
    return [_task_to_json(select_tasks(tasks, index)) for index in range(num_tasks_of(tasks))]


def _task_to_json(task: Task) -> dict[str, object]:
    return {name: value.tolist() for name, value in task.items()}


def named_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The names and values of a JSON object, whose names must differ: of two values the first would be lost.

    Raises:
        ValueError: a name comes twice.
    """
    named: dict[str, Any] = {}
    for name, value in pairs:
        if name in named:
            raise ValueError(f"the name {name!r:.60} comes twice")
        named[name] = value
    return named
