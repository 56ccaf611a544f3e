"""Reads a GymnasiumTasks distribution from a YAML file: `from_yaml`."""

import hashlib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
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
    "integers": lambda low, high, units: Integers(_whole(low), _whole(high), units),
    "choice": lambda *values, units: Choice(values, units),
}
_WANTED = {
    "uniform": "two numbers [low, high]",
    "log_uniform": "two numbers [low, high]",
    "normal": "two numbers [mean, std]",
    "integers": "two whole numbers [low, high]",
    "choice": "a list of numbers, or of lists of numbers",
}
_KEYS = {
    "env_id",
    "task",
    "horizon",
    "num_workers",
    "make",
    "set_task",
    "seed_parameter",
    "config",
    "keywords",
    "observe",
    "allow_running_statistics",
    "units",
}


class UniqueKeysLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that comes twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping, unless one of its keys comes twice: the first value would be lost."""
        names = [str(key.value) for key, _ in node.value]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"the key {repeated[0]!r} comes twice (line {node.start_mark.line + 1} and below)")
        return super().construct_mapping(node, deep)


class _Loader(UniqueKeysLoader):
    """Reads numbers as YAML 1.2 does: 1e-3 is one; 1:30 (90, of base 60) and 010 (8, of base 8) are text."""


def _numbers_of_yaml_1_2() -> None:
    """Take the loader's own patterns of numbers, those of YAML 1.1, out, and put others in."""
    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    others = {}
    for first, resolvers in _Loader.yaml_implicit_resolvers.items():
        others[first] = [(tag, pattern) for tag, pattern in resolvers if tag not in numbers]
    _Loader.yaml_implicit_resolvers = others

    whole = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$")
    with_exponent = r"(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+"
    with_point = r"\d[\d_]*\.\d*|\.\d+"
    other = re.compile(rf"[-+]?({with_exponent}|{with_point}|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$")
    for tag, pattern in zip(numbers, (whole, other), strict=True):
        _Loader.add_implicit_resolver(tag, pattern, list("-+.0123456789"))


_numbers_of_yaml_1_2()


class _UnquotedNone(str):
    """None without quotes: text in YAML, which hardly anyone means who writes Python."""


_Loader.add_implicit_resolver("!None", re.compile("None$"), ["N"])
_Loader.add_constructor("!None", lambda loader, node: _UnquotedNone(node.value))


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
        observe: keys of a Dict that are observed; by default all.
        allow_running_statistics: true lets a wrapper normalise observations by statistics of what it has seen.
        units: of the observations: a text, a list with one for each number, or field → these.

    Raises:
        ValueError: the file is missing or malformed, or the environment does not take what it says; names the file.
    """
    text = _read(path)
    try:
        distribution = _from_data(_parse(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error

    # Copies of one file are one environment, wherever they lie.
    distribution.name = f"{Path(path).name}:{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return distribution


def modules_of_yaml(path: str | Path) -> list[str]:
    """The modules that `from_yaml` would import; imports nothing.

    Raises:
        ValueError: the file is missing, or not YAML; names the file.
    """
    text = _read(path)
    try:
        data = _parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

    named = [data.get("env_id"), data.get("set_task")] if isinstance(data, dict) else []
    return [name.rpartition(":")[0] for name in named if isinstance(name, str) and ":" in name]


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def _parse(text: str) -> Any:
    """YAML as plain data.

    Raises:
        ValueError: it is not YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {one_line(error)}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _from_data(data: Any) -> GymnasiumTasks:
    """The distribution that the contents of a file describe."""
    _check_keys(data)
    train, ood = _ranges(data["task"])
    fixed = data.get("make") or {}
    if not isinstance(fixed, dict):
        raise ValueError(f"make must be a mapping of arguments, got {fixed!r}")
    _refuse_unquoted_none("make", fixed)

    return GymnasiumTasks(
        data["env_id"],
        train,
        ood,
        horizon=_horizon(data),
        keywords=_keywords(data, train, fixed),
        set_task=_set_task(data["set_task"]) if data.get("set_task") else None,
        seed_parameter=_seed_parameter(data),
        fixed=fixed,
        num_workers=_num_workers(data),
        observe=_observe(data),
        allow_running_statistics=_allow_running_statistics(data),
        units=_units(data),
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
    for name in data["task"]:
        # YAML reads on, off, yes and no as true and false.
        if not isinstance(name, str):
            raise ValueError(f"names of task parameters must be text, got {name!r}; write it in quotes")
    if not isinstance(data["env_id"], str):
        raise ValueError(f"env_id must be text, got {data['env_id']!r}")


def _refuse_unquoted_none(name: str, value: Any) -> None:
    """Refuse an argument of `gymnasium.make`, at any depth, that would be the text 'None'."""
    if isinstance(value, _UnquotedNone):
        raise ValueError(
            f"{name}: None is text in YAML; write null for Python's None, or 'None' in quotes for the text"
        )

    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, entry in entries:
        _refuse_unquoted_none(f"{name}.{key}", entry)


def _whole(value: Any) -> Any:
    """A whole number that is written as 1e3 or 200.0 as an int; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_whole(value: Any) -> bool:
    """Whether it is an int; YAML's true and false are ints to Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def _horizon(data: dict[str, Any]) -> int | None:
    horizon = _whole(data.get("horizon"))
    if horizon is not None and not (_is_whole(horizon) and horizon >= 1):
        raise ValueError(f"horizon must be a whole number of at least 1, got {horizon!r}")
    return horizon  # type: ignore[no-any-return]


def _num_workers(data: dict[str, Any]) -> int:
    num_workers = _whole(data.get("num_workers", ONE_PER_CORE))
    if not (_is_whole(num_workers) and num_workers >= ONE_PER_CORE):
        raise ValueError(f"num_workers must be a whole number of at least 0, got {num_workers!r}")
    return num_workers  # type: ignore[no-any-return]


def _seed_parameter(data: dict[str, Any]) -> str:
    name = data.get("seed_parameter") or ""
    if not isinstance(name, str):
        raise ValueError(f"seed_parameter must be the name of one task parameter, got {name!r}")
    return name


def _observe(data: dict[str, Any]) -> tuple[str, ...]:
    names = data.get("observe") or []
    names = [names] if isinstance(names, str) else names
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"observe must be a list of keys of the observations, got {names!r}")
    return tuple(names)


