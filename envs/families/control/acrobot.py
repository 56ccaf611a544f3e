"""Acrobot with varied masses, lengths and target height.

With the default task it equals Gymnasium's Acrobot; the tests step both side by side.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.envs.families.building_blocks import scalar_task, symmetric_box, uniform_like
from metarl.envs.families.canvas import Canvas, Rendered
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import LogUniform, Task, Uniform


class Links(NamedTuple):
    """Constants of the equations of motion of an acrobot, each (*batch,); symbols as in Acrobot.

    Attributes:
        both: moment of inertia of both links, d₁ = both + 2 coupling cos θ₂.
        lower: moment of inertia of the lower link, d₂ = lower + coupling cos θ₂.
        upper_by_lower: that of the upper link times that of the lower one.
        coupling: m₂l₁c₂.
        weight_1: torque of gravity on a horizontal upper link, −(m₁c₁ + m₂l₁)g.
        weight_2: torque of gravity on a horizontal lower link, −m₂c₂g.
    """

    both: Tensor
    lower: Tensor
    upper_by_lower: Tensor
    coupling: Tensor
    weight_1: Tensor
    weight_2: Tensor


class Acrobot(TaskEnv):
    """Two links hang from a fixed joint; a torque between them swings the lower end up to a height.

    With angles θ₁ (0: hanging) and θ₂ (relative to the first link), l₁ the first link's length, cᵢ = lᵢ/2 the centres
    of mass and Iᵢ = mᵢ lᵢ² the moments of inertia:

        d₁ = m₁c₁² + m₂(l₁² + c₂² + 2 l₁c₂ cos θ₂) + I₁ + I₂,     d₂ = m₂(c₂² + l₁c₂ cos θ₂) + I₂
        φ₂ = m₂c₂g sin(θ₁ + θ₂)
        φ₁ = −m₂l₁c₂ (θ₂'² + 2 θ₂'θ₁') sin θ₂ + (m₁c₁ + m₂l₁) g sin θ₁ + φ₂
        θ₂'' = (u + d₂/d₁ φ₁ − m₂l₁c₂ θ₁'² sin θ₂ − φ₂) / (m₂c₂² + I₂ − d₂²/d₁),     θ₁'' = −(d₂θ₂'' + φ₁) / d₁

    integrated by one Runge-Kutta step of 0.2 s; speeds are limited to 4π and 9π rad/s. State: (θ₁, θ₂, θ₁', θ₂') in rad
    and rad/s. Observation: cosine and sine of both angles, and both speeds (6,). Action: torque −1, 0 or 1 N·m. Reward:
    −1 each step but the last. An episode ends where −l₁ cos θ₁ − l₂ cos(θ₁ + θ₂) > target height. Task: "mass_1",
    "mass_2" (kg), "length_1", "length_2", "target_height" (m above the fixed joint).

    Source: Sutton & Barto's book, as Gymnasium's Acrobot, whose time limit is 500. Gymnasium has one moment of inertia,
    1, for both links, and its height does not depend on their lengths; this equals it where masses and lengths are 1.

    Args:
        horizon: H.
    """

    STEP = 0.2  # s
    GRAVITY = 9.8  # m/s²
    MAX_SPEEDS = (4 * math.pi, 9 * math.pi)  # rad/s

    observation_space = symmetric_box(1.0, 1.0, 1.0, 1.0, *MAX_SPEEDS)
    action_space = Discrete(3)
    render_fps = 15

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial: angles and speeds uniform in ±0.1."""
        like = params["mass_1"].unsqueeze(-1)
        return uniform_like(like.expand(*like.shape[:-1], 4), -0.1, 0.1, rng)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        parts = state.unbind(-1)
        torque = action - 1
        links = self._links(params)

        # One step of the classical Runge-Kutta method.
        k1 = self._rate(parts, torque, links)
        k2 = self._rate(_move(parts, k1, self.STEP / 2), torque, links)
        k3 = self._rate(_move(parts, k2, self.STEP / 2), torque, links)
        k4 = self._rate(_move(parts, k3, self.STEP), torque, links)
        slopes = [torch.add(a + d, b + c, alpha=2) for a, b, c, d in zip(k1, k2, k3, k4, strict=True)]
        angle_1, angle_2, speed_1, speed_2 = _move(parts, slopes, self.STEP / 6)

        limit_1, limit_2 = self.MAX_SPEEDS
        speed_1 = speed_1.clamp(-limit_1, limit_1)
        speed_2 = speed_2.clamp(-limit_2, limit_2)
        return torch.stack([_wrap_angle(angle_1), _wrap_angle(angle_2), speed_1, speed_2], dim=-1)

    def _links(self, params: Task) -> Links:
        """Constants of the equations of motion, with cᵢ = lᵢ/2 and Iᵢ = mᵢ lᵢ² put in."""
        mass_1, mass_2 = params["mass_1"], params["mass_2"]
        length_1, length_2 = params["length_1"], params["length_2"]

        upper = (1.25 * mass_1 + mass_2) * length_1.square()
        lower = 1.25 * mass_2 * length_2.square()
        moment_2 = 0.5 * mass_2 * length_2  # m₂c₂

        return Links(
            both=upper + lower,
            lower=lower,
            upper_by_lower=upper * lower,
            coupling=moment_2 * length_1,
            weight_1=-self.GRAVITY * (0.5 * mass_1 + mass_2) * length_1,
            weight_2=-self.GRAVITY * moment_2,
        )

    def _rate(self, parts: Sequence[Tensor], torque: Tensor, links: Links) -> Sequence[Tensor]:
        """Time derivative of the state's parts."""
        angle_1, angle_2, speed_1, speed_2 = parts
        cos = links.coupling * angle_2.cos()
        sin = links.coupling * angle_2.sin()

        # Torques on both links together and on the lower one: gravity, centrifugal and Coriolis forces, the actuator.
        gravity_2 = links.weight_2 * (angle_1 + angle_2).sin()
        gravity_1 = torch.addcmul(gravity_2, links.weight_1, angle_1.sin())
        torque_1 = torch.addcmul(gravity_1, sin, speed_2 * torch.add(speed_2, speed_1, alpha=2))
        torque_2 = torch.addcmul(torque + gravity_2, sin, speed_1.square(), value=-1)

        # d₁θ₁'' + d₂θ₂'' = torque_1 and d₂θ₁'' + lower θ₂'' = torque_2, solved by Cramer's rule.
        d_1 = torch.add(links.both, cos, alpha=2)
        d_2 = links.lower + cos
        determinant = torch.addcmul(links.upper_by_lower, cos, cos, value=-1)
        acceleration_1 = torch.addcmul(links.lower * torque_1, d_2, torque_2, value=-1) / determinant
        acceleration_2 = torch.addcmul(d_1 * torque_2, d_2, torque_1, value=-1) / determinant
        return speed_1, speed_2, acceleration_1, acceleration_2

    def observation(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        angle_1, angle_2, speed_1, speed_2 = state.unbind(-1)
        return torch.stack([angle_1.cos(), angle_1.sin(), angle_2.cos(), angle_2.sin(), speed_1, speed_2], dim=-1)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return self.terminal(next_state, rng, params).to(next_state.dtype) - 1

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        angle_1 = state[..., 0]
        angle_2 = state[..., 1]
        depth = params["length_1"] * angle_1.cos() + params["length_2"] * (angle_1 + angle_2).cos()
        return -depth > params["target_height"]

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's Acrobot."""
        return scalar_task({"mass_1": 1.0, "mass_2": 1.0, "length_1": 1.0, "length_2": 1.0, "target_height": 1.0})

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "swung up"

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Swing the lower link against the upper one's motion, which pumps energy; not optimal control."""
        return torch.where(obs[..., 4] > 0, 0, 2)

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of both links and the height to reach."""
        angle_1, angle_2, _, _ = state.tolist()
        length_1 = float(params["length_1"])
        length_2 = float(params["length_2"])
        height = float(params["target_height"])

        elbow_x = length_1 * math.sin(angle_1)
        elbow_y = -length_1 * math.cos(angle_1)
        end_x = elbow_x + length_2 * math.sin(angle_1 + angle_2)
        end_y = elbow_y - length_2 * math.cos(angle_1 + angle_2)

        canvas = Canvas(half_width=3.2)
        canvas.line([(-3.0, height), (3.0, height)], "red")
        canvas.line([(0.0, 0.0), (elbow_x, elbow_y), (end_x, end_y)], "royalblue", 8)
        canvas.disc((0.0, 0.0), 5, "grey")
        canvas.disc((elbow_x, elbow_y), 5, "grey")
        return render_state, canvas.image()


def _move(parts: Sequence[Tensor], rates: Sequence[Tensor], time: float) -> Sequence[Tensor]:
    """Parts of a state after moving at their rates for a time, s."""
    return [torch.add(part, rate, alpha=time) for part, rate in zip(parts, rates, strict=True)]


def _wrap_angle(angle: Tensor) -> Tensor:
    """The same angle in [−π, π]."""
    return torch.add(angle, (angle / (2 * math.pi)).round(), alpha=-2 * math.pi)


def acrobot(horizon: Horizon = 200) -> TaskDistribution:
    """Acrobot with varied masses, lengths and target height, H = 200; ood: heavier and longer links, higher targets."""
    train = {
        "mass_1": LogUniform(0.7, 1.4, "kg"),
        "mass_2": LogUniform(0.7, 1.4, "kg"),
        "length_1": LogUniform(0.8, 1.25, "m"),
        "length_2": LogUniform(0.8, 1.25, "m"),
        "target_height": Uniform(0.5, 1.2, "m"),
    }
    ood = {
        "mass_1": LogUniform(1.4, 2.0, "kg"),
        "length_1": LogUniform(1.25, 1.5, "m"),
        "target_height": Uniform(1.2, 1.5, "m"),
    }

    return TaskDistribution(Acrobot(horizon), train=train, ood=ood)


FAMILIES = (Family("acrobot", acrobot, "metarl/Acrobot-v0"),)
