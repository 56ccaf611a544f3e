"""Ant: a four-legged robot walks in a direction, at a speed, or to a place.

Published codes differ in rewards, goals and horizons, so results do. Sources: Finn et al. 2017 (MAML,
arXiv:1703.03400, and its code; pytorch-maml-rl follows it), Rothfuss et al. 2018 (ProMP, arXiv:1810.06784), Rakelly et
al. 2019 (PEARL, arXiv:1903.08254). Deviations of all robots: see RobotEnv.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from metarl.envs.family_entry import Family, Horizon
from metarl.envs.physics.models import State
from metarl.envs.physics.robot_env import RobotEnv, along
from metarl.envs.physics.robots import ANT
from metarl.envs.physics.sensors import Sensors
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Ball, Choice, Circle, Task, Uniform

FORWARD, BACKWARD = 0.0, math.pi  # rad


class Ant(RobotEnv):
    """What the ant families share: what staying alive is worth and what actions and contacts cost.

        c = action_cost · ‖a‖² + 5e-4 · ‖clip(F, −1, 1)‖²

    F: torques and forces of the contacts on each body, MuJoCo's cfrc_ext. Where the ant may fall, an episode ends as
    soon as the torso's height leaves [0.2, 1] m.

    Args:
        horizon: H.
        alive: reward of each step in which the ant is alive, b.
        action_cost: weight of the squared action.
        may_fall: whether a fall ends the episode.
        full_observation: clip(F, −1, 1) besides positions and velocities, as in Gymnasium and in published codes; in
            many of those it was zero, as MuJoCo ≥ 2.0 computes contact forces only when it is asked to.
    """

    robot = ANT
    sensors = Sensors(contacts=True)

    def __init__(
        self,
        horizon: int = 200,
        alive: float = 0.0,
        action_cost: float = 0.1,
        may_fall: bool = True,
        full_observation: bool = False,
    ) -> None:
        super().__init__(horizon, 6 * self.robot.num_bodies if full_observation else 0)
        self.alive = alive
        self.action_cost = action_cost
        self.may_fall = may_fall

    def costs(self, action: Tensor, after: State) -> Tensor:
        """The costs c, (*batch,)."""
        return self.action_cost * action.square().sum(-1) + 5e-4 * self.extra_observations(after).square().sum(-1)

    def extra_observations(self, state: State) -> Tensor:
        """Clipped torques and forces of the contacts."""
        return self.sensor_readings(state).contact_wrenches().clamp(-1, 1).flatten(-2)

    def terminal(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See RobotEnv.terminal."""
        fallen = super().terminal(state, rng, params)
        return fallen if self.may_fall else torch.zeros_like(fallen)


class AntDirection(Ant):
    """An ant is rewarded for its speed in a direction of the plane.

        r = v · (cos φ, sin φ) + b − c

    Task: "angle" φ, rad.

    Source: Finn et al. 2017, section 5.3 (b = 0.05, action cost 0.005); Rakelly et al. 2019 (b = 1, action cost 0.5).
    """

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        speed = along(self.velocity(before, after), params["angle"])
        return speed + self.alive - self.costs(action, after)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Forward."""
        return {"angle": torch.tensor(FORWARD, dtype=float_dtype())}


class AntVelocity(Ant):
    """An ant is rewarded for running forward at a speed that it is not told.

        r = 1 − |v_x − v*| + b − c

    Task: "velocity" v*, m/s.

    Source: Finn et al. 2017, section 5.3.
    """

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        error = (self.velocity(before, after)[..., 0] - params["velocity"]).abs()
        return 1 - error + self.alive - self.costs(action, after)

    def get_default_params(self, **kwargs: Any) -> Task:
        """1 m/s."""
        return {"velocity": torch.tensor(1.0, dtype=float_dtype())}


class AntGoal(Ant):
    """An ant is rewarded for being near a goal in the plane that it is not told.

        r = −‖p − g‖₁ + b − c

    Observation: the ant's own, after its position p in the plane. Task: "goal" g (2,), m.

    Source: Rothfuss et al. 2018, appendix D.
    """

    robot = dataclasses.replace(ANT, hidden_positions=0)

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        distance = (after["qpos"][..., :2] - params["goal"]).abs().sum(-1)
        return -distance + self.alive - self.costs(action, after)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Two metres ahead."""
        return {"goal": torch.tensor([2.0, 0.0], dtype=float_dtype())}

    def plane_position(self, obs: Tensor) -> Tensor:
        """See EnvFamily.plane_position."""
        return obs[..., :2]

    def plane_goal(self, tasks: Task) -> Tensor:
        """See EnvFamily.plane_goal."""
        return tasks["goal"]


def ant_direction(
    horizon: Horizon = 200, alive: float = 0.05, action_cost: float = 0.005, full_observation: bool = False
) -> TaskDistribution:
    """Walk forward or backward, two tasks; ood: any direction. Source: Finn et al. 2017, section 5.3."""
    return TaskDistribution(
        AntDirection(horizon, alive, action_cost, full_observation=full_observation),
        train={"angle": Choice([FORWARD, BACKWARD], units="rad")},
        ood={"angle": Uniform(0.0, 2 * math.pi, units="rad")},
    )


def ant_direction_circle(
    horizon: Horizon = 200, alive: float = 1.0, action_cost: float = 0.5, full_observation: bool = False
) -> TaskDistribution:
    """Walk in any direction of the plane. Source: Rakelly et al. 2019; its ant-dir with all directions."""
    env = AntDirection(horizon, alive, action_cost, full_observation=full_observation)
    return TaskDistribution(env, train={"angle": Uniform(0.0, 2 * math.pi, units="rad")})


def ant_velocity(
    horizon: Horizon = 200, alive: float = 0.05, action_cost: float = 0.005, full_observation: bool = False
) -> TaskDistribution:
    """Run forward at an unknown speed up to 3 m/s. Source: Finn et al. 2017, section 5.3."""
    return TaskDistribution(
        AntVelocity(horizon, alive, action_cost, full_observation=full_observation),
        train={"velocity": Uniform(0.0, 3.0, units="m/s")},
        ood={"velocity": Uniform(3.0, 4.0, units="m/s")},
    )


def ant_goal(
    horizon: Horizon = 200,
    alive: float = 0.0,
    action_cost: float = 0.1,
    may_fall: bool = False,
    full_observation: bool = False,
) -> TaskDistribution:
    """Reach an unknown place within 3 m; ood: 4 m away. Source: Rothfuss et al. 2018; PEARL's too."""
    return TaskDistribution(
        AntGoal(horizon, alive, action_cost, may_fall, full_observation),
        train={"goal": Ball(3.0, units="m")},
        ood={"goal": Circle(4.0, units="m")},
    )


FAMILIES = (
    Family("ant-direction", ant_direction, "metarl/AntDirection-v0"),
    Family("ant-direction/circle", ant_direction_circle, "metarl/AntDirectionCircle-v0"),
    Family("ant-velocity", ant_velocity, "metarl/AntVelocity-v0"),
    Family("ant-goal", ant_goal, "metarl/AntGoal-v0"),
)
