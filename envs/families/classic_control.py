"""Gymnasium's classic control environments with varied physics and goals.

With the default task each equals Gymnasium's environment of the same name; the tests step them side by side. Angles
are in radians, everything else in SI units or in those of the original. The oracles are simple feedback laws that
know the task, not optimal control.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.families.canvas import Canvas
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Choice, LogUniform, Task, Uniform

Picture = tuple[Any, NDArray[np.uint8]]


def _uniform(like: Tensor, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Uniform in [low, high], of the shape, type and device of a tensor."""
    return low + (high - low) * torch.rand(like.shape, generator=rng, device=like.device, dtype=like.dtype)


def _symmetric_box(*high: float) -> Box:
    bound = np.array(high, np.float32)
    return Box(-bound, bound)


def _moved(parts: Sequence[Tensor], rate: Sequence[Tensor], time: float) -> Sequence[Tensor]:
    """Parts of a state after moving at a rate for a time."""
    return [torch.add(part, slope, alpha=time) for part, slope in zip(parts, rate, strict=True)]


def _wrapped(angle: Tensor) -> Tensor:
    """The same angle in [−π, π]."""
    return torch.add(angle, (angle / (2 * math.pi)).round(), alpha=-2 * math.pi)


def _scalars(task: dict[str, float]) -> Task:
    """A task of scalar parameters."""
    return {name: torch.tensor(value) for name, value in task.items()}


class CartPole(TaskEnv):
    """A pole on a cart is balanced by pushing the cart left or right.

        temp = (f + m_p l ω² sin θ) / (m_c + m_p)
        ω'   = (g sin θ − temp cos θ) / (l (4/3 − m_p cos² θ / (m_c + m_p)))
        v'   = temp − m_p l ω' cos θ / (m_c + m_p)

    State and observation: position x (m), velocity v, angle θ (0: upright), angular velocity ω, integrated by Euler's
    method with steps of 0.02 s. Action: 0 pushes with −f, 1 with f. Reward: 1 each step. An episode ends where
    |x| > 2.4 m or |θ| > 12°. Task: "gravity" g, "cart_mass" m_c, "pole_mass" m_p, "pole_length" l (half of the whole),
    "force" f.

    Source: Barto, Sutton & Anderson 1983, as Gymnasium's CartPole, whose time limit is 200 (v0) or 500 (v1).
    """

    STEP = 0.02  # s
    MAX_POSITION = 2.4  # m
    MAX_ANGLE = math.radians(12)
    START = 0.05

    # Velocities have no bound of their own: these hold for the ranges below, last steps included.
    observation_space = _symmetric_box(4.8, 30.0, 1.0, 30.0)
    action_space = Discrete(2)
    render_fps = 50

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def push(self, action: Tensor, params: Task) -> Tensor:
        """Force on the cart, N, (*batch,)."""
        return torch.where(action == 1, params["force"], -params["force"])

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial: each of the four uniform in ±0.05."""
        assert params is not None
        like = params["force"].unsqueeze(-1)
        return _uniform(like.expand(*like.shape[:-1], 4), -self.START, self.START, rng)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        assert params is not None
        _, velocity, angle, angular_velocity = state.unbind(-1)
        length, pole_mass = params["pole_length"], params["pole_mass"]
        mass = params["cart_mass"] + pole_mass
        moment = pole_mass * length
        sin, cos = angle.sin(), angle.cos()
        temp = torch.addcmul(self.push(action, params), moment * sin, angular_velocity.square()) / mass
        turn = (params["gravity"] * sin - temp * cos) / (length * (4 / 3 - pole_mass * cos.square() / mass))
        acceleration = temp - moment * turn * cos / mass
        rate = torch.stack([velocity, acceleration, angular_velocity, turn], dim=-1)
        return torch.add(state, rate, alpha=self.STEP)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        return torch.ones_like(state[..., 0])

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.terminal."""
        return (state[..., 0].abs() > self.MAX_POSITION) | (state[..., 2].abs() > self.MAX_ANGLE)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's CartPole."""
        return _scalars({"gravity": 9.8, "cart_mass": 1.0, "pole_mass": 0.1, "pole_length": 0.5, "force": 10.0})

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Push to the side to which a weighted sum of the state leans."""
        lean = obs @ torch.tensor([0.02, 0.06, 1.0, 0.3], device=obs.device, dtype=obs.dtype)
        return (lean > 0).long()

    def render_image(self, state: Tensor, render_state: Any, params: Task | None = None) -> Picture:
        """Picture of cart and pole on their track."""
        assert params is not None
        x, _, angle, _ = state.tolist()
        length = 2 * float(params["pole_length"])
        canvas = Canvas(half_width=2.6, centre=(0.0, 0.8))
        canvas.line([(-self.MAX_POSITION, 0.0), (self.MAX_POSITION, 0.0)], "grey")
        canvas.polygon([(x - 0.25, -0.12), (x + 0.25, -0.12), (x + 0.25, 0.12), (x - 0.25, 0.12)], "royalblue")
        canvas.line([(x, 0.12), (x + length * math.sin(angle), 0.12 + length * math.cos(angle))], "peru", 6)
        return render_state, canvas.image()


class MirroredCartPole(CartPole):
    """CartPole whose actuator may be connected the other way round, which only trying can tell.

    Task: that of CartPole, and "direction", 1 or −1, which multiplies the force.

    Source: this project.
    """

    def push(self, action: Tensor, params: Task) -> Tensor:
        """See CartPole.push."""
        return params["direction"] * super().push(action, params)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's CartPole."""
        return {**super().get_default_params(), "direction": torch.tensor(1.0)}

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """See CartPole.oracle_action."""
        action = super().oracle_action(obs, params, time)
        return torch.where(params["direction"] > 0, action, 1 - action)


