"""Any Gymnasium environment as a distribution over tasks: `GymnasiumTasks`."""

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Space
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.cores import num_cores
from metarl.envs.env_family import EnvFamily, RenderableEnv
from metarl.envs.external.env_check import same_layout
from metarl.envs.external.env_spec import Arguments, EnvSpec, ExternalEnv, MakeKeywords, SetTask
from metarl.envs.external.worker_pool import NO_SUCCESS, TaskValues, WorkerPool, one_line
from metarl.envs.spaces.action_map import ActionMap, policy_action_space
from metarl.envs.spaces.observation import vector_space
from metarl.envs.spaces.units import Units, units_of_fields
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Choice, Integers, LogUniform, Normal, Range, Task, Uniform, num_tasks_of

ONE_PER_CORE = -1
"""In place of a number of worker processes."""


class GymnasiumTasks(TaskDistribution):
    """Tasks of any Gymnasium environment: by arguments of `gymnasium.make`, by a callable, or by its seed.

    A task parameter that neither `keywords` nor `set_task` uses is an argument of `gymnasium.make` of that name: a
    number (an int where its range is of whole numbers), or an array.

    Args:
        env_id: id for `gymnasium.make`; "module:id" imports the module first.
        train: range of each task parameter.
        ood: ranges outside training.
        horizon: steps after which an episode is truncated; by default the registered time limit.
        keywords: arguments of `gymnasium.make` for a task, where they are not the parameters themselves.
        set_task: writes a task into the live environment before each episode, `set_task(env, task)`.
        seed_parameter: parameter that seeds every reset, so that what the environment draws there is the task.
        fixed: arguments of `gymnasium.make` for every task.
        make: replaces `gymnasium.make(env_id, …)`; env_id is a mere label then.
        test: ranges of the test split, where a benchmark has test tasks of its own.
        num_workers: processes that step the environments; ONE_PER_CORE, or 0 for this process. Workers import the
            main module, so a script needs `if __name__ == "__main__":`.
        observe: keys of a Dict that are observed; by default all.
        allow_running_statistics: whether a wrapper may normalise observations by statistics of what it has seen.
        held_out: see TaskDistribution.
        units: of the observations: a text or a list, or field → these; None: the attribute `units` of the environment,
            or "units" in its metadata, where these fit.

    Raises:
        ValueError: unknown id, arguments that the environment does not take, spaces that no policy here can handle,
            or no horizon.
    """

    def __init__(
        self,
        env_id: str,
        train: Mapping[str, Range],
        ood: Mapping[str, Range] | None = None,
        horizon: int | None = None,
        keywords: MakeKeywords | None = None,
        set_task: SetTask | None = None,
        seed_parameter: str = "",
        fixed: Mapping[str, Any] | None = None,
        make: Callable[..., gymnasium.Env[Any, Any]] | None = None,
        test: Mapping[str, Range] | None = None,
        num_workers: int = ONE_PER_CORE,
        observe: Sequence[str] = (),
        allow_running_statistics: bool = False,
        held_out: bool = False,
        units: Units = None,
    ) -> None:
        if not train:
            raise ValueError("a task distribution needs at least one task parameter")
        if seed_parameter:
            _check_seed_parameter(seed_parameter, train, ood or {}, test or {})

        names = [name for name in train if name != seed_parameter]
        if keywords is None and set_task is None and names:
            keywords = Arguments(tuple(names), whole_parameters(train))
        spec = EnvSpec(
            env_id,
            dict(fixed or {}),
            keywords,
            set_task,
            seed_parameter,
            make,
            observe=tuple(observe),
            allow_running_statistics=allow_running_statistics,
        )

        # Any task will do as an example: an environment is made of it to learn the spaces.
        seeded = torch.Generator().manual_seed(0)
        example = task_values({name: range_.sample(1, seeded) for name, range_ in train.items()})[0]
        horizon = _registered_horizon(env_id) if horizon is None else horizon
        self.family = GymnasiumFamily(spec, example, horizon, num_workers, units)
        super().__init__(self.family, train, ood, name=env_id, test=test, held_out=held_out)


