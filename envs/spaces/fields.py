"""The parts of an observation space, and where each stands in the vector that a policy sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium.spaces import Dict, Discrete, Space, Tuple
from gymnasium.spaces.utils import flatdim


@dataclass(frozen=True)
class Field:
    """A part of the observations, in the vector that a policy sees.

    Attributes:
        name: path in a Dict or Tuple, as in "arm.0"; "" where the observation is one part.
        start: its first index.
        stop: the index after its last.
        space: its own space.
        unit: of its numbers, in words; "" where nobody has stated it.
    """

    name: str
    start: int
    stop: int
    space: str
    unit: str = ""

    @property
    def indices(self) -> str:
        """One index, or the first and the last: "3 … 5"."""
        return str(self.start) if self.stop - self.start == 1 else f"{self.start} … {self.stop - 1}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "start": self.start, "stop": self.stop, "space": self.space, "unit": self.unit}


def fields_of(space: Space[Any], units: Mapping[str, str] | None = None) -> list[Field]:
    """The parts of an observation space in the order in which they are flattened.

    Args:
        space: what is observed.
        units: path of a part → its unit, as `metarl.envs.spaces.units` reads them.
    """
    fields: list[Field] = []
    start = 0
    for name, part in parts_of(space):
        one_hot = ", one number for each choice" if isinstance(part, Discrete) else ""
        stop = start + flatdim(part)
        fields.append(Field(name, start, stop, f"{one_line(part)}{one_hot}", (units or {}).get(name, "")))
        start = stop
    return fields


def parts_of(space: Space[Any], path: str = "") -> list[tuple[str, Space[Any]]]:
    """The leaves of nested Dict and Tuple spaces, each with its path, as in "arm.joints.0"."""
    inner = inner_spaces(space)
    if inner is None:
        return [(path, space)]

    parts = []
    for key, part in inner:
        parts += parts_of(part, path_to(path, key))
    return parts


def inner_spaces(space: Space[Any]) -> list[tuple[Any, Space[Any]]] | None:
    """Key and space of each entry of a Dict or Tuple; None for any other space."""
    if isinstance(space, Dict):
        return list(space.spaces.items())
    if isinstance(space, Tuple):
        return list(enumerate(space.spaces))
    return None


def path_to(path: str, key: Any) -> str:
    """The path of an entry."""
    return f"{path}.{key}" if path else str(key)


def name_of_index(fields: Sequence[Field], index: int) -> str:
    """How an index of the observations is called: "index 3", or "index 3 (velocity)"."""
    name = next((field.name for field in fields if field.start <= index < field.stop), "")
    return f"index {index} ({name})" if name else f"index {index}"


def one_line(space: Space[Any]) -> str:
    """A space in one line; Gymnasium writes the bounds of large boxes over several."""
    return " ".join(str(space).split())
