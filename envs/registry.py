"""Names of environments → TaskDistribution: the registered families, YAML files and the user's own modules.

A name says all that an environment is made of. Options that are not the default ones stand behind an "@", as in
`point-navigation/finn@horizon=50`: so they go wherever the name goes, into a run's configuration, the label of a
report, a comparison, or a process that builds the environment anew.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

from metarl.envs.external.yaml_file import from_yaml, modules_of_yaml
from metarl.envs.families import bandit, driving, highway, navigation, tabular_mdp
from metarl.envs.families.control import acrobot, cart_pole, mountain_car, pendulum
from metarl.envs.families.games import dark_key_door, frozen_lake, grid_navigation, maze, minigrid
from metarl.envs.families.robots import ant, half_cheetah, hopper_walker2d, humanoid, metaworld
from metarl.envs.family_entry import Family, did_you_mean, options_of, read_options
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

OPTIONS_SIGN = "@"
"""Between a name and its options."""

NO_OPTIONS_OF_FILES = "{} has no options: an environment's file holds its own settings; change them there"

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
    that ends in .yaml is a file for `metarl.envs.external.yaml_file.from_yaml`. Options may follow behind an "@".

    Raises:
        ValueError: unknown name, module that cannot be imported, an attribute that is no TaskDistribution, a malformed
            file, a package that is not installed, or options that are not allowed.
    """
    if is_env_file(name):
        return from_yaml(name)

    base, options = split_options(name)
    distribution = _load_from_module(base, options) if ":" in base else _family(base).make(options)
    distribution.name = with_options(ALIASES.get(base, base), options)
    return distribution


def _family(name: str) -> Family:
    """The entry of a registered name.

    Raises:
        ValueError: there is none.
    """
    family = FAMILIES.get(ALIASES.get(name, name))
    if family is None:
        raise ValueError(
            f"unknown environment {name!r}{did_you_mean(name, FAMILIES)}; known are {', '.join(FAMILIES)}, "
            "and your own as 'package.module:MyDistribution'"
        )
    return family


# ---------------------------------------------------------------------- options


def split_options(name: str) -> tuple[str, dict[str, str]]:
    """A name without its options, and these: option → text.

    Raises:
        ValueError: what follows the "@" is no list such as "horizon=50,size=3".
    """
    base, sign, text = name.partition(OPTIONS_SIGN)
    if is_env_file(name) or not sign:
        return name, {}

    if is_env_file(base):
        raise ValueError(NO_OPTIONS_OF_FILES.format(base))
    options: dict[str, str] = {}
    for item in text.split(","):
        option, equals, value = item.partition("=")
        if not (option and equals and value) or option in options:
            raise ValueError(f"environment {name!r}: options are written as in 'cart-pole@horizon=50', not {item!r}")
        options[option] = value
    return base, options


def base_name(name: str) -> str:
    """A name without its options."""
    return name if is_env_file(name) else name.partition(OPTIONS_SIGN)[0]


def with_options(name: str, options: Mapping[str, object]) -> str:
    """The name of an environment with further options; those that are as by default are left out.

    Args:
        name: as `make_distribution` takes it.
        options: option → value, or its text; in place of those in the name.

    Raises:
        ValueError: an unknown option or environment, or a value that is not allowed; the message says what is.
    """
    base, before = split_options(name)
    given: dict[str, object] = {**before, **options}
    if not given:
        return name
    if is_env_file(base):
        raise ValueError(NO_OPTIONS_OF_FILES.format(base))

    make: Callable[..., object] = _attribute_of_module(base) if ":" in base else _family(base).factory
    if not callable(make):
        raise ValueError(f"{base} has no options: it is a TaskDistribution already, not what makes one")
    read = read_options(base, make, given)
    known = options_of(make)

    # In the order of the signature, so that one environment has one name.
    changed = [
        f"{key}={option.write(read[key])}"
        for key, option in known.items()
        if key in read and read[key] != option.default
    ]
    for item in changed:
        if any(sign in item for sign in (",", OPTIONS_SIGN)) or not item.isprintable():
            raise ValueError(f"option of {base}: a value must not contain ',' or {OPTIONS_SIGN!r}, got {item!r}")
    return f"{base}{OPTIONS_SIGN}{','.join(changed)}" if changed else base


_HORIZON = re.compile(r"\bH = [0-9,]+")
"""In the summary of a family."""


def summary_of(name: str) -> str:
    """A line on a family of this project and its options; "" for environments of others."""
    base, options = split_options(name)
    if not is_registered(base):
        return ""
    summary = _family(base).summary

    # A summary says how long the episodes are, unless it is told otherwise.
    if "horizon" in options and _HORIZON.search(summary):
        summary = _HORIZON.sub(f"H = {options['horizon']}", summary)
        options = {option: value for option, value in options.items() if option != "horizon"}

    changed = " and ".join(f"{option} = {value}" for option, value in options.items())
    return f"{summary} Here with {changed}." if changed else summary


def modules_named_by(name: str) -> list[str]:
    """The modules of the user's own that `make_distribution` would import; imports nothing.

    Raises:
        ValueError: a YAML file that cannot be read.
    """
    if is_env_file(name):
        return modules_of_yaml(name)
    return [name.partition(":")[0]] if ":" in base_name(name) else []


def is_env_file(name: str) -> bool:
    """Whether it is the name of a YAML file rather than of an environment."""
    return name.endswith((".yaml", ".yml"))


def is_registered(name: str) -> bool:
    """Whether it is the name of a family of this project, with options or without."""
    base = base_name(name)
    return ALIASES.get(base, base) in FAMILIES


def env_label(name: str) -> str:
    """How an environment is called in titles: a file by its name alone."""
    return Path(name).name if is_env_file(name) else name


def _attribute_of_module(name: str) -> Any:
    """What "package.module:Attribute" names.

    Raises:
        ValueError: see `make_distribution`.
    """
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
    return target


def _load_from_module(name: str, options: Mapping[str, str]) -> TaskDistribution:
    """The distribution that "package.module:Attribute" names; see `make_distribution`."""
    target = _attribute_of_module(name)
    if isinstance(target, TaskDistribution):
        return target

    # Whatever else can be called does something, but makes no environment.
    made: object = None
    is_other_class = isinstance(target, type) and not issubclass(target, TaskDistribution)
    if callable(target) and not is_other_class and not isinstance(target, BuiltinFunctionType):
        arguments = read_options(name, target, options)
        try:
            made = target(**arguments)
        except Exception as error:
            raise ValueError(f"environment {name!r}: {type(error).__name__}: {error}") from error

    if not isinstance(made, TaskDistribution):
        raise ValueError(
            f"environment {name!r}: {name.partition(':')[2]!r} is not a TaskDistribution and does not make one"
        )
    return made
