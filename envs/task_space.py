"""Tasks and the ranges they are drawn from.

Shape legend used by every docstring of the project:

    M tasks · E episodes per task · H steps (horizon) · O observation size · A action size · K adaptation steps
    P a policy's parameters, dict[str, Tensor]; a "task-batched" P has leaves (M, …)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Task = dict[str, Tensor]
"""Named task parameters; every leaf is (M, …). A task is held over many episodes and is never part of the state."""


class Range(ABC):
    """The set of values one task parameter may take, with a way to draw from it.

    Attributes:
        units: physical units of the value, "" where it has none.
        shape: shape of one value, () for a scalar.
    """

    units: str
    shape: tuple[int, ...]

    @abstractmethod
    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """Draw values, (M, *shape), float32 on the generator's device."""

    @abstractmethod
    def contains(self, value: Tensor) -> Tensor:
        """Tell which values lie in the range: (M, *shape) -> bool (M,)."""

    @abstractmethod
    def __str__(self) -> str: ...


def _rand(num_tasks: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand((num_tasks, *shape), generator=generator, device=generator.device)


def _all_elements(inside: Tensor) -> Tensor:
    """Reduce (M, …) to (M,)."""
    return inside.reshape(len(inside), -1).all(dim=1)


def _dimensions(shape: tuple[int, ...]) -> str:
    """How many independent values: "^n", or nothing for one."""
    return f"^{math.prod(shape)}" if shape else ""


def _length(vector: Tensor) -> Tensor:
    """Euclidean length, (M, n) -> (M,)."""
    length: Tensor = torch.linalg.vector_norm(vector, dim=1)
    return length


_LISTED = 8  # values that a Choice is written out with
_TOLERANCE = 1e-6  # a value written as a decimal and stored as float32 still counts as its own bound


@dataclass(frozen=True)
class Uniform(Range):
    """Uniform on [low, high], independently for each element of `shape`."""

    low: float
    high: float
    units: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty or infinite range."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Uniform needs finite low < high, got low={self.low}, high={self.high}")

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

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        noise = torch.randn((num_tasks, *self.shape), generator=generator, device=generator.device)
        return self.mean + self.std * noise

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
        weights = torch.empty((num_tasks, *self.shape), device=generator.device).exponential_(generator=generator)
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
        if not (self.low <= self.high and max(abs(self.low), abs(self.high)) <= 2**24):
            raise ValueError(f"Integers needs low <= high within ±2^24, got low={self.low}, high={self.high}")

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        drawn = torch.randint(
            self.low, self.high + 1, (num_tasks, *self.shape), generator=generator, device=generator.device
        )
        return drawn.float()

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        return _all_elements((value >= self.low) & (value <= self.high) & (value == value.round()))

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
        object.__setattr__(self, "shape", tuple(self._table().shape[1:]))

    def _table(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float32)

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        table = self._table().to(generator.device)
        index = torch.randint(len(table), (num_tasks,), generator=generator, device=generator.device)
        return table[index]

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        near = (value.unsqueeze(1) - self._table().to(value)).abs() <= _TOLERANCE
        return near.reshape(*near.shape[:2], -1).all(dim=2).any(dim=1)

    def __str__(self) -> str:
        if len(self.values) > _LISTED:
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
        direction = torch.randn((num_tasks, self.dim), generator=generator, device=generator.device)
        radius = self.radius * _rand(num_tasks, (1,), generator) ** (1 / self.dim)
        return radius * direction / _length(direction).unsqueeze(1)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        return _length(value) <= self.radius + _TOLERANCE

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
        """Reject an empty arc and one that overlaps itself."""
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
        from_start = torch.remainder(torch.atan2(value[:, 1], value[:, 0]) - self.start, 2 * math.pi)
        slack = 1e-3
        on_arc = (from_start <= self.end - self.start + slack) | (from_start >= 2 * math.pi - slack)
        return on_arc & ((_length(value) - self.radius).abs() <= slack * self.radius)

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

        The largest coordinate r has density ∝ r^(dim-1), as r^dim is uniform; a uniformly chosen face of the
        cube of half-width r holds the point, uniform on that face.
        """
        volume = self.inner**self.dim + (self.outer**self.dim - self.inner**self.dim) * _rand(
            num_tasks, (1,), generator
        )
        radius = volume ** (1 / self.dim)
        point = radius * (2 * _rand(num_tasks, (self.dim,), generator) - 1)
        face = torch.randint(2 * self.dim, (num_tasks, 1), generator=generator, device=generator.device)
        return point.scatter(1, face // 2, torch.where(face % 2 == 0, radius, -radius))

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains."""
        radius = value.abs().amax(dim=1)
        return (radius >= self.inner - _TOLERANCE) & (radius <= self.outer + _TOLERANCE)

    def __str__(self) -> str:
        outer, inner = (f"[-{half:g}, {half:g}]^{self.dim}" for half in (self.outer, self.inner))
        return f"uniform in {outer} outside {inner}"


def select_tasks(tasks: Task, index: slice) -> Task:
    """Take a slice of the task dimension, leaves (M, …)."""
    return {name: value[index] for name, value in tasks.items()}


def num_tasks_of(tasks: Task) -> int:
    """Number of tasks M in a batch of tasks."""
    return len(next(iter(tasks.values())))


def tasks_to_json(tasks: Task) -> list[dict[str, object]]:
    """One JSON object per task, e.g. [{"goal": [0.3, 0.2]}]."""
    return [{name: value[i].tolist() for name, value in tasks.items()} for i in range(num_tasks_of(tasks))]
