"""Gymnasium's view of a TaskDistribution: one environment, a batched vector environment, and the registered ids.

These are the only places where an episode resets by itself or has a time limit of its own; training steps the
BatchedEnv of `TaskDistribution.bind` through `collect` instead.
Both adapters speak numpy and run on the CPU. N is the number of environments in a batch.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Task

SAMPLE = "sample"
"""In place of a task: draw a new training task at the start of every episode."""

TaskChoice = Mapping[str, Any] | str | None
"""A task as a mapping of parameter names to numbers, SAMPLE, or None for the family's default task."""

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


class TaskGymEnv(gymnasium.Env[Floats, Any]):
    """One environment over the TaskEnv of a distribution; made by `gymnasium.make("metarl/…", task=…)`.

    Like Gymnasium's own environments it has no time limit: `gymnasium.make` wraps it in one. `info["task"]` of every
    reset and step is the current task, a dict of float32 arrays.

    Args:
        distribution: a TaskDistribution, or a name that `make_distribution` knows.
        task: a mapping such as {"goal": [0.3, 0.2]}; "sample" draws a training task at every reset; None is the
            family's default task. `reset(options={"task": …})` takes the same and holds until changed.
        render_mode: None, "rgb_array" or "human".

    Raises:
        ValueError: unknown distribution; malformed or out-of-range task; a render mode that the family lacks.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": TaskEnv.render_fps}  # noqa: RUF012

    def __init__(
        self, distribution: TaskDistribution | str, task: TaskChoice = None, render_mode: str | None = None
    ) -> None:
        self.distribution = as_distribution(distribution)
        self._env = self.distribution.task_env
        self.metadata = _render_metadata(self._env, self.metadata)
        self.render_mode = _check_render_mode(render_mode, self.metadata, self.distribution)
        self.observation_space, self.action_space = own_spaces(self.distribution)
        self._fixed_task = parse_choice(self.distribution, task)
        self._rng = torch.Generator()
        self._params: Task = {}
        self._state: State = None
        self._picture = _Picture(self._env)
        self._window = _Window(self.metadata["render_fps"])

    @torch.no_grad()
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the task draws and the environment's randomness; None goes on with the current stream.
            options: {"task": …} changes the task for this and all following episodes.

        Returns:
            Observation (O,) and info.

        Raises:
            ValueError: unknown option; malformed or out-of-range task.
        """
        if "task" in (asked := _check_options(options)):
            self._fixed_task = parse_choice(self.distribution, asked["task"])
        super().reset(seed=seed)
        _reseed(self._rng, self.np_random)
        task = self._fixed_task if self._fixed_task is not None else self.distribution.sample(1, "train", self._rng)
        self._params = _row(task, 0)
        self._state = self._env.initial(self._rng, self._params)
        return self._observe()

    @torch.no_grad()
    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take an action (A,), or an integer in a Discrete space.

        Returns:
            Observation (O,), reward, terminated, truncated (always False here) and info.

        Raises:
            ValueError: the action has another shape, or is not one of the Discrete space.
        """
        assert self._state is not None, "reset() comes before step()"
        env, rng, params = self._env, self._rng, self._params
        chosen = action_tensor(action, self.action_space)
        next_state = env.transition(self._state, chosen, rng, params)
        reward = float(env.reward(self._state, chosen, next_state, rng, params))
        self._state = next_state
        obs, info = self._observe()
        return obs, reward, bool(env.terminal(next_state, rng, params)), False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Picture of the current state: image (height, width, 3) in "rgb_array", shown in a window in "human"."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                'render() shows nothing: make the environment with render_mode="rgb_array" or "human"'
            )
            return None
        assert self._state is not None, "reset() comes before render()"
        image = self._picture.of(self._state, self._params)
        if self.render_mode == "rgb_array":
            return image
        self._window.show(image)
        return None

    def close(self) -> None:
        """Close the window and release the renderer."""
        self._window.close()
        self._picture.close()

    def _observe(self) -> tuple[Floats, dict[str, Any]]:
        """Observation and info of the current state; refreshes the window."""
        if self.render_mode == "human":
            self.render()
        obs = self._env.observation(self._state, self._rng, self._params)
        return copy_out(obs), {"task": {name: copy_out(value) for name, value in self._params.items()}}


class TaskVectorEnv(VectorEnv[Floats, Any, NDArray[Any]]):
    """N environments stepped as one torch batch; made by `gymnasium.make_vec("metarl/…", num_envs=N, task=…)`.

    An environment whose episode ended starts the next one at the following step, whatever the action: that step
    returns the new episode's first observation, reward 0 and neither flag (AutoresetMode.NEXT_STEP). `infos["task"]`
    holds the current tasks, each parameter (N, …), in the layout of Gymnasium's own vector environments.

    Args:
        num_envs: N.
        distribution: a TaskDistribution, or a name that `make_distribution` knows.
        task: as in TaskGymEnv, the same for all; with "sample" each environment draws a training task at each of its
            episodes; or a list of N mappings, one for each. `reset(options={"task": …})` takes the same and holds
            until changed.
        max_episode_steps: steps after which an episode is truncated; None: the family's horizon.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: a count below 1; unknown distribution; malformed or out-of-range task, or a list of another
            length; a render mode that the family lacks.
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
    ) -> None:
        self.distribution = as_distribution(distribution)
        self._env = self.distribution.task_env
        self.num_envs = at_least_one("num_envs", num_envs)
        self._time_limit = at_least_one(
            "max_episode_steps", self.distribution.horizon if max_episode_steps is None else max_episode_steps
        )
        self.metadata = _render_metadata(self._env, self.metadata)
        self.render_mode = _check_render_mode(render_mode, self.metadata, self.distribution)
        self.single_observation_space, self.single_action_space = own_spaces(self.distribution)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._fixed_tasks = self._parse_tasks(task)
        self._rng = torch.Generator()
        self._params: Task = {}
        self._state: State = None
        self._elapsed = np.zeros(num_envs, np.int64)
        self._done = np.zeros(num_envs, np.bool_)
        self._pictures = [_Picture(self._env) for _ in range(num_envs)]

    @torch.no_grad()
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode everywhere.

        Args:
            seed: seeds the task draws and the randomness of the whole batch; None goes on with the current stream.
            options: {"task": …} changes the tasks for this and all following episodes.

        Returns:
            Observations (N, O) and infos.

        Raises:
            ValueError: unknown option; malformed or out-of-range task, or a list of another length than N.
        """
        if "task" in (asked := _check_options(options)):
            self._fixed_tasks = self._parse_tasks(asked["task"])
        super().reset(seed=seed)
        _reseed(self._rng, self.np_random)
        if self._fixed_tasks is not None:
            self._params = self._fixed_tasks
        else:
            self._params = self.distribution.sample(self.num_envs, "train", self._rng)
        self._state = self._env.initial(self._rng, self._params)
        self._elapsed[:] = 0
        self._done[:] = False
        return self._observe()

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step the running environments with actions (N, A), or (N,) integers, and restart those that were done.

        Returns:
            Observations (N, O), rewards (N,) float64 as in Gymnasium's own vector environments, terminated (N,) and
            truncated (N,) bool, and infos.

        Raises:
            ValueError: the actions have another shape, or one is not in the Discrete space.
        """
        assert self._state is not None, "reset() comes before step()"
        env, rng, params = self._env, self._rng, self._params
        restarting = self._done
        chosen = action_tensor(actions, self.action_space, ignored=restarting)
        next_state = env.transition(self._state, chosen, rng, params)
        reward = env.reward(self._state, chosen, next_state, rng, params).numpy().astype(np.float64)
        terminated = env.terminal(next_state, rng, params).expand(self.num_envs).numpy() & ~restarting
        self._elapsed = np.where(restarting, 0, self._elapsed + 1)
        truncated = self._elapsed >= self._time_limit
        self._state = next_state
        if restarting.any():
            self._restart(torch.from_numpy(restarting))
        self._done = terminated | truncated
        obs, infos = self._observe()
        return obs, np.where(restarting, 0.0, reward), terminated, truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """One picture (height, width, 3) of each environment; None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() shows nothing: make the environments with render_mode="rgb_array"')
            return None
        assert self._state is not None, "reset() comes before render()"
        return tuple(
            picture.of(_row(self._state, i), _row(self._params, i)) for i, picture in enumerate(self._pictures)
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Release the renderers."""
        for picture in self._pictures:
            picture.close()

    def _parse_tasks(self, task: Any) -> Task | None:
        """The tasks of all environments, leaves (N, …); None where each episode draws its own."""
        if isinstance(task, Sequence) and not isinstance(task, str):
            if len(task) != self.num_envs:
                raise ValueError(f"task must list one task for each of num_envs={self.num_envs}, got {len(task)}")
            parsed = [_parse_mapping(self.distribution, one) for one in task]
            return {name: torch.cat([one[name] for one in parsed]) for name in parsed[0]}
        shared = parse_choice(self.distribution, task)
        if shared is None:
            return None
        return {name: value.repeat(self.num_envs, *(1,) * (value.ndim - 1)) for name, value in shared.items()}

    def _restart(self, rows: Tensor) -> None:
        """Start a new episode, of a new task where tasks are sampled, in the rows of a bool mask (N,)."""
        if self._fixed_tasks is None:
            drawn = self.distribution.sample(int(rows.sum()), "train", self._rng)
            self._params = replace_rows(self._params, rows, drawn)
        first = self._env.initial(self._rng, {name: value[rows] for name, value in self._params.items()})
        self._state = replace_rows(self._state, rows, first)

    def _observe(self) -> tuple[Floats, dict[str, Any]]:
        """Observations (N, O) of the current states, and infos with Gymnasium's "_key" presence masks."""
        obs = self._env.observation(self._state, self._rng, self._params)
        tasks = {name: copy_out(value) for name, value in self._params.items()}
        present = {f"_{name}": np.ones(self.num_envs, np.bool_) for name in tasks}
        return copy_out(obs), {"task": {**tasks, **present}, "_task": np.ones(self.num_envs, np.bool_)}


