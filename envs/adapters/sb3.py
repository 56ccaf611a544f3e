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

from metarl.envs.adapters.gymnasium_single import (
    Flags,
    Floats,
    TaskChoice,
    action_tensor,
    as_distribution,
    at_least_one,
    copy_out,
    own_spaces,
    parse_choice,
    replace_rows,
)
from metarl.envs.external.gymnasium_tasks import ExternalEnv, GymnasiumFamily, task_values
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State
from metarl.envs.task_space import Task, num_tasks_of


class TaskSB3VecEnv(VecEnv):
    """N environments stepped as one torch batch, in Stable-Baselines3's conventions.

    An episode that ends is replaced in the same step: the observation returned is the next episode's first one;
    `infos[i]` then holds "terminal_observation", "TimeLimit.truncated" (the horizon ended it, not the task) and, as
    SB3's VecMonitor gives it, "episode": {"r": return, "l": length, "t": seconds since the start}. Infos of running
    episodes are empty.

    Attributes:
        env_steps: environment steps taken so far, over all N.

    Args:
        distribution: a TaskDistribution, or a name that `make_distribution` knows.
        num_envs: N.
        task: as in TaskGymEnv, the same for all; with "sample" every episode draws a training task; or a Task with
            leaves (1, …) for all, or (N, …), one for each.
        seed: drives task draws and the environments' randomness; `seed()` sets another at the next reset.

    Raises:
        ValueError: N below 1, unknown distribution, or malformed or out-of-range task.
    """

    def __init__(
        self,
        distribution: TaskDistribution | str,
        num_envs: int,
        task: TaskChoice | Task = None,
        seed: int = 0,
    ) -> None:
        self.distribution = as_distribution(distribution)
        self.render_mode = None
        super().__init__(at_least_one("num_envs", num_envs), *own_spaces(self.distribution))
        self._batch_space = batch_space(self.action_space, num_envs)
        self.env_steps = 0
        self._env = self.distribution.task_env
        self._fixed_tasks = self._parse_tasks(task)
        self._rng = torch.Generator().manual_seed(seed)
        self._params: Task = {}
        self._state: State = None
        self._actions: NDArray[Any] = np.empty(0)
        self._start = time.monotonic()
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)

    @torch.no_grad()
    def reset(self) -> Floats:
        """Start an episode everywhere; observations (N, O)."""
        if self._seeds[0] is not None:
            self._rng.manual_seed(self._seeds[0])
            self._reset_seeds()
        self._params = self._tasks(self.num_envs) if self._fixed_tasks is None else self._fixed_tasks
        self._state = self._env.initial(self._rng, self._params)
        self._returns[:] = 0
        self._lengths[:] = 0
        return self._observe()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions (N, A), or (N,) integers, of the next step."""
        self._actions = actions

    @torch.no_grad()
    def step_wait(self) -> tuple[Floats, Floats, Flags, list[dict[str, Any]]]:
        """Step everywhere: observations (N, O), rewards (N,), dones (N,), infos.

        Raises:
            ValueError: the actions have another shape, or one is not in the Discrete space.
        """
        assert self._state is not None, "reset() comes before step()"
        env, rng, params = self._env, self._rng, self._params
        chosen = action_tensor(self._actions, self._batch_space)
        next_state = env.transition(self._state, chosen, rng, params)
        reward = copy_out(env.reward(self._state, chosen, next_state, rng, params))
        terminated = env.terminal(next_state, rng, params).expand(self.num_envs).numpy()
        self._state = next_state
        self.env_steps += self.num_envs
        self._returns += reward
        self._lengths += 1
        done = terminated | (self._lengths >= self.distribution.horizon)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        obs = self._observe()
        if done.any():
            for row in np.flatnonzero(done):
                infos[row] = self._end_of_episode(int(row), obs[row], truncated=not terminated[row])
            self._restart(done)
            obs = self._observe()
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
        """No pictures: watch a policy in `gymnasium.make`."""
        return [None] * self.num_envs

    def _parse_tasks(self, task: TaskChoice | Task) -> Task | None:
        """The tasks of all environments, leaves (N, …); None where each episode draws its own."""
        shared = cast(Task, task) if _is_task(task) else parse_choice(self.distribution, cast(TaskChoice, task))
        if shared is None:
            return None
        count = num_tasks_of(shared)
        if count not in (1, self.num_envs):
            raise ValueError(f"task must hold 1 task or num_envs={self.num_envs}, got {count}")
        return {name: value.expand(self.num_envs, *value.shape[1:]).clone() for name, value in shared.items()}

    def _tasks(self, count: int) -> Task:
        return self.distribution.sample(count, "train", self._rng)

    def _observe(self) -> Floats:
        return copy_out(self._env.observation(self._state, self._rng, self._params))

    def _end_of_episode(self, row: int, obs: Floats, truncated: bool) -> dict[str, Any]:
        episode = {
            "r": float(self._returns[row]),
            "l": int(self._lengths[row]),
            "t": round(time.monotonic() - self._start, 6),
        }
        return {"terminal_observation": obs, "TimeLimit.truncated": truncated, "episode": episode}

    def _restart(self, done: Flags) -> None:
        """Start a new episode, of a new task where tasks are sampled, in the rows of a bool mask (N,)."""
        rows = torch.from_numpy(done)
        if self._fixed_tasks is None:
            self._params = replace_rows(self._params, rows, self._tasks(int(done.sum())))
        first = self._env.initial(self._rng, {name: value[rows] for name, value in self._params.items()})
        self._state = replace_rows(self._state, rows, first)
        self._returns[done] = 0
        self._lengths[done] = 0


class SampledEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment of GymnasiumTasks that takes the next of these tasks at every reset, or a training task.

    Args:
        env: takes tasks.
        distribution: whose training tasks are drawn.
        task: leaves (1, …), the same in every episode; None: a new one in each.
        seed: of the draws and of the environment.
    """

    def __init__(self, env: ExternalEnv, distribution: TaskDistribution, task: Task | None, seed: int) -> None:
        super().__init__(env)
        self._taking, self._distribution, self._task = env, distribution, task
        self._rng = torch.Generator().manual_seed(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, seeded from this wrapper's own stream."""
        if seed is not None:
            self._rng.manual_seed(seed)
        task = self._distribution.sample(1, "train", self._rng) if self._task is None else self._task
        self._taking.set_task(task_values(task)[0])
        return self._taking.reset(seed=int(torch.randint(2**31, (), generator=self._rng)))


def make_sb3_vec_env(
    distribution: TaskDistribution, num_envs: int, task: TaskChoice | Task = None, seed: int = 0
) -> VecEnv:
    """SB3's view of a distribution: a TaskSB3VecEnv, or SB3's DummyVecEnv of environments not written in torch.

    Args:
        distribution: the tasks.
        num_envs: N.
        task: as in TaskSB3VecEnv; of environments not written in torch, the same for all.
        seed: drives task draws and the environments' randomness.
    """
    family = distribution.env
    if not isinstance(family, GymnasiumFamily):
        return TaskSB3VecEnv(distribution, num_envs, task, seed)
    chosen = task if _is_task(task) else parse_choice(distribution, cast(TaskChoice, task))

    def maker(index: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        def make() -> gymnasium.Env[Any, Any]:
            taking = SampledEpisodes(family.single(), distribution, cast(Task | None, chosen), seed + index)
            return Monitor(TimeLimit(taking, family.horizon))

        return make

    return DummyVecEnv([maker(index) for index in range(at_least_one("num_envs", num_envs))])


def _is_task(task: TaskChoice | Task) -> bool:
    """Whether it is a Task of tensors, rather than a mapping of numbers."""
    return isinstance(task, dict) and bool(task) and all(isinstance(value, Tensor) for value in task.values())