class GymnasiumFamily(EnvFamily):
    """A Gymnasium environment whose tasks are stepped in worker processes.

    Args:
        spec: how a task becomes an environment.
        example: any task; an environment is made of it to learn the spaces.
        horizon: H.
        num_workers: processes, ONE_PER_CORE, or 0 for all in this process.
        units: as in GymnasiumTasks.

    Attributes:
        live_classes: classes of the live environment: of its wrappers, and its own.

    Raises:
        ValueError: the environment cannot be made, or has spaces that no policy here can handle.
    """

    def __init__(self, spec: EnvSpec, example: TaskValues, horizon: int, num_workers: int, units: Units = None) -> None:
        self.spec = spec
        self.horizon = horizon
        self._example = example
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < ONE_PER_CORE:
            raise ValueError(f"num_workers must be a whole number of at least 0, got {num_workers!r}")

        # Every process and every task is held to the spaces of this first environment.
        first = self.single()
        self.spec = replace(spec, spaces=first.native_spaces)
        self.observation_space = first.observation_space
        self.action_space = first.action_space
        self._native_action_space = first.native_spaces[1]
        self.render_fps = first.metadata.get("render_fps") or EnvFamily.render_fps
        self._can_render = "rgb_array" in first.metadata.get("render_modes", ())
        self.live_classes = first.live_classes
        self._field_units = first.stated_units
        first.close()

        if units is not None:
            self._field_units = units_of_fields(units, first.native_spaces[0])

        self._num_workers = num_cores() if num_workers == ONE_PER_CORE else num_workers
        self._timeout = 0.0
        self.pool = self._new_pool()

    def single(self) -> ExternalEnv:
        """One environment in this process."""
        return ExternalEnv(self.spec, self._example)

    @property
    def observed(self) -> Space[Any]:
        """What a policy sees, before it is flattened."""
        assert self.spec.spaces is not None
        return self.spec.spaces[0]

    @property
    def field_units(self) -> dict[str, str]:
        """See EnvFamily.field_units."""
        return self._field_units

    def live_options(self) -> dict[str, Any]:
        """Arguments of a LiveEnv on which a policy of this family acts as it does here."""
        return {
            "trained_on": self.observed,
            "action_scale": self.action_scale,
            "observe": self.spec.observe,
            "allow_running_statistics": self.spec.allow_running_statistics,
        }

    def keep_observations(self, trained_on: Space[Any]) -> None:
        """Flatten observations from now on in the order of those that a policy was trained on.

        Raises:
            ValueError: observations have other fields by now.
        """
        assert self.spec.spaces is not None
        observed, actions = self.spec.spaces
        if not same_layout(trained_on, observed):
            raise ValueError(f"{self.spec.env_id} observes {observed}, but the run was trained on {trained_on}")

        self.spec = replace(self.spec, spaces=(trained_on, actions))
        self.observation_space = vector_space(trained_on, self.spec.env_id)
        self.pool = self._new_pool()

    @property
    def native_action_space(self) -> Space[Any]:
        """See EnvFamily.native_action_space."""
        return self._native_action_space

    def same_actions(self, one: float, other: float) -> bool:
        """See EnvFamily.same_actions."""
        native = self._native_action_space
        policy = policy_action_space(native)
        maps = [ActionMap.between(policy, native, scale) for scale in (one, other)]
        return maps[0].same_as(maps[1])

    def set_action_scale(self, scale: float) -> None:
        """See EnvFamily.set_action_scale."""
        super().set_action_scale(scale)
        if scale != self.spec.action_scale:
            self.spec = replace(self.spec, action_scale=scale)
            self.pool.close()
            self.pool = self._new_pool()

    def set_timeout(self, seconds: float) -> None:
        """Take a step or reset of a worker that lasts longer as failed; 0 = unlimited."""
        self._timeout = seconds
        self.pool.timeout = seconds

    def bind(self, tasks: Task, num_episodes: int) -> "BoundExternalEnv":
        """See EnvFamily.bind."""
        return BoundExternalEnv(self, tasks, num_episodes)

    def bind_for_rendering(self, tasks: Task, num_episodes: int) -> RenderableEnv:
        """See EnvFamily.bind_for_rendering; it has a pool of its own, with render_mode "rgb_array"."""
        if not self._can_render:
            raise ValueError(f"{self.spec.env_id} has no render mode rgb_array")

        rendering = copy.copy(self)
        rendering.spec = self.spec.for_rendering()
        rendering.pool = rendering._new_pool()
        return BoundExternalEnv(rendering, tasks, num_episodes)

    def _new_pool(self) -> WorkerPool:
        # The workers get only what makes an environment, not this family with its pool.
        spec, example = self.spec, self._example
        return WorkerPool(lambda: ExternalEnv(spec, example), spec.env_id, self._num_workers, self._timeout)


