"""Flags in boxes: the nested form of a flat configuration that the parser shows as groups."""

import dataclasses
import functools
import typing
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import tyro

from metarl.console import plain_help


class FlagsInGroups:
    """What `flags_in_groups` makes; becomes the command as soon as it is filled in.

    Attributes:
        command: the same values as the command's own dataclass, whose checks have passed.
    """

    defaults: ClassVar[Any]
    command: Any

    def __post_init__(self) -> None:
        """Build the command."""
        # What the parser filled in, without the boxes.
        values = dict(vars(self))
        for group in self.defaults.groups:
            values.update(vars(values.pop(group)))
        values["learner"] = type(self.defaults.learner)(**vars(values["learner"]))
        self.command = type(self.defaults)(**values)


@functools.lru_cache(maxsize=64)  # the parser looks for help texts in the source of every new class
def flags_in_groups(defaults: Any) -> type[FlagsInGroups]:
    """A dataclass from which the parser makes the flags of `metarl train`, each group in a box of its own.

    `TrainConfig` is flat, as its YAML is; the parser shows the fields of a nested dataclass in a box. So the nested
    form is made here from the flat one: names, types, help texts and defaults are those of the command.

    Args:
        defaults: the command with the default values, and with the learner's configuration. Its `groups` are the boxes,
            each with the fields whose flags it shows.
    """
    boxes: list[tuple[str, Any, Any]] = []
    for name, fields in defaults.groups.items():
        box = _box(name, defaults, fields)
        without_heading = tyro.conf.arg(help="")
        boxes.append((name, Annotated[box, without_heading], dataclasses.field(default=box())))

    own_fields = [field.name for field in dataclasses.fields(defaults.learner)]
    learner = _box("learner", defaults.learner, own_fields)
    boxes.append(("learner", learner, dataclasses.field(default=learner())))

    positional = _fields_of(defaults, ("agent", "env"))
    names = {"__doc__": type(defaults).__doc__, "defaults": defaults}
    bases: tuple[type, ...] = (FlagsInGroups, *_help_texts(type(defaults)))
    return dataclasses.make_dataclass(type(defaults).__name__, [*positional, *boxes], bases=bases, namespace=names)


def _box(name: str, defaults: Any, fields: Iterable[str]) -> type[Any]:
    """A dataclass with some of the fields of another one."""
    columns = []
    for field, hint, value in _fields_of(defaults, fields):
        if dataclasses.is_dataclass(value.default):
            # Its own box is titled 'trust region' instead of 'learner.trust-region'.
            hint = Annotated[hint, tyro.conf.arg(name=field.replace("_", " "), prefix_name=False)]
        columns.append((field, hint, value))
    return dataclasses.make_dataclass(name, columns, bases=_help_texts(type(defaults)), frozen=True)


def _fields_of(defaults: Any, fields: Iterable[str]) -> list[tuple[str, Any, Any]]:
    """Name, type and default value of some fields of a dataclass, as `make_dataclass` takes them."""
    hints = typing.get_type_hints(type(defaults), include_extras=True)
    values = {name: getattr(defaults, name) for name in fields}
    return [(name, plain_help(hints[name], value), dataclasses.field(default=value)) for name, value in values.items()]


def _help_texts(config_class: type[Any]) -> tuple[type[Any], ...]:
    """Classes to inherit from that have nothing but the docstrings in which the parser looks for help texts."""
    return tuple(type("Help", (), {"__doc__": base.__doc__}) for base in config_class.__mro__ if base is not object)
