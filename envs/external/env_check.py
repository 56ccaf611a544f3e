"""Refuses, before the first step, an environment that no policy here can learn from, and says why.

What is observed must be numbers of a fixed count, in one order; all tasks must have the same spaces; and no wrapper may
normalise by statistics that change while a policy is trained and measured.
"""

import multiprocessing
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatdim
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from metarl.envs.external.worker_pool import reason_of
from metarl.envs.spaces.fields import parts_of
from metarl.envs.spaces.observation import is_image
from metarl.envs.spaces.observation_reader import NUMBERS, UnfitEnvError

_WARNED: set[str] = set()
"""Texts of the warnings given so far. Python forgets its own record whenever filters change, as many libraries do."""

_MOST_ENVS = 100
"""So many environments inside one are looked at."""

_STATISTICS = (("mean", "var", "count"), ("mean", "var", "n"), ("mean_", "var_", "n_samples_seen_"))
"""Attributes of running statistics: of Gymnasium and Stable-Baselines3, of filters after Schulman, of scikit-learn."""

_UPDATES = ("update_running_mean", "training")
"""Attributes that are False where statistics are frozen."""

_OF_REWARDS = re.compile(r"(^|[._])(ret|returns?|rew|rewards?)([._]|$)")
"""Names of statistics that are of rewards or returns."""

DRIFTING_REWARDS = (
    "divides rewards by a running statistic: returns are in units that drift, and cannot be compared between runs"
)

_NUMBERS = (Box, Discrete, MultiDiscrete, MultiBinary)


# What is observed


def observed_space(native: Space[Any], observe: Sequence[str], label: str) -> Space[Any]:
    """What a policy is shown of an environment's observations, in the order in which Gymnasium flattens them.

    Args:
        native: observation space of the environment itself.
        observe: keys of a Dict that are observed; empty: all of them.
        label: what the environment is called in error messages.

    Raises:
        ValueError: there are no such keys, or a part of it has no fixed count of numbers; names the key.
    """
    shown = _selected(native, observe, label) if observe else native

    for path, part in parts_of(shown):
        if not isinstance(part, _NUMBERS):
            kind = type(part).__name__
            what = f"the observation {path!r}, a {kind}," if path else f"observations, a {kind},"
            way_out = "; leave it out with observe: [the other keys]" if isinstance(native, Dict) else ""
            raise ValueError(
                f"{label}: {what} cannot be flattened to a vector of numbers; "
                f"Box, Discrete, MultiDiscrete and MultiBinary can, and Dict and Tuple of these{way_out}"
            )
    if flatdim(shown) == 0:
        raise ValueError(f"{label}: observations {shown} hold no number: a policy needs at least one")
    return shown


def _selected(native: Space[Any], observe: Sequence[str], label: str) -> Dict:
    """The keys of a Dict that are observed, in its own order."""
    if not isinstance(native, Dict):
        raise ValueError(f"{label}: observe names keys of a Dict, but observations are {native}")

    unknown = [key for key in observe if key not in native.spaces]
    if unknown:
        raise ValueError(f"{label}: observe names {unknown}, but the keys are {list(native.spaces)}")
    return Dict([(key, space) for key, space in native.spaces.items() if key in observe])


# What reset and step return


def read_reset(returned: Any) -> tuple[Any, Mapping[str, Any]]:
    """Observation and info, as `reset` returned them.

    Raises:
        UnfitEnvError: it returned something else.
    """
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)):
        raise UnfitEnvError(f"reset must return (observation, info), where info is a dict, got {_kind_of(returned)}")
    return returned