class BoundExternalEnv:
    """M tasks × E episodes of live environments; implements the BatchedEnv protocol of `metarl.envs.rollout`.

    Episodes are seeded from the generator, so that they do not depend on the number of workers.

    Attributes:
        horizon: H of the family.
        batch_shape: (M, E).
        action_space: what policies act in.
        tasks: the M tasks.
        label: what error messages call the environment.
    """

    def __init__(self, family: GymnasiumFamily, tasks: Task, num_episodes: int) -> None:
        self.horizon = family.horizon
        self.batch_shape = (num_tasks_of(tasks), num_episodes)
        self.action_space = family.action_map.policy
        self.tasks = tasks
        self.label = family.spec.env_id
        self._pool = family.pool
        self._tasks = [task for task in task_values(tasks) for _ in range(num_episodes)]
        self._device = next(iter(tasks.values())).device
        self._success: NDArray[np.int8] = np.zeros(0, np.int8)

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode everywhere; returns obs (M, E, O)."""
        seeds = torch.randint(2**31, (len(self._tasks),), generator=generator, device=generator.device).tolist()
        observed = self._pool.reset(list(zip(self._tasks, seeds, strict=True)))
        self._success = observed["success"]
        return self._tensor(observed["obs"])

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step everywhere: action (M, E, A) -> obs (M, E, O), reward (M, E), terminated bool (M, E)."""
        observed = self._pool.step(action.flatten(0, 1).cpu().numpy())
        self._success = observed["success"]
        terminated = self._tensor(observed["terminated"]).bool()
        return self._tensor(observed["obs"]), self._tensor(observed["reward"]), terminated

    def success(self) -> Tensor | None:
        """See BatchedEnv.success: "success" or "is_success" of the environment's info."""
        if (self._success == NO_SUCCESS).all():
            return None
        return self._tensor(self._success).gt(0)

    def progress(self) -> bytes:
        """Changes as one live environment after the other takes the step."""
        return self._pool.progress()

    def render(self, task: int, episode: int) -> NDArray[np.uint8]:
        """See RenderableEnv.render."""
        return self._pool.render(task * self.batch_shape[1] + episode)

    def close_renderers(self) -> None:
        """See RenderableEnv.close_renderers: ends the workers."""
        self._pool.close()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """(M · E, …) as a tensor (M, E, …) of its own."""
        return torch.from_numpy(array.copy()).to(self._device).reshape(*self.batch_shape, *array.shape[1:])


def task_values(tasks: Task) -> list[TaskValues]:
    """A batch of tasks as numpy arrays, one mapping for each task."""
    arrays = {name: value.cpu().numpy() for name, value in tasks.items()}

    def values(index: int) -> TaskValues:
        return {name: array[index] for name, array in arrays.items()}

    return [values(index) for index in range(num_tasks_of(tasks))]


def whole_parameters(ranges: Mapping[str, Range]) -> frozenset[str]:
    """The task parameters that are whole numbers: those of Integers, and of a Choice among ints."""
    return frozenset(name for name, range_ in ranges.items() if _holds_whole_numbers(range_))


def _holds_whole_numbers(range_: Range) -> bool:
    if isinstance(range_, Choice):
        return all(type(value) is int for value in range_.values)
    return isinstance(range_, Integers)


def _check_seed_parameter(name: str, train: Mapping[str, Range], *others: Mapping[str, Range]) -> None:
    """Refuse a parameter that cannot seed a reset: seeds are whole numbers of at least 0.

    Raises:
        ValueError: it is no task parameter, or one of its ranges holds other numbers.
    """
    if name not in train:
        raise ValueError(f"seed_parameter {name!r} is none of the task parameters {sorted(train)}")

    for ranges in (train, *others):
        range_ = ranges.get(name)
        if range_ is not None and not _holds_seeds(range_):
            raise ValueError(f"seed_parameter {name!r} needs integers of at least 0 as its range, got {range_}")


def _holds_seeds(range_: Range) -> bool:
    """Whether every value of a range is a whole number of at least 0."""
    if isinstance(range_, Integers):
        return range_.low >= 0 and range_.shape == ()
    if isinstance(range_, Choice):
        return range_.shape == () and all(value >= 0 and value == int(value) for value in range_.values)  # type: ignore[operator, arg-type]
    # A range of the user's own is trusted.
    return not isinstance(range_, Uniform | LogUniform | Normal)


def _registered_horizon(env_id: str) -> int:
    """The time limit that an environment was registered with.

    Raises:
        ValueError: unknown environment, or one without a time limit.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        limit = gymnasium.spec(name).max_episode_steps
    except Exception as error:
        raise ValueError(f"unknown Gymnasium environment {env_id!r}: {one_line(error)}") from error

    if limit is None:
        raise ValueError(f"{env_id} has no time limit of its own; give a horizon")
    return limit
