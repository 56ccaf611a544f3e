"""Legged robots in MuJoCo, the field's benchmarks: what they are paid for and how tasks differ.

Published codes differ in rewards, goals and horizons, so results do. Sources are named by their first authors:
Finn et al. 2017 (MAML, arXiv:1703.03400, and its code; pytorch-maml-rl follows it), Rothfuss et al. 2018 (ProMP,
arXiv:1810.06784), Rakelly et al. 2019 (PEARL, arXiv:1903.08254), Nagabandi et al. 2018 (arXiv:1803.11347).
Deviations of every family here: the robots are those of Gymnasium's v5 environments, actions are clipped to [−1, 1]
before they cost anything, and velocities are differences of the root's position over an environment step.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.physics.models import Sensors, State
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.physics.robots import ANT, HALF_CHEETAH, HOPPER, HUMANOID, WALKER2D, Robot
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Ball, Choice, Circle, Integers, LogUniform, Range, Task, Uniform

TaskValues = Mapping[str, NDArray[np.float32]]

FORWARD, BACKWARD = 0.0, math.pi


class HalfCheetahDirection(RobotEnv):
    """A planar cheetah is paid for running forward or backward.

        r = d · v_x − 0.05 ‖a‖²

    Task: "direction" d, 1 or −1.

    Source: Finn et al. 2017, section 5.3; there observations hold the torso's position besides.
    """

    robot = HALF_CHEETAH

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        return params["direction"] * self.velocity(before, after)[..., 0] - 0.05 * action.square().sum(-1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Forward."""
        return {"direction": torch.tensor(1.0)}


