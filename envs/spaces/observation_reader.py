"""Reads what an environment observes as the vector that a policy takes; what does not fit its space is refused.

numpy and Gymnasium would make other numbers of it without a word: 300 is 44 in a byte, 0.7 is 0 in a whole number, the
choice 3 of three is the first choice of the next element, and a transposed image has as many pixels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from numpy.typing import NDArray

from metarl.envs.spaces.fields import fields_of, inner_spaces, name_of_index, one_line, path_to

Floats = NDArray[np.float32]

NUMBERS = "biuf"
"""Kinds of numpy's dtypes that are numbers of ours; complex ones are not."""


class UnfitEnvError(ValueError):
    """An environment gives something else than its spaces say, or has other spaces than before.

    Args:
        reason: what is wrong, without environment and task.
        where: environment and task; empty where they are not known.

    Attributes:
        reason: as above.
    """

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason = reason


class ObservationReader:
    """Makes a float32 vector (O,) of an observation, in the order in which Gymnasium flattens its space.

    What is refused: another shape, a missing key, what is no number, and in spaces of whole numbers (Discrete,
    MultiDiscrete, MultiBinary, a Box of integers, an image) every other number and those outside the space.

    What passes: lists, other dtypes whose numbers fit, and a single number in whatever shape. Floats outside the bounds
    of a Box pass as they do in Gymnasium; nothing depends on these bounds.

    Args:
        space: Box, Discrete, MultiDiscrete and MultiBinary, or Dict and Tuple of these.
    """

    def __init__(self, space: Space[Any]) -> None:
        self._part = _part(space, "")
        self._fields = fields_of(space)

    def __call__(self, obs: Any) -> Floats:
        """An observation as a vector of its own memory.

        Raises:
            UnfitEnvError: it does not fit; names the key, what was seen and what the space allows.
        """
        return self._part.read(obs)

    def rows(self, obs: Any) -> tuple[Floats, bool]:
        """One observation, or N of them as vector environments give them, each entry of a Dict or Tuple (N, …).

        Returns:
            Vectors (N, O), and whether it was a single one.

        Raises:
            UnfitEnvError: it does not fit, or holds a number that is not finite in float32.
        """
        count = self._part.batch_size(obs)
        single = count is None
        vectors = self._part.read(obs)[None] if count is None else self._part.read(obs, (count,))

        if not np.isfinite(vectors).all():
            first = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            which = "" if single else f"observation {first} of {count}: "
            raise UnfitEnvError(f"its observation is not finite in float32: {which}{self.not_finite(vectors[first])}")
        return vectors, single

    def not_finite(self, vector: Floats) -> str:
        """The first number of a vector that is not finite: "nan at index 3 (velocity)"; "" where all are."""
        broken = np.flatnonzero(~np.isfinite(vector))
        return f"{vector[broken[0]]} at {name_of_index(self._fields, int(broken[0]))}" if len(broken) else ""


def _part(space: Space[Any], path: str) -> "_Entries | _Numbers":
    """What reads a space, or a part of one."""
    inner = inner_spaces(space)
    if inner is not None:
        return _Entries(space, path, [(key, _part(entry, path_to(path, key))) for key, entry in inner])
    if isinstance(space, Box):
        return _Numbers(space, path) if space.dtype.kind == "f" else _WholeNumbers(space, path)
    if isinstance(space, MultiBinary):
        return _WholeNumbers(space, path)
    return _Choices(space, path)


def _named(path: str) -> str:
    return f"its observation {path!r}" if path else "its observation"


class _Entries:
    """Reads a Dict or a Tuple, one entry after the other.

    Args:
        space: the Dict or Tuple.
        path: its own path.
        entries: key of each entry, and what reads it.
    """

    def __init__(self, space: Space[Any], path: str, entries: "list[tuple[Any, _Entries | _Numbers]]") -> None:
        self._is_dict = isinstance(space, Dict)
        self._path = path
        self._entries = entries

    def batch_size(self, obs: Any) -> int | None:
        """N where the first number of all belongs to one of N observations; None: there is one, or none that fits."""
        key, part = self._entries[0]
        fits = isinstance(obs, Mapping) and key in obs if self._is_dict else isinstance(obs, tuple | list) and obs
        return part.batch_size(obs[key]) if fits else None

    def read(self, obs: Any, batch: tuple[int, ...] = ()) -> Floats:
        """All entries side by side, (*batch, n)."""
        if self._is_dict:
            self._require_keys(obs)
        elif not isinstance(obs, tuple | list) or len(obs) != len(self._entries):
            raise UnfitEnvError(
                f"{_named(self._path)} is {_described(obs)}, but its space is a tuple of {len(self._entries)}"
            )
        return np.concatenate([part.read(obs[key], batch) for key, part in self._entries], axis=-1)

    def _require_keys(self, obs: Any) -> None:
        """Keys that the space does not have are not looked at."""
        keys = [key for key, _ in self._entries]
        if not isinstance(obs, Mapping):
            raise UnfitEnvError(f"{_named(self._path)} is {_described(obs)}, but its space is a dict of {keys}")
        for key in keys:
            if key not in obs:
                raise UnfitEnvError(f"{_named(self._path)} has no key {key!r}, which its space has; it has {list(obs)}")


