"""Point navigation: a point in the plane must find a goal it cannot see; with and without varied dynamics."""

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.families.canvas import Canvas, Rendered
from metarl.envs.family_entry import Between, Family, Horizon
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import BoxRing, Circle, LogUniform, Task, Uniform

STEP_SIZE = 0.1  # largest displacement per axis and step
VIEW = 1.25  # half the side of pictures, in half-widths of the arena


class PointNavigation(TaskEnv):
    """A point starts at the origin and is rewarded for being near a hidden goal.

        s' = s + 0.1 · clip(a, −1, 1)
        dense:   r = −‖s' − g‖₂
        sparse:  r = 1 − ‖s' − g‖₂ if ‖s' − g‖₂ ≤ 0.2 else 0

    State and observation: position s (2,). Action: a (2,), the displacement in units of 0.1. Task: "goal" g (2,).

    Source: dense with termination, Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3; half circle and
    sparse reward, Rakelly et al. 2019, "PEARL", section 6.3. Deviation: there the action is the displacement itself,
    clipped to ±0.1; here it is scaled, so that a policy's unit Gaussian spans the whole range of steps.

    Args:
        horizon: H.
        reward: "dense" or "sparse".
        goal_tolerance: the episode terminates when both coordinates are this near to the goal; 0 = it never does.
        arena: half-width of the region that pictures show.
        default_goal: the goal of `gymnasium.make(id)` without a task.
    """

    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(
        self,
        horizon: int = 100,
        reward: Literal["dense", "sparse"] = "dense",
        goal_tolerance: float = 0.01,
        arena: float = 1.0,
        default_goal: tuple[float, float] = (0.3, 0.2),
    ) -> None:
        reach = STEP_SIZE * horizon + 1e-3  # float32 sums of 0.1 overshoot a little
        self.observation_space = Box(-reach, reach, (2,), np.float32)

        self.horizon = horizon
        self.reward_kind = reward
        self.goal_tolerance = goal_tolerance
        self.arena = arena
        self.plane_view = VIEW * arena
        self.default_goal = default_goal
        super().__init__()

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial."""
        return torch.zeros_like(params["goal"])

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        return torch.add(state, action.clamp(-1.0, 1.0), alpha=STEP_SIZE)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        distance: Tensor = torch.linalg.vector_norm(next_state - params["goal"], dim=-1)
        if self.reward_kind == "dense":
            return -distance
        return (1 - distance) * (distance <= 0.2)

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        if self.goal_tolerance == 0:
            return super().terminal(state, rng, params)
        return (state - params["goal"]).abs().amax(dim=-1) < self.goal_tolerance

    def get_default_params(self, **kwargs: Any) -> Task:
        """The default goal."""
        return {"goal": torch.tensor(self.default_goal, dtype=float_dtype())}

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of the plane: the point in blue, the goal as a red cross, the start as a grey dot."""
        arena = self.arena
        x, y = state[:2].tolist()
        goal_x, goal_y = params["goal"].tolist()

        canvas = Canvas(half_width=VIEW * arena)
        canvas.polygon([(-arena, -arena), (arena, -arena), (arena, arena), (-arena, arena)], None, "lightgrey")
        canvas.disc((0.0, 0.0), 3, "grey")
        canvas.cross((goal_x, goal_y), 6, "red")
        canvas.disc((x, y), 5, "royalblue")
        return render_state, canvas.image()

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "reached"

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Straight to the goal and stay there; optimal but for the shape of the box of steps."""
        return ((params["goal"] - obs) / STEP_SIZE).clamp(-1.0, 1.0)

    def plane_position(self, obs: Tensor) -> Tensor:
        """See EnvFamily.plane_position."""
        return obs[..., :2]

    def plane_goal(self, tasks: Task) -> Tensor:
        """See EnvFamily.plane_goal."""
        return tasks["goal"]


class PointDynamics(PointNavigation):
    """Point navigation whose dynamics differ from task to task as well: an actuator to be identified.

    The point has a velocity v besides its position s; its observation is (s, v).

        u  = R(rotation) · clip(a, −1, 1)
        v' = (1 − drag) · v + drag · 0.1 · (gain · u + wind)
        s' = s + v'
        r  = −‖s' − g‖₂

    so that `drag` sets how fast the velocity follows (1: at once), while the final velocity, 0.1 · (gain · u +
    wind), does not depend on it. Task: "goal" (2,), "gain" > 0 of the actuator, "rotation" of the action frame in
    radians, "wind" (2,) as a share of a full step, "drag" in (0, 1] per step.

    Source: this project; the rotation follows the rotated-actuator perturbations used for adaptive control.
    """

    MAX_GAIN = 3.0
    MAX_WIND = 0.6

    def __init__(self, horizon: int = 50) -> None:
        super().__init__(horizon=horizon, goal_tolerance=0.0)

        # A full step of (±1, ±1) turned by 45° lies along one axis.
        fastest = STEP_SIZE * (self.MAX_GAIN * math.sqrt(2) + self.MAX_WIND) + 1e-3
        high = np.array([fastest * horizon] * 2 + [fastest] * 2, np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial; the state is (s, v)."""
        goal = params["goal"]
        return torch.zeros((*goal.shape[:-1], 4), device=goal.device, dtype=goal.dtype)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        x, y = action.clamp(-1.0, 1.0).unbind(-1)
        cos = params["rotation"].cos()
        sin = params["rotation"].sin()
        turned = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)

        # The velocity that the point would have in the end, and how far it gets there within a step.
        target = STEP_SIZE * (params["gain"].unsqueeze(-1) * turned + params["wind"])
        velocity = torch.lerp(state[..., 2:], target, params["drag"].unsqueeze(-1))
        return torch.cat([state[..., :2] + velocity, velocity], dim=-1)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return super().reward(state[..., :2], action, next_state[..., :2], rng, params)

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Deadbeat: inverse dynamics of the velocity that leads to the goal in one step; saturates on the way."""
        position = obs[..., :2]
        velocity = obs[..., 2:]
        drag = params["drag"].unsqueeze(-1)
        gain = params["gain"].unsqueeze(-1)

        to_goal = params["goal"] - position
        push = ((to_goal - (1 - drag) * velocity) / (STEP_SIZE * drag) - params["wind"]) / gain

        # Turned back into the frame of the action.
        x, y = push.unbind(-1)
        cos = params["rotation"].cos()
        sin = params["rotation"].sin()
        return torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1).clamp(-1.0, 1.0)

    def get_default_params(self, **kwargs: Any) -> Task:
        """The default goal with nominal dynamics."""
        return {
            "goal": torch.tensor(self.default_goal, dtype=float_dtype()),
            "gain": torch.tensor(1.0, dtype=float_dtype()),
            "rotation": torch.tensor(0.0, dtype=float_dtype()),
            "wind": torch.zeros(2, dtype=float_dtype()),
            "drag": torch.tensor(0.8, dtype=float_dtype()),
        }


Tolerance = Annotated[float, Between(0, 1)]
"""m; an episode ends within it of the goal, 0: never."""


def finn(horizon: Horizon = 100, goal_tolerance: Tolerance = 0.01) -> TaskDistribution:
    """Goals in the square [−0.5, 0.5]², dense reward, H = 100 (MAML paper); ood: the ring around the square."""
    return TaskDistribution(
        PointNavigation(horizon=horizon, goal_tolerance=goal_tolerance),
        train={"goal": Uniform(-0.5, 0.5, "m", shape=(2,))},
        ood={"goal": BoxRing(0.5, 1.0, dim=2, units="m")},
    )


def pearl(horizon: Horizon = 20, goal_tolerance: Tolerance = 0.0) -> TaskDistribution:
    """Goals on the unit half circle, H = 20, no termination (PEARL paper); ood: the other half circle."""
    return _half_circle("dense", horizon, goal_tolerance)


def pearl_sparse(horizon: Horizon = 20, goal_tolerance: Tolerance = 0.0) -> TaskDistribution:
    """As `pearl`, but rewarded only within 0.2 of the goal."""
    return _half_circle("sparse", horizon, goal_tolerance)


def _half_circle(reward: Literal["dense", "sparse"], horizon: int, goal_tolerance: float) -> TaskDistribution:
    """See `pearl`."""
    return TaskDistribution(
        PointNavigation(horizon, reward, goal_tolerance, arena=1.2, default_goal=(0.0, 1.0)),
        train={"goal": Circle(radius=1.0, start=0.0, end=math.pi, units="m")},
        ood={"goal": Circle(radius=1.0, start=math.pi, end=2 * math.pi, units="m")},
    )


def point_dynamics(horizon: Horizon = 50) -> TaskDistribution:
    """Goals in [−0.5, 0.5]² under varied gain, rotation, wind and drag; ood: all of them wider."""
    train = {
        "goal": Uniform(-0.5, 0.5, "m", shape=(2,)),
        "gain": LogUniform(0.5, 2.0, "1"),
        "rotation": Uniform(-math.pi / 3, math.pi / 3, "rad"),
        "wind": Uniform(-0.3, 0.3, "0.1 m/step", shape=(2,)),
        "drag": Uniform(0.4, 1.0, "1/step"),
    }
    ood = {
        "goal": BoxRing(0.5, 0.8, dim=2, units="m"),
        "gain": LogUniform(2.0, PointDynamics.MAX_GAIN, "1"),
        "rotation": Uniform(math.pi / 3, math.pi / 2, "rad"),
        "wind": BoxRing(0.3, PointDynamics.MAX_WIND, dim=2, units="0.1 m/step"),
        "drag": Uniform(0.2, 0.4, "1/step"),
    }

    return TaskDistribution(PointDynamics(horizon), train=train, ood=ood)


FAMILIES = (
    Family("point-navigation/finn", finn, "metarl/PointNavigation-v0", alias="point-navigation"),
    Family("point-navigation/pearl", pearl, "metarl/PointNavigationPearl-v0"),
    Family("point-navigation/pearl-sparse", pearl_sparse, "metarl/PointNavigationPearlSparse-v0"),
    Family("point-dynamics", point_dynamics, "metarl/PointDynamics-v0"),
)
