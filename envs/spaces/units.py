"""Units of the numbers that are observed; Gymnasium has no place for them, so whoever knows them says so."""

from collections.abc import Mapping
from typing import Any

from gymnasium.spaces import Box, Space

from metarl.envs.spaces.fields import parts_of

Units = str | list[str] | tuple[str, ...] | Mapping[str, str | list[str] | tuple[str, ...]] | None
"""As a user writes them: of all observations, or field → unit; a list has one unit for each number."""


def units_of_fields(units: Units, space: Space[Any]) -> dict[str, str]:
    """Unit of each field that has one, in words: "m", or "m, m/s" where its numbers have a unit each.

    Args:
        units: a text is the unit of all numbers, a list has one for each. Where observations are a Dict or a Tuple, a
            mapping from the path of a field ("arm.joints") to these; None: nothing is stated.
        space: what is observed, before it is flattened.

    Raises:
        ValueError: there is no such field, or a list has not as many units as the field has numbers.
    """
    if units is None:
        return {}
    parts = dict(parts_of(space))
    named = units if isinstance(units, Mapping) else {"": units}

    stated = {}
    for name, unit in named.items():
        if name not in parts:
            raise ValueError(f"units: {_no_such_field(name, list(parts))}")
        text = _text(unit, name, parts[name])
        if text:
            stated[str(name)] = text
    return stated


def units_that_fit(units: Any, space: Space[Any]) -> dict[str, str]:
    """The same of what may be no units at all: an attribute called so in somebody's environment; {} where it is not."""
    if not isinstance(units, str | list | tuple | Mapping):
        return {}
    try:
        return units_of_fields(units, space)
    except ValueError:
        return {}


def _text(unit: Any, name: str, space: Space[Any]) -> str:
    """The unit of one field in words."""
    if isinstance(unit, str):
        return unit
    of = f" of {name!r}" if name else ""
    if not isinstance(unit, list | tuple) or not all(isinstance(text, str) for text in unit):
        raise ValueError(f"units{of} must be a text, or a list with one text for each number, got {unit!r}")

    count = 1
    for length in space.shape or ():
        count *= length
    if not isinstance(space, Box):
        raise ValueError(f"units{of} must be a text, since it is a {type(space).__name__} and no Box, got {unit!r}")
    if len(unit) != count:
        raise ValueError(f"units{of} must be a text or a list of {count}, one for each number, got {len(unit)}")
    return ", ".join(text or "–" for text in unit) if any(unit) else ""


def _no_such_field(name: Any, paths: list[str]) -> str:
    if paths == [""]:
        return f"observations have no field {name!r}: they are one; give a text, or a list with one for each number"
    if name == "":
        return f"observations have the fields {', '.join(paths)}: give a mapping from these to units"
    return f"there is no field {name!r} in the observations; there are {', '.join(paths)}"