class _Numbers:
    """Reads a Box of floats.

    Args:
        space: the Box.
        path: its path in a Dict or Tuple.
    """

    def __init__(self, space: Space[Any], path: str) -> None:
        self.space = space
        self.named = _named(path)
        self.allowed = f"but its space {one_line(space)}"
        self.shape = space.shape or ()
        self.count = int(np.prod(self.shape, dtype=np.int64))
        self.dtype = np.dtype(space.dtype)

    def batch_size(self, value: Any) -> int | None:
        """N where the value has one dimension more than the space."""
        try:
            more = np.ndim(value) > len(self.shape)
        except Exception:  # lists of different lengths, which reading refuses
            return None
        return len(value) if more else None

    def read(self, value: Any, batch: tuple[int, ...] = ()) -> Floats:
        """The numbers, (*batch, n)."""
        array = self._checked(value, batch)
        if array.dtype == np.float32 == self.dtype:
            return np.array(array).reshape(*batch, self.count)

        # Converted in two steps, as Gymnasium does: a Box of float16 holds what a float16 holds. What is too large
        # becomes infinite, which whoever asks for finite numbers refuses: numpy need not warn of it.
        with np.errstate(over="ignore"):
            return np.array(np.asarray(array, self.dtype), np.float32).reshape(*batch, self.count)

    def _checked(self, value: Any, batch: tuple[int, ...]) -> NDArray[Any]:
        """The value as an array of the space's shape, after those of the batch."""
        array = value if type(value) is np.ndarray else self._as_array(value)
        if array.dtype.kind not in NUMBERS:
            raise UnfitEnvError(f"{self.named} is {_described(value)}, {self.allowed} takes numbers")

        shape = (*batch, *self.shape)
        if array.shape != shape:
            # There is only one way to read a single number.
            if not (self.count == 1 and array.shape[: len(batch)] == batch and array.size == math.prod(batch)):
                needed = f"{shape}, for a batch of {batch[0]}" if batch else f"{shape}"
                raise UnfitEnvError(f"{self.named} has the shape {array.shape}, {self.allowed} has {needed}")
            array = array.reshape(shape)
        return array

    def _as_array(self, value: Any) -> NDArray[Any]:
        try:
            return np.asarray(value)
        except Exception as error:  # lists of different lengths, a tensor on a GPU or with a gradient
            reason = " ".join(str(error).split())
            raise UnfitEnvError(
                f"{self.named} is {_described(value)}, {self.allowed} takes an array of numbers: {reason}"
            ) from None


class _WholeNumbers(_Numbers):
    """Reads a space of whole numbers: a Box of integers, an image, MultiBinary.

    Args:
        space: as above.
        path: its path in a Dict or Tuple.
    """

    def __init__(self, space: Space[Any], path: str) -> None:
        super().__init__(space, path)
        self.low, self.high = (np.asarray(bound) for bound in _bounds(space))

        # Then the dtype says it all.
        limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" else None
        self._holds_all = bool(limits and (self.low <= limits.min).all() and (self.high >= limits.max).all())

    def _checked(self, value: Any, batch: tuple[int, ...]) -> NDArray[Any]:
        """Refuses fractions, and numbers outside the space."""
        array = super()._checked(value, batch)
        if self._holds_all and array.dtype == self.dtype:
            return array

        if array.dtype.kind == "f":
            broken = np.floor(array) != array  # also where it is not a number
            if broken.any():
                self._refuse(array, broken)
        outside = (array < self.low) | (array > self.high)
        if outside.any():
            self._refuse(array, outside)
        return array

    def _refuse(self, array: NDArray[Any], broken: NDArray[np.bool_]) -> None:
        place = tuple(int(index) for index in np.argwhere(broken)[0])
        low, high = (int(np.broadcast_to(bound, array.shape)[place]) for bound in (self.low, self.high))
        seen = f"holds {array[place]} at {list(place)}" if place else f"is {array[place]}"
        range_ = f"whole numbers from {low} to {high}" + (" there" if place else "")

        looks_scaled = self.dtype == np.uint8 and array.dtype.kind == "f" and 0 <= array.min() <= array.max() <= 1
        hint = "; multiply by 255 and round, or declare a Box of floats" if looks_scaled else ""
        raise UnfitEnvError(f"{self.named} {seen}, {self.allowed} takes {range_}{hint}")


class _Choices(_WholeNumbers):
    """Reads Discrete and MultiDiscrete: each choice becomes a one, among a zero for each other choice.

    Args:
        space: as above.
        path: its path in a Dict or Tuple.
    """

    def __init__(self, space: Space[Any], path: str) -> None:
        super().__init__(space, path)
        counts = np.asarray(space.n if isinstance(space, Discrete) else space.nvec).reshape(-1)  # type: ignore[attr-defined]
        self._num_places = int(counts.sum())
        self._first_places = np.cumsum(counts) - counts - self.low.reshape(-1)

    def read(self, value: Any, batch: tuple[int, ...] = ()) -> Floats:
        """A number for each choice, (*batch, n)."""
        places = self._first_places + self._checked(value, batch).reshape(*batch, self.count)
        one_hot = np.zeros((*batch, self._num_places), np.float32)
        np.put_along_axis(one_hot, places.astype(np.int64), 1, axis=-1)
        return one_hot


def _bounds(space: Space[Any]) -> tuple[Any, Any]:
    """Lowest and highest number of a space of whole numbers."""
    match space:
        case Box():
            return space.low, space.high
        case Discrete():
            return space.start, space.start + space.n - 1
        case MultiDiscrete():
            return space.start, space.start + space.nvec - 1
    return 0, 1


def _described(value: Any) -> str:
    """What something is, shortly."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}, shape {value.shape}"
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return f"a dict of {list(value)}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"
