"""EnvFamily: what a TaskDistribution needs of environments, whether they are written in torch or not."""

from numbers import Integral
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.rollout import BatchedEnv
from metarl.envs.spaces.action_map import DEFAULT_SCALE, ActionMap
from metarl.envs.spaces.units import Units, units_of_fields
from metarl.envs.task_space import Task

Polyline = list[tuple[float, float]]
"""Points in the plane, connected by straight lines."""


class RenderableEnv(BatchedEnv, Protocol):
    """A BatchedEnv whose environments can be rendered; what `EnvFamily.bind_for_rendering` returns."""

    def render(self, task: int, episode: int) -> NDArray[np.uint8]:
        """One of the M × E environments as it is now, (height, width, 3)."""
        ...

    def close_renderers(self) -> None:
        """Release whatever rendering took."""
        ...


class EnvFamily:
    """A family of environments that differ in their task; every method has a default but `bind`.

    Attributes:
        observation_space: Box of shape (O,); finite bounds keep Gymnasium's checker quiet.
        action_space: the environment's own: Box, Discrete, MultiDiscrete or MultiBinary. A policy's [-1, 1] is
            stretched to the bounds of a Box and never leaves it. A Box that is [-1, 1] itself gets the policy's
            actions as they are, and a Gaussian one samples outside now and then: the environment clips.
        action_scale: span of actions where a Box has no bounds, see `metarl.envs.spaces.action_map`.
        units: of the observations, a text for all or a list with one for each; None: they are not stated.
        horizon: number of steps after which an episode is truncated, H.
        num_threads: CPU threads, where the environments themselves compute on several; 0 = one per core.
        render_fps: frames per second of rendered episodes.
        plane_cell: side of a cell, where positions in the plane are those of cells: trajectories are then drawn
            beside each other; 0 = positions are continuous.
        plane_axes: names of the two axes of the plane, where these have different scales.
        plane_view: half the side of the square around the plane's origin that pictures show, where what pictures show
            is the plane: videos then draw the way that an episode has taken; None where it is not.
    """

    observation_space: Box
    action_space: Space[Any]
    action_scale: float = DEFAULT_SCALE
    units: Units = None
    horizon: int
    num_threads: int = 0
    render_fps: int = 10
    plane_cell: float = 0.0
    plane_axes: tuple[str, str] | None = None
    plane_view: float | None = None

    @property
    def field_units(self) -> dict[str, str]:
        """Path of a field of the observations → its unit; only of those whose unit is stated.

        Raises:
            ValueError: `units` do not fit the observations.
        """
        return units_of_fields(self.units, self.observation_space)

    @property
    def action_map(self) -> ActionMap:
        """From the actions that policies give to what `bind` returns, to those of `action_space`."""
        return ActionMap.of(self.action_space, self.action_scale)

    @property
    def native_action_space(self) -> Space[Any]:
        """The action space of the environments themselves."""
        return self.action_space

    def same_actions(self, one: float, other: float) -> bool:
        """Whether a policy's actions mean the same with two values of `action_scale`."""
        return ActionMap.of(self.action_space, one).same_as(ActionMap.of(self.action_space, other))

    def set_action_scale(self, scale: float) -> None:
        """Set `action_scale` for all that is bound from now on."""
        self.action_scale = scale

    def bind(self, tasks: Task, num_episodes: int) -> BatchedEnv:
        """Bind to M tasks × E episodes: what `collect` steps."""
        raise NotImplementedError

    def bind_for_rendering(self, tasks: Task, num_episodes: int) -> RenderableEnv:
        """As `bind`, with the same episodes, and each environment can be rendered.

        Raises:
            ValueError: the family cannot render.
        """
        raise ValueError("it cannot render its environments")

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

    def optimum(self, num_episodes: int) -> tuple[float, ...]:
        """What a trial of so many episodes can earn at most in each of them, where its task is not known at first.

        The mean over all tasks of a policy that is Bayes-optimal for the whole trial; () where it is not known.
        """
        return ()

    # Pictures and figures of trajectories

    def ending(self, obs: Tensor) -> str:
        """What has happened where an episode terminates in this observation, (O,), in a word or two: videos show it."""
        return "ended"

    def plane_position(self, obs: Tensor) -> Tensor | None:
        """Position in the plane, (*batch, 2), for figures of trajectories; None where there is none."""
        return None

    def plane_path(self, obs: Tensor) -> Tensor | None:
        """Positions in the plane, (*batch, T, 2), of T successive observations, (*batch, T, O); None: there are none.

        Default: `plane_position` of each. Families that observe only their velocity integrate it here.
        """
        return self.plane_position(obs)

    def plane_lines(self, task: Task) -> list[Polyline]:
        """Walls of one task (leaves without a leading dimension) or edges of its road, for the same figures."""
        return []

    def plane_goal(self, tasks: Task) -> Tensor | None:
        """Goal in the plane, (M, 2), for figures of trajectories; None where there is none."""
        return None


def require_horizon(env: EnvFamily) -> None:
    """Refuse an environment family whose episodes have no length.

    Raises:
        ValueError: its horizon is missing, or no whole number of at least 1.
    """
    horizon = getattr(env, "horizon", None)
    if isinstance(horizon, bool) or not isinstance(horizon, Integral) or horizon < 1:
        raise ValueError(f"{type(env).__name__}.horizon must be a whole number of at least 1, got {horizon!r}")


def require_units_that_fit(env: EnvFamily) -> None:
    """Refuse units of observations that there are not.

    Raises:
        ValueError: names the environment and what is wrong.
    """
    if env.units is None:
        return
    try:
        _ = env.field_units
    except ValueError as error:
        raise ValueError(f"{type(env).__name__}.{error}") from None
