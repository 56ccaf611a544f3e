"""Reads a GymnasiumTasks distribution from a YAML file: `from_yaml`."""

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from metarl.envs.external.env_spec import Arguments, InConfig, MakeKeywords, SetTask
from metarl.envs.external.gymnasium_tasks import ONE_PER_CORE, GymnasiumTasks, whole_parameters
from metarl.envs.external.worker_pool import one_line
from metarl.envs.task_space import Choice, Integers, LogUniform, Normal, Range, Uniform

_RANGES: dict[str, Callable[..., Range]] = {
    "uniform": lambda low, high, units: Uniform(low, high, units),
    "log_uniform": lambda low, high, units: LogUniform(low, high, units),
    "normal": lambda mean, std, units: Normal(mean, std, units),
    "integers": lambda low, high, units: Integers(low, high, units),
    "choice": lambda *values, units: Choice(values, units),
}
_KEYS = {"env_id", "task", "horizon", "num_workers", "make", "set_task", "seed_parameter", "config", "keywords"}


def from_yaml(path: str | Path) -> GymnasiumTasks:
    """Read a distribution from a YAML file.

    Two keys are required:
        env_id: id for `gymnasium.make`; "module:id" imports the module first.
        task: parameter → {range: values, units: text, ood: {range: values}}, with the ranges uniform, log_uniform,
            normal, integers and choice; units and ood may be left out.

    The others are optional:
        horizon: steps after which an episode is truncated.
        num_workers: processes that step the environments; 0 = this one.
        make: arguments of `gymnasium.make` for every task.
        config: names of the parameters that go into an argument "config", a dict; its other entries stand under
            `make`.
        seed_parameter: name of the parameter that seeds every reset.
        set_task: "package.module:function", which writes a task into the live environment.
        keywords: names of the parameters that are arguments themselves; by default all others, or none where there is
            a `set_task`.

    Raises:
        ValueError: the file is missing or malformed, or the environment does not take what it says; names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None

    try:
        distribution = _from_data(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {one_line(error)}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error

    # Copies of one file are one environment, wherever they lie.
    distribution.name = f"{Path(path).name}:{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return distribution


def _from_data(data: Any) -> GymnasiumTasks:
    """The distribution that the contents of a file describe."""
    _check_keys(data)
    train, ood = _ranges(data["task"])
    fixed = data.get("make") or {}
    if not isinstance(fixed, dict):
        raise ValueError(f"make must be a mapping of arguments, got {fixed!r}")

    return GymnasiumTasks(
        data["env_id"],
        train,
        ood,
        horizon=_horizon(data),
        keywords=_keywords(data, train, fixed),
        set_task=_set_task(data["set_task"]) if data.get("set_task") else None,
        seed_parameter=data.get("seed_parameter", ""),
        fixed=fixed,
        num_workers=_num_workers(data),
    )


def _check_keys(data: Any) -> None:
    """Refuse a file without the required keys, or with unknown ones."""
    if not isinstance(data, dict) or not {"env_id", "task"} <= set(data):
        raise ValueError("needs at least the keys env_id and task")
    unknown = sorted(set(map(str, data)) - _KEYS)
    if unknown:
        raise ValueError(f"unknown keys {', '.join(unknown)}; allowed are {', '.join(sorted(_KEYS))}")

    if not isinstance(data["task"], dict) or not data["task"]:
        raise ValueError("task needs at least one parameter with its range")
    if not isinstance(data["env_id"], str):
        raise ValueError(f"env_id must be text, got {data['env_id']!r}")


def _horizon(data: dict[str, Any]) -> int | None:
    horizon = data.get("horizon")
    if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
        raise ValueError(f"horizon must be a whole number of at least 1, got {horizon!r}")
    return horizon


def _num_workers(data: dict[str, Any]) -> int:
    num_workers = data.get("num_workers", ONE_PER_CORE)
    if not isinstance(num_workers, int) or num_workers < ONE_PER_CORE:
        raise ValueError(f"num_workers must be a whole number of at least 0, got {num_workers!r}")
    return num_workers


def _ranges(task: dict[str, Any]) -> tuple[dict[str, Range], dict[str, Range]]:
    """Ranges of the task parameters in training, and those outside training of the parameters that have any."""
    train: dict[str, Range] = {}
    ood: dict[str, Range] = {}
    for name, entry in task.items():
        train[name] = _range(name, entry)
        if "ood" in entry:
            ood[name] = _range(f"{name}.ood", entry["ood"], train[name].units)
    return train, ood


def _range(name: str, entry: Any, units: str = "") -> Range:
    """One range; `units` where the entry names none."""
    known = ", ".join(_RANGES)
    if not isinstance(entry, dict):
        raise ValueError(f"task parameter {name!r} needs a range, one of {known}, got {entry!r}")

    kinds = [key for key in entry if key in _RANGES]
    unknown = sorted(set(map(str, entry)) - {*_RANGES, "units", "ood"})
    if len(kinds) != 1 or unknown:
        raise ValueError(f"task parameter {name!r} needs one range of {known}, and may have units and ood, got {entry}")

    kind = kinds[0]
    try:
        return _RANGES[kind](*entry[kind], units=str(entry.get("units", units)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"task parameter {name!r}: {kind} cannot be {entry[kind]!r}: {error}") from None


def _keywords(data: dict[str, Any], train: Mapping[str, Range], fixed: dict[str, Any]) -> MakeKeywords | None:
    """How task parameters become arguments of `gymnasium.make`; None where none of them does."""
    in_config = _names(data, "config", train, default=[])
    rest = [name for name in train if name not in in_config and name != data.get("seed_parameter")]
    as_arguments = _names(data, "keywords", train, default=[] if data.get("set_task") else rest)
    whole = whole_parameters(train)

    if in_config:
        return InConfig(in_config, as_arguments, whole, fixed.get("config", {}))
    if as_arguments:
        return Arguments(as_arguments, whole)
    return None


def _names(data: dict[str, Any], key: str, train: Mapping[str, Range], default: list[str]) -> tuple[str, ...]:
    """Task parameters that a key of the file names."""
    names = data.get(key, default)
    unknown = sorted(set(map(str, names)) - set(train)) if isinstance(names, list) else [str(names)]
    if unknown:
        raise ValueError(f"{key} names {', '.join(unknown)}, but the task parameters are {', '.join(train)}")
    return tuple(names)


def _set_task(name: str) -> SetTask:
    """The user's own function "package.module:function"."""
    module, _, attribute = str(name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"set_task {name!r}: {error}") from error

    if not callable(found):
        raise ValueError(f"set_task {name!r} is not callable")
    return found  # type: ignore[no-any-return]
