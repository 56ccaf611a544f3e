"""Cart-pole with varied physics, and with an actuator that may be mirrored.

With the default task it equals Gymnasium's CartPole; the tests step both side by side.
"""

import math
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.envs.families.building_blocks import scalar_task, symmetric_box, uniform_like
from metarl.envs.families.canvas import Canvas, Rendered
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Choice, LogUniform, Task, Uniform


class CartPole(TaskEnv):
    """A pole on a cart is balanced by pushing the cart left or right.

        temp = (f + m_p l ω² sin θ) / (m_c + m_p)
        ω'   = (g sin θ − temp cos θ) / (l (4/3 − m_p cos² θ / (m_c + m_p)))
        v'   = temp − m_p l ω' cos θ / (m_c + m_p)

    State and observation: position x (m), velocity v, angle θ (rad, 0: upright), angular velocity ω, integrated by
    Euler's method with steps of 0.02 s. Action: 0 pushes with −f, 1 with f. Reward: 1 each step. An episode ends where
    |x| > 2.4 m or |θ| > 12°. Task: "gravity" g, "cart_mass" m_c, "pole_mass" m_p, "pole_length" l (half of the whole),
    "force" f.

    Source: Barto, Sutton & Anderson 1983, as Gymnasium's CartPole, whose time limit is 200 (v0) or 500 (v1).

    Args:
        horizon: H.
    """

    STEP = 0.02  # s
    MAX_POSITION = 2.4  # m
    MAX_ANGLE = math.radians(12)
    START = 0.05

    # Velocities have no bound of their own: these hold for the ranges below, last steps included.
    observation_space = symmetric_box(4.8, 30.0, 1.0, 30.0)
    action_space = Discrete(2)
    render_fps = 50

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def push(self, action: Tensor, params: Task) -> Tensor:
        """Force on the cart, N, (*batch,)."""
        return torch.where(action == 1, params["force"], -params["force"])

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial: each of the four uniform in ±0.05."""
        like = params["force"].unsqueeze(-1)
        return uniform_like(like.expand(*like.shape[:-1], 4), -self.START, self.START, rng)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        _, velocity, angle, angular_velocity = state.unbind(-1)
        sin = angle.sin()
        cos = angle.cos()
        length = params["pole_length"]
        pole_mass = params["pole_mass"]
        total_mass = params["cart_mass"] + pole_mass
        moment = pole_mass * length

        # temp, ω' and v' of the equations above.
        temp = torch.addcmul(self.push(action, params), moment * sin, angular_velocity.square()) / total_mass
        leverage = length * (4 / 3 - pole_mass * cos.square() / total_mass)
        angular_acceleration = (params["gravity"] * sin - temp * cos) / leverage
        acceleration = temp - moment * angular_acceleration * cos / total_mass

        # Euler's method: all rates are those of the state before the step.
        rate = torch.stack([velocity, acceleration, angular_velocity, angular_acceleration], dim=-1)
        return torch.add(state, rate, alpha=self.STEP)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return torch.ones_like(state[..., 0])

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        return (state[..., 0].abs() > self.MAX_POSITION) | (state[..., 2].abs() > self.MAX_ANGLE)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's CartPole."""
        return scalar_task({"gravity": 9.8, "cart_mass": 1.0, "pole_mass": 0.1, "pole_length": 0.5, "force": 10.0})

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "fell" if obs[2].abs() > self.MAX_ANGLE else "left the track"

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Linear feedback: push to the side to which a weighted sum of the state leans; not optimal control."""
        lean = obs @ torch.tensor([0.02, 0.06, 1.0, 0.3], device=obs.device, dtype=obs.dtype)
        return (lean > 0).long()

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of cart and pole on their track."""
        x, _, angle, _ = state.tolist()
        length = 2 * float(params["pole_length"])
        tip = (x + length * math.sin(angle), 0.12 + length * math.cos(angle))

        canvas = Canvas(half_width=2.6, centre=(0.0, 0.8))
        canvas.line([(-self.MAX_POSITION, 0.0), (self.MAX_POSITION, 0.0)], "grey")
        canvas.rectangle((x, 0.0), 0.25, 0.12, "royalblue")
        canvas.line([(x, 0.12), tip], "peru", 6)
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
        return {**super().get_default_params(), "direction": torch.tensor(1.0, dtype=float_dtype())}

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """See CartPole.oracle_action."""
        action = super().oracle_action(obs, params, time)
        return torch.where(params["direction"] > 0, action, 1 - action)


TRAIN = {
    "gravity": Uniform(5.0, 15.0, "m/s²"),
    "cart_mass": LogUniform(0.5, 2.0, "kg"),
    "pole_mass": LogUniform(0.05, 0.5, "kg"),
    "pole_length": LogUniform(0.25, 1.0, "m"),
    "force": LogUniform(5.0, 20.0, "N"),
}
OOD = {
    "gravity": Uniform(15.0, 20.0, "m/s²"),
    "cart_mass": LogUniform(0.25, 0.5, "kg"),
    "pole_mass": LogUniform(0.5, 1.0, "kg"),
    "pole_length": LogUniform(0.15, 0.25, "m"),
}


def cart_pole(horizon: Horizon = 200) -> TaskDistribution:
    """CartPole with varied gravity, masses, pole length and force, H = 200; ood: all but the force wider."""
    return TaskDistribution(CartPole(horizon), train=TRAIN, ood=OOD)


def cart_pole_mirrored(horizon: Horizon = 200) -> TaskDistribution:
    """As `cart-pole`, with an actuator that may act the other way round."""
    return TaskDistribution(MirroredCartPole(horizon), train={**TRAIN, "direction": Choice([-1.0, 1.0], "1")}, ood=OOD)


FAMILIES = (
    Family("cart-pole", cart_pole, "metarl/CartPole-v0"),
    Family("cart-pole/mirrored", cart_pole_mirrored, "metarl/MirroredCartPole-v0"),
)
