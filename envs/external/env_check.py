"""Refuses, before the first step, an environment that no policy here can learn from, and says why.

What is observed must be numbers of a fixed count, in one order; all tasks must have the same spaces; and no wrapper may
normalise by statistics that change while a policy is trained and measured.
"""

import multiprocessing
import warnings
from collections.abc import Mapping, Sequence
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


def same_layout(one: Space[Any], other: Space[Any]) -> bool:
    """Whether observations of both are the same fields: names, shapes, and kinds of numbers (whole ones, or not).

    Bounds, the number of bits, and the order of the keys of a Dict may differ.
    """
    if isinstance(one, Dict) and isinstance(other, Dict):
        same_keys = one.spaces.keys() == other.spaces.keys()
        return same_keys and all(same_layout(part, other[key]) for key, part in one.spaces.items())

    if isinstance(one, Tuple) and isinstance(other, Tuple):
        if len(one.spaces) != len(other.spaces):
            return False
        return all(same_layout(*pair) for pair in zip(one.spaces, other.spaces, strict=True))

    if isinstance(one, Box) and isinstance(other, Box):
        # The bits of whole numbers decide whether they are an image, of which a policy sees each pixel's place.
        same_kind = one.dtype.kind == other.dtype.kind and is_image(one) == is_image(other)
        return one.shape == other.shape and same_kind
    return one == other


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


def warn_once(text: str) -> None:
    """Warn without a line of source below it; the same text only once."""
    if text not in _WARNED:
        _WARNED.add(text)
        warnings.warn_explicit(text, UserWarning, "metarl", 0)


def require_no_running_statistics(env: gymnasium.Env[Any, Any], label: str) -> None:
    """Refuse a wrapper that normalises observations by statistics of what it has seen; warn of one for rewards.

    With such observations the same parameters act better the longer they run, so that a part of every gain is the
    filter, and its statistics are in no checkpoint and in no exported policy. With such rewards a policy is as it is,
    only returns are in units that drift: a warning.

    Raises:
        ValueError: observations are normalised so.
    """
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        name = type(inner).__name__
        # Statistics that are frozen are a part of the environment like any other.
        changes = getattr(inner, "update_running_mean", True)

        if isinstance(inner, NormalizeObservation) and changes:
            raise ValueError(
                f"{label}: {name} normalises observations by running statistics, which no checkpoint and no exported "
                "policy holds; take the wrapper off, since training normalises observations itself (--normalize-obs), "
                "set its update_running_mean = False, or allow it with allow_running_statistics: true"
            )
        # Workers would say the same once more each.
        if isinstance(inner, NormalizeReward) and changes and multiprocessing.parent_process() is None:
            warn_once(
                f"{label}: {name} divides rewards by a running statistic: returns are in units that drift, and "
                "cannot be compared between runs"
            )
        inner = inner.env


def close_or_warn(env: gymnasium.Env[Any, Any], label: str) -> None:
    """Close an environment; one that fails even in that is warned of, since it costs nothing that was done."""
    try:
        env.close()
    except Exception as error:
        warn_once(f"{label}: its close() failed and was ignored: {reason_of(error)}")
