"""Half-cheetah: a planar robot runs in a direction, at a speed, or with a body that varies.

Published codes differ in rewards, goals and horizons, so results do. Sources: Finn et al. 2017 (MAML,
arXiv:1703.03400, and its code; pytorch-maml-rl follows it), Rothfuss et al. 2018 (ProMP, arXiv:1810.06784), Rakelly et
al. 2019 (PEARL, arXiv:1903.08254), Nagabandi et al. 2018 (arXiv:1803.11347). Deviations of all robots: see RobotEnv.
"""

from typing import Any

import torch
from torch import Tensor

from metarl.envs.family_entry import Family, Horizon
from metarl.envs.physics.models import State
from metarl.envs.physics.robot_env import RobotEnv, TaskValues
from metarl.envs.physics.robots import HALF_CHEETAH
from metarl.envs.physics.varied_robot import VariedRobot
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Choice, Integers, LogUniform, Task, Uniform


class HalfCheetahDirection(RobotEnv):
    """A planar cheetah is rewarded for running forward or backward.

        r = d · v_x − 0.05 ‖a‖²

    Task: "direction" d, 1 or −1.

    Source: Finn et al. 2017, section 5.3; there observations hold the torso's position besides.
    """

    robot = HALF_CHEETAH

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        return params["direction"] * self.velocity(before, after)[..., 0] - 0.05 * action.square().sum(-1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Forward."""
        return {"direction": torch.tensor(1.0, dtype=float_dtype())}


class HalfCheetahVelocity(RobotEnv):
    """A planar cheetah is rewarded for running at a speed that it is not told.

        r = −|v_x − v*| − 0.05 ‖a‖²

    Task: "velocity" v*, m/s.

    Source: Finn et al. 2017, section 5.3; there observations hold the torso's position besides.
    """

    robot = HALF_CHEETAH

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        error = (self.velocity(before, after)[..., 0] - params["velocity"]).abs()
        return -error - 0.05 * action.square().sum(-1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """1 m/s."""
        return {"velocity": torch.tensor(1.0, dtype=float_dtype())}


class HalfCheetahDynamics(VariedRobot):
    """A planar cheetah whose masses, friction and joints vary is rewarded for running forward.

        r = v_x − 0.05 ‖a‖²

    Task: "body_mass" (7,) and "friction", factors; "disabled_joint", the actuator without power, 0 … 5, or −1 for none.

    Source: the disabled joint, Nagabandi et al. 2018, section 6; masses and friction vary besides.
    """

    robot = HALF_CHEETAH
    scaled = ("body_mass",)

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        return self.velocity(before, after)[..., 0] - 0.05 * action.square().sum(-1)

    def scale_action(self, action: Tensor, params: Task) -> Tensor:
        """See RobotEnv.scale_action."""
        # The cheetah's actuators take actions as they are: only the disabled one gets 0.
        joints = torch.arange(self.robot.num_actuators, device=action.device)
        return action * (joints != params["disabled_joint"].unsqueeze(-1))

    def apply_task(self, model: Any, task: TaskValues) -> None:
        """See RobotEnv.apply_task."""
        super().apply_task(model, task)

        # A heavier body of the same shape has inertia in proportion; body 0 is the world.
        model.body_inertia[1:] *= task["body_mass"][:, None]
        model.geom_friction[:, 0] *= task["friction"]

    def get_default_params(self, **kwargs: Any) -> Task:
        """The robot as Gymnasium has it."""
        return {
            **super().get_default_params(),
            "friction": torch.tensor(1.0, dtype=float_dtype()),
            "disabled_joint": torch.tensor(-1.0, dtype=float_dtype()),
        }


def half_cheetah_direction(horizon: Horizon = 200) -> TaskDistribution:
    """Run forward or backward, two tasks; H = 200. Source: Finn et al. 2017, section 5.3."""
    return TaskDistribution(HalfCheetahDirection(horizon), train={"direction": Choice([-1.0, 1.0], units="±1")})


def half_cheetah_direction_promp(horizon: Horizon = 100) -> TaskDistribution:
    """Run forward or backward, two tasks; H = 100. Source: Rothfuss et al. 2018, appendix D."""
    return TaskDistribution(HalfCheetahDirection(horizon), train={"direction": Choice([-1.0, 1.0], units="±1")})


def half_cheetah_velocity_finn(horizon: Horizon = 200) -> TaskDistribution:
    """Run at an unknown speed up to 2 m/s; H = 200. Source: Finn et al. 2017, section 5.3."""
    return TaskDistribution(
        HalfCheetahVelocity(horizon),
        train={"velocity": Uniform(0.0, 2.0, units="m/s")},
        ood={"velocity": Uniform(2.0, 3.0, units="m/s")},
    )


def half_cheetah_velocity_promp(horizon: Horizon = 200) -> TaskDistribution:
    """Run at an unknown speed up to 3 m/s; H = 200. Source: Rothfuss et al. 2018; PEARL's too."""
    return TaskDistribution(
        HalfCheetahVelocity(horizon),
        train={"velocity": Uniform(0.0, 3.0, units="m/s")},
        ood={"velocity": Uniform(3.0, 4.0, units="m/s")},
    )


def half_cheetah_dynamics(horizon: Horizon = 200) -> TaskDistribution:
    """Run forward with unknown masses and friction and perhaps one dead joint.

    Source: the disabled joint, Nagabandi et al. 2018, section 6; ranges are ours.
    """
    env = HalfCheetahDynamics(horizon)
    train = {
        "body_mass": LogUniform(0.5, 2.0, units="×", shape=env.shape_of("body_mass")),
        "friction": LogUniform(0.5, 2.0, units="×"),
        "disabled_joint": Integers(-1, env.robot.num_actuators - 1, units="index"),
    }
    ood = {
        "body_mass": LogUniform(2.0, 3.0, units="×", shape=env.shape_of("body_mass")),
        "friction": LogUniform(0.25, 0.5, units="×"),
    }

    return TaskDistribution(env, train=train, ood=ood)


FAMILIES = (
    Family("half-cheetah-direction", half_cheetah_direction, "metarl/HalfCheetahDirection-v0"),
    Family("half-cheetah-direction/promp", half_cheetah_direction_promp, "metarl/HalfCheetahDirectionProMP-v0"),
    Family(
        "half-cheetah-velocity/finn",
        half_cheetah_velocity_finn,
        "metarl/HalfCheetahVelocity-v0",
        alias="half-cheetah-velocity",
    ),
    Family("half-cheetah-velocity/promp", half_cheetah_velocity_promp, "metarl/HalfCheetahVelocityProMP-v0"),
    Family("half-cheetah-dynamics", half_cheetah_dynamics, "metarl/HalfCheetahDynamics-v0"),
)
