"""The environment that a name stands for, also where nobody has named its tasks yet."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium

from metarl.envs.checks.finding import Finding
from metarl.envs.external.env_check import close_or_warn
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily, GymnasiumTasks
from metarl.envs.family_entry import Family
from metarl.envs.registry import FAMILIES, is_env_file, is_registered, make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Integers

DEFAULT_HORIZON = 200
"""Of an environment that has no time limit of its own."""

SEED = "seed"
"""Task parameter of an environment without named tasks."""


def distribution_of(name: str) -> tuple[TaskDistribution, list[Finding]]:
    """The distribution that a name stands for, and what is to be said of how it was found.

    Args:
        name: a family, a YAML file, 'module:name' of a TaskDistribution or of a Gymnasium environment, or a Gymnasium
            id. Of an environment without named tasks, the seeds of its resets are the tasks.

    Raises:
        ValueError: there is no such environment, or it cannot be made.
    """
    if is_env_file(name) or is_registered(name):
        return make_distribution(name), []

    own = _family_with_id(name)
    if own is not None:
        return own.make(), []

    module, _, attribute = name.rpartition(":")
    if module:
        maker = _gymnasium_maker(module, attribute)
        if maker is not None:
            return _of_seeds(name, _time_limit(maker), maker)
    if _is_registered(attribute):
        return _of_seeds(name, gymnasium.spec(attribute).max_episode_steps, None)
    return make_distribution(name), []


def _family_with_id(name: str) -> Family | None:
    """The family of this project that is registered with Gymnasium under this id."""
    return next((family for family in FAMILIES.values() if family.gymnasium_id == name), None)


def _is_registered(env_id: str) -> bool:
    """Whether Gymnasium knows an id; one without a version stands for the newest."""
    try:
        gymnasium.spec(env_id)
    except gymnasium.error.Error:
        return False
    return True


def _gymnasium_maker(module: str, attribute: str) -> Callable[..., gymnasium.Env[Any, Any]] | None:
    """The user's own class or function that makes a Gymnasium environment; None where it is none."""
    try:
        target = getattr(importlib.import_module(module), attribute, None)
    except Exception:
        return None  # the registry says what is wrong with the module

    if isinstance(target, type):
        return target if issubclass(target, gymnasium.Env) else None
    if not inspect.isfunction(target):
        return None

    try:
        made = target()
    except Exception:
        return None
    if not isinstance(made, gymnasium.Env):
        return None
    close_or_warn(made, attribute)
    return target


def _time_limit(make: Callable[..., gymnasium.Env[Any, Any]]) -> int | None:
    """The time limit that what a function makes was registered with."""
    if isinstance(make, type):
        return None
    env = make()
    limit = env.spec.max_episode_steps if env.spec is not None else None
    close_or_warn(env, str(env))
    return limit


def _of_seeds(
    name: str, limit: int | None, make: Callable[..., gymnasium.Env[Any, Any]] | None
) -> tuple[TaskDistribution, list[Finding]]:
    """The environment with the seeds of its resets for tasks."""
    seeds = {SEED: Integers(0, 2**24)}
    horizon = limit or DEFAULT_HORIZON
    distribution = GymnasiumTasks(name, seeds, horizon=horizon, seed_parameter=SEED, make=make, num_workers=0)

    arguments = _number_arguments(distribution.family)
    could_be = f", such as its arguments {', '.join(arguments)}" if arguments else ""
    found = [
        Finding(
            "tasks",
            "note",
            "no task parameters are named, so the seeds of its resets were taken for tasks",
            f"to train on it, name what varies{could_be}: envs/README.md, Any Gymnasium environment",
            {"arguments": arguments},
        )
    ]

    if limit is None:
        found.append(
            Finding(
                "episodes",
                "note",
                f"no time limit is registered; {DEFAULT_HORIZON} steps were taken for it",
                "say how long an episode is: horizon: N",
            )
        )
    return distribution, found


def _number_arguments(env: GymnasiumFamily) -> list[str]:
    """Arguments of the environment's constructor whose defaults are numbers: what tasks could vary."""
    live = env.spec.build(env.spec.fixed)
    parameters = inspect.signature(type(live.unwrapped).__init__).parameters.values()
    close_or_warn(live, env.spec.env_id)

    # Python counts booleans among the whole numbers.
    numbers = [parameter for parameter in parameters if isinstance(parameter.default, int | float)]
    return [parameter.name for parameter in numbers if not isinstance(parameter.default, bool)]
