"""Findings on one live Gymnasium environment itself, before anything is flattened or scaled."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, Space, Tuple
from numpy.typing import NDArray

from metarl.envs.checks.finding import Finding
from metarl.envs.external.env_spec import EnvSpec
from metarl.envs.external.worker_pool import TaskValues, reason_of

MOST_NUMBERS = 1_000
"""Attributes of more numbers than these are not compared."""

STEPS = 5


def shapes(spec: EnvSpec, task: TaskValues) -> Finding:
    """Whether observations have the shapes of their space and rewards are numbers, at a reset and in a few steps."""
    env = _live(spec, task)
    try:
        problem = _first_problem(env, _seed(spec, task))
    except Exception as error:
        problem = f"it fails: {' '.join(reason_of(error).split())}"
    finally:
        env.close()

    if problem:
        return Finding(
            "shapes",
            "fault",
            problem,
            "other shapes are broadcast into wrong numbers without an error: return what the space says",
        )
    return Finding("shapes", "ok", "observations are as the observation space says, rewards are single numbers")


def _first_problem(env: gymnasium.Env[Any, Any], seed: int) -> str:
    """What is wrong with the first observation or reward that is; "" where none is."""
    returned: Any = env.reset(seed=seed)
    if not (isinstance(returned, tuple) and len(returned) == 2):
        return f"reset must return (observation, info), got {type(returned).__name__}"
    problem = wrong_part(env.observation_space, returned[0])
    if problem:
        return f"reset: {problem}"

    env.action_space.seed(0)
    for _ in range(STEPS):
        returned = env.step(env.action_space.sample())
        if not (isinstance(returned, tuple) and len(returned) == 5):
            return "step must return (observation, reward, terminated, truncated, info)"

        obs, reward, terminated, truncated, _ = returned
        problem = wrong_part(env.observation_space, obs)
        if problem:
            return f"step: {problem}"
        if np.shape(reward) != ():
            return f"step: the reward must be one number, got an array of shape {np.shape(reward)}"
        if terminated or truncated:
            break
    return ""


def wrong_part(space: Space[Any], obs: Any, path: str = "") -> str:
    """What part of an observation does not have the shape of its space; "" where all have."""
    where = f"the observation{f' {path!r}' if path else ''}"
    if isinstance(space, Dict):
        if not (isinstance(obs, Mapping) and set(obs) == set(space.spaces)):
            keys = sorted(obs) if isinstance(obs, Mapping) else type(obs).__name__
            return f"{where} must be a dict of {sorted(space.spaces)}, got {keys}"
        parts: Sequence[tuple[Any, Space[Any]]] = list(space.spaces.items())
    elif isinstance(space, Tuple):
        if not (isinstance(obs, tuple | list) and len(obs) == len(space.spaces)):
            return f"{where} must be a tuple of {len(space.spaces)}, got {type(obs).__name__}"
        parts = list(enumerate(space.spaces))
    else:
        return _wrong_leaf(space, obs, where)

    for key, part in parts:
        problem = wrong_part(part, obs[key], f"{path}.{key}" if path else str(key))
        if problem:
            return problem
    return ""


def _wrong_leaf(space: Space[Any], obs: Any, where: str) -> str:
    shape = space.shape
    if shape is not None and np.shape(obs) != shape:
        return f"{where} must have the shape {shape}, got {np.shape(obs)}"
    if isinstance(space, Discrete) and not space.contains(obs):
        return f"{where} must be in {space}, got {obs!r}"
    return ""


def redrawn_attributes(spec: EnvSpec, task: TaskValues, other: TaskValues) -> list[str]:
    """Attributes that carry the task, and that reset() overwrites with the same value for every task.

    Args:
        spec: how a task becomes an environment.
        task: a task.
        other: one that differs in everything.
    """
    # Where the task is the seed itself, drawing is what reset is for.
    if spec.seed_parameter:
        return []

    one, two = _live(spec, task), _live(spec, other)
    try:
        before, before_other = _numbers(one), _numbers(two)
        one.reset(seed=0)
        two.reset(seed=0)
        after, after_other = _numbers(one), _numbers(two)
        one.reset(seed=0)
        again = _numbers(one)
    finally:
        one.close()
        two.close()

    redrawn = []
    for name in before:
        if not all(name in numbers for numbers in (before_other, after, after_other, again)):
            continue
        carries_task = not _equal(before[name], before_other[name])
        overwritten = not _equal(before[name], after[name])
        # Without a seed it is another one each time; with one, it is the same for every task.
        drawn = _equal(after[name], after_other[name]) or not _equal(after[name], again[name])
        if carries_task and overwritten and drawn:
            redrawn.append(name)
    return redrawn


def _live(spec: EnvSpec, task: TaskValues) -> gymnasium.Env[Any, Any]:
    """A live environment that was given a task."""
    env = spec.build(spec.arguments(task))
    if spec.set_task is not None:
        spec.set_task(env, task)
    return env


def _seed(spec: EnvSpec, task: TaskValues) -> int:
    return int(task[spec.seed_parameter]) if spec.seed_parameter else 0


def _numbers(env: gymnasium.Env[Any, Any]) -> dict[str, NDArray[Any]]:
    """Attributes of the environment that are numbers, copied."""
    found = {}
    for name, value in vars(env.unwrapped).items():
        if not isinstance(value, int | float | list | tuple | np.ndarray | np.generic):
            continue
        try:
            array = np.array(value)
        except ValueError:
            continue
        if array.dtype.kind in "biuf" and array.size <= MOST_NUMBERS:
            found[name] = array
    return found


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return bool(np.array_equal(one, other))
