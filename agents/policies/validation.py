"""Checks of configurations that several dataclasses share."""

import dataclasses
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

LARGEST = 1e30
"""Of a setting: far from the largest number of a float32, so that its products with others are numbers, too."""


def check_values(
    config: Any,
    at_least_one: Sequence[str] = (),
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    probabilities: Sequence[str] = (),
) -> None:
    """Check what the field types of a dataclass promise, a Literal's choices and finite numbers, and ranges.

    Args:
        config: the dataclass.
        at_least_one: fields that must be 1 or more.
        positive: fields that must be above 0.
        not_negative: fields that must be 0 or more.
        probabilities: fields that must lie between 0 and 1.

    Raises:
        ValueError: names the field, its value and what is allowed.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        hint = hints[field.name]
        if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            raise ValueError(f"{field.name} must be one of {typing.get_args(hint)}, got {value!r}")
        if hint is float and not math.isfinite(value):
            raise ValueError(f"{field.name} must be finite, got {value}")
        if hint is float and abs(value) > LARGEST:
            raise ValueError(f"{field.name} must lie within ±{LARGEST:g}, got {value}")
        # A factor above 1 makes a rate that soon no number can hold.
        if field.name.endswith("_decay") and value > 1:
            raise ValueError(f"{field.name} must be at most 1, got {value}")

    rules: list[tuple[Sequence[str], Callable[[Any], bool], str]] = [
        (at_least_one, lambda value: value >= 1, "be at least 1"),
        (positive, lambda value: value > 0, "be positive"),
        (not_negative, lambda value: value >= 0, "not be negative"),
        (probabilities, lambda value: 0 <= value <= 1, "be between 0 and 1"),
    ]
    for names, holds, what in rules:
        for name in names:
            if not holds(getattr(config, name)):
                raise ValueError(f"{name} must {what}, got {getattr(config, name)}")
