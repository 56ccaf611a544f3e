"""Gymnasium's robots: model file, frame skip, start, observation and health, without any physics engine."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Robot:
    """One of Gymnasium's v5 robots; its constants are theirs.

    Attributes:
        gymnasium_id: of Gymnasium's environment with this robot.
        file: of the model, among Gymnasium's assets.
        frame_skip: physics steps in an environment step.
        time_step: of the physics, s.
        start_position: qpos before noise, (nq,).
        num_velocities: nv.
        num_actuators: size of an action.
        num_bodies: without the world.
        num_geoms: with the floor.
        noise: of the start: positions are uniform within ± noise.
        normal_velocities: start velocities are normal with that deviation instead of uniform.
        hidden_positions: leading positions that an observation leaves out.
        clip_velocity: velocities are observed within ± this, m/s or rad/s.
        max_control: an action of 1 in the units of the actuators.
        healthy_height: open interval of the torso's height in which an episode goes on, m; None: everywhere.
        healthy_angle: bound of the torso's pitch ±, rad.
        healthy_state: bound of all positions and velocities from the height on, ±.
        height_index: place of the height in qpos; a pitch follows it.
        camera_distance: for pictures, m.
    """

    gymnasium_id: str
    file: str
    frame_skip: int
    time_step: float
    start_position: tuple[float, ...]
    num_velocities: int
    num_actuators: int
    num_bodies: int
    num_geoms: int
    noise: float
    normal_velocities: bool = False
    hidden_positions: int = 1
    clip_velocity: float = math.inf
    max_control: float = 1.0
    healthy_height: tuple[float, float] | None = None
    healthy_angle: float = math.inf
    healthy_state: float = math.inf
    height_index: int = 1
    camera_distance: float = 4.0

    @property
    def dt(self) -> float:
        """Duration of an environment step, s."""
        return self.frame_skip * self.time_step

    def sample_start(self, shape: tuple[int, ...], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions (*shape, nq) and velocities (*shape, nv) at the start of an episode, float64."""
        nominal = torch.tensor(self.start_position, dtype=torch.float64, device=rng.device)
        positions = torch.empty(*shape, len(nominal)).to(nominal).uniform_(generator=rng)
        qpos = nominal + self.noise * (2 * positions - 1)

        velocities = torch.empty(*shape, self.num_velocities).to(nominal)
        if self.normal_velocities:
            return qpos, self.noise * velocities.normal_(generator=rng)
        return qpos, self.noise * (2 * velocities.uniform_(generator=rng) - 1)

    def observe(self, qpos: Tensor, qvel: Tensor) -> Tensor:
        """Positions but for the hidden ones, and velocities: (*batch, nq − hidden + nv)."""
        positions = qpos[..., self.hidden_positions :]
        velocities = qvel.clamp(-self.clip_velocity, self.clip_velocity)
        return torch.cat([positions, velocities], dim=-1)

    def is_healthy(self, qpos: Tensor, qvel: Tensor) -> Tensor:
        """Whether it stands as it should, bool (*batch,)."""
        if self.healthy_height is None:
            return torch.ones(qpos.shape[:-1], dtype=torch.bool, device=qpos.device)

        lowest, highest = self.healthy_height
        height = qpos[..., self.height_index]
        healthy = (height > lowest) & (height < highest)

        if math.isfinite(self.healthy_angle):
            healthy = healthy & (qpos[..., self.height_index + 1].abs() < self.healthy_angle)

        if math.isfinite(self.healthy_state):
            # Everything but what comes before the height: how far the robot has gone is not bounded.
            rest = torch.cat([qpos[..., self.height_index + 1 :], qvel], dim=-1)
            healthy = healthy & (rest.abs() < self.healthy_state).all(dim=-1)

        return healthy


HALF_CHEETAH = Robot(
    gymnasium_id="HalfCheetah-v5",
    file="half_cheetah.xml",
    frame_skip=5,
    time_step=0.01,
    start_position=(0.0,) * 9,
    num_velocities=9,
    num_actuators=6,
    num_bodies=7,
    num_geoms=9,
    noise=0.1,
    normal_velocities=True,
)
ANT = Robot(
    gymnasium_id="Ant-v5",
    file="ant.xml",
    frame_skip=5,
    time_step=0.01,
    start_position=(0, 0, 0.75, 1, *(0.0,) * 11),
    num_velocities=14,
    num_actuators=8,
    num_bodies=13,
    num_geoms=14,
    noise=0.1,
    normal_velocities=True,
    hidden_positions=2,
    healthy_height=(0.2, 1.0),
    height_index=2,
)
HOPPER = Robot(
    gymnasium_id="Hopper-v5",
    file="hopper.xml",
    frame_skip=4,
    time_step=0.002,
    start_position=(0, 1.25, 0, 0, 0, 0),
    num_velocities=6,
    num_actuators=3,
    num_bodies=4,
    num_geoms=5,
    noise=5e-3,
    clip_velocity=10.0,
    healthy_height=(0.7, math.inf),
    healthy_angle=0.2,
    healthy_state=100.0,
    camera_distance=3.0,
)
WALKER2D = Robot(
    gymnasium_id="Walker2d-v5",
    file="walker2d_v5.xml",
    frame_skip=4,
    time_step=0.002,
    start_position=(0, 1.25, 0, 0, 0, 0, 0, 0, 0),
    num_velocities=9,
    num_actuators=6,
    num_bodies=7,
    num_geoms=8,
    noise=5e-3,
    clip_velocity=10.0,
    healthy_height=(0.8, 2.0),
    healthy_angle=1.0,
)
HUMANOID = Robot(
    gymnasium_id="Humanoid-v5",
    file="humanoid.xml",
    frame_skip=5,
    time_step=0.003,
    start_position=(0, 0, 1.4, 1, *(0.0,) * 20),
    num_velocities=23,
    num_actuators=17,
    num_bodies=13,
    num_geoms=18,
    noise=1e-2,
    hidden_positions=2,
    max_control=0.4,
    healthy_height=(1.0, 2.0),
    height_index=2,
)