class HalfCheetahVelocity(RobotEnv):
    """A planar cheetah is paid for running at a speed that it is not told.

        r = −|v_x − v*| − 0.05 ‖a‖²

    Task: "velocity" v*, m/s.

    Source: Finn et al. 2017, section 5.3; there observations hold the torso's position besides.
    """

    robot = HALF_CHEETAH

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        miss = (self.velocity(before, after)[..., 0] - params["velocity"]).abs()
        return -miss - 0.05 * action.square().sum(-1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """1 m/s."""
        return {"velocity": torch.tensor(1.0)}


class Ant(RobotEnv):
    """What the ant families share: what staying alive is worth and what actions and contacts cost.

        c = cost · ‖a‖² + 5e-4 · ‖clip(F, −1, 1)‖²

    F: torques and forces of the contacts on each body, MuJoCo's cfrc_ext. Where the ant may fall, an episode ends as
    soon as the torso's height leaves [0.2, 1] m.

    Args:
        horizon: H.
        alive: paid for each step, b.
        cost: of an action.
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
        cost: float = 0.1,
        may_fall: bool = True,
        full_observation: bool = False,
    ) -> None:
        super().__init__(horizon, 6 * self.robot.num_bodies if full_observation else 0)
        self.alive, self.cost, self.may_fall = alive, cost, may_fall

    def effort(self, action: Tensor, after: State) -> Tensor:
        """The costs c, (*batch,)."""
        return self.cost * action.square().sum(-1) + 5e-4 * self.extras(after).square().sum(-1)

    def extras(self, state: State) -> Tensor:
        """Clipped torques and forces of the contacts."""
        return self.measured(state).contact_wrenches().clamp(-1, 1).flatten(-2)

    def terminal(self, state: State, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See RobotEnv.terminal."""
        fallen = super().terminal(state, rng, params)
        return fallen if self.may_fall else torch.zeros_like(fallen)


class AntDirection(Ant):
    """An ant is paid for its speed in a direction of the plane.

        r = v · (cos φ, sin φ) + b − c

    Task: "angle" φ, rad.

    Source: Finn et al. 2017, section 5.3 (b = 0.05, cost 0.005); Rakelly et al. 2019 (b = 1, cost 0.5).
    """

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        return _along(self.velocity(before, after), params["angle"]) + self.alive - self.effort(action, after)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Forward."""
        return {"angle": torch.tensor(FORWARD)}


class AntVelocity(Ant):
    """An ant is paid for running forward at a speed that it is not told.

        r = 1 − |v_x − v*| + b − c

    Task: "velocity" v*, m/s.

    Source: Finn et al. 2017, section 5.3.
    """

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        miss = (self.velocity(before, after)[..., 0] - params["velocity"]).abs()
        return 1 - miss + self.alive - self.effort(action, after)

    def get_default_params(self, **kwargs: Any) -> Task:
        """1 m/s."""
        return {"velocity": torch.tensor(1.0)}


class AntGoal(Ant):
    """An ant is paid for being near a goal in the plane that it is not told.

        r = −‖p − g‖₁ + b − c

    Observation: the ant's own, after its position p in the plane. Task: "goal" g (2,), m.

    Source: Rothfuss et al. 2018, appendix D.
    """

    robot = dataclasses.replace(ANT, hidden_positions=0)

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        distance = (after["qpos"][..., :2] - params["goal"]).abs().sum(-1)
        return -distance + self.alive - self.effort(action, after)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Two metres ahead."""
        return {"goal": torch.tensor([2.0, 0.0])}

    def plane_position(self, obs: Tensor) -> Tensor:
        """See EnvFamily.plane_position."""
        return obs[..., :2]

    def plane_goal(self, tasks: Task) -> Tensor:
        """See EnvFamily.plane_goal."""
        return tasks["goal"]


class HumanoidDirection(RobotEnv):
    """A humanoid is paid for walking in a direction of the plane.

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

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        start, end = self.measured(before), self.measured(after)
        velocity = (end.centre - start.centre)[..., :2] / self.robot.dt
        contact_cost = (5e-7 * end.contact_wrenches().square().sum((-2, -1))).clamp(max=10)
        control_cost = 0.1 * self.control(action, params).square().sum(-1)
        return 1.25 * _along(velocity, params["angle"]) + 5 - control_cost - contact_cost

    def extras(self, state: State) -> Tensor:
        """MuJoCo's cinert, cvel, qfrc_actuator and cfrc_ext, one after the other."""
        measured = self.measured(state)
        bodies = (measured.body_inertias(self.model), measured.body_velocities())
        forces = (measured.joints, measured.contact_wrenches().flatten(-2))
        return torch.cat([*(part.flatten(-2) for part in bodies), *forces], dim=-1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Forward."""
        return {"angle": torch.tensor(FORWARD)}


class VariedRobot(RobotEnv):
    """What the families of varied dynamics share: scales of the model's own values, drawn for each element.

    Task: some of "body_mass" (B,), "body_inertia" (B, 3), "dof_damping" (nv,) and "geom_friction" (G, 3), factors of
    what the robot's model holds, for its bodies without the world and for all geoms.
    """

    scaled: tuple[str, ...] = ("body_mass", "body_inertia", "dof_damping", "geom_friction")

    def vary(self, model: Any, task: TaskValues) -> None:
        """See RobotEnv.vary."""
        for name in self.scaled:
            field = getattr(model, name)
            field[len(field) - len(task[name]) :] *= task[name]

    def get_default_params(self, **kwargs: Any) -> Task:
        """The robot as Gymnasium has it."""
        return {name: torch.ones(self.shape_of(name)) for name in self.scaled}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a task parameter."""
        bodies = self.robot.num_bodies
        shapes: dict[str, tuple[int, ...]] = {
            "body_mass": (bodies,),
            "body_inertia": (bodies, 3),
            "dof_damping": (self.robot.num_velocities,),
            "geom_friction": (self.robot.num_geoms, 3),
        }
        return shapes[name]


class ForwardDynamics(VariedRobot):
    """A planar robot whose build varies is paid for going forward and staying upright.

        r = v_x + 1 − 1e-3 ‖a‖²

    An episode ends where Gymnasium's does. Source: Rothfuss et al. 2018, appendix D, after rand_param_envs. Deviation:
    what MuJoCo derives from masses and inertias is computed anew.

    Args:
        robot: HOPPER or WALKER2D.
        horizon: H.
    """

    def __init__(self, robot: Robot, horizon: int = 200) -> None:
        self.robot = robot
        super().__init__(horizon)

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        return self.velocity(before, after)[..., 0] + 1 - 1e-3 * action.square().sum(-1)


class HalfCheetahDynamics(VariedRobot):
    """A planar cheetah whose masses, friction and joints vary is paid for running forward.

        r = v_x − 0.05 ‖a‖²

    Task: "body_mass" (7,) and "friction", factors; "disabled_joint", the actuator without power, 0 … 5, or −1 for none.

    Source: the disabled joint, Nagabandi et al. 2018, section 6; masses and friction vary besides.
    """

    robot = HALF_CHEETAH
    scaled = ("body_mass",)

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.pay."""
        return self.velocity(before, after)[..., 0] - 0.05 * action.square().sum(-1)

    def control(self, action: Tensor, params: Task) -> Tensor:
        """See RobotEnv.control."""
        joints = torch.arange(self.robot.num_actuators, device=action.device)
        return action * (joints != params["disabled_joint"].unsqueeze(-1))

    def vary(self, model: Any, task: TaskValues) -> None:
        """See RobotEnv.vary."""
        super().vary(model, task)
        model.body_inertia[1:] *= task["body_mass"][:, None]
        model.geom_friction[:, 0] *= task["friction"]

    def get_default_params(self, **kwargs: Any) -> Task:
        """The robot as Gymnasium has it."""
        return {
            **super().get_default_params(),
            "friction": torch.tensor(1.0),
            "disabled_joint": torch.tensor(-1.0),
        }


def _along(velocity: Tensor, angle: Tensor) -> Tensor:
    """Component of a velocity (*batch, 2) in a direction of the plane, (*batch,)."""
    return velocity[..., 0] * angle.cos() + velocity[..., 1] * angle.sin()


def half_cheetah_direction() -> TaskDistribution:
    """Run forward or backward, two tasks; H = 200. Source: Finn et al. 2017, section 5.3."""
    return TaskDistribution(HalfCheetahDirection(), {"direction": Choice([-1.0, 1.0], units="±1")})


def half_cheetah_direction_promp() -> TaskDistribution:
    """Run forward or backward, two tasks; H = 100. Source: Rothfuss et al. 2018, appendix D."""
    return TaskDistribution(HalfCheetahDirection(horizon=100), {"direction": Choice([-1.0, 1.0], units="±1")})


def half_cheetah_velocity_finn() -> TaskDistribution:
    """Run at an unknown speed up to 2 m/s; H = 200. Source: Finn et al. 2017, section 5.3."""
    return _velocities(HalfCheetahVelocity(), 2.0)


def half_cheetah_velocity_promp() -> TaskDistribution:
    """Run at an unknown speed up to 3 m/s; H = 200. Source: Rothfuss et al. 2018; PEARL's too."""
    return _velocities(HalfCheetahVelocity(), 3.0)


def ant_direction() -> TaskDistribution:
    """Walk forward or backward, two tasks; ood: any direction. Source: Finn et al. 2017, section 5.3."""
    env = AntDirection(alive=0.05, cost=0.005)
    any_direction = Uniform(0.0, 2 * math.pi, units="rad")
    return TaskDistribution(env, {"angle": Choice([FORWARD, BACKWARD], units="rad")}, {"angle": any_direction})


def ant_direction_circle() -> TaskDistribution:
    """Walk in any direction of the plane. Source: Rakelly et al. 2019; its ant-dir with all directions."""
    return TaskDistribution(AntDirection(alive=1.0, cost=0.5), {"angle": Uniform(0.0, 2 * math.pi, units="rad")})


def ant_velocity() -> TaskDistribution:
    """Run forward at an unknown speed up to 3 m/s. Source: Finn et al. 2017, section 5.3."""
    return _velocities(AntVelocity(alive=0.05, cost=0.005), 3.0)


def ant_goal() -> TaskDistribution:
    """Reach an unknown place within 3 m; ood: 4 m away. Source: Rothfuss et al. 2018; PEARL's too."""
    far = Circle(4.0, units="m")
    return TaskDistribution(AntGoal(may_fall=False), {"goal": Ball(3.0, units="m")}, {"goal": far})


def humanoid_direction() -> TaskDistribution:
    """Walk in any direction of the plane. Source: Rothfuss et al. 2018 and Rakelly et al. 2019."""
    return TaskDistribution(HumanoidDirection(), {"angle": Uniform(0.0, 2 * math.pi, units="rad")})


def hopper_dynamics() -> TaskDistribution:
    """Hop forward with unknown masses, inertias, damping and friction. Source: Rothfuss et al. 2018, appendix D."""
    return _varied_dynamics(ForwardDynamics(HOPPER))


def walker2d_dynamics() -> TaskDistribution:
    """Walk forward with unknown masses, inertias, damping and friction. Source: Rothfuss et al. 2018, appendix D."""
    return _varied_dynamics(ForwardDynamics(WALKER2D))


def half_cheetah_dynamics() -> TaskDistribution:
    """Run forward with unknown masses and friction and perhaps one dead joint.

    Source: the disabled joint, Nagabandi et al. 2018, section 6; ranges are ours.
    """
    env = HalfCheetahDynamics()
    return TaskDistribution(
        env,
        {
            "body_mass": LogUniform(0.5, 2.0, units="×", shape=env.shape_of("body_mass")),
            "friction": LogUniform(0.5, 2.0, units="×"),
            "disabled_joint": Integers(-1, env.robot.num_actuators - 1, units="index"),
        },
        {
            "body_mass": LogUniform(2.0, 3.0, units="×", shape=env.shape_of("body_mass")),
            "friction": LogUniform(0.25, 0.5, units="×"),
        },
    )


def _velocities(env: RobotEnv, fastest: float) -> TaskDistribution:
    """Speeds up to the fastest; ood: up to 1 m/s above."""
    units = "m/s"
    return TaskDistribution(
        env,
        {"velocity": Uniform(0.0, fastest, units=units)},
        {"velocity": Uniform(fastest, fastest + 1.0, units=units)},
    )


def _varied_dynamics(env: VariedRobot) -> TaskDistribution:
    """Factors of 1.5^U(−3, 3), of damping 1.3^U(−3, 3); ood: exponents up to ±4."""

    def factors(exponent: float) -> dict[str, Range]:
        bases = {name: 1.3 if name == "dof_damping" else 1.5 for name in env.scaled}
        return {
            name: LogUniform(base**-exponent, base**exponent, units="×", shape=env.shape_of(name))
            for name, base in bases.items()
        }

    return TaskDistribution(env, factors(3), factors(4))