class Pendulum(TaskEnv):
    """A pendulum is swung up and held upright by a torque that may be too weak to lift it at once.

        ω' = clip(ω + 0.05 · (3g / 2l · sin θ + 3 u / (m l²)), ±8),   θ' = θ + 0.05 ω'
        r  = −((θ − θ*)² + 0.1 ω² + 0.001 u²),  θ − θ* normalised to [−π, π)

    State: angle θ (0: upright) and angular velocity ω. Observation: (cos θ, sin θ, ω). Action: the torque u in units
    of its limit. Task: "gravity" g, "mass" m, "length" l, "torque_limit" (N·m). The target θ* is 0.

    Source: Gymnasium's Pendulum. Deviation: its action is the torque itself.
    """

    STEP = 0.05  # s
    MAX_SPEED = 8.0  # rad/s

    observation_space = _symmetric_box(1.0, 1.0, MAX_SPEED)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    render_fps = 20

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def error(self, angle: Tensor, params: Task) -> Tensor:
        """Angle from the target, in [−π, π)."""
        return self._wrap(angle)

    @staticmethod
    def _wrap(angle: Tensor) -> Tensor:
        return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial: any angle, angular velocity uniform in ±1."""
        assert params is not None
        like = params["mass"]
        return torch.stack([_uniform(like, -math.pi, math.pi, rng), _uniform(like, -1.0, 1.0, rng)], dim=-1)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        assert params is not None
        angle, speed = state.unbind(-1)
        length = params["length"]
        lever = self.torque(action, params) / (params["mass"] * length.square())
        turn = 3 * torch.addcmul(lever, params["gravity"] / (2 * length), angle.sin())
        new_speed = torch.add(speed, turn, alpha=self.STEP).clamp(-self.MAX_SPEED, self.MAX_SPEED)
        return torch.stack([torch.add(angle, new_speed, alpha=self.STEP), new_speed], dim=-1)

    def torque(self, action: Tensor, params: Task) -> Tensor:
        """N·m, (*batch,)."""
        return params["torque_limit"] * action.squeeze(-1).clamp(-1.0, 1.0)

    def observation(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.observation."""
        angle, speed = state.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), speed], dim=-1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward; as in Gymnasium, of the state before the step."""
        assert params is not None
        angle, speed = state.unbind(-1)
        cost = torch.add(self.error(angle, params).square(), speed.square(), alpha=0.1)
        return -torch.add(cost, self.torque(action, params).square(), alpha=0.001)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's Pendulum."""
        return _scalars({"gravity": 10.0, "mass": 1.0, "length": 1.0, "torque_limit": 2.0})

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Critically damped to the target, or to the nearest angle that can be held, where the torque suffices.

        Elsewhere pump energy until the pendulum would come to rest there: Åström & Furuta 2000, "Swinging up a
        pendulum by energy control".
        """
        cos, sin, speed = obs.unbind(-1)
        mass, length, gravity, limit = (params[name] for name in ("mass", "length", "gravity", "torque_limit"))
        inertia, weight = mass * length.square() / 3, mass * gravity * length / 2
        strong = limit > weight
        steepest = torch.where(strong, math.pi, (0.95 * limit / weight).clamp(max=1.0).asin())
        aim = self.target(params).clamp(-steepest, steepest)
        hold = inertia * (-20 * self._wrap(torch.atan2(sin, cos) - aim) - 9 * speed) - weight * sin
        energy = 0.5 * inertia * speed.square() + weight * (cos - aim.cos())  # 0: at the aim and at rest
        pump = torch.where(energy < 0, limit, -limit) * torch.where(speed >= 0, 1.0, -1.0)
        can_hold = strong | (hold.abs() < 2 * limit)
        return (torch.where(can_hold, hold, pump) / limit).clamp(-1.0, 1.0).unsqueeze(-1)

    def target(self, params: Task) -> Tensor:
        """θ*, (*batch,)."""
        return torch.zeros_like(params["mass"])

    def render_image(self, state: Tensor, render_state: Any, params: Task | None = None) -> Picture:
        """Picture of the rod, with a red cross in the direction of the target."""
        assert params is not None
        angle, length = float(state[0]), float(params["length"])
        canvas = Canvas(half_width=1.8)
        target = float(self.target(params))
        canvas.cross((-1.6 * math.sin(target), 1.6 * math.cos(target)), 6, "red")
        canvas.line([(0.0, 0.0), (-length * math.sin(angle), length * math.cos(angle))], "royalblue", 10)
        canvas.disc((0.0, 0.0), 6, "grey")
        return render_state, canvas.image()


class TargetPendulum(Pendulum):
    """Pendulum to be held at a hidden angle instead of upright.

    Task: that of Pendulum, and "target_angle" θ*.

    Source: this project.
    """

    def error(self, angle: Tensor, params: Task) -> Tensor:
        """See Pendulum.error."""
        return super().error(angle - params["target_angle"], params)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's Pendulum."""
        return {**super().get_default_params(), "target_angle": torch.tensor(0.0)}

    def target(self, params: Task) -> Tensor:
        """See Pendulum.target."""
        return params["target_angle"]


