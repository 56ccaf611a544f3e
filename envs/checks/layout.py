"""How an environment's own spaces meet a policy: which index holds which field, and what an action becomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space, Tuple
from gymnasium.spaces.utils import flatdim

from metarl.envs.checks.finding import Finding
from metarl.envs.external.action_map import ActionMap
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.task_distribution import TaskDistribution

MANY_ELEMENTS = 12
"""Elements of an action that are shown one by one."""


@dataclass(frozen=True)
class Field:
    """A part of the observations, in the vector that a policy sees.

    Attributes:
        name: path in a Dict or Tuple, as in "arm.0"; "" where the observation is one part.
        start: its first index.
        stop: the index after its last.
        space: its own space.
    """

    name: str
    start: int
    stop: int
    space: str

    @property
    def indices(self) -> str:
        """One index, or the first and the last: "3 … 5"."""
        return str(self.start) if self.stop - self.start == 1 else f"{self.start} … {self.stop - 1}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "start": self.start, "stop": self.stop, "space": self.space}


def native_spaces(distribution: TaskDistribution) -> tuple[Space[Any], Space[Any]]:
    """Observation and action space of the environment itself."""
    env = distribution.env
    if not isinstance(env, GymnasiumFamily):
        return env.observation_space, env.action_space

    one = env.single()
    try:
        return one.native_spaces
    finally:
        one.close()


def fields_of(space: Space[Any], name: str = "", start: int = 0) -> list[Field]:
    """The parts of an observation space in the order in which they are flattened."""
    if isinstance(space, Dict):
        inner: list[tuple[Any, Space[Any]]] = list(space.spaces.items())
    elif isinstance(space, Tuple):
        inner = list(enumerate(space.spaces))
    else:
        one_hot = ", one number for each choice" if isinstance(space, Discrete) else ""
        return [Field(name, start, start + flatdim(space), f"{_one_line(space)}{one_hot}")]

    fields: list[Field] = []
    for key, part in inner:
        fields += fields_of(part, f"{name}.{key}" if name else str(key), fields[-1].stop if fields else start)
    return fields


def name_of_index(fields: Sequence[Field], index: int) -> str:
    """How an index of the observations is called: "index 3", or "index 3 (velocity)"."""
    name = next((field.name for field in fields if field.start <= index < field.stop), "")
    return f"index {index} ({name})" if name else f"index {index}"


def action_lines(policy: Space[Any], native: Space[Any]) -> list[str]:
    """What a policy's action becomes, one line for each element, or for all where they are the same."""
    if not (isinstance(policy, Box) and isinstance(native, Box)):
        return [f"{_one_line(policy)} → {_one_line(native)}"]

    ends = _ends(policy, native)
    lines = [f"{_span(*one)} → {_span(*other)}" for one, other in ends]
    if len(set(lines)) == 1:
        count = f", each of {len(lines)}" if len(lines) > 1 else ""
        return [lines[0] + count]

    shown = [f"{index}: {line}" for index, line in enumerate(lines[:MANY_ELEMENTS])]
    if len(lines) > MANY_ELEMENTS:
        shown.append(f"and {len(lines) - MANY_ELEMENTS} more")
    return shown


def actions(distribution: TaskDistribution, native: Space[Any]) -> Finding:
    """Whether a policy that was just initialised reaches all actions."""
    policy = distribution.action_space
    lines = action_lines(policy, native)
    text = lines[0] if len(lines) == 1 else f"{len(lines)} elements, each with bounds of its own"
    numbers = {"policy": _one_line(policy), "environment": _one_line(native), "map": lines}
    if not (isinstance(policy, Box) and isinstance(native, Box)):
        return Finding("actions", "ok", text, numbers=numbers)

    if not (np.isfinite(native.low).all() and np.isfinite(native.high).all()):
        return Finding(
            "actions",
            "note",
            f"{text}; no bounds in {_one_line(native)}",
            "a fresh policy's actions are about ±1 in the environment's own units: give the space bounds, and the "
            "policy spans them",
            numbers,
        )
    if not (np.all(policy.low == -1) and np.all(policy.high == 1)):
        return Finding(
            "actions",
            "note",
            f"{text}; passed on as they are",
            "a fresh policy's actions are about ±1, only a part of these bounds: give the space the bounds −1 and 1 "
            "and scale inside the environment",
            numbers,
        )
    return Finding("actions", "ok", text, numbers=numbers)


def _ends(policy: Box, native: Box) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Of each element, the bounds of the policy and what these become."""
    convert = ActionMap.between(policy, native)
    low = np.where(np.isfinite(policy.low), policy.low, -1).reshape(-1)
    high = np.where(np.isfinite(policy.high), policy.high, 1).reshape(-1)
    to_low, to_high = convert(low).reshape(-1), convert(high).reshape(-1)
    pairs = zip(low.tolist(), high.tolist(), to_low.tolist(), to_high.tolist(), strict=True)
    return [((one, other), (to_one, to_other)) for one, other, to_one, to_other in pairs]


def _span(low: float, high: float) -> str:
    return f"[{low:g}, {high:g}]"


def _one_line(space: Space[Any]) -> str:
    """A space in one line; Gymnasium writes the bounds of large boxes over several."""
    return " ".join(str(space).split())
