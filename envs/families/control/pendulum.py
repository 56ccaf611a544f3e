"""Pendulum with varied physics, held upright or at a hidden target angle.

With the default task it equals Gymnasium's Pendulum; the tests step both side by side.
"""

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.families.building_blocks import scalar_task, symmetric_box, uniform_like
from metarl.envs.families.canvas import Canvas, Rendered
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import LogUniform, Task, Uniform


class Pendulum(TaskEnv):
    """A pendulum is swung up and held upright by a torque that may be too weak to lift it at once.

        ω' = clip(ω + 0.05 · (3g / 2l · sin θ + 3 u / (m l²)), ±8),   θ' = θ + 0.05 ω'
        r  = −((θ − θ*)² + 0.1 ω² + 0.001 u²),  θ − θ* normalised to [−π, π)

    State: angle θ (rad, 0: upright) and angular velocity ω (rad/s). Observation: (cos θ, sin θ, ω). Action: the torque
    u in units of its limit. Task: "gravity" g, "mass" m, "length" l, "torque_limit" (N·m). The target θ* is 0.

    Source: Gymnasium's Pendulum. Deviation: its action is the torque itself.

    Args:
        horizon: H.
    """

    STEP = 0.05  # s
    MAX_SPEED = 8.0  # rad/s

    observation_space = symmetric_box(1.0, 1.0, MAX_SPEED)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    render_fps = 20

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def error(self, angle: Tensor, params: Task) -> Tensor:
        """Angle from the target, in [−π, π)."""
        return wrap_angle(angle)

    def target(self, params: Task) -> Tensor:
        """θ*, (*batch,)."""
        return torch.zeros_like(params["mass"])

    def torque(self, action: Tensor, params: Task) -> Tensor:
        """N·m, (*batch,)."""
        return params["torque_limit"] * action.squeeze(-1).clamp(-1.0, 1.0)

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial: any angle, angular velocity uniform in ±1."""
        like = params["mass"]
        angle = uniform_like(like, -math.pi, math.pi, rng)
        speed = uniform_like(like, -1.0, 1.0, rng)
        return torch.stack([angle, speed], dim=-1)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        angle, speed = state.unbind(-1)
        length = params["length"]

        push = self.torque(action, params) / (params["mass"] * length.square())
        acceleration = 3 * torch.addcmul(push, params["gravity"] / (2 * length), angle.sin())

        # Semi-implicit Euler: the angle moves with the new speed.
        new_speed = torch.add(speed, acceleration, alpha=self.STEP).clamp(-self.MAX_SPEED, self.MAX_SPEED)
        new_angle = torch.add(angle, new_speed, alpha=self.STEP)
        return torch.stack([new_angle, new_speed], dim=-1)

    def observation(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        angle, speed = state.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), speed], dim=-1)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward; as in Gymnasium, of the state before the step."""
        angle, speed = state.unbind(-1)
        cost = torch.add(self.error(angle, params).square(), speed.square(), alpha=0.1)
        return -torch.add(cost, self.torque(action, params).square(), alpha=0.001)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's Pendulum."""
        return scalar_task({"gravity": 10.0, "mass": 1.0, "length": 1.0, "torque_limit": 2.0})

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Feedback that is critically damped at the target, or at the nearest angle that the torque can hold.

        Where the torque does not suffice for that, it pumps energy until the pendulum would come to rest there:
        Åström & Furuta 2000, "Swinging up a pendulum by energy control". Not optimal control.
        """
        cos, sin, speed = obs.unbind(-1)
        limit = params["torque_limit"]
        inertia = params["mass"] * params["length"].square() / 3
        weight = params["mass"] * params["gravity"] * params["length"] / 2  # torque of gravity on a horizontal rod

        # The steepest angle that the torque can hold, with 5% to spare.
        strong = limit > weight
        steepest = torch.where(strong, math.pi, (0.95 * limit / weight).clamp(max=1.0).asin())
        aim = self.target(params).clamp(-steepest, steepest)

        hold = inertia * (-20 * wrap_angle(torch.atan2(sin, cos) - aim) - 9 * speed) - weight * sin

        # The energy is 0 at the aim and at rest.
        energy = 0.5 * inertia * speed.square() + weight * (cos - aim.cos())
        pump = torch.where(energy < 0, limit, -limit) * torch.where(speed >= 0, 1.0, -1.0).to(speed.dtype)

        can_hold = strong | (hold.abs() < 2 * limit)
        return (torch.where(can_hold, hold, pump) / limit).clamp(-1.0, 1.0).unsqueeze(-1)

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of the rod, with a red cross in the direction of the target."""
        angle = float(state[0])
        length = float(params["length"])
        target = float(self.target(params))

        canvas = Canvas(half_width=1.8)
        canvas.cross((-1.6 * math.sin(target), 1.6 * math.cos(target)), 6, "red")
        canvas.line([(0.0, 0.0), (-length * math.sin(angle), length * math.cos(angle))], "royalblue", 10)
        canvas.disc((0.0, 0.0), 6, "grey")
        return render_state, canvas.image()


class TargetPendulum(Pendulum):
    """Pendulum to be held at a hidden angle instead of upright.

    Task: that of Pendulum, and "target_angle" θ* (rad).

    Source: this project.
    """

    def error(self, angle: Tensor, params: Task) -> Tensor:
        """See Pendulum.error."""
        return super().error(angle - params["target_angle"], params)

    def target(self, params: Task) -> Tensor:
        """See Pendulum.target."""
        return params["target_angle"]

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's Pendulum."""
        return {**super().get_default_params(), "target_angle": torch.tensor(0.0, dtype=float_dtype())}


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angle in [−π, π)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


TRAIN = {
    "gravity": Uniform(8.0, 12.0, "m/s²"),
    "mass": LogUniform(0.7, 1.4, "kg"),
    "length": LogUniform(0.8, 1.25, "m"),
    "torque_limit": Uniform(2.0, 10.0, "N·m"),
}
OOD = {
    "gravity": Uniform(12.0, 15.0, "m/s²"),
    "mass": LogUniform(1.4, 2.0, "kg"),
    "torque_limit": Uniform(10.0, 12.0, "N·m"),
}


def pendulum(horizon: Horizon = 200) -> TaskDistribution:
    """Pendulum with a hidden target angle and varied gravity, mass, length and torque limit, H = 200; ood: wider."""
    return TaskDistribution(
        TargetPendulum(horizon),
        train={**TRAIN, "target_angle": Uniform(-1.0, 1.0, "rad")},
        ood={**OOD, "target_angle": Uniform(1.0, 1.5, "rad")},
    )


def pendulum_dynamics(horizon: Horizon = 200) -> TaskDistribution:
    """Pendulum held upright under varied gravity, mass, length and torque limit, H = 200; ood: wider."""
    return TaskDistribution(Pendulum(horizon), train=TRAIN, ood=OOD)


FAMILIES = (
    Family("pendulum", pendulum, "metarl/Pendulum-v0"),
    Family("pendulum/dynamics", pendulum_dynamics, "metarl/PendulumDynamics-v0"),
)