class MountainCar(TaskEnv):
    """A car too weak for the slope rocks up the hill; three actions, one reward: the end.

        v' = clip(v + (a − 1) · force − gravity · cos 3x, ±0.07),   x' = clip(x + v', −1.2, 0.6)

    and v' = 0 at the left wall. Reward: −1 each step. An episode ends at x ≥ goal with v ≥ 0. State and observation:
    (x, v). Action: 0 left, 1 coast, 2 right. Task: "force", "gravity" (per step²), "goal_position".

    Source: Moore 1990, as Gymnasium's MountainCar.
    """

    LOW, HIGH, MAX_SPEED = -1.2, 0.6, 0.07
    THRUST = "force"
    """Task parameter that accelerates."""

    observation_space = Box(np.array([LOW, -MAX_SPEED], np.float32), np.array([HIGH, MAX_SPEED], np.float32))
    action_space: Box | Discrete = Discrete(3)
    render_fps = 30

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def direction(self, action: Tensor) -> Tensor:
        """Share of the force, −1 … 1, (*batch,)."""
        return action - 1

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial: x uniform in [−0.6, −0.4], at rest."""
        assert params is not None
        position = _uniform(params["gravity"], -0.6, -0.4, rng)
        return torch.stack([position, torch.zeros_like(position)], dim=-1)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        assert params is not None
        position, velocity = state.unbind(-1)
        push = torch.addcmul(velocity, self.direction(action), params[self.THRUST])
        speed = torch.addcmul(push, params["gravity"], (3 * position).cos(), value=-1)
        speed = speed.clamp(-self.MAX_SPEED, self.MAX_SPEED)
        position = (position + speed).clamp(self.LOW, self.HIGH)
        return torch.stack([position, torch.where(position > self.LOW, speed, speed.clamp(min=0.0))], dim=-1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        return -torch.ones_like(state[..., 0])

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.terminal."""
        assert params is not None
        position, velocity = state.unbind(-1)
        return (position >= params["goal_position"]) & (velocity >= 0)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's MountainCar."""
        return _scalars({"force": 0.001, "gravity": 0.0025, "goal_position": 0.5})

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Push the way it rolls, at first to the left."""
        return torch.where(self.uphill(obs), 2, 0)

    def uphill(self, obs: Tensor) -> Tensor:
        """Whether the oracle pushes to the right: where the car rolls there, and off the left wall."""
        return (obs[..., 1] > 0) | (obs[..., 0] < -1)

    def render_image(self, state: Tensor, render_state: Any, params: Task | None = None) -> Picture:
        """Picture of the car on the hill and of the goal."""
        assert params is not None

        def hill(x: float) -> tuple[float, float]:
            return x, 0.45 * math.sin(3 * x) + 0.55

        canvas = Canvas(half_width=0.95, centre=(-0.3, 0.6))
        canvas.line([hill(float(x)) for x in np.linspace(self.LOW, self.HIGH, 100)], "grey")
        canvas.cross(hill(float(params["goal_position"])), 6, "red")
        x, y = hill(float(state[0]))
        canvas.disc((x, y + 0.04), 7, "royalblue")
        return render_state, canvas.image()


class MountainCarContinuous(MountainCar):
    """MountainCar with a continuous force: −0.1 a² each step, and 100 at the goal.

    Action: a in [−1, 1], the share of the power. Task: "power", "gravity" (per step²), "goal_position".

    Source: Gymnasium's MountainCarContinuous, whose time limit is 999. Deviation: an action beyond ±1 costs as much
    as the one that is applied.
    """

    THRUST = "power"
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def direction(self, action: Tensor) -> Tensor:
        """See MountainCar.direction."""
        return action.squeeze(-1).clamp(-1.0, 1.0)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        arrived = self.terminal(next_state, rng, params)
        return torch.add(100.0 * arrived, self.direction(action).square(), alpha=-0.1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's MountainCarContinuous."""
        return _scalars({"power": 0.0015, "gravity": 0.0025, "goal_position": 0.45})

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """See MountainCar.oracle_action."""
        return torch.where(self.uphill(obs), 1.0, -1.0).to(obs.dtype).unsqueeze(-1)


