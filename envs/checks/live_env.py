"""Findings on one live Gymnasium environment itself, before anything is flattened or scaled."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from metarl.envs.checks.finding import Finding
from metarl.envs.checks.trace import random_actions
from metarl.envs.external.env_check import (
    DRIFTING_REWARDS,
    close_or_warn,
    hold_reward_statistics_still,
    reward_statistics,
    warn_once,
)
from metarl.envs.external.env_spec import EnvSpec, ExternalEnv
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily, task_values
from metarl.envs.external.worker_pool import TaskValues, reason_of, time_limit
from metarl.envs.spaces.observation_reader import UnfitEnvError
from metarl.envs.task_distribution import TaskDistribution

MOST_NUMBERS = 1_000
"""Attributes of more numbers than these are not compared."""

STEPS = 5

LONGEST_LOOK = 2.0
"""Seconds that an environment is tried before training."""


def returned_values(spec: EnvSpec, task: TaskValues) -> Finding:
    """Whether observations fit their space and `reset` and `step` return what they must, at a reset and a few steps.

    The environment is read as training reads it, with actions that a policy could take.
    """
    env = ExternalEnv(spec, task)
    actions = random_actions(env.action_space, (1, 1), STEPS, seed=0)[0, 0].numpy()

    method = "reset"
    try:
        env.reset(seed=_seed(spec, task))
        method = "step"
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
    except UnfitEnvError as error:
        return Finding("shapes", "fault", f"{method}: {error.reason}", UNFIT)
    except (Exception, SystemExit) as error:
        reason = " ".join(reason_of(error).split())
        return Finding("shapes", "fault", f"{method} fails: {reason}", "training would stop there: mend it")
    finally:
        env.close()

    return Finding("shapes", "ok", "observations are as the observation space says, rewards are single numbers")


def changes_when_repeated(spec: EnvSpec, task: TaskValues) -> str:
    """What differs where the same seed and actions are played twice in one environment; "" where nothing is seen.

    It looks at a few steps, for a moment only, and leaves what fails or takes long to training, which says where.
    """
    # Statistics of rewards are known already, and warned of.
    try:
        env = ExternalEnv(replace(spec, hold_rewards_still=True), task)
    except Exception:
        return ""
    try:
        with time_limit(LONGEST_LOOK):
            first, second = _few_steps(env, spec, task), _few_steps(env, spec, task)
    except (Exception, SystemExit):
        return ""
    finally:
        env.close()

    for step, ((obs, reward), (obs_again, reward_again)) in enumerate(zip(first, second, strict=False)):
        pairs: list[tuple[str, Any, Any]] = [("observation", obs, obs_again), ("reward", reward, reward_again)]
        for what, value, again in pairs:
            # Running statistics move numbers by far more than physics engines round them.
            if np.allclose(value, again, rtol=1e-3, atol=1e-5, equal_nan=True):
                continue
            if what == "observation" or not moving_reward_statistics(spec, task):
                return f"{what} at step {step}" if step else f"{what} at the reset"
    return ""


def normalised_rewards(spec: EnvSpec, task: TaskValues) -> list[Finding]:
    """What is to be said of rewards that are divided by statistics of what was seen; nothing where they are not."""
    env = spec.build(spec.arguments(task))
    names = [type(holder).__name__ for holder in reward_statistics(env)]
    close_or_warn(env, spec.env_id)
    if not names:
        return []

    return [
        Finding(
            "rewards",
            "note",
            f"{', '.join(names)} {DRIFTING_REWARDS}",
            "take it off: training normalises advantages itself, whatever the units of rewards; what follows was tried "
            "with its statistics held still, where they can be",
            {"running_statistics": names},
        )
    ]


def moving_reward_statistics(spec: EnvSpec, task: TaskValues) -> list[str]:
    """What divides rewards by statistics that cannot be held still, by the names of its classes."""
    env = spec.build(spec.arguments(task))
    hold_reward_statistics_still(env)
    names = [type(holder).__name__ for holder in reward_statistics(env)]
    close_or_warn(env, spec.env_id)
    return names


def _few_steps(env: ExternalEnv, spec: EnvSpec, task: TaskValues) -> list[tuple[NDArray[np.float32], float]]:
    """Observations and rewards of an episode's reset and first steps."""
    actions = random_actions(env.action_space, (1, 1), STEPS, seed=0)[0, 0].numpy()
    seen = [(env.reset(seed=_seed(spec, task))[0].copy(), 0.0)]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((obs.copy(), reward))
        if terminated or truncated:
            break
    return seen


def warn_where_repeats_differ(distribution: TaskDistribution) -> None:
    """Warn of a Gymnasium environment that gives other numbers when the same episode is played again."""
    env = distribution.env
    if not isinstance(env, GymnasiumFamily) or env.spec.allow_running_statistics:
        return
    task = task_values(distribution.sample(1, "validation"))[0]
    difference = changes_when_repeated(env.spec, task)
    if difference:
        warn_once(
            f"{env.spec.env_id}: the same task, seed and actions gave another {difference} when played again: "
            "something is kept from episode to episode (a counter, running statistics), so that a gain may be no "
            "adaptation, or random numbers come from elsewhere than self.np_random; metarl check says more"
        )


UNFIT = (
    "training refuses it, since it would become other numbers without an error: return what the space says and what "
    "Gymnasium's Env documents, or declare the space that fits"
)


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

    env, env_other = _live(spec, task), _live(spec, other)
    try:
        before, before_other = _numbers(env), _numbers(env_other)
        env.reset(seed=0)
        env_other.reset(seed=0)
        after, after_other = _numbers(env), _numbers(env_other)

        env.reset(seed=0)
        again = _numbers(env)
    finally:
        close_or_warn(env, spec.env_id)
        close_or_warn(env_other, spec.env_id)

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


def _equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return bool(np.array_equal(first, second))
