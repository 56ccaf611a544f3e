"""How a task becomes one live Gymnasium environment, with the spaces that our policies need."""

import inspect
import multiprocessing
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from metarl.envs.external.env_check import (
    close_or_warn,
    envs_within,
    hold_reward_statistics_still,
    observed_space,
    read_reset,
    read_step,
    require_no_running_statistics,
    require_same_spaces,
)
from metarl.envs.external.worker_pool import SingleEnv, TaskValues, one_line
from metarl.envs.physics.models import say_warnings_of_mujoco
from metarl.envs.spaces.action_map import DEFAULT_SCALE, ActionMap, policy_action_space
from metarl.envs.spaces.observation import vector_space
from metarl.envs.spaces.observation_reader import ObservationReader
from metarl.envs.spaces.units import units_that_fit
from metarl.envs.task_space import task_text

SetTask = Callable[[gymnasium.Env[Any, Any], TaskValues], None]
"""Writes a task into a live environment."""

MakeKeywords = Callable[[TaskValues], Mapping[str, Any]]
"""Arguments of `gymnasium.make` for a task."""


@dataclass(frozen=True)
class EnvSpec:
    """How a task becomes a Gymnasium environment; plain data, sent to worker processes.

    Attributes:
        env_id: id for `gymnasium.make`; "module:id" imports the module first.
        fixed: arguments of `gymnasium.make` for every task.
        keywords: arguments of `gymnasium.make` for a task; a new environment is made where they change.
        set_task: writes a task into a live environment, before each reset.
        seed_parameter: task parameter that seeds every reset: the environment's own randomness is the task then.
        make: replaces `gymnasium.make(env_id, …)`.
        observe: keys of a Dict that are observed; empty: all of them.
        allow_running_statistics: whether a wrapper may normalise observations by statistics of what it has seen.
        spaces: what is observed, and the action space, of the environment itself; every task must have these, and
            observations are flattened in the order of these. None: those of the first task.
        action_scale: span of actions where a Box has no bounds, see `metarl.envs.spaces.action_map`.
        hold_rewards_still: whether running statistics of rewards are frozen: a check sees what else differs then.
    """

    env_id: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    keywords: MakeKeywords | None = None
    set_task: SetTask | None = None
    seed_parameter: str = ""
    make: Callable[..., gymnasium.Env[Any, Any]] | None = None
    observe: tuple[str, ...] = ()
    allow_running_statistics: bool = False
    spaces: tuple[Space[Any], Space[Any]] | None = None
    action_scale: float = DEFAULT_SCALE
    hold_rewards_still: bool = False

    def for_rendering(self) -> "EnvSpec":
        """The same environments, made with the render mode "rgb_array".

        Raises:
            ValueError: `make` takes no render_mode.
        """
        if self.make is not None:
            parameters = inspect.signature(self.make).parameters.values()
            if not any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters):
                raise ValueError(f"what makes {self.env_id} takes no argument render_mode")

        return replace(self, fixed={**self.fixed, "render_mode": "rgb_array"})

    def arguments(self, task: TaskValues) -> dict[str, Any]:
        """All arguments of `gymnasium.make` for a task."""
        of_task = self.keywords(task) if self.keywords is not None else {}
        return {**self.fixed, **of_task}

    def build(self, arguments: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
        """Make a live environment without a time limit.

        Raises:
            ValueError: it cannot be made with these arguments.
        """
        say_warnings_of_mujoco()
        try:
            if self.make is not None:
                return self.make(**arguments)
            return gymnasium.make(self.env_id, disable_env_checker=True, max_episode_steps=-1, **arguments)
        except Exception as error:
            # Its module may have tried to make it already, and failed by our own words.
            said = one_line(error).removeprefix(f"{self.env_id.rpartition(':')[2]}: ")
            given = f"with the arguments {sorted(arguments)}" if arguments else "without arguments"
            reason = f"{type(error).__name__}: {said}"
            raise ValueError(f"{self.env_id} cannot be made {given}: {reason}") from error


class ExternalEnv(SingleEnv):
    """One Gymnasium environment that takes tasks, with the spaces that our policies need.

    Observations are checked and flattened to float32 vectors by an `ObservationReader`. Actions become the
    environment's own by an `ActionMap`. The environment's registered time limit is taken off, since the horizon belongs
    to the caller.

    Args:
        spec: how a task becomes an environment.
        task: the first one.

    Raises:
        ValueError: the environment cannot be made, or has spaces that no policy here can handle.
    """

    def __init__(self, spec: EnvSpec, task: TaskValues) -> None:
        # In a worker without a display, pygame would complain.
        if spec.fixed.get("render_mode") == "rgb_array" and multiprocessing.parent_process() is not None:
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

        self._spec = spec
        self._task = task
        self._arguments: dict[str, Any] = {}
        self._env: gymnasium.Env[Any, Any] | None = None
        self._task_of_env = ""
        self._spaces = spec.spaces
        self._env_for_task()

    @property
    def native_spaces(self) -> tuple[Space[Any], Space[Any]]:
        """What is observed of the environment itself, and its action space; the same for all tasks."""
        assert self._spaces is not None
        return self._spaces

    @property
    def live_classes(self) -> tuple[type, ...]:
        """Classes of the live environment: of its wrappers, of those that it holds, and its own."""
        return tuple(dict.fromkeys(type(env) for env in envs_within(self._env)))

    @property
    def stated_units(self) -> dict[str, str]:
        """Path of a field → its unit, by an attribute `units` of a wrapper or of the environment, or its metadata."""
        for env in envs_within(self._env):
            metadata = getattr(env, "metadata", None)
            in_metadata = metadata.get("units") if isinstance(metadata, Mapping) else None
            own = vars(env).get("units", getattr(type(env), "units", None))

            # An attribute of this name may be something else, the soldiers of a game for instance.
            for units in (own, in_metadata):
                fitting = units_that_fit(units, self.native_spaces[0])
                if fitting:
                    return fitting
        return {}

    def set_task(self, task: TaskValues) -> None:
        """See SingleEnv.set_task."""
        self._task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode of the current task."""
        env = self._env_for_task()
        if self._spec.set_task is not None:
            self._spec.set_task(env, self._task)
        if self._spec.seed_parameter:
            seed = int(self._task[self._spec.seed_parameter])

        obs, info = read_reset(env.reset(seed=seed))
        self._check_spaces(env)  # set_task or reset may have changed them
        return self._read(obs), dict(info)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take an action of this class's own space."""
        assert self._env is not None
        returned = read_step(self._env.step(self._action_map.one(action)))
        native_obs, reward, terminated, truncated, info = returned
        return self._read(native_obs), reward, terminated, truncated, dict(info)

    def render(self) -> Any:
        """See gymnasium.Env.render."""
        assert self._env is not None
        return self._env.render()

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            close_or_warn(self._env, self._spec.env_id, self._task_of_env)

    def not_finite(self, vector: NDArray[np.float32]) -> str:
        """See SingleEnv.not_finite."""
        return self._read.not_finite(vector)

    def _env_for_task(self) -> gymnasium.Env[Any, Any]:
        """The live environment; a new one is made where the task needs other arguments."""
        arguments = self._spec.arguments(self._task)
        if self._env is not None and _equal(arguments, self._arguments):
            return self._env

        self.close()
        env = self._spec.build(arguments)
        self._env = env
        self._arguments = arguments
        self._task_of_env = task_text(self._task)
        self.metadata = env.metadata

        if not self._spec.allow_running_statistics:
            require_no_running_statistics(env, self._spec.env_id)
        if self._spec.hold_rewards_still:
            hold_reward_statistics_still(env)
        self._check_spaces(env)

        # In the order of the first task's space.
        self._read = ObservationReader(self.native_spaces[0])
        self.observation_space = vector_space(self.native_spaces[0], self._spec.env_id)
        self._action_map = _action_map(env.action_space, self._spec)
        self.action_space = self._action_map.policy
        return env

    def _check_spaces(self, env: gymnasium.Env[Any, Any]) -> None:
        """Refuse other spaces than the first task's.

        Raises:
            UnfitEnvError: names environment, task and both spaces.
        """
        observed = observed_space(env.observation_space, self._spec.observe, self._spec.env_id)
        if self._spaces is None:
            self._spaces = observed, env.action_space
            return

        where = f"environment {self._spec.env_id} on the task {task_text(self._task)}"
        require_same_spaces(self._spaces, (observed, env.action_space), where)


def _action_map(native: Space[Any], spec: EnvSpec) -> ActionMap:
    """From a policy's actions, those of a Box in [−1, 1], to the environment's.

    Raises:
        ValueError: no policy here acts in such a space.
    """
    try:
        return ActionMap.between(policy_action_space(native), native, spec.action_scale)
    except ValueError as error:
        raise ValueError(f"{spec.env_id}: {error}") from None


def _equal(arguments: Any, others: Any) -> bool:
    """Whether both are surely equal; arrays among them cannot be compared and count as different."""
    try:
        return bool(arguments == others)
    except ValueError:
        return False


# Task parameters as arguments of `gymnasium.make`


@dataclass(frozen=True)
class Arguments:
    """Task parameters as arguments of `gymnasium.make`.

    Attributes:
        names: the parameters.
        whole: those that are whole numbers.
    """

    names: tuple[str, ...]
    whole: frozenset[str] = frozenset()

    def __call__(self, task: TaskValues) -> dict[str, Any]:
        """Arguments of `gymnasium.make` for a task."""
        return {name: number(task[name], name in self.whole) for name in self.names}


@dataclass(frozen=True)
class InConfig:
    """Task parameters as entries of one argument, "config", beside others that are arguments themselves.

    Attributes:
        inside: parameters that go into the config.
        outside: parameters that do not.
        whole: those of both that are whole numbers.
        config: its other entries.
    """

    inside: tuple[str, ...]
    outside: tuple[str, ...] = ()
    whole: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, task: TaskValues) -> dict[str, Any]:
        """Arguments of `gymnasium.make` for a task."""
        inside = Arguments(self.inside, self.whole)(task)
        outside = Arguments(self.outside, self.whole)(task)
        return {**outside, "config": {**self.config, **inside}}


def number(value: NDArray[Any], whole: bool) -> Any:
    """A scalar as Python's number, an array as it is; integers where `whole`."""
    if np.ndim(value) > 0:
        return value.astype(np.int64) if whole else value
    return round(float(value)) if whole else float(value)
