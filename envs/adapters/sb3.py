"""Stable-Baselines3's view of a TaskDistribution: a VecEnv over the batched environment.

Importing this module imports stable_baselines3, which takes seconds; nothing else in `envs` does.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from metarl.envs.adapters.arguments import (
    TaskChoice,
    as_distribution,
    at_least_one,
    check_options,
    own_spaces,
    parse_choice,
)
from metarl.envs.adapters.task_batch import Flags, Floats, TaskBatch, action_tensor, copy_out, repeat_task
from metarl.envs.external.env_spec import ExternalEnv
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily, task_values
from metarl.envs.spaces.action_map import TensorActionMap
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, concatenate_tasks, select_tasks


class TaskSB3VecEnv(VecEnv):
    """N environments stepped as one torch batch, in Stable-Baselines3's conventions.

    An episode that ends is replaced in the same step: the observation returned is the next episode's first one;
    `infos[i]` then holds "terminal_observation", "TimeLimit.truncated" (the horizon ended it, not the task) and, as
    SB3's VecMonitor gives it, "episode": {"r": return, "l": length, "t": seconds since the start}. Infos of running
    episodes are empty.

    `set_options({"task": …})`, or a list of N such dicts, changes the tasks at the next reset, as `reset(options=…)` of
    TaskGymEnv does; they hold until changed.

    Attributes:
        env_steps: environment steps taken so far, over all N.

    Args:
        distribution: a TaskDistribution, or a name that `make_distribution` knows.
        num_envs: N.
        task: as in TaskGymEnv, the same for all; with "sample" every episode samples a training task; or a Task with
            leaves (1, …) for all, or (N, …), one for each.
        seed: drives the sampling of tasks and the environments' randomness; `seed()` sets another at the next reset.
        policy_actions: take the actions that policies give to `collect` (a Box stretched from [−1, 1]), so that a model
            acts in both; False: the environment's own.

    Raises:
        ValueError: N below 1, unknown distribution, or malformed or out-of-range task.
    """

    def __init__(
        self,
        distribution: TaskDistribution | str,
        num_envs: int,
        task: TaskChoice | Task = None,
        seed: int = 0,
        policy_actions: bool = False,
    ) -> None:
        self.distribution = as_distribution(distribution)
        self.render_mode = None  # read by VecEnv
        observation_space, action_space = own_spaces(self.distribution)

        action_map = self.distribution.env.action_map
        self._to_native: TensorActionMap | None = None
        if policy_actions and not action_map.is_identity:
            action_space = action_map.policy
            self._to_native = TensorActionMap(action_map)

        super().__init__(at_least_one("num_envs", num_envs), observation_space, action_space)
        self.env_steps = 0

        self._batch = TaskBatch(self.distribution, num_envs, self._parse_tasks(task))
        self._batch.rng.manual_seed(seed)
        self._batch_space = batch_space(self.action_space, num_envs)
        self._actions: NDArray[Any] = np.empty(0)

        self._start = time.monotonic()
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)

    @torch.no_grad()
    def reset(self) -> Floats:
        """Start an episode everywhere; observations (N, O).

        Raises:
            ValueError: an option of `set_options` is unknown, or its task malformed or out of range.
        """
        options = self._options
        self._reset_options()
        self._take_tasks(options)

        if self._seeds[0] is not None:
            self._batch.rng.manual_seed(self._seeds[0])
            self._reset_seeds()

        self._batch.start()
        self._returns[:] = 0
        self._lengths[:] = 0
        return self._batch.observe()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions (N, A), or (N,) integers, of the next step."""
        self._actions = actions

    @torch.no_grad()
    def step_wait(self) -> tuple[Floats, Floats, Flags, list[dict[str, Any]]]:
        """Step everywhere: observations (N, O), rewards (N,), dones (N,), infos.

        Raises:
            ValueError: the actions have another shape, or one is not in the Discrete space.
        """
        action = action_tensor(self._actions, self._batch_space)
        if self._to_native is not None:
            action = self._to_native(action)
        reward_tensor, terminated = self._batch.step(action)
        reward = copy_out(reward_tensor)
        self.env_steps += self.num_envs
        self._returns += reward
        self._lengths += 1
        done = terminated | (self._lengths >= self.distribution.horizon)

        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        obs = self._batch.observe()
        if done.any():
            # What is observed so far ends the old episodes; what is returned begins the new ones.
            for row in np.flatnonzero(done):
                infos[row] = self._end_of_episode(int(row), obs[row], truncated=not terminated[row])
            self._batch.restart(done)
            self._returns[done] = 0
            self._lengths[done] = 0
            obs = self._batch.observe()

        return obs, reward, done, infos

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """An attribute, the same for all environments."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute for all environments: they are one batch."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once; its result for every environment asked for."""
        result = getattr(self, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: int | Iterable[int] | None = None) -> list[bool]:
        """True for Monitor, whose "episode" entries are here; nothing else is wrapped."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Nothing is rendered here: watch a policy in `gymnasium.make`."""
        return [None] * self.num_envs

    def _parse_tasks(self, task: TaskChoice | Task) -> Task | None:
        """The tasks of all environments, leaves (N, …); None where each episode samples its own."""
        tasks = _as_tasks(self.distribution, task)
        return None if tasks is None else repeat_task(tasks, self.num_envs)

    def _take_tasks(self, options: list[dict[str, Any]]) -> None:
        """Change the tasks of those environments, of N, whose options say so.

        Raises:
            ValueError: unknown option; malformed or out-of-range task; some are to sample tasks and others are not.
        """
        chosen: dict[int, Task | None] = {}
        for row, one in enumerate(options):
            if "task" in check_options(one):
                task = _as_tasks(self.distribution, one["task"])
                chosen[row] = None if task is None else repeat_task(task, 1)
        if not chosen:
            return

        # One batch: all its rows have tasks that are fixed, or all sample them.
        for_all = len(chosen) == self.num_envs
        if for_all and all(task is None for task in chosen.values()):
            self._batch.fixed_tasks = None
            return
        if None in chosen.values() or not (for_all or self._batch.fixed_tasks):
            raise ValueError("option 'task': either all environments sample tasks, or none does")

        before = self._batch.fixed_tasks or {}
        rows = [chosen.get(row) or select_tasks(before, slice(row, row + 1)) for row in range(self.num_envs)]
        self._batch.fixed_tasks = concatenate_tasks(rows)

    def _end_of_episode(self, row: int, obs: Floats, truncated: bool) -> dict[str, Any]:
        """The info of a row whose episode has ended with this observation (O,)."""
        episode = {
            "r": float(self._returns[row]),
            "l": int(self._lengths[row]),
            "t": round(time.monotonic() - self._start, 6),
        }
        return {"terminal_observation": obs, "TimeLimit.truncated": truncated, "episode": episode}


class SampledEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment of GymnasiumTasks that is given a task at every reset: always the same, or a new training task.

    Args:
        env: takes tasks.
        distribution: whose training tasks are sampled.
        task: leaves (1, …), the same in every episode; None: each episode samples its own.
        seed: drives the sampling of tasks and the environment's randomness.
    """

    def __init__(self, env: ExternalEnv, distribution: TaskDistribution, task: Task | None, seed: int) -> None:
        super().__init__(env)
        self._external_env = env
        self._distribution = distribution
        self._task = task
        self._rng = torch.Generator().manual_seed(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, seeded from this wrapper's own stream; {"task": …} changes the task until changed again.

        Raises:
            ValueError: unknown option; malformed or out-of-range task.
        """
        if "task" in check_options(options):
            self._task = _as_tasks(self._distribution, (options or {})["task"])
        if seed is not None:
            self._rng.manual_seed(seed)

        task = self._distribution.sample(1, "train", self._rng) if self._task is None else self._task
        self._external_env.set_task(task_values(task)[0])
        return self._external_env.reset(seed=int(torch.randint(2**31, (), generator=self._rng)))


def make_sb3_vec_env(
    distribution: TaskDistribution, num_envs: int, task: TaskChoice | Task = None, seed: int = 0
) -> VecEnv:
    """SB3's view of a distribution: a TaskSB3VecEnv, or SB3's DummyVecEnv of environments not written in torch.

    Its actions are those that policies give to `collect`: a Box is stretched from [−1, 1], as SB3 advises.

    Args:
        distribution: the tasks.
        num_envs: N.
        task: as in TaskSB3VecEnv; of environments not written in torch, the same for all.
        seed: drives the sampling of tasks and the environments' randomness.
    """
    family = distribution.env
    if not isinstance(family, GymnasiumFamily):
        return TaskSB3VecEnv(distribution, num_envs, task, seed, policy_actions=True)

    tasks = _as_tasks(distribution, task)

    def maker(index: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        def make() -> gymnasium.Env[Any, Any]:
            env = SampledEpisodes(family.single(), distribution, tasks, seed + index)
            return Monitor(TimeLimit(env, family.horizon))

        return make

    return DummyVecEnv([maker(index) for index in range(at_least_one("num_envs", num_envs))])


def _as_tasks(distribution: TaskDistribution, task: TaskChoice | Task) -> Task | None:
    """The tasks that an argument `task` stands for, leaves (1, …) or (N, …); None: each episode samples its own."""
    if _is_task(task):
        return cast(Task, task)
    return parse_choice(distribution, cast(TaskChoice, task))


def _is_task(task: TaskChoice | Task) -> bool:
    """Whether it is a Task of tensors, rather than a mapping of numbers."""
    return isinstance(task, dict) and bool(task) and all(isinstance(value, Tensor) for value in task.values())
