"""Driving on a winding road: a dynamic bicycle model whose tyres, mass, geometry and steering delay are the task."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from metarl.envs.env_family import Polyline
from metarl.envs.families.building_blocks import scalar_task
from metarl.envs.families.canvas import Rendered
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import LogUniform, Range, Task, Uniform

GRAVITY = 9.81  # m/s²
TIME_STEP = 0.1  # s, between actions
MAX_STEER = 0.12  # rad
MAX_FORCE = 6000.0  # N, of engine and brakes
STIFFNESS = 160_000.0  # N/rad, cornering stiffness of each axle
TRACTION_SHARE = 0.9  # of the friction that engine and brakes may use
MIN_SPEED, MAX_SPEED = 1.0, 50.0  # m/s
HISTORY = 5  # steering commands remembered: delays up to 0.4 s
SPIN = math.pi / 2  # rad, heading error at which the car has spun round
EDGE = 0.9  # of half the width: no oracle aims nearer to the edge
BEND_RATIO = (1 + math.sqrt(5)) / 2  # of the road's two wave numbers: the road never repeats

SPEED_UNIT, HEADING_UNIT, YAW_UNIT, CURVATURE_UNIT = 10.0, 0.2, 0.3, 0.01  # make observations O(1)


class Inputs(NamedTuple):
    """What acts on the car during an environment step; symbols as in Driving.

    Attributes:
        steer: angle δ of the front wheels, (*batch,), rad.
        axle_steer: the same for both axles, (δ, 0), (*batch, 2), rad.
        acceleration: a_x of engine and brakes, (*batch,), m/s².
        grip: F_max/m_axle, the same for both axles, (*batch, 1), m/s².
        stiffness: C/m_axle, (*batch, 2), m/s² per rad.
    """

    steer: Tensor
    axle_steer: Tensor
    acceleration: Tensor
    grip: Tensor
    stiffness: Tensor


class Velocities(NamedTuple):
    """How the car moves; symbols as in Driving.

    Attributes:
        speed: v_x, (*batch,), m/s.
        axles: w, lateral velocity of the axles, (*batch, 2), m/s.
        lateral: v_y of the centre of mass, (*batch,), m/s, which follows from w.
        yaw_rate: r, (*batch,), rad/s, which follows from w.
    """

    speed: Tensor
    axles: Tensor
    lateral: Tensor
    yaw_rate: Tensor


class Pose(NamedTuple):
    """Where the car is in road coordinates, each (*batch,): s (m), e_y (m), e_ψ (rad)."""

    distance: Tensor
    offset: Tensor
    heading: Tensor


class Style(NamedTuple):
    """How an oracle drives, each a number or (*batch,).

    Attributes:
        cornering: share of the grip that it uses up in bends.
        braking: share of what brakes and grip allow that it counts on.
        cut: how far inside it drives in a bend, m for a mean curvature ahead of 1/m.
        response: how fast it steers back to its line where the steering has no delay, s.
    """

    cornering: Tensor | float
    braking: Tensor | float
    cut: Tensor | float
    response: Tensor | float = 0.6


class Driving(TaskEnv):
    """A car on a winding road: the dynamic bicycle (single-track) model in road coordinates, with saturating tyres.

    Motion, with the two axles at l_f ahead of and l_r behind the centre of mass, L = l_f + l_r:

        m (v̇_y + v_x r) = F_f + F_r        m (v̇_x − v_y r) = F_x − F_f δ        I_z ṙ = l_f F_f − l_r F_r
        ṡ = (v_x cos e_ψ − v_y sin e_ψ) / (1 − κ e_y)     ė_y = v_x sin e_ψ + v_y cos e_ψ     ė_ψ = r − κ ṡ
        κ(s) = ½ A (sin θ + sin Φθ),  θ = 2π s/λ,  Φ the golden ratio: bends of both signs, all |κ| ≤ A

    Tyres, linear in the slip angle α and bounded by what the friction circle leaves to them:

        α_f = δ − (v_y + l_f r)/v_x        α_r = −(v_y − l_r r)/v_x
        F = C α / √(1 + (C α/F_max)²)      F_max = F_z √(μ² − (a_x/g)²)
        a_x = F_x/m = clip(6000 N · clip(a₁)/m, ±0.9 μ g), shared by the axles as their loads F_z are

    This saturation keeps the slope C at zero slip as tanh does, but without its 0/0 in the secant stiffness F/α.

    Steering, a pure transport delay τ: a command is held for Δt = 0.1 s, so the mean of u(t − τ) over a step
    interpolates linearly between two commands of the history; it is the angle of the whole step:

        δ_k = Σ_j max(0, 1 − |τ/Δt − j|) u_{k−j},   u = 0.12 rad · clip(a₀)

    Integration in `num_substeps` of h = Δt/num_substeps, semi-implicit: with I_z = m l_f l_r the lateral velocities
    w = (v_y + l_f r, v_y − l_r r) of the axles are coupled by the yaw rate only, each with its own share of the mass,
    ẇ = F/m_axle − v_x r. The slip at the end of a substep under linear tyres, implicit in w,

        α' = (v_x (δ + h r) − w) / (v_x + h C/m_axle)

    gives the force F(α'), and then w' = w + h (F/m_axle − v_x r): stable at any speed, force and stiffness, never above
    the friction, kinematic as v_x → 0. The pose follows with the mean of the old and the new velocities and, for its
    direction, e_ψ half a substep on. The error is of first order in h.

    State, dict: "distance" s (m), "lateral_error" e_y (m, left of the centre), "heading_error" e_ψ (rad), "speed" v_x
    (m/s), all (*batch,); "axle_velocity" w (*batch, 2) in m/s; "commands" u of the last 5 steps, newest first,
    (*batch, 5) in rad. An episode starts at s = 0 with e_y ~ U[−0.5, 0.5] m, e_ψ ~ U[−0.05, 0.05] rad and the initial
    speed.

    Observation: e_y/half-width, e_ψ/(0.2 rad), (v_x − initial speed)/(10 m/s), v_y/(1 m/s), r/(0.3 rad/s) and the
    curvature preview κ(s + i · spacing)/(0.01/m), i = 0 … n − 1; clipped to ±10.

    Action: a (2,) in [−1, 1]: steering (left positive), accelerator (negative: brake).

    An episode ends when the car leaves the road, |e_y| > half-width, or has spun round, |e_ψ| > π/2.

    Task: "friction" μ; "mass" m (kg); "wheelbase" L (m); "actuator_delay" τ (s); the road, "curvature" A (1/m) and
    "wavelength" λ (m); and what a subclass adds.

    Source: Rajamani 2012, "Vehicle Dynamics and Control", chapter 2 (equations of motion, small slip angles, road
    coordinates) and section 3.1 (an example car: 80,000 N/rad a tyre, 59% of the weight on the front axle). Deviations:
    tyre forces saturate; I_z = m l_f l_r, 5% below the example's; speed stays in [1, 50] m/s (a car that creeps, and a
    governor); no load transfer and no air drag.

    Args:
        half_width: of the road, m.
        initial_speed: m/s.
        horizon: H.
        preview_points: n.
        preview_spacing: m.
        front_share: of the mass on the front axle, l_r/L; 0.5 makes the car neutral.
        num_substeps: integration steps in one environment step.
    """

    action_space = Box(-1.0, 1.0, (2,), np.float32)
    plane_axes = ("along the road, m", "left of its centre, m")

    def __init__(
        self,
        half_width: float,
        initial_speed: float,
        horizon: int = 150,
        preview_points: int = 4,
        preview_spacing: float = 15.0,
        front_share: float = 0.59,
        num_substeps: int = 2,
    ) -> None:
        self.observation_space = Box(-10.0, 10.0, (5 + preview_points,), np.float32)
        self.half_width = half_width
        self.initial_speed = initial_speed
        self.horizon = horizon

        self.preview_points = preview_points
        self.preview_spacing = preview_spacing
        self.front_share = front_share
        self.num_substeps = num_substeps
        super().__init__()

    def initial(self, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.initial."""
        zeros = torch.zeros_like(params["mass"])
        noise = torch.rand((2, *zeros.shape), generator=rng, device=zeros.device, dtype=zeros.dtype) - 0.5

        return {
            "distance": zeros,
            "lateral_error": noise[0],
            "heading_error": 0.1 * noise[1],
            "speed": zeros + self.initial_speed,
            "axle_velocity": torch.stack([zeros, zeros], dim=-1),
            "commands": zeros.unsqueeze(-1).expand(*zeros.shape, HISTORY),
        }

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.transition."""
        steering, pedal = action.clamp(-1.0, 1.0).unbind(-1)
        commands = torch.cat([(MAX_STEER * steering).unsqueeze(-1), state["commands"][..., :-1]], dim=-1)
        inputs = self._inputs(commands, pedal, params)

        axles = state["axle_velocity"]
        velocities = Velocities(state["speed"], axles, *self._body_motion(axles, params["wheelbase"]))
        pose = Pose(state["distance"], state["lateral_error"], state["heading_error"])
        for _ in range(self.num_substeps):
            before = velocities
            velocities = self._next_velocities(before, inputs, params)
            pose = self._next_pose(pose, before, velocities, params)

        return {
            "distance": pose.distance,
            # where an episode is over and stepped on, 1 − κ e_y must not become 0
            "lateral_error": pose.offset.clamp(-2 * self.half_width, 2 * self.half_width),
            "heading_error": pose.heading,
            "speed": velocities.speed,
            "axle_velocity": velocities.axles,
            "commands": commands,
        }

    def _inputs(self, commands: Tensor, pedal: Tensor, params: Task) -> Inputs:
        """What the commands (*batch, 5) in rad and the pedal (*batch,) in [−1, 1] do to the car."""
        steer = delayed(commands, params["actuator_delay"])
        axle_steer = torch.stack([steer, torch.zeros_like(steer)], dim=-1)

        # Engine and brakes take their share of the friction circle first; the tyres have the rest.
        friction = GRAVITY * params["friction"]
        traction = TRACTION_SHARE * friction
        acceleration = torch.clamp(MAX_FORCE * pedal / params["mass"], -traction, traction)
        grip = (friction.square() - acceleration.square()).sqrt().unsqueeze(-1)

        return Inputs(steer, axle_steer, acceleration, grip, self._stiffness(params["mass"]))

    def _next_velocities(self, now: Velocities, inputs: Inputs, params: Task) -> Velocities:
        """Velocities after a substep, semi-implicit in the lateral ones."""
        step = TIME_STEP / self.num_substeps

        # The slip at the end of the substep under linear tyres, then the force that real tyres have there.
        turn = torch.add(inputs.axle_steer, now.yaw_rate.unsqueeze(-1), alpha=step)
        forward = now.speed.unsqueeze(-1)
        linear = inputs.stiffness * (forward * turn - now.axles) / (forward + step * inputs.stiffness)
        tyre = linear * (1 + (linear / inputs.grip).square()).rsqrt()  # F/m_axle, m/s²

        axles = torch.add(now.axles, tyre - (now.speed * now.yaw_rate).unsqueeze(-1), alpha=step)
        push = inputs.acceleration + now.lateral * now.yaw_rate - self.front_share * inputs.steer * tyre[..., 0]
        speed = torch.add(now.speed, push, alpha=step).clamp(MIN_SPEED, MAX_SPEED)
        return Velocities(speed, axles, *self._body_motion(axles, params["wheelbase"]))

    def _next_pose(self, pose: Pose, before: Velocities, after: Velocities, params: Task) -> Pose:
        """Pose after a substep, with the mean of the velocities before and after it."""
        step = TIME_STEP / self.num_substeps
        v_x = torch.lerp(before.speed, after.speed, 0.5)
        v_y = torch.lerp(before.lateral, after.lateral, 0.5)
        yaw_rate = torch.lerp(before.yaw_rate, after.yaw_rate, 0.5)

        # The direction of motion is that half a substep on.
        curvature = road_curvature(pose.distance, params)
        middle = torch.add(pose.heading, yaw_rate - curvature * v_x, alpha=0.5 * step)
        sin = middle.sin()
        cos = middle.cos()

        progress = (v_x * cos - v_y * sin) / (1 - curvature * pose.offset)  # ṡ, m/s
        return Pose(
            distance=torch.add(pose.distance, progress, alpha=step),
            offset=torch.add(pose.offset, v_x * sin + v_y * cos, alpha=step),
            heading=torch.add(pose.heading, yaw_rate - curvature * progress, alpha=step),
        )

    def observation(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        speed = state["speed"]
        lateral, yaw_rate = self._body_motion(state["axle_velocity"], params["wheelbase"])
        motion = [
            state["lateral_error"] / self.half_width,
            state["heading_error"] / HEADING_UNIT,
            (speed - self.initial_speed) / SPEED_UNIT,
            lateral,
            yaw_rate / YAW_UNIT,
        ]

        ahead = state["distance"].unsqueeze(-1) + self._distances_ahead(self.preview_points, speed)
        road = {name: params[name].unsqueeze(-1) for name in ("curvature", "wavelength")}
        preview = road_curvature(ahead, road) / CURVATURE_UNIT

        return torch.cat([torch.stack(motion, dim=-1), preview], dim=-1).clamp(-10.0, 10.0)

    def terminal(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        off_road: Tensor = state["lateral_error"].abs() > self.half_width
        spun: Tensor = state["heading_error"].abs() > SPIN
        return off_road | spun

    def get_default_params(self, **kwargs: Any) -> Task:
        """A loaded family car on a damp road of gentle bends."""
        return scalar_task(
            {
                "friction": 0.7,
                "mass": 1573.0,
                "wheelbase": 2.68,
                "actuator_delay": 0.05,
                "curvature": 0.005,
                "wavelength": 200.0,
            }
        )

    def render_image(self, state: State, render_state: Any, params: Task) -> Rendered:
        """Top view of 60 m × 60 m around the car, the road's direction at the car upwards; a dash every 6 m."""
        size = 256
        image = Image.new("RGB", (size, size), "darkseagreen")
        draw = ImageDraw.Draw(image)
        s, ahead, left, angle = _centre_line(float(state["distance"]), params)

        edge_ahead = self.half_width * np.sin(angle)
        edge_left = self.half_width * np.cos(angle)
        left_edge = _top_view(ahead - edge_ahead, left + edge_left, size)
        right_edge = _top_view(ahead + edge_ahead, left - edge_left, size)
        draw.polygon(left_edge + right_edge[::-1], fill="dimgrey")
        draw.line(left_edge, fill="white", width=2)
        draw.line(right_edge, fill="white", width=2)

        centre = _top_view(ahead, left, size)
        for start in range(len(s) - 5):
            if s[start] % 6 == 0:
                draw.line(centre[start : start + 5], fill="lightgrey")

        # The corners of the car: front left, front right, rear right, rear left.
        x = 0.7 * float(params["wheelbase"]) * np.array([1, 1, -1, -1])
        y = 0.9 * np.array([1, -1, -1, 1])
        cos = math.cos(float(state["heading_error"]))
        sin = math.sin(float(state["heading_error"]))
        body = _top_view(cos * x - sin * y, float(state["lateral_error"]) + sin * x + cos * y, size)
        draw.polygon(body, fill="royalblue")
        draw.line(body[:2], fill="gold", width=2)
        return render_state, np.asarray(image)

    def plane_path(self, obs: Tensor) -> Tensor:
        """See EnvFamily.plane_path: (s, e_y) in road coordinates, s added up by the trapezoidal rule."""
        offset = self.half_width * obs[..., 0]
        heading = HEADING_UNIT * obs[..., 1]
        speed = self.initial_speed + SPEED_UNIT * obs[..., 2]
        lateral = obs[..., 3]
        curvature = CURVATURE_UNIT * obs[..., 5]

        progress = (speed * heading.cos() - lateral * heading.sin()) / (1 - curvature * offset)
        steps = 0.5 * TIME_STEP * (progress[..., 1:] + progress[..., :-1])
        distance = torch.nn.functional.pad(steps.cumsum(dim=-1), (1, 0))
        return torch.stack([distance, offset], dim=-1)

    def plane_lines(self, task: Task) -> list[Polyline]:
        """See EnvFamily.plane_lines: the edges of the road, as far as any car comes."""
        end = MAX_SPEED * TIME_STEP * self.horizon
        return [[(0.0, side), (end, side)] for side in (-self.half_width, self.half_width)]

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "left the road" if obs[0].abs() > 1 else "spun"

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Feedforward of the bend with the tyres' slip, feedback on errors predicted over the delay, speed control.

            δ = L κ + α_f(v² κ) − α_r(v² κ) − 2 ω L/v (e_ψ + v_y/v) − ω² L/v² (e_y − e*),   ω = 1/(response + 2 τ)

        where α(a) is the slip at which an axle gives the lateral acceleration a and e* lies inside the bends ahead, as
        the style says; the feedback makes a kinematic
        bicycle a critically damped loop of the angular frequency ω. The speed is what brakes and tyres allow in the
        bends ahead, of which the sharpest possible is expected beyond the preview.
        """
        return self._drive(obs, params, self.oracle_style(params))

    def oracle_style(self, params: Task) -> Style:
        """How the oracle drives on these tasks, (*batch,): in the middle, with much to spare."""
        return Style(cornering=0.6, braking=0.4, cut=0.0)

    def _drive(self, obs: Tensor, params: Task, style: Style) -> Tensor:
        """The oracle's action in this style; see `oracle_action`."""
        speed = self.initial_speed + SPEED_UNIT * obs[..., 2]
        curvature = CURVATURE_UNIT * obs[..., 5:]

        # The bend where the car will be when the command arrives, and the lateral acceleration that it takes.
        reach = (speed * (params["actuator_delay"] + TIME_STEP) / self.preview_spacing).clamp(max=1.0)
        bend = torch.lerp(curvature[..., 0], curvature[..., 1], reach)
        grip = GRAVITY * params["friction"]
        cornering = torch.clamp(speed.square() * bend, -0.9 * grip, 0.9 * grip)

        steer = self._oracle_steer(obs, speed, bend, cornering, params, style)
        limit = self._speed_limit(speed, curvature, params, style)
        spare = ((0.9 * grip).square() - cornering.square()).clamp(min=0.0).sqrt()  # of the friction circle
        pedal = torch.clamp(self.oracle_speed(limit, params) - speed, -spare, spare) * params["mass"] / MAX_FORCE
        return torch.stack([steer / MAX_STEER, pedal], dim=-1).clamp(-1.0, 1.0)

    def _oracle_steer(
        self, obs: Tensor, speed: Tensor, bend: Tensor, cornering: Tensor, params: Task, style: Style
    ) -> Tensor:
        """The oracle's steering angle δ, (*batch,) in rad, given the acceleration that the bend takes; see there."""
        delay = params["actuator_delay"]
        yaw_rate = YAW_UNIT * obs[..., 4]
        curvature = CURVATURE_UNIT * obs[..., 5:]

        # Course and offset when the command arrives.
        course = HEADING_UNIT * obs[..., 1] + obs[..., 3] / speed
        course = course + (yaw_rate - speed * curvature[..., 0]) * delay
        aim = (style.cut * curvature[..., :3].mean(dim=-1)).clamp(-EDGE * self.half_width, EDGE * self.half_width)
        offset = self.half_width * obs[..., 0] + speed * course * delay - aim

        # Feedforward: the slip of both axles that gives the lateral acceleration.
        grip = GRAVITY * params["friction"]
        slip = cornering * (1 - (cornering / grip).square()).rsqrt()
        front, rear = (slip.unsqueeze(-1) / self._stiffness(params["mass"])).unbind(-1)

        omega = 1 / (style.response + 2 * delay)  # rad/s: a slower loop where the delay is long
        span = params["wheelbase"] / speed
        feedback = 2 * omega * span * course + omega.square() * span / speed * offset
        return params["wheelbase"] * bend + front - rear - feedback

    def _speed_limit(self, speed: Tensor, curvature: Tensor, params: Task, style: Style) -> Tensor:
        """The highest speed, (*batch,) in m/s, from which brakes and tyres allow the bends ahead."""
        # Beyond the preview the road may bend as sharply as it does anywhere.
        sharpest = torch.cat([curvature.abs(), params["curvature"].unsqueeze(-1)], dim=-1)
        distances = self._distances_ahead(self.preview_points + 1, speed)

        grip = GRAVITY * params["friction"]
        cornering = (style.cornering * grip).unsqueeze(-1)
        braking = (style.braking * torch.minimum(grip, MAX_FORCE / params["mass"])).unsqueeze(-1)
        return (cornering / sharpest.clamp(min=1e-4) + 2 * braking * distances).amin(dim=-1).sqrt()

    def oracle_speed(self, limit: Tensor, params: Task) -> Tensor:
        """Speed the oracle aims at, given the highest that the bends ahead allow, both (*batch,) in m/s."""
        raise NotImplementedError

    def _stiffness(self, mass: Tensor) -> Tensor:
        """Cornering stiffness of each axle by the mass it carries, C/m_axle, (*batch, 2) in m/s² per rad."""
        per_mass = STIFFNESS / mass
        return torch.stack([per_mass / self.front_share, per_mass / (1 - self.front_share)], dim=-1)

    def _body_motion(self, axles: Tensor, wheelbase: Tensor) -> tuple[Tensor, Tensor]:
        """Lateral velocity v_y (m/s) of the centre of mass and yaw rate r (rad/s), of the axles' (*batch, 2)."""
        front, rear = axles.unbind(-1)
        return torch.lerp(rear, front, self.front_share), (front - rear) / wheelbase

    def _distances_ahead(self, points: int, like: Tensor) -> Tensor:
        """Distances 0, spacing, 2 · spacing, … ahead of the car, (points,) in m."""
        return self.preview_spacing * torch.arange(points, device=like.device, dtype=like.dtype)


