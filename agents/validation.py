"""Checks of configurations that several dataclasses share."""

import dataclasses
import math
import typing
from typing import Any, Literal


def check_values(config: Any) -> None:
    """Check what the field types of a dataclass promise: a Literal's choices, and numbers that are finite.

    Raises:
        ValueError: names the field, its value and what is allowed.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            raise ValueError(f"{field.name} must be one of {typing.get_args(hint)}, got {value!r}")
        if hint is float and not math.isfinite(value):
            raise ValueError(f"{field.name} must be finite, got {value}")
