"""N environments of a distribution as one torch batch, each row with episodes of its own; and torch ↔ numpy."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.spaces.action_map import NOT_A_NUMBER
from metarl.envs.spaces.observation_reader import UnfitEnvError
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Task, num_tasks_of, select_tasks, task_text

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


class TaskBatch:
    """N environments stepped as one torch batch; the caller decides when a row starts its next episode.

    Args:
        distribution: written in torch.
        num_envs: N.
        fixed_tasks: the tasks of all episodes, leaves (N, …); None: each episode samples a training task.

    Attributes:
        env: the TaskEnv.
        fixed_tasks: as above; a change holds from the next start.
        rng: drives the sampling of tasks and the environments' randomness.
        tasks: the current tasks, leaves (N, …).
        state: the current states, leaves (N, …); None before `start`.
    """

    def __init__(self, distribution: TaskDistribution, num_envs: int, fixed_tasks: Task | None) -> None:
        self.env = distribution.task_env
        self.fixed_tasks = fixed_tasks
        self.rng = torch.Generator()
        self.tasks: Task = {}
        self.state: State = None
        self._distribution = distribution
        self._num_envs = num_envs

    def start(self) -> None:
        """Start an episode everywhere."""
        self.tasks = self._sample(self._num_envs) if self.fixed_tasks is None else self.fixed_tasks
        self.state = self.env.initial(self.rng, self.tasks)

    def restart(self, done: Flags) -> None:
        """Start the next episode, of a new task where tasks are sampled, in the rows of a mask (N,)."""
        rows = torch.from_numpy(done)
        if self.fixed_tasks is None:
            self.tasks = _replace_rows(self.tasks, rows, self._sample(int(done.sum())))

        first = self.env.initial(self.rng, select_tasks(self.tasks, rows))
        self.state = _replace_rows(self.state, rows, first)

    def step(self, action: Tensor) -> tuple[Tensor, Flags]:
        """Step everywhere with actions (N, A), or (N,) integers.

        Returns:
            Rewards (N,) and terminated (N,).
        """
        assert self.state is not None, "reset() comes before step()"
        next_state = self.env.transition(self.state, action, self.rng, self.tasks)
        reward = self.env.reward(self.state, action, next_state, self.rng, self.tasks)
        terminated = self.env.terminal(next_state, self.rng, self.tasks).expand(self._num_envs)
        self.state = next_state
        return reward, terminated.numpy()

    def observe(self) -> Floats:
        """Observations (N, O) of the current states."""
        obs = self.env.observation(self.state, self.rng, self.tasks)
        return checked_observation(obs, self.env, self.tasks, (self._num_envs,))

    def _sample(self, count: int) -> Task:
        return self._distribution.sample(count, "train", self.rng)


def repeat_task(tasks: Task, num_envs: int) -> Task:
    """One task (1, …) for each of N environments, or N tasks as they are; leaves (N, …) of their own.

    Raises:
        ValueError: there are neither 1 nor N tasks.
    """
    count = num_tasks_of(tasks)
    if count not in (1, num_envs):
        raise ValueError(f"task must hold 1 task or num_envs={num_envs}, got {count}")
    return {name: value.expand(num_envs, *value.shape[1:]).clone() for name, value in tasks.items()}


def action_tensor(action: Any, space: Space[Any], ignored: Flags | None = None) -> Tensor:
    """The action as a tensor of the space's shape and type; rows to be ignored become zero.

    A Box's bounds are not checked: the environment clips. NaN cannot be clipped.

    Raises:
        ValueError: it has another shape or type, holds NaN, or is not in the discrete space.
    """
    try:
        array = np.asarray(action).astype(space.dtype, casting="same_kind")
    except TypeError:
        raise ValueError(f"action {action!r} is not in {space}") from None
    if array.shape == space.shape and ignored is not None:
        array[ignored] = 0

    # No environment clips what is not a number: state and reward would silently be NaN from here on.
    if isinstance(space, Box) and np.isnan(array).any():
        raise ValueError(f"action {action!r} {NOT_A_NUMBER}")
    if array.shape != space.shape or not (isinstance(space, Box) or space.contains(array)):
        raise ValueError(f"action {action!r} is not in {space}")
    return torch.from_numpy(array)


def checked_observation(obs: Tensor, env: TaskEnv, tasks: Task, batch: tuple[int, ...]) -> Floats:
    """An observation (*batch, O) for numpy's side; a client would broadcast another shape, or learn from NaN.

    Raises:
        UnfitEnvError: it has another shape than the space, or holds what is not finite; names the task.
    """
    label = f"environment {type(env).__name__}"
    wanted = (*batch, *env.observation_space.shape)
    if tuple(obs.shape) != wanted:
        raise UnfitEnvError(f"its observation must have the shape {wanted}, got {tuple(obs.shape)}", label)

    observed = copy_out(obs)
    if not np.isfinite(observed).all():
        place = tuple(np.argwhere(~np.isfinite(observed))[0].tolist())
        task = {name: value[place[: len(batch)]] for name, value in tasks.items()}
        number = f"{observed[place]} at index {place[-1]}"
        raise UnfitEnvError(f"its observation is not finite: {number}", f"{label} on the task {task_text(task)}")
    return observed


def copy_out(tensor: Tensor) -> Floats:
    """A float32 array that shares no memory with the state."""
    return np.array(tensor.numpy(), dtype=np.float32)


def _replace_rows(tree: Any, rows: Tensor, new: Any) -> Any:
    """A state or task, leaves (N, …), with the rows of a mask (N,) taken, in order, from new leaves (n, …)."""
    if isinstance(tree, dict):
        return {name: leaf.index_put((rows,), new[name]) for name, leaf in tree.items()}
    return tree.index_put((rows,), new)