def register_gymnasium_ids() -> None:
    """Register every entry of FAMILIES with Gymnasium; ids it knows already are left alone."""
    for family in FAMILIES.values():
        if family.gymnasium_id and family.gymnasium_id not in gymnasium.registry:
            gymnasium.register(
                id=family.gymnasium_id,
                entry_point=f"{__name__}:{TaskGymEnv.__name__}",
                vector_entry_point=f"{__name__}:{TaskVectorEnv.__name__}",
                max_episode_steps=family.make().horizon,
                kwargs={"distribution": family.name},
            )


class _Picture:
    """Pictures of one environment; the renderer is started at the first of them.

    Attributes:
        env: what draws.
    """

    def __init__(self, env: TaskEnv) -> None:
        self.env = env
        self._started = False
        self._render_state: Any = None

    def of(self, state: State, params: Task) -> NDArray[np.uint8]:
        """Image (height, width, 3) of an unbatched state."""
        if not self._started:
            self._render_state = self.env.render_init(params)
            self._started = True
        self._render_state, image = self.env.render_image(state, self._render_state, params)
        return image

    def close(self) -> None:
        """Release the renderer; may be called again."""
        if self._started:
            self.env.render_close(self._render_state)
            self._started = False


class _Window:
    """A pygame window, opened at the first image.

    Attributes:
        fps: images per second; `show` waits to keep to it.
    """

    def __init__(self, fps: int) -> None:
        self.fps = fps
        self._screen: Any = None
        self._clock: Any = None

    def show(self, image: NDArray[np.uint8]) -> None:
        """Show an image (height, width, 3)."""
        import pygame  # only who opens a window pays for the import

        if self._screen is None:
            pygame.display.init()
            self._screen = pygame.display.set_mode(image.shape[1::-1])
            self._clock = pygame.time.Clock()
        self._screen.blit(pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        pygame.event.pump()
        self._clock.tick(self.fps)
        pygame.display.flip()

    def close(self) -> None:
        """Close the window; may be called again."""
        if self._screen is not None:
            import pygame

            pygame.display.quit()
            self._screen = None


def as_distribution(distribution: TaskDistribution | str) -> TaskDistribution:
    """The distribution, or the one of that name."""
    return make_distribution(distribution) if isinstance(distribution, str) else distribution


def own_spaces(distribution: TaskDistribution) -> tuple[Space[Any], Space[Any]]:
    """Copies of both spaces: `action_space.seed()` of one environment must not reseed another's samples."""
    return copy.deepcopy(distribution.observation_space), copy.deepcopy(distribution.action_space)


def at_least_one(field: str, value: int) -> int:
    """The value; a ValueError that names the field where it is below 1."""
    if value < 1:
        raise ValueError(f"{field} must be at least 1, got {value}")
    return value


def _render_metadata(env: TaskEnv, metadata: dict[str, Any]) -> dict[str, Any]:
    """The class's metadata with the family's frame rate, and no render mode where the family draws no pictures."""
    modes = metadata["render_modes"] if env.draws_pictures else []
    return {**metadata, "render_modes": modes, "render_fps": env.render_fps}


def _check_render_mode(render_mode: str | None, metadata: dict[str, Any], distribution: TaskDistribution) -> str | None:
    offered = metadata["render_modes"]
    if render_mode is not None and render_mode not in offered:
        allowed = ", ".join(repr(mode) for mode in (None, *offered))
        raise ValueError(f"render_mode {render_mode!r} is not offered by {distribution.name}; allowed: {allowed}")
    return render_mode


def _check_options(options: dict[str, Any] | None) -> dict[str, Any]:
    options = options or {}
    unknown = [key for key in options if key != "task"]
    if unknown:
        raise ValueError(f"unknown reset options {unknown}; allowed: 'task'")
    return options


def parse_choice(distribution: TaskDistribution, choice: TaskChoice) -> Task | None:
    """The chosen task, leaves (1, …); None for SAMPLE."""
    if choice is None:
        return distribution.default_task()
    if isinstance(choice, str) and choice == SAMPLE:
        return None
    return _parse_mapping(distribution, choice)


def _parse_mapping(distribution: TaskDistribution, task: Any) -> Task:
    if not isinstance(task, Mapping):
        raise ValueError(f"task must be None, {SAMPLE!r} or a mapping of {sorted(distribution.train)}, got {task!r}")
    return distribution.parse_task(task)


def _reseed(rng: torch.Generator, np_random: np.random.Generator) -> None:
    rng.manual_seed(int(np_random.integers(2**63)))


def action_tensor(action: Any, space: Space[Any], ignored: Flags | None = None) -> Tensor:
    """The action as a tensor of the space's shape and type; rows to be ignored become zero.

    A Box's bounds are not checked: the environment clips.
    """
    array = np.asarray(action).astype(space.dtype, casting="same_kind")
    if array.shape == space.shape and ignored is not None:
        array[ignored] = 0
    if array.shape != space.shape or not (isinstance(space, Box) or space.contains(array)):
        raise ValueError(f"action {action!r} is not in {space}")
    return torch.from_numpy(array)


def _map_leaves(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply a function to the tensor, or to each named tensor, of one or several alike states."""
    if isinstance(trees[0], dict):
        return {name: function(*(tree[name] for tree in trees)) for name in trees[0]}
    return function(*trees)


def _row(tree: Any, index: int) -> Any:
    """One environment's part of a batched state or task."""
    return _map_leaves(lambda leaf: leaf[index], tree)


def replace_rows(tree: Any, rows: Tensor, fresh: Any) -> Any:
    """Leaves (N, …) with the rows of a bool mask (N,) taken, in order, from fresh leaves (n, …)."""
    return _map_leaves(lambda leaf, new: leaf.index_put((rows,), new), tree, fresh)


def copy_out(tensor: Tensor) -> Floats:
    """A float32 array that shares no memory with the state."""
    return np.array(tensor.numpy(), dtype=np.float32)