def road_curvature(distance: Tensor, params: Task) -> Tensor:
    """Curvature κ(s) of the centre line, (*batch,) in 1/m, positive to the left; see Driving."""
    angle = distance * (2 * math.pi / params["wavelength"])
    curvature: Tensor = 0.5 * params["curvature"] * (angle.sin() + (BEND_RATIO * angle).sin())
    return curvature


def delayed(commands: Tensor, delay: Tensor) -> Tensor:
    """Mean over the current step of the commands (*batch, n), newest first, as they arrive `delay` seconds later."""
    ages = torch.arange(commands.shape[-1], device=delay.device, dtype=delay.dtype)
    weights = (1 - (delay.unsqueeze(-1) / TIME_STEP - ages).abs()).clamp(min=0.0)
    return (commands * weights).sum(dim=-1)


def _centre_line(here: float, params: Task) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The road's centre line from 25 m behind to 60 m ahead of a distance, for pictures.

    Returns:
        Points every 0.5 m, each (n,): distance along the road, metres ahead, metres to the left, and the road's
        direction in rad, all but the first relative to the road at `here`.
    """
    spacing = 0.5
    s = np.arange(math.floor(here) - 25, here + 60, spacing)

    # The direction is ∫ κ ds.
    number = 2 * math.pi / float(params["wavelength"])
    waves = np.cos(number * s) + np.cos(BEND_RATIO * number * s) / BEND_RATIO
    angle = -0.5 * float(params["curvature"]) / number * waves
    angle -= np.interp(here, s, angle)

    ahead = np.cumsum(np.cos(angle)) * spacing
    left = np.cumsum(np.sin(angle)) * spacing
    return s, ahead - np.interp(here, s, ahead), left - np.interp(here, s, left), angle


def _top_view(ahead: NDArray[Any], left: NDArray[Any], size: int) -> list[tuple[float, float]]:
    """Pixels of points so many metres ahead of and to the left of the car's place on the road."""
    metres = 60.0  # along each side of the picture
    columns = (0.5 - left / metres) * size
    rows = (0.75 - ahead / metres) * size
    return list(zip(columns.tolist(), rows.tolist(), strict=True))


