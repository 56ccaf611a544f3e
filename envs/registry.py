"""Names of environments → TaskDistribution: the registered families, YAML files and the user's own modules."""

import difflib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import BuiltinFunctionType

from metarl.envs.external.yaml_file import from_yaml, modules_of_yaml
from metarl.envs.families import (
    acrobot,
    ant,
    bandit,
    cart_pole,
    dark_key_door,
    driving,
    frozen_lake,
    grid_navigation,
    half_cheetah,
    highway,
    hopper_walker2d,
    humanoid,
    maze,
    metaworld,
    minigrid,
    mountain_car,
    navigation,
    pendulum,
    tabular_mdp,
)
from metarl.envs.family_entry import Family
from metarl.envs.task_distribution import TaskDistribution

MODULES = (
    navigation,
    cart_pole,
    pendulum,
    mountain_car,
    acrobot,
    driving,
    bandit,
    tabular_mdp,
    grid_navigation,
    dark_key_door,
    maze,
    half_cheetah,
    ant,
    humanoid,
    hopper_walker2d,
    frozen_lake,
    highway,
    minigrid,
    metaworld,
)
"""The files of families, in the order in which `metarl envs` lists them; each ends in a tuple FAMILIES."""

FAMILIES: dict[str, Family] = {family.name: family for module in MODULES for family in module.FAMILIES}
"""Name → entry."""

ALIASES: dict[str, str] = {family.alias: family.name for family in FAMILIES.values() if family.alias}
"""Other names → the names that they stand for."""


def make_distribution(name: str, action_scale: float | None = None) -> TaskDistribution:
    """Build a distribution by its registered name, from a YAML file, or from the user's own "package.module:Attribute".

    Args:
        name: as `_make_by_name` takes it.
        action_scale: span of actions where a Box has no bounds; None leaves it as it is.

    Raises:
        ValueError: see `_make_by_name`.
    """
    distribution = _make_by_name(name)
    if action_scale is not None:
        distribution.env.set_action_scale(action_scale)
    return distribution


def _make_by_name(name: str) -> TaskDistribution:
    """Build a distribution by its registered name, from a YAML file, or from the user's own "package.module:Attribute".

    The attribute is a TaskDistribution, or a class or function that gives one when called without arguments. A name
    that ends in .yaml is a file for `metarl.envs.external.yaml_file.from_yaml`.

    Raises:
        ValueError: unknown name, module that cannot be imported, an attribute that is no TaskDistribution, a malformed
            file, or a package that is not installed.
    """
    if is_env_file(name):
        return from_yaml(name)

    if ":" in name:
        distribution = _load_from_module(name)
        distribution.name = name
        return distribution

    family = FAMILIES.get(ALIASES.get(name, name))
    if family is None:
        raise ValueError(
            f"unknown environment {name!r}{did_you_mean(name, FAMILIES)}; known are {', '.join(FAMILIES)}, "
            "and your own as 'package.module:MyDistribution'"
        )

    distribution = family.make()
    distribution.name = family.name
    return distribution


def modules_named_by(name: str) -> list[str]:
    """The modules of the user's own that `make_distribution` would import; imports nothing.

    Raises:
        ValueError: a YAML file that cannot be read.
    """
    if is_env_file(name):
        return modules_of_yaml(name)
    return [name.partition(":")[0]] if ":" in name else []


def is_env_file(name: str) -> bool:
    """Whether it is the name of a YAML file rather than of an environment."""
    return name.endswith((".yaml", ".yml"))


def is_registered(name: str) -> bool:
    """Whether it is the name of a family of this project."""
    return ALIASES.get(name, name) in FAMILIES


def env_label(name: str) -> str:
    """How an environment is called in titles: a file by its name alone."""
    return Path(name).name if is_env_file(name) else name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)' where a known name is near, else ''."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _load_from_module(name: str) -> TaskDistribution:
    """The distribution that "package.module:Attribute" names; see `make_distribution`."""
    module_name, _, attribute = name.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"environment {name!r}: {module_name!r} is Python's own, and defines no environment")
    try:
        module = importlib.import_module(module_name)
    # A module of the user's own may fail with anything while it is imported.
    except Exception as error:
        raise ValueError(
            f"environment {name!r}: cannot import module {module_name!r}: {type(error).__name__}: {error}"
        ) from error

    target = getattr(module, attribute, None)
    if target is None:
        raise ValueError(f"environment {name!r}: module {module_name!r} has no attribute {attribute!r}")
    if isinstance(target, TaskDistribution):
        return target

    # Whatever else can be called does something, but makes no environment.
    made: object = None
    is_other_class = isinstance(target, type) and not issubclass(target, TaskDistribution)
    if callable(target) and not is_other_class and not isinstance(target, BuiltinFunctionType):
        try:
            made = target()
        except Exception as error:
            raise ValueError(f"environment {name!r}: {type(error).__name__}: {error}") from error

    if not isinstance(made, TaskDistribution):
        raise ValueError(f"environment {name!r}: {attribute!r} is not a TaskDistribution and does not make one")
    return made
