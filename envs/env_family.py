"""EnvFamily: what a TaskDistribution needs of environments, whether they are written in torch or not."""

from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.rollout import BatchedEnv
from metarl.envs.task_space import Task

Polyline = list[tuple[float, float]]
"""Points in the plane, joined by a line."""


class PicturedEnv(BatchedEnv, Protocol):
    """A BatchedEnv that can be looked at; what `EnvFamily.bind_for_pictures` gives."""

    def picture(self, task: int, episode: int) -> NDArray[np.uint8]:
        """One of the M × E environments as it is now, (height, width, 3)."""
        ...

    def close_pictures(self) -> None:
        """Release the renderer."""
        ...


class EnvFamily:
    """What a TaskDistribution draws tasks for, and binds them to; every method has a default but `bind`.

    Attributes:
        observation_space: Box of shape (O,); finite bounds keep Gymnasium's checker quiet.
        action_space: Box of shape (A,), best with bounds [-1, 1], or Discrete. A Gaussian policy samples outside
            a Box now and then: the environment clips.
        horizon: number of steps after which an episode is truncated, H.
        num_threads: CPU threads, where the environments themselves compute on several; 0: one per core.
        render_fps: frames per second of rendered episodes.
        plane_cell: side of a cell of the plane where positions are those of cells: trajectories are drawn beside
            each other then; 0 where they are not.
        plane_axes: what the two axes of the plane are, where they are not of one scale.
    """

    observation_space: Box
    action_space: Box | Discrete
    horizon: int
    num_threads: int = 0
    render_fps: int = 10
    plane_cell: float = 0.0
    plane_axes: tuple[str, str] | None = None

    def bind(self, tasks: Task, num_episodes: int) -> BatchedEnv:
        """Bind to M tasks × E episodes: what `collect` steps."""
        raise NotImplementedError

    def bind_for_pictures(self, tasks: Task, num_episodes: int) -> PicturedEnv:
        """As `bind`, to the same episodes, and each environment can be looked at.

        Raises:
            ValueError: the family draws no pictures.
        """
        raise ValueError("it draws no pictures of its environments")

    def get_default_params(self, **kwargs: Any) -> Task | None:
        """The default task, leaves without a leading dimension; None: a training task, always the same."""
        return None

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Action of a policy that knows the task, (*batch, A) or (*batch,) integers, as good as is easily had.

        It sets the upper end of normalised scores (1 = oracle). Families without one leave it out.

        Args:
            obs: (*batch, O).
            params: the task, leaves (*batch, …).
            time: steps taken since the episode began.
        """
        raise NotImplementedError

    @property
    def has_oracle(self) -> bool:
        """Whether `oracle_action` is defined."""
        return type(self).oracle_action is not EnvFamily.oracle_action

    def plane_position(self, obs: Tensor) -> Tensor | None:
        """Position in the plane, (*batch, 2), for pictures of trajectories; None where there is none."""
        return None

    def plane_path(self, obs: Tensor) -> Tensor | None:
        """Positions in the plane, (*batch, T, 2), of T observations in a row (*batch, T, O); None where there is none.

        Default: `plane_position` of each. Families that see their velocity only add it up here.
        """
        return self.plane_position(obs)

    def plane_lines(self, task: Task) -> list[Polyline]:
        """Walls of one task (leaves without a leading dimension) or edges of its road, for the same pictures."""
        return []

    def plane_goal(self, tasks: Task) -> Tensor | None:
        """Goal in the plane, (M, 2), for pictures of trajectories; None where there is none."""
        return None