class Acrobot(TaskEnv):
    """Two links hang from a fixed joint; a torque between them swings the lower end up to a height.

    With angles θ₁ (0: hanging) and θ₂ (relative to the first link), l₁ the first link's length, cᵢ = lᵢ/2 the centres
    of mass and Iᵢ = mᵢ lᵢ² the moments of inertia:

        d₁ = m₁c₁² + m₂(l₁² + c₂² + 2 l₁c₂ cos θ₂) + I₁ + I₂,     d₂ = m₂(c₂² + l₁c₂ cos θ₂) + I₂
        φ₂ = m₂c₂g sin(θ₁ + θ₂)
        φ₁ = −m₂l₁c₂ (θ₂'² + 2 θ₂'θ₁') sin θ₂ + (m₁c₁ + m₂l₁) g sin θ₁ + φ₂
        θ₂'' = (u + d₂/d₁ φ₁ − m₂l₁c₂ θ₁'² sin θ₂ − φ₂) / (m₂c₂² + I₂ − d₂²/d₁),     θ₁'' = −(d₂θ₂'' + φ₁) / d₁

    integrated by one Runge-Kutta step of 0.2 s; speeds are limited to 4π and 9π rad/s. Observation: cosine and sine
    of both angles, and both speeds (6,). Action: torque −1, 0 or 1 N·m. Reward: −1 each step but the last. An episode
    ends where −l₁ cos θ₁ − l₂ cos(θ₁ + θ₂) > target height. Task: "mass_1", "mass_2" (kg), "length_1", "length_2",
    "target_height" (m above the fixed joint).

    Source: Sutton & Barto's book, as Gymnasium's Acrobot, whose time limit is 500. Gymnasium has one moment of inertia,
    1, for both links, and its height does not depend on their lengths; this equals it where masses and lengths are 1.
    """

    STEP = 0.2  # s
    GRAVITY = 9.8  # m/s²
    MAX_SPEEDS = (4 * math.pi, 9 * math.pi)

    observation_space = _symmetric_box(1.0, 1.0, 1.0, 1.0, *MAX_SPEEDS)
    action_space = Discrete(3)
    render_fps = 15

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial: angles and speeds uniform in ±0.1; the state is (θ₁, θ₂, θ₁', θ₂')."""
        assert params is not None
        like = params["mass_1"].unsqueeze(-1)
        return _uniform(like.expand(*like.shape[:-1], 4), -0.1, 0.1, rng)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        assert params is not None
        parts, torque, links = state.unbind(-1), action - 1, self._links(params)
        k1 = self._rate(parts, torque, links)
        k2 = self._rate(_moved(parts, k1, self.STEP / 2), torque, links)
        k3 = self._rate(_moved(parts, k2, self.STEP / 2), torque, links)
        k4 = self._rate(_moved(parts, k3, self.STEP), torque, links)
        slopes = [torch.add(a + d, b + c, alpha=2) for a, b, c, d in zip(k1, k2, k3, k4, strict=True)]
        angle_1, angle_2, speed_1, speed_2 = _moved(parts, slopes, self.STEP / 6)
        limit_1, limit_2 = self.MAX_SPEEDS
        speeds = speed_1.clamp(-limit_1, limit_1), speed_2.clamp(-limit_2, limit_2)
        return torch.stack([_wrapped(angle_1), _wrapped(angle_2), *speeds], dim=-1)

    def _links(self, params: Task) -> Sequence[Tensor]:
        """Constants of the equations of motion.

        Moments of inertia (both links', the lower one's, upper times lower), coupling m₂l₁c₂, and the torque of
        gravity on a horizontal link: −(m₁c₁ + m₂l₁)g, −m₂c₂g.
        """
        mass_1, mass_2, length_1, length_2 = (params[name] for name in ("mass_1", "mass_2", "length_1", "length_2"))
        upper = (1.25 * mass_1 + mass_2) * length_1.square()  # d₁ = upper + lower + 2 coupling cos θ₂
        lower = 1.25 * mass_2 * length_2.square()  # d₂ = lower + coupling cos θ₂
        moment_2 = 0.5 * mass_2 * length_2
        weight_1 = -self.GRAVITY * (0.5 * mass_1 + mass_2) * length_1
        return upper + lower, lower, upper * lower, moment_2 * length_1, weight_1, -self.GRAVITY * moment_2

    def _rate(self, parts: Sequence[Tensor], torque: Tensor, links: Sequence[Tensor]) -> Sequence[Tensor]:
        """Time derivative of the state's parts: the two linear equations for θ₁'', θ₂'' by Cramer's rule."""
        angle_1, angle_2, speed_1, speed_2 = parts
        total, lower, product, coupling, weight_1, weight_2 = links
        cos, sin = coupling * angle_2.cos(), coupling * angle_2.sin()
        gravity_2 = weight_2 * (angle_1 + angle_2).sin()
        gravity_1 = torch.addcmul(gravity_2, weight_1, angle_1.sin())
        force_1 = torch.addcmul(gravity_1, sin, speed_2 * torch.add(speed_2, speed_1, alpha=2))
        force_2 = torch.addcmul(torque + gravity_2, sin, speed_1.square(), value=-1)
        d_1, d_2 = torch.add(total, cos, alpha=2), lower + cos
        determinant = torch.addcmul(product, cos, cos, value=-1)
        turn_1 = torch.addcmul(lower * force_1, d_2, force_2, value=-1) / determinant
        turn_2 = torch.addcmul(d_1 * force_2, d_2, force_1, value=-1) / determinant
        return speed_1, speed_2, turn_1, turn_2

    def observation(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.observation."""
        angle_1, angle_2, speed_1, speed_2 = state.unbind(-1)
        return torch.stack([angle_1.cos(), angle_1.sin(), angle_2.cos(), angle_2.sin(), speed_1, speed_2], dim=-1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        return self.terminal(next_state, rng, params).to(next_state.dtype) - 1

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.terminal."""
        assert params is not None
        angle_1, angle_2 = state[..., 0], state[..., 1]
        height = params["length_1"] * angle_1.cos() + params["length_2"] * (angle_1 + angle_2).cos()
        return -height > params["target_height"]

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's Acrobot."""
        return _scalars({"mass_1": 1.0, "mass_2": 1.0, "length_1": 1.0, "length_2": 1.0, "target_height": 1.0})

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Swing the lower link against the upper one's motion, which pumps energy."""
        return torch.where(obs[..., 4] > 0, 0, 2)

    def render_image(self, state: Tensor, render_state: Any, params: Task | None = None) -> Picture:
        """Picture of both links and the height to reach."""
        assert params is not None
        angle_1, angle_2, _, _ = state.tolist()
        length_1, length_2, height = (float(params[name]) for name in ("length_1", "length_2", "target_height"))
        elbow = (length_1 * math.sin(angle_1), -length_1 * math.cos(angle_1))
        end = (
            elbow[0] + length_2 * math.sin(angle_1 + angle_2),
            elbow[1] - length_2 * math.cos(angle_1 + angle_2),
        )
        canvas = Canvas(half_width=3.2)
        canvas.line([(-3.0, height), (3.0, height)], "red")
        canvas.line([(0.0, 0.0), elbow, end], "royalblue", 8)
        canvas.disc((0.0, 0.0), 5, "grey")
        canvas.disc(elbow, 5, "grey")
        return render_state, canvas.image()


def cart_pole() -> TaskDistribution:
    """CartPole with varied gravity, masses, pole length and force, H = 200; ood: all but the force wider."""
    return TaskDistribution(CartPole(), train=_CART_POLE, ood=_CART_POLE_OOD)


def cart_pole_mirrored() -> TaskDistribution:
    """As `cart-pole`, with an actuator that may act the other way round."""
    return TaskDistribution(
        MirroredCartPole(), train={**_CART_POLE, "direction": Choice([-1.0, 1.0], "1")}, ood=_CART_POLE_OOD
    )


def pendulum() -> TaskDistribution:
    """Pendulum with a hidden target angle and varied gravity, mass, length and torque limit, H = 200; ood: wider."""
    return TaskDistribution(
        TargetPendulum(),
        train={**_PENDULUM, "target_angle": Uniform(-1.0, 1.0, "rad")},
        ood={**_PENDULUM_OOD, "target_angle": Uniform(1.0, 1.5, "rad")},
    )


def pendulum_dynamics() -> TaskDistribution:
    """Pendulum held upright under varied gravity, mass, length and torque limit, H = 200; ood: wider."""
    return TaskDistribution(Pendulum(), train=_PENDULUM, ood=_PENDULUM_OOD)


def mountain_car() -> TaskDistribution:
    """MountainCar with varied force, gravity and goal, H = 200; ood: weaker cars and higher goals."""
    return TaskDistribution(
        MountainCar(),
        train={
            "force": LogUniform(0.0008, 0.002, "1/step²"),
            "gravity": Uniform(0.002, 0.003, "1/step²"),
            "goal_position": Uniform(0.3, 0.55, "1"),
        },
        ood={"force": LogUniform(0.0006, 0.0008, "1/step²"), "goal_position": Uniform(0.55, 0.6, "1")},
    )


def mountain_car_continuous() -> TaskDistribution:
    """MountainCarContinuous with varied power, gravity and goal, H = 300; ood: weaker cars and higher goals."""
    return TaskDistribution(
        MountainCarContinuous(horizon=300),
        train={
            "power": LogUniform(0.001, 0.0025, "1/step²"),
            "gravity": Uniform(0.002, 0.003, "1/step²"),
            "goal_position": Uniform(0.3, 0.55, "1"),
        },
        ood={"power": LogUniform(0.0007, 0.001, "1/step²"), "goal_position": Uniform(0.55, 0.6, "1")},
    )


def acrobot() -> TaskDistribution:
    """Acrobot with varied masses, lengths and target height, H = 200; ood: heavier and longer links, higher targets."""
    return TaskDistribution(
        Acrobot(),
        train={
            "mass_1": LogUniform(0.7, 1.4, "kg"),
            "mass_2": LogUniform(0.7, 1.4, "kg"),
            "length_1": LogUniform(0.8, 1.25, "m"),
            "length_2": LogUniform(0.8, 1.25, "m"),
            "target_height": Uniform(0.5, 1.2, "m"),
        },
        ood={
            "mass_1": LogUniform(1.4, 2.0, "kg"),
            "length_1": LogUniform(1.25, 1.5, "m"),
            "target_height": Uniform(1.2, 1.5, "m"),
        },
    )


_CART_POLE = {
    "gravity": Uniform(5.0, 15.0, "m/s²"),
    "cart_mass": LogUniform(0.5, 2.0, "kg"),
    "pole_mass": LogUniform(0.05, 0.5, "kg"),
    "pole_length": LogUniform(0.25, 1.0, "m"),
    "force": LogUniform(5.0, 20.0, "N"),
}
_CART_POLE_OOD = {
    "gravity": Uniform(15.0, 20.0, "m/s²"),
    "cart_mass": LogUniform(0.25, 0.5, "kg"),
    "pole_mass": LogUniform(0.5, 1.0, "kg"),
    "pole_length": LogUniform(0.15, 0.25, "m"),
}
_PENDULUM = {
    "gravity": Uniform(8.0, 12.0, "m/s²"),
    "mass": LogUniform(0.7, 1.4, "kg"),
    "length": LogUniform(0.8, 1.25, "m"),
    "torque_limit": Uniform(2.0, 10.0, "N·m"),
}
_PENDULUM_OOD = {
    "gravity": Uniform(12.0, 15.0, "m/s²"),
    "mass": LogUniform(1.4, 2.0, "kg"),
    "torque_limit": Uniform(10.0, 12.0, "N·m"),
}