class LaneKeeping(Driving):
    """Keep to the centre of the lane at a speed that is not told.

        r = 1 − 0.4 min(1, |e_y|/half-width)² − 0.5 min(1, |v_x − v*|/(10 m/s)) − 0.05 ‖clip(a)‖²

    in [0, 1], so that ending an episode early is never an advantage. The lane is 4 m wide and a car starts at 14 m/s.
    Task: that of Driving and "target_speed" v* (m/s).

    Source: the model is Driving's; the reward is this project's.

    Args:
        horizon: H.
    """

    def __init__(self, horizon: int = 150) -> None:
        super().__init__(half_width=2.0, initial_speed=14.0, horizon=horizon)

    def reward(self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        offset = (next_state["lateral_error"] / self.half_width).square().clamp(max=1.0)
        speed = ((next_state["speed"] - params["target_speed"]).abs() / 10).clamp(max=1.0)
        effort = action.clamp(-1.0, 1.0).square().sum(dim=-1)
        reward: Tensor = 1 - 0.4 * offset - 0.5 * speed - 0.05 * effort
        return reward

    def get_default_params(self, **kwargs: Any) -> Task:
        """Driving's, at 16 m/s."""
        return {**super().get_default_params(), "target_speed": torch.tensor(16.0, dtype=float_dtype())}

    def oracle_speed(self, limit: Tensor, params: Task) -> Tensor:
        """See Driving.oracle_speed: the target speed, where the bends allow it."""
        return torch.minimum(limit, params["target_speed"])


class RacingLine(Driving):
    """Get as far along a winding road as friction, mass and steering allow.

        r = (s' − s)/(2 m) − 0.01 ‖clip(a)‖²

    about 1 at 20 m/s. It is negative only below 0.4 m/s along the road, under full steering and brake; at any speed
    worth driving, ending an episode early is no advantage. The road is 10 m wide and a car starts at 10 m/s. Task: that
    of Driving.

    Source: the model is Driving's; the reward is this project's.

    Args:
        horizon: H.
    """

    def __init__(self, horizon: int = 150) -> None:
        super().__init__(half_width=5.0, initial_speed=10.0, horizon=horizon, preview_points=5, preview_spacing=20.0)
        self._tasks_driven = torch.empty(0)
        self._styles = Style(0.0, 0.0, 0.0)

    def reward(self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        effort = action.clamp(-1.0, 1.0).square().sum(dim=-1)
        reward: Tensor = 0.5 * (next_state["distance"] - state["distance"]) - 0.01 * effort
        return reward

    def get_default_params(self, **kwargs: Any) -> Task:
        """Driving's, with sharper bends."""
        return {**super().get_default_params(), "curvature": torch.tensor(0.015, dtype=float_dtype())}

    def oracle_style(self, params: Task) -> Style:
        """See Driving.oracle_style: the fastest of RACING_STYLES and of what is near them, tried out on each task.

        It knows the task and may drive it in thought. No optimum, and no bound: what learns a still faster line has a
        score above 1.
        """
        values = torch.stack([params[name] for name in sorted(params)], dim=-1)
        # An oracle is asked at every step, and of the same tasks.
        if self._tasks_driven.shape != values.shape or not torch.equal(self._tasks_driven, values):
            self._tasks_driven = values
            self._styles = self._fastest_styles(values, sorted(params))
        return self._styles

    def _fastest_styles(self, values: Tensor, names: list[str]) -> Style:
        """The style for each task of (*batch, P) values of the parameters named, leaves (*batch,)."""
        distinct, which = torch.unique(values.reshape(-1, len(names)), dim=0, return_inverse=True)
        tasks = dict(zip(names, distinct.unbind(-1), strict=True))
        rng = torch.Generator(values.device).manual_seed(0)

        # All from a few starts; the best and what is near them from more; the best of these from many.
        styles = torch.tensor(RACING_STYLES).to(values).expand(len(distinct), -1, -1)
        styles = self._best_styles(tasks, styles, starts=4, kept=4)
        noise = torch.randn((12, 4), generator=rng, device=values.device, dtype=values.dtype)
        near = styles.repeat(1, 3, 1) * (1 + 0.1 * noise)
        styles = self._best_styles(tasks, torch.cat([styles, near], dim=1), starts=8, kept=4)
        styles = self._best_styles(tasks, styles, starts=16, kept=1)

        chosen = styles[which, 0].reshape(*values.shape[:-1], -1)
        return Style(*chosen.unbind(-1))

    def _best_styles(self, tasks: Task, styles: Tensor, starts: int, kept: int) -> Tensor:
        """Of C styles for each of U tasks, (U, C, 4), the best, (U, kept, 4), by their mean return from some starts."""
        count = (*styles.shape[:2], starts)
        cars = {name: value[:, None, None].expand(count) for name, value in tasks.items()}
        style = Style(*styles.unsqueeze(2).unbind(-1))

        rng = torch.Generator(styles.device).manual_seed(starts)
        line = self.initial(rng, {name: value[:1, :1] for name, value in cars.items()})
        state = {name: leaf.expand(*count, *leaf.shape[3:]) for name, leaf in line.items()}
        total = torch.zeros(count).to(styles)
        driving = torch.ones_like(total)
        for _ in range(self.horizon):
            action = self._drive(self.observation(state, rng, cars), cars, style)
            next_state = self.transition(state, action, rng, cars)
            total += driving * self.reward(state, action, next_state, rng, cars)
            driving = driving * ~self.terminal(next_state, rng, cars)
            state = next_state

        best = total.mean(dim=-1).topk(kept, dim=1).indices
        return styles.gather(1, best.unsqueeze(-1).expand(-1, -1, styles.shape[-1]))

    def oracle_speed(self, limit: Tensor, params: Task) -> Tensor:
        """See Driving.oracle_speed: as fast as the bends allow."""
        return limit.clamp(max=MAX_SPEED)


RACING_STYLES = (
    Style(0.60, 0.40, 0.0, 0.60),
    Style(0.68, 0.50, 300.0, 0.60),
    Style(0.70, 1.02, 320.0, 0.75),
    Style(0.88, 0.61, 450.0, 0.33),
    Style(0.92, 0.83, 370.0, 0.76),
    Style(1.02, 0.98, 450.0, 0.30),
    Style(0.90, 0.40, 580.0, 0.28),
    Style(0.82, 0.91, 870.0, 0.64),
    Style(1.07, 0.57, 800.0, 0.32),
    Style(0.68, 0.69, 850.0, 0.41),
    Style(1.06, 0.74, 720.0, 0.33),
    Style(1.00, 0.69, 460.0, 0.61),
    Style(1.08, 1.02, 750.0, 0.36),
    Style(0.98, 0.88, 630.0, 0.75),
    Style(0.78, 0.79, 670.0, 0.27),
    Style(0.81, 1.09, 270.0, 0.62),
    Style(1.07, 0.77, 440.0, 0.37),
    Style(1.06, 1.05, 500.0, 0.78),
    Style(0.74, 1.06, 580.0, 0.68),
    Style(0.84, 0.77, 780.0, 0.31),
    Style(0.96, 0.96, 870.0, 0.25),
    Style(0.90, 0.96, 240.0, 0.50),
    Style(1.00, 0.42, 700.0, 0.67),
    Style(0.97, 1.09, 300.0, 0.79),
    Style(1.03, 0.35, 550.0, 0.29),
    Style(0.87, 0.80, 610.0, 0.53),
    Style(0.85, 0.64, 360.0, 0.56),
    Style(0.94, 0.61, 440.0, 0.36),
    Style(1.04, 1.07, 690.0, 0.80),
    Style(0.98, 0.91, 520.0, 0.79),
)
"""What the oracle of the race tries out on a task: two that stay on nearly every road, and of 160 drawn at random those
that, one after the other, most raised the mean over 80 training tasks of the best return of those taken before."""

TRAIN_CARS: dict[str, Range] = {
    "friction": LogUniform(0.3, 1.0, "1"),
    "mass": Uniform(1000.0, 2500.0, "kg"),
    "wheelbase": Uniform(2.4, 3.2, "m"),
    "actuator_delay": Uniform(0.0, 0.2, "s"),
}
OOD_CARS: dict[str, Range] = {
    "friction": LogUniform(0.2, 0.3, "1"),
    "mass": Uniform(2500.0, 3500.0, "kg"),
    "wheelbase": Uniform(3.2, 4.0, "m"),
    "actuator_delay": Uniform(0.2, (HISTORY - 1) * TIME_STEP, "s"),
}


def lane_keeping(horizon: Horizon = 150) -> TaskDistribution:
    """Keep to a lane at a hidden target speed, with hidden friction, mass, wheelbase and steering delay; H = 150."""
    return TaskDistribution(
        LaneKeeping(horizon),
        train={
            **TRAIN_CARS,
            "curvature": Uniform(0.002, 0.008, "1/m"),
            "wavelength": Uniform(150.0, 300.0, "m"),
            "target_speed": Uniform(8.0, 20.0, "m/s"),
        },
        ood={
            **OOD_CARS,
            "curvature": Uniform(0.008, 0.01, "1/m"),
            "wavelength": Uniform(100.0, 150.0, "m"),
            "target_speed": Uniform(20.0, 25.0, "m/s"),
        },
    )


def racing_line(horizon: Horizon = 150) -> TaskDistribution:
    """Progress along a winding road whose bends are too sharp for full speed; H = 150."""
    return TaskDistribution(
        RacingLine(horizon),
        train={**TRAIN_CARS, "curvature": Uniform(0.008, 0.02, "1/m"), "wavelength": Uniform(150.0, 300.0, "m")},
        ood={**OOD_CARS, "curvature": Uniform(0.02, 0.025, "1/m"), "wavelength": Uniform(100.0, 150.0, "m")},
    )


FAMILIES = (
    Family("driving/lane-keeping", lane_keeping, "metarl/LaneKeeping-v0"),
    Family("driving/racing-line", racing_line, "metarl/RacingLine-v0"),
)
