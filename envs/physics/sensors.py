"""Sensors for what a robot's positions do not tell: contact forces, and pose, velocity and inertia of its bodies."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sensors:
    """What to measure beside positions and velocities; bodies are all but the world, B of them.

    Attributes:
        contacts: net force and torque of the contacts of each body.
        motion: pose and velocity of each body, and what the actuators do at each joint.
    """

    contacts: bool = False
    motion: bool = False

    def __bool__(self) -> bool:
        return self.contacts or self.motion


_CENTRE_SIZE = 3
_CONTACT = [3, 3, 3]  # force, torque, point of attack
_FRAME = [3, 4, 3, 3]  # position, quaternion, linear and angular velocity


@dataclass(frozen=True)
class SensorReadings:
    """What the sensors say, leaves (*batch, …); what is not measured has size 0.

    Attributes:
        centre: centre of mass of the robot, (*batch, 3), m.
        contacts: force, torque and point of attack of the net contact, (*batch, B, 9).
        frames: position, quaternion, linear and angular velocity of the inertial frames, (*batch, B, 13).
        joints: force or torque of the actuators at each hinge or slide, (*batch, J), N or N·m.
    """

    centre: Tensor
    contacts: Tensor
    frames: Tensor
    joints: Tensor

    @classmethod
    def split(cls, readings: Tensor, sensors: Sensors, num_bodies: int, num_joints: int) -> "SensorReadings":
        """Take the readings (*batch, S) of the sensors that `add_sensors` adds apart."""
        contact_size = sum(_CONTACT) * sensors.contacts
        frame_size = sum(_FRAME) * sensors.motion
        sizes = [_CENTRE_SIZE, num_bodies * contact_size, num_bodies * frame_size, num_joints * sensors.motion]
        centre, contacts, frames, joints = torch.split(readings, sizes, dim=-1)

        per_body = (*readings.shape[:-1], num_bodies)
        return cls(
            centre=centre,
            contacts=contacts.reshape(*per_body, contact_size),
            frames=frames.reshape(*per_body, frame_size),
            joints=joints,
        )

    def contact_wrenches(self) -> Tensor:
        """Torque about the robot's centre of mass (N·m) and force (N) of the contacts on each body, (*batch, B, 6).

        MuJoCo's `cfrc_ext`, as `mj_rnePostConstraint` computes it for a robot that nothing else pushes.
        """
        force, torque, point = torch.split(self.contacts, _CONTACT, dim=-1)
        arm = point - self.centre.unsqueeze(-2)

        # A sensor reports what the body does to the others.
        return -torch.cat([torque + torch.linalg.cross(arm, force), force], dim=-1)

    def body_velocities(self) -> Tensor:
        """Angular and linear velocity of each body at the robot's centre of mass, (*batch, B, 6); MuJoCo's `cvel`."""
        position, _, linear, angular = torch.split(self.frames, _FRAME, dim=-1)
        arm = self.centre.unsqueeze(-2) - position
        return torch.cat([angular, linear + torch.linalg.cross(angular, arm)], dim=-1)

    def body_inertias(self, model: Any) -> Tensor:
        """Inertia of each body about the robot's centre of mass, (*batch, B, 10); MuJoCo's `cinert`.

        Six elements of the tensor (kg·m²), mass × lever (kg·m), and the mass (kg); masses and moments are the model's.
        """
        position, quaternion, *_ = torch.split(self.frames, _FRAME, dim=-1)
        mass = position.new_tensor(model.body_mass[1:])
        moments = position.new_tensor(model.body_inertia[1:])

        # About the body's own centre: the principal moments, turned to the axes of the world.
        axes = _rotation(quaternion)
        own = (axes * moments.unsqueeze(-2)) @ axes.mT

        # About the robot's centre, by the parallel axis theorem: m (|arm|² 1 − arm armᵀ) more.
        arm = position - self.centre.unsqueeze(-2)
        identity = torch.eye(3, dtype=arm.dtype, device=arm.device)
        shift = arm.square().sum(-1)[..., None, None] * identity - arm.unsqueeze(-1) * arm.unsqueeze(-2)
        tensor = own + mass[:, None, None] * shift

        rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)  # xx, yy, zz, xy, xz, yz
        masses = mass.expand(arm.shape[:-1]).unsqueeze(-1)
        return torch.cat([tensor[..., rows, columns], masses * arm, masses], dim=-1)


def add_sensors(mujoco: Any, spec: Any, sensors: Sensors) -> None:
    """Add sensors to a robot's MjSpec, in the order in which `SensorReadings.split` takes them apart."""
    bodies = spec.bodies[1:]
    for index, body in enumerate(bodies):
        body.name = body.name or f"unnamed-{index}"  # a sensor refers to its body by name

    body_type = mujoco.mjtObj.mjOBJ_BODY
    spec.add_sensor(type=mujoco.mjtSensor.mjSENS_SUBTREECOM, objtype=body_type, objname=bodies[0].name)
    if sensors.contacts:
        _add_contact_sensors(mujoco, spec, bodies)
    if sensors.motion:
        _add_motion_sensors(mujoco, spec, bodies)


def _add_contact_sensors(mujoco: Any, spec: Any, bodies: Any) -> None:
    """Force, torque and point of attack of all contacts of each body, as one, in the frame of the world."""
    if not hasattr(mujoco.mjtSensor, "mjSENS_CONTACT"):
        raise ValueError(f"contact forces need a newer MuJoCo than {mujoco.__version__}: install by constraints.txt")

    fields = mujoco.mjtConDataField
    fields_mask = 0
    for reported in (fields.mjCONDATA_FORCE, fields.mjCONDATA_TORQUE, fields.mjCONDATA_POS):
        fields_mask |= 1 << int(reported)

    net_force = 3  # MuJoCo's number for reducing all contacts to one
    for body in bodies:
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=body.name,
            intprm=[fields_mask, net_force, 1],
        )


def _add_motion_sensors(mujoco: Any, spec: Any, bodies: Any) -> None:
    """Pose and velocity of each body's inertial frame, and what the actuators do at each hinge and slide."""
    kinds = mujoco.mjtSensor
    frame = (kinds.mjSENS_FRAMEPOS, kinds.mjSENS_FRAMEQUAT, kinds.mjSENS_FRAMELINVEL, kinds.mjSENS_FRAMEANGVEL)
    for body in bodies:
        for kind in frame:
            spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_BODY, objname=body.name)

    for joint in spec.joints:
        if joint.type != mujoco.mjtJoint.mjJNT_FREE:
            spec.add_sensor(type=kinds.mjSENS_JOINTACTFRC, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=joint.name)


def _rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrix (*batch, 3, 3) of a unit quaternion (*batch, 4), scalar first."""
    w, x, y, z = quaternion.unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, dim=-1).reshape(*quaternion.shape[:-1], 3, 3)