def _allow_running_statistics(data: dict[str, Any]) -> bool:
    allowed = data.get("allow_running_statistics", False)
    if not isinstance(allowed, bool):
        raise ValueError(f"allow_running_statistics must be true or false, got {allowed!r}")
    return allowed


def _units(data: dict[str, Any]) -> Any:
    """As they are written; whether they fit is known once there is an environment."""
    units = data.get("units")
    if not isinstance(units, str | list | dict | None):
        raise ValueError(f"units must be a text, a list of texts, or fields with these, got {units!r}")
    return units


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
    values = entry[kind]
    if not _are_numbers(kind, values):
        raise ValueError(
            f"task parameter {name!r}: {kind} cannot be {values!r}: it takes {_WANTED[kind]}, and a number is written "
            "as 3, 0.5 or 1e-3"
        )
    try:
        return _RANGES[kind](*values, units=str(entry.get("units", units)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"task parameter {name!r}: {kind} cannot be {values!r}: {error}") from None


def _are_numbers(kind: str, values: Any) -> bool:
    """Whether a range may have such values, as far as their kinds go."""
    if not isinstance(values, list):
        return False
    if kind == "choice":
        return bool(values)  # Choice knows what it takes: lists of numbers, and true and false as 1 and 0
    return len(values) == 2 and all(isinstance(value, float) or _is_whole(value) for value in values)


def _keywords(data: dict[str, Any], train: Mapping[str, Range], fixed: dict[str, Any]) -> MakeKeywords | None:
    """How task parameters become arguments of `gymnasium.make`; None where none of them does."""
    in_config = _names(data, "config", train, default=[])
    rest = [name for name in train if name not in in_config and name != data.get("seed_parameter")]
    as_arguments = _names(data, "keywords", train, default=[] if data.get("set_task") else rest)
    whole = whole_parameters(train)

    if in_config:
        if not isinstance(fixed.get("config", {}), dict):
            raise ValueError(f"make.config must be a mapping where config names parameters, got {fixed['config']!r}")
        return InConfig(in_config, as_arguments, whole, fixed.get("config", {}))
    if as_arguments:
        return Arguments(as_arguments, whole)
    return None


def _names(data: dict[str, Any], key: str, train: Mapping[str, Range], default: list[str]) -> tuple[str, ...]:
    """Task parameters that a key of the file names, in a list, or a single one without."""
    names = data.get(key, default)
    names = [names] if isinstance(names, str) else names
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
