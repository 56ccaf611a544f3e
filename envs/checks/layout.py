"""How an environment's own spaces meet a policy: what is observed, and what an action becomes."""

from typing import Any

from gymnasium.spaces import Box, Space

from metarl.envs.checks.finding import Finding, interval
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.spaces.action_map import ActionMap, missing_bounds_warning
from metarl.envs.spaces.fields import one_line
from metarl.envs.task_distribution import TaskDistribution

MANY_ELEMENTS = 12
"""Elements of an action that are shown one by one."""


def native_observations(distribution: TaskDistribution) -> Space[Any]:
    """Observation space of the environment itself."""
    env = distribution.env
    return env.observed if isinstance(env, GymnasiumFamily) else env.observation_space


def action_lines(action_map: ActionMap) -> list[str]:
    """What a policy's action becomes, one line for each element, or for all where they are the same."""
    if not (isinstance(action_map.policy, Box) and isinstance(action_map.native, Box)):
        return [f"{one_line(action_map.policy)} → {one_line(action_map.native)}"]

    rounded = ", rounded to whole numbers" if action_map.whole else ""
    ends = _ends(action_map, action_map.policy)
    lines = [f"{_span(*of_policy)} → {_span(*of_env)}{rounded}" for of_policy, of_env in ends]
    if len(set(lines)) == 1:
        count = f", each of {len(lines)}" if len(lines) > 1 else ""
        return [lines[0] + count]

    shown = [f"{index}: {line}" for index, line in enumerate(lines[:MANY_ELEMENTS])]
    if len(lines) > MANY_ELEMENTS:
        shown.append(f"and {len(lines) - MANY_ELEMENTS} more")
    return shown


def actions(distribution: TaskDistribution) -> Finding:
    """What a policy's actions become, and what is assumed where the environment's have no bounds."""
    env = distribution.env
    action_map = ActionMap.of(env.native_action_space, env.action_scale)
    lines = action_lines(action_map)
    text = lines[0] if len(lines) == 1 else f"{len(lines)} elements, each with bounds of its own"
    numbers = {"policy": one_line(action_map.policy), "environment": one_line(action_map.native), "map": lines}

    assumed = missing_bounds_warning(action_map.native, env.action_scale)
    if assumed is None:
        return Finding("actions", "ok", text, numbers=numbers)
    advice = "give the space bounds, or set s by --action-scale to about the largest action that makes sense"
    return Finding("actions", "note", f"{text}; no bounds in {one_line(action_map.native)}", advice, numbers)


def _ends(action_map: ActionMap, policy: Box) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Of each element of a Box, the bounds of the policy and what these become."""
    low = policy.low.reshape(-1)
    high = policy.high.reshape(-1)
    to_low = action_map(low).reshape(-1)
    to_high = action_map(high).reshape(-1)

    of_policy = zip(low.tolist(), high.tolist(), strict=True)
    of_env = zip(to_low.tolist(), to_high.tolist(), strict=True)
    return list(zip(of_policy, of_env, strict=True))


def _span(low: float, high: float) -> str:
    return interval(low, high, 6)
