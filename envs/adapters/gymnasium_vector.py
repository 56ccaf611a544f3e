"""Gymnasium's view of a batch of environments of a TaskDistribution: `TaskVectorEnv`.

N is the number of environments in the batch. See `gymnasium_single` for what the adapters are and are not for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl.envs.adapters.arguments import (
    TaskChoice,
    as_distribution,
    at_least_one,
    check_options,
    check_render_mode,
    own_spaces,
    parse_choice,
    parse_mapping,
    render_metadata,
)
from metarl.envs.adapters.task_batch import Floats, TaskBatch, action_tensor, copy_out, repeat_task
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import Renderer, TaskEnv, select_state
from metarl.envs.task_space import Task, concatenate_tasks, select_tasks


class TaskVectorEnv(VectorEnv[Floats, Any, NDArray[Any]]):
    """N environments stepped as one torch batch; made by `gymnasium.make_vec("metarl/…", num_envs=N, task=…)`.

    An environment whose episode ended starts the next one by itself. In AutoresetMode.NEXT_STEP at the following step,
    whatever the action: that step returns the new episode's first observation, reward 0 and neither flag. In
    AutoresetMode.SAME_STEP at once: the step that ends an episode returns the next one's first observation, and
    `infos["final_obs"]` and `infos["final_info"]` hold what ended the old one. `infos["task"]` holds the current
    tasks, each parameter (N, …), all in the layout of Gymnasium's own vector environments.

    Attributes:
        autoreset_mode: which of the two; also in `metadata`.

    Args:
        num_envs: N.
        distribution: a TaskDistribution, or a name that `make_distribution` knows.
        task: as in TaskGymEnv, the same for all; with "sample" each environment samples a training task at each of
            its episodes; or a list of N mappings, one for each. `reset(options={"task": …})` takes the same and holds
            until changed.
        max_episode_steps: steps after which an episode is truncated; None: the family's horizon.
        render_mode: None or "rgb_array".
        autoreset_mode: "NextStep" or "SameStep", as AutoresetMode or its value.
        task_in_info: whether `infos["task"]` is given. Libraries that turn infos into tensors, TorchRL among them, take
            no nested ones.

    Raises:
        ValueError: a count below 1; unknown distribution; malformed or out-of-range task, or a list of another
            length; a render mode that the family lacks; another autoreset mode.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": TaskEnv.render_fps,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int,
        distribution: TaskDistribution | str,
        task: TaskChoice | Sequence[Mapping[str, Any]] = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        task_in_info: bool = True,
    ) -> None:
        self.distribution = as_distribution(distribution)
        self.num_envs = at_least_one("num_envs", num_envs)
        limit = self.distribution.horizon if max_episode_steps is None else max_episode_steps
        self._time_limit = at_least_one("max_episode_steps", limit)

        env = self.distribution.task_env
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self._task_in_info = task_in_info
        self.metadata = {**render_metadata(env, self.metadata), "autoreset_mode": self.autoreset_mode}
        self.render_mode = check_render_mode(render_mode, self.metadata, self.distribution)
        self.single_observation_space, self.single_action_space = own_spaces(self.distribution)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._batch = TaskBatch(self.distribution, num_envs, self._parse_tasks(task))
        self._elapsed = np.zeros(num_envs, np.int64)
        self._done = np.zeros(num_envs, np.bool_)
        self._renderers = [Renderer(env) for _ in range(num_envs)]

    @torch.no_grad()
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode everywhere.

        Args:
            seed: seeds the sampling of tasks and the randomness of the whole batch; None continues the current stream.
            options: {"task": …} changes the tasks for this and all following episodes.

        Returns:
            Observations (N, O) and infos.

        Raises:
            ValueError: unknown option; malformed or out-of-range task, or a list of another length than N.
        """
        options = check_options(options)
        if "task" in options:
            self._batch.fixed_tasks = self._parse_tasks(options["task"])

        # Gymnasium keeps the seed in a numpy generator; torch's goes on from it.
        super().reset(seed=seed)
        self._batch.rng.manual_seed(int(self.np_random.integers(2**63)))

        self._batch.start()
        self._elapsed[:] = 0
        self._done[:] = False
        return self._observe()

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step the running environments with actions (N, A), or (N,) integers, and restart those that are done.

        Returns:
            Observations (N, O), rewards (N,) float64 as in Gymnasium's own vector environments, terminated (N,) and
            truncated (N,) bool, and infos.

        Raises:
            ValueError: the actions have another shape, or one is not in the Discrete space.
        """
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            return self._step_and_reset(actions)

        restarting = self._done
        reward, terminated = self._batch.step(action_tensor(actions, self.action_space, ignored=restarting))

        # Where an episode was done, this step stands for the reset of the next one.
        rewards = np.where(restarting, 0.0, reward.numpy().astype(np.float64))
        terminated = terminated & ~restarting
        self._elapsed = np.where(restarting, 0, self._elapsed + 1)
        truncated = self._elapsed >= self._time_limit
        if restarting.any():
            self._batch.restart(restarting)

        self._done = terminated | truncated
        obs, infos = self._observe()
        return obs, rewards, terminated, truncated, infos

    def _step_and_reset(self, actions: Any) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step everywhere; where an episode ends, the next one begins in the same step."""
        reward, terminated = self._batch.step(action_tensor(actions, self.action_space))
        self._elapsed += 1
        truncated = self._elapsed >= self._time_limit
        done = terminated | truncated

        final: dict[str, Any] = {}
        if done.any():
            # What is observed so far ends the old episodes; what is returned begins the new ones.
            last_obs, _ = self._observe()
            for row in np.flatnonzero(done):
                final_info: dict[str, Any] = {}
                if self._task_in_info:
                    task = select_tasks(self._batch.tasks, int(row))
                    final_info["task"] = {name: copy_out(value) for name, value in task.items()}
                final = self._add_info(final, {"final_obs": last_obs[row], "final_info": final_info}, int(row))
            self._batch.restart(done)
            self._elapsed[done] = 0

        obs, infos = self._observe()
        return obs, reward.numpy().astype(np.float64), terminated, truncated, final | infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """One image (height, width, 3) of each environment; None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() shows nothing: make the environments with render_mode="rgb_array"')
            return None

        state = self._batch.state
        assert state is not None, "reset() comes before render()"
        images = []
        for row, renderer in enumerate(self._renderers):
            images.append(renderer.render(select_state(state, row), select_tasks(self._batch.tasks, row)))
        return tuple(images)

    def close_extras(self, **kwargs: Any) -> None:
        """Release the renderers."""
        for renderer in self._renderers:
            renderer.close()

    def _parse_tasks(self, task: Any) -> Task | None:
        """The tasks of all environments, leaves (N, …); None where each episode samples its own."""
        if isinstance(task, Sequence) and not isinstance(task, str):
            if len(task) != self.num_envs:
                raise ValueError(f"task must list one task for each of num_envs={self.num_envs}, got {len(task)}")
            parsed = [parse_mapping(self.distribution, one) for one in task]
            return concatenate_tasks(parsed)

        shared = parse_choice(self.distribution, task)
        return None if shared is None else repeat_task(shared, self.num_envs)

    def _observe(self) -> tuple[Floats, dict[str, Any]]:
        """Observations (N, O) of the current states, and infos with Gymnasium's "_key" presence masks."""
        if not self._task_in_info:
            return self._batch.observe(), {}

        tasks = {name: copy_out(value) for name, value in self._batch.tasks.items()}
        present = {f"_{name}": np.ones(self.num_envs, np.bool_) for name in tasks}
        infos = {"task": {**tasks, **present}, "_task": np.ones(self.num_envs, np.bool_)}
        return self._batch.observe(), infos


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode, also of its value.

    Raises:
        ValueError: it is another one.
    """
    offered = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
    for known in offered:
        if mode in (known, known.value):
            return known
    allowed = ", ".join(repr(known.value) for known in offered)
    raise ValueError(f"autoreset_mode {mode!r} is not offered; allowed: {allowed}")
