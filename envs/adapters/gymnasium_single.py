"""Gymnasium's view of one environment of a TaskDistribution: `TaskGymEnv`.

Here and in the vector environment alone an episode resets by itself or has a time limit of its own; training steps the
BatchedEnv of `TaskDistribution.bind` through `collect` instead. The adapters speak numpy and run on the CPU.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from metarl.envs.adapters.arguments import (
    TaskChoice,
    as_distribution,
    check_options,
    check_render_mode,
    own_spaces,
    parse_choice,
    render_metadata,
)
from metarl.envs.adapters.task_batch import Floats, action_tensor, checked_observation, copy_out
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import Renderer, State, TaskEnv
from metarl.envs.task_space import Task, select_tasks


class TaskGymEnv(gymnasium.Env[Floats, Any]):
    """One environment over the TaskEnv of a distribution; made by `gymnasium.make("metarl/…", task=…)`.

    Like Gymnasium's own environments it has no time limit: `gymnasium.make` wraps it in one. `info["task"]` of every
    reset and step is the current task, a dict of float32 arrays.

    Args:
        distribution: a TaskDistribution, or a name that `make_distribution` knows.
        task: a mapping such as {"goal": [0.3, 0.2]}; "sample" samples a training task at every reset; None is the
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
        self.metadata = render_metadata(self._env, self.metadata)
        self.render_mode = check_render_mode(render_mode, self.metadata, self.distribution)
        self.observation_space, self.action_space = own_spaces(self.distribution)

        self._fixed_task = parse_choice(self.distribution, task)
        self._rng = torch.Generator()
        self._params: Task = {}
        self._state: State = None
        self._renderer = Renderer(self._env)
        self._window = _Window(self.metadata["render_fps"])

    @torch.no_grad()
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the sampling of tasks and the environment's randomness; None continues the current stream.
            options: {"task": …} changes the task for this and all following episodes.

        Returns:
            Observation (O,) and info.

        Raises:
            ValueError: unknown option; malformed or out-of-range task.
        """
        options = check_options(options)
        if "task" in options:
            self._fixed_task = parse_choice(self.distribution, options["task"])

        # Gymnasium keeps the seed in a numpy generator; torch's goes on from it.
        super().reset(seed=seed)
        self._rng.manual_seed(int(self.np_random.integers(2**63)))

        task = self._fixed_task if self._fixed_task is not None else self.distribution.sample(1, "train", self._rng)
        self._params = select_tasks(task, 0)
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
        chosen = action_tensor(action, self.action_space)
        next_state = self._env.transition(self._state, chosen, self._rng, self._params)
        reward = self._env.reward(self._state, chosen, next_state, self._rng, self._params)
        self._state = next_state

        obs, info = self._observe()
        terminated = self._env.terminal(next_state, self._rng, self._params)
        return obs, float(reward), bool(terminated), False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The current state: returned as an image (height, width, 3) in "rgb_array", shown in a window in "human"."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                'render() shows nothing: make the environment with render_mode="rgb_array" or "human"'
            )
            return None

        assert self._state is not None, "reset() comes before render()"
        image = self._renderer.render(self._state, self._params)
        if self.render_mode == "rgb_array":
            return image
        self._window.show(image)
        return None

    def close(self) -> None:
        """Close the window and release the renderer."""
        self._window.close()
        self._renderer.close()

    def _observe(self) -> tuple[Floats, dict[str, Any]]:
        """Observation and info of the current state; refreshes the window."""
        if self.render_mode == "human":
            self.render()

        obs = self._env.observation(self._state, self._rng, self._params)
        task = {name: copy_out(value) for name, value in self._params.items()}
        return checked_observation(obs, self._env, self._params, ()), {"task": task}


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
