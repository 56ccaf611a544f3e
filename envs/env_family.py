"""EnvFamily: what a TaskDistribution needs of environments, whether they are written in torch or not."""

from typing import Any

from gymnasium.spaces import Box, Discrete
from torch import Tensor

from envs.rollout import BatchedEnv
from envs.task_space import Task


class EnvFamily:
    """What a TaskDistribution draws tasks for, and binds them to; every method has a default but `bind`.

    Attributes:
        observation_space: Box of shape (O,); finite bounds keep Gymnasium's checker quiet.
        action_space: Box of shape (A,), best with bounds [-1, 1], or Discrete. A Gaussian policy samples outside
            a Box now and then: the environment clips.
        horizon: number of steps after which an episode is truncated, H.
        num_threads: CPU threads, where the environments themselves compute on several; 0: one per core.
    """

    observation_space: Box
    action_space: Box | Discrete
    horizon: int
    num_threads: int = 0

    def bind(self, tasks: Task, num_episodes: int) -> BatchedEnv:
        """Bind to M tasks × E episodes: what `collect` steps."""
        raise NotImplementedError

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

    def plane_goal(self, tasks: Task) -> Tensor | None:
        """Goal in the plane, (M, 2), for pictures of trajectories; None where there is none."""
        return None
