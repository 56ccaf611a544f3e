"""Mountain car with varied strength, gravity and goal, with three actions or a continuous one.

With the default tasks they equal Gymnasium's MountainCar and MountainCarContinuous; the tests step both side by side.
"""

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.envs.families.building_blocks import scalar_task, uniform_like
from metarl.envs.families.canvas import Canvas, Point, Rendered
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import LogUniform, Task, Uniform


class MountainCar(TaskEnv):
    """A car too weak for the slope rocks up the hill; three actions, one reward: the end.

        v' = clip(v + (a − 1) · force − gravity · cos 3x, ±0.07),   x' = clip(x + v', −1.2, 0.6)

    and v' = 0 at the left wall. Reward: −1 each step. An episode ends at x ≥ goal with v ≥ 0. State and observation:
    (x, v). Action: 0 left, 1 coast, 2 right. Task: "force", "gravity" (per step²), "goal_position".

    Source: Moore 1990, as Gymnasium's MountainCar.

    Args:
        horizon: H.
    """

    LOW, HIGH, MAX_SPEED = -1.2, 0.6, 0.07
    FORCE = "force"
    """Name of the task parameter that scales the push."""

    observation_space = Box(np.array([LOW, -MAX_SPEED], np.float32), np.array([HIGH, MAX_SPEED], np.float32))
    action_space: Box | Discrete = Discrete(3)
    render_fps = 30

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = horizon
        super().__init__()

    def throttle(self, action: Tensor) -> Tensor:
        """Share of the force, −1 … 1, (*batch,)."""
        return action - 1

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial: x uniform in [−0.6, −0.4], at rest."""
        position = uniform_like(params["gravity"], -0.6, -0.4, rng)
        return torch.stack([position, torch.zeros_like(position)], dim=-1)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        position, velocity = state.unbind(-1)

        # A thrust along the slope against gravity.
        pushed = torch.addcmul(velocity, self.throttle(action), params[self.FORCE])
        speed = torch.addcmul(pushed, params["gravity"], (3 * position).cos(), value=-1)
        speed = speed.clamp(-self.MAX_SPEED, self.MAX_SPEED)
        position = (position + speed).clamp(self.LOW, self.HIGH)

        # The left wall stops the car.
        speed = torch.where(position > self.LOW, speed, speed.clamp(min=0.0))
        return torch.stack([position, speed], dim=-1)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return -torch.ones_like(state[..., 0])

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        position, velocity = state.unbind(-1)
        return (position >= params["goal_position"]) & (velocity >= 0)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's MountainCar."""
        return scalar_task({"force": 0.001, "gravity": 0.0025, "goal_position": 0.5})

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "reached"

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Push the way the car rolls, at first to the left; not optimal control."""
        return torch.where(self.pushes_right(obs), 2, 0)

    def pushes_right(self, obs: Tensor) -> Tensor:
        """Whether the oracle pushes to the right: where the car rolls there, and off the left wall."""
        return (obs[..., 1] > 0) | (obs[..., 0] < -1)

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of the car on the hill and of the goal."""
        canvas = Canvas(half_width=0.95, centre=(-0.3, 0.6))
        canvas.line([_on_the_hill(float(x)) for x in np.linspace(self.LOW, self.HIGH, 100)], "grey")
        canvas.cross(_on_the_hill(float(params["goal_position"])), 6, "red")

        x, y = _on_the_hill(float(state[0]))
        canvas.disc((x, y + 0.04), 7, "royalblue")
        return render_state, canvas.image()


class MountainCarContinuous(MountainCar):
    """MountainCar with a continuous force: −0.1 a² each step, and 100 at the goal.

    Action: a in [−1, 1], the share of the power. Task: "power", "gravity" (per step²), "goal_position".

    Source: Gymnasium's MountainCarContinuous, whose time limit is 999. Deviation: an action beyond ±1 costs as much
    as the one that is applied.
    """

    FORCE = "power"
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def throttle(self, action: Tensor) -> Tensor:
        """See MountainCar.throttle."""
        return action.squeeze(-1).clamp(-1.0, 1.0)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        at_goal = self.terminal(next_state, rng, params)
        return torch.add(100.0 * at_goal.to(action.dtype), self.throttle(action).square(), alpha=-0.1)

    def get_default_params(self, **kwargs: Any) -> Task:
        """Gymnasium's MountainCarContinuous."""
        return scalar_task({"power": 0.0015, "gravity": 0.0025, "goal_position": 0.45})

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """See MountainCar.oracle_action."""
        return torch.where(self.pushes_right(obs), 1.0, -1.0).to(obs.dtype).unsqueeze(-1)


def _on_the_hill(x: float) -> Point:
    """The point of the hill at x, for pictures."""
    return x, 0.45 * math.sin(3 * x) + 0.55


def mountain_car(horizon: Horizon = 200) -> TaskDistribution:
    """MountainCar with varied force, gravity and goal, H = 200; ood: weaker cars and higher goals."""
    return TaskDistribution(
        MountainCar(horizon),
        train={
            "force": LogUniform(0.0008, 0.002, "1/step²"),
            "gravity": Uniform(0.002, 0.003, "1/step²"),
            "goal_position": Uniform(0.3, 0.55, "1"),
        },
        ood={"force": LogUniform(0.0006, 0.0008, "1/step²"), "goal_position": Uniform(0.55, 0.6, "1")},
    )


def mountain_car_continuous(horizon: Horizon = 300) -> TaskDistribution:
    """MountainCarContinuous with varied power, gravity and goal, H = 300; ood: weaker cars and higher goals."""
    return TaskDistribution(
        MountainCarContinuous(horizon),
        train={
            "power": LogUniform(0.001, 0.0025, "1/step²"),
            "gravity": Uniform(0.002, 0.003, "1/step²"),
            "goal_position": Uniform(0.3, 0.55, "1"),
        },
        ood={"power": LogUniform(0.0007, 0.001, "1/step²"), "goal_position": Uniform(0.55, 0.6, "1")},
    )


FAMILIES = (
    Family("mountain-car", mountain_car, "metarl/MountainCar-v0"),
    Family("mountain-car-continuous", mountain_car_continuous, "metarl/MountainCarContinuous-v0"),
)