def read_step(returned: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """Observation, reward, terminated, truncated and info, as `step` returned them.

    Raises:
        UnfitEnvError: it returned something else; names what.
    """
    if not (isinstance(returned, tuple) and len(returned) == 5):
        wanted = "(observation, reward, terminated, truncated, info)"
        raise UnfitEnvError(f"step must return {wanted}, got {_kind_of(returned)}")

    obs, reward, terminated, truncated, info = returned
    if not isinstance(info, Mapping):
        raise UnfitEnvError(f"info must be a dict, got {_kind_of(info)}")
    return obs, _reward(reward), _flag("terminated", terminated), _flag("truncated", truncated), info


def _reward(value: Any) -> float:
    if type(value) is float or type(value) is np.float64:  # nearly always
        return float(value)
    number = _scalar(value)
    if number is None:
        raise UnfitEnvError(f"reward must be one number, got {_kind_of(value)}")
    return float(number)


def _flag(name: str, value: Any) -> bool:
    if value is True or value is False:  # nearly always
        return bool(value)
    number = _scalar(value)
    if number is None or number not in (0, 1):
        raise UnfitEnvError(f"{name} must be true or false, got {_kind_of(value)}")
    return bool(number)


def _scalar(value: Any) -> Any:
    """A single number, or true or false, as Python has it; None where it is something else."""
    try:
        array = np.asarray(value)
    except Exception:  # a tensor with a gradient, lists of different lengths
        return None
    return array.item() if array.shape == () and array.dtype.kind in NUMBERS else None


def _kind_of(value: Any) -> str:
    """What something is, shortly: "a tuple of 4", "an array of shape (1,)", "None"."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        kind = "an array" if isinstance(value, np.ndarray | np.generic) else f"a {type(value).__name__}"
        return f"{kind} of shape {tuple(shape)}"
    if value is None or isinstance(value, bool | int | float | complex | str):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"


# Spaces of the tasks


def same_layout(space: Space[Any], other: Space[Any]) -> bool:
    """Whether observations of both are the same fields: names, shapes, and kinds of numbers (whole ones, or not).

    Bounds, the number of bits, and the order of the keys of a Dict may differ.
    """
    if isinstance(space, Dict) and isinstance(other, Dict):
        same_keys = space.spaces.keys() == other.spaces.keys()
        return same_keys and all(same_layout(part, other[key]) for key, part in space.spaces.items())

    if isinstance(space, Tuple) and isinstance(other, Tuple):
        if len(space.spaces) != len(other.spaces):
            return False
        return all(same_layout(*pair) for pair in zip(space.spaces, other.spaces, strict=True))

    if isinstance(space, Box) and isinstance(other, Box):
        # The bits of whole numbers decide whether they are an image, of which a policy sees each pixel's place.
        same_kind = space.dtype.kind == other.dtype.kind and is_image(space) == is_image(other)
        return space.shape == other.shape and same_kind
    return space == other


def require_same_spaces(
    expected: tuple[Space[Any], Space[Any]], found: tuple[Space[Any], Space[Any]], where: str
) -> None:
    """Refuse a task whose observations or actions are not those of the first task.

    A policy sees every task through the same numbers. Bounds of observations may differ, since nothing depends on
    them. Bounds of actions may not: whether an action of 1 is then the same torque, or the same share of the largest
    torque, only the environment can say.

    Args:
        expected: observation and action space of the first task.
        found: those of another one.
        where: environment and task.

    Raises:
        UnfitEnvError: names environment, task and both spaces.
    """
    if not same_layout(expected[0], found[0]):
        raise UnfitEnvError(
            f"it observes {found[0]}, but the first task {expected[0]}; all tasks need the same fields and sizes: "
            "pad to the largest",
            where,
        )

    if expected[1] != found[1]:
        raise UnfitEnvError(
            f"its actions are {found[1]}, but those of the first task {expected[1]}; all tasks need the same: "
            "scale or clip to the task's own limits inside step()",
            where,
        )


# Wrappers, and the end


def warn_once(text: str, about: str = "") -> None:
    """Warn without a line of source below it; the same text only once, or once about something.

    A worker process prints the line, since nobody there shows warnings as this program does.
    """
    if (about or text) in _WARNED:
        return
    _WARNED.add(about or text)
    if multiprocessing.parent_process() is None:
        warnings.warn_explicit(text, UserWarning, "metarl", 0)
    else:
        print(f"warning: {text}", file=sys.stderr, flush=True)


def envs_within(env: Any) -> list[Any]:
    """An environment, its wrappers, and environments that any of these holds, as itself or inside a plain object."""
    found: list[Any] = []
    waiting = [env]
    while waiting and len(found) < _MOST_ENVS:
        candidate = waiting.pop(0)
        if any(candidate is other for other in found):
            continue
        found.append(candidate)

        for _, value in _held_by(candidate):
            if _is_env(value):
                waiting.append(value)
            else:
                waiting += [inner for _, inner in _held_by(value) if _is_env(inner)]
    return found


def _held_by(holder: Any) -> list[tuple[str, Any]]:
    """Name and value of the attributes of an object, and of what lists and dicts among them hold."""
    # Modules and classes have attributes too, but hold nothing of one environment.
    if isinstance(holder, type | ModuleType | FunctionType):
        return []
    held: list[tuple[str, Any]] = []
    for name, value in getattr(holder, "__dict__", {}).items():
        held.append((name, value))
        if isinstance(value, list | tuple | dict) and len(value) <= _MOST_ENVS:
            values = value.values() if isinstance(value, dict) else value
            held += [(name, inner) for inner in values]
    return held


def _is_env(value: Any) -> bool:
    """Whether something is stepped and reset, of whatever library; asks its class, which runs no code of its own."""
    return not isinstance(value, type) and all(hasattr(type(value), method) for method in ("reset", "step"))


def _is_running_statistic(value: Any) -> bool:
    """Whether something keeps a mean, a variance and a count of what it has seen, whatever it is called."""
    if isinstance(value, type):
        return False
    kept = getattr(value, "__dict__", {})
    for names in _STATISTICS:
        if all(name in kept or hasattr(type(value), name) for name in names):
            return not any(callable(getattr(value, name, None)) for name in names)
    return False


def _running_statistics(holder: Any) -> list[tuple[str, Any]]:
    """Path and object of the statistics that one environment or wrapper holds and goes on changing."""
    found = []
    for name, value in _held_by(holder):
        # An environment that it holds is looked at by itself.
        if _is_env(value) or _is_frozen(value):
            continue
        if _is_running_statistic(value):
            found.append((name, value))
            continue
        inside = [(f"{name}.{part}", held) for part, held in _held_by(value) if _is_running_statistic(held)]
        found += [pair for pair in inside if not _is_frozen(pair[1])]
    return found


def _is_frozen(holder: Any) -> bool:
    """Whether an object says that its statistics do not change."""
    kept = getattr(holder, "__dict__", {})
    return any(kept.get(name) is False for name in _UPDATES) or any(
        kept.get(f"_{name}") is False and hasattr(type(holder), name) for name in _UPDATES
    )


def require_no_running_statistics(env: gymnasium.Env[Any, Any], label: str) -> None:
    """Refuse what normalises observations by statistics of what it has seen; warn of it for rewards.

    With such observations the same parameters act better the longer they run, so that a part of every gain is the
    filter, and its statistics are in no checkpoint and in no exported policy. With such rewards a policy is as it is,
    only returns are in units that drift: a warning.

    They are known by what they are, an object with a mean, a variance and a count, in whatever class of whatever
    library. Statistics that are frozen are a part of the environment like any other.

    Raises:
        ValueError: observations are normalised so.
    """
    for holder in envs_within(env):
        if _is_frozen(holder):
            continue
        name = type(holder).__name__
        held = _running_statistics(holder)
        of_rewards = [path for path, _ in held if _OF_REWARDS.search(path)]
        if isinstance(holder, NormalizeObservation) or len(held) > len(of_rewards):
            path = next((f".{path}" for path, _ in held if path not in of_rewards), "")
            what = name if isinstance(holder, NormalizeObservation) else f"{name}{path}"
            raise ValueError(
                f"{label}: {what} normalises observations by running statistics, which no checkpoint and no exported "
                "policy holds; take it off, since training normalises observations itself (--normalize-obs), "
                f"set {name}.update_running_mean = False where they are frozen, or allow it with "
                "allow_running_statistics: true"
            )

    # Workers would say the same once more each.
    if multiprocessing.parent_process() is None:
        for holder in reward_statistics(env):
            warn_once(f"{label}: {type(holder).__name__} {DRIFTING_REWARDS}")


def reward_statistics(env: gymnasium.Env[Any, Any]) -> list[Any]:
    """The wrappers and environments that divide rewards by statistics of what they have seen, and go on doing so."""
    holders = []
    for holder in envs_within(env):
        if _is_frozen(holder):
            continue
        of_rewards = [path for path, _ in _running_statistics(holder) if _OF_REWARDS.search(path)]
        if isinstance(holder, NormalizeReward) or of_rewards:
            holders.append(holder)
    return holders


def hold_reward_statistics_still(env: gymnasium.Env[Any, Any]) -> None:
    """Freeze the statistics of rewards where they can be: then what is played again gives the same again."""
    for holder in reward_statistics(env):
        for name in _UPDATES:
            if name in vars(holder) or hasattr(type(holder), name):
                setattr(holder, name, False)


def close_or_warn(env: gymnasium.Env[Any, Any], label: str, task: str = "") -> None:
    """Close an environment; one that fails even in that is warned of, since it costs nothing that was done.

    Args:
        env: the environment.
        label: what it is called.
        task: the task that it had, in words; "" where there is none. Other tasks are not warned of again.
    """
    try:
        env.close()
    except Exception as error:
        where = f"{label} on the task {task}" if task else label
        warn_once(f"{where}: its close() failed and was ignored: {reason_of(error)}", f"closing {label}")
