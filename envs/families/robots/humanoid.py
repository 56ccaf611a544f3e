"""Humanoid: a two-legged robot walks in a direction of the plane.

Sources: Rothfuss et al. 2018 (ProMP, arXiv:1810.06784), Rakelly et al. 2019 (PEARL, arXiv:1903.08254). Deviations of
all robots: see RobotEnv.
"""

import math
from typing import Any

import torch
from torch import Tensor

from metarl.envs.family_entry import Family, Horizon
from metarl.envs.physics.models import State
from metarl.envs.physics.robot_env import RobotEnv, along
from metarl.envs.physics.robots import HUMANOID
from metarl.envs.physics.sensors import Sensors
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, Uniform


class HumanoidDirection(RobotEnv):
    """A humanoid is rewarded for walking in a direction of the plane.

        r = 1.25 · v · (cos φ, sin φ) + 5 − 0.1 ‖u‖² − min(5e-7 ‖F‖², 10)

    v: velocity of its centre of mass; u = 0.4 a: control; F: torques and forces of the contacts. An episode ends as
    soon as the torso's height leaves (1, 2) m. Task: "angle" φ, rad.

    Source: Rothfuss et al. 2018, appendix D, and Rakelly et al. 2019. Deviation: there an action is the control itself.

    Args:
        horizon: H.
        full_observation: inertias, velocities, actuator and contact forces of all bodies besides positions and
            velocities: the 348 numbers of Gymnasium in place of 45, most of which follow from those 45.
    """

    robot = HUMANOID

    def __init__(self, horizon: int = 200, full_observation: bool = False) -> None:
        robot = self.robot
        super().__init__(horizon, 22 * robot.num_bodies + robot.num_actuators if full_observation else 0)
        self.sensors = Sensors(contacts=True, motion=full_observation)

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        start = self.sensor_readings(before)
        end = self.sensor_readings(after)

        velocity = (end.centre - start.centre)[..., :2] / self.robot.dt
        contact_cost = (5e-7 * end.contact_wrenches().square().sum((-2, -1))).clamp(max=10)
        control_cost = 0.1 * self.scale_action(action, params).square().sum(-1)
        return 1.25 * along(velocity, params["angle"]) + 5 - control_cost - contact_cost

    def extra_observations(self, state: State) -> Tensor:
        """MuJoCo's cinert, cvel, qfrc_actuator and cfrc_ext, one after the other."""
        readings = self.sensor_readings(state)
        inertias = readings.body_inertias(self.model).flatten(-2)
        velocities = readings.body_velocities().flatten(-2)
        contacts = readings.contact_wrenches().flatten(-2)
        return torch.cat([inertias, velocities, readings.joints, contacts], dim=-1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Forward."""
        return {"angle": torch.tensor(0.0, dtype=float_dtype())}


def humanoid_direction(horizon: Horizon = 200, full_observation: bool = False) -> TaskDistribution:
    """Walk in any direction of the plane. Source: Rothfuss et al. 2018 and Rakelly et al. 2019."""
    env = HumanoidDirection(horizon, full_observation)
    return TaskDistribution(env, train={"angle": Uniform(0.0, 2 * math.pi, units="rad")})


FAMILIES = (Family("humanoid-direction", humanoid_direction, "metarl/HumanoidDirection-v0"),)
