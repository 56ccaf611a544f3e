"""MuJoCo models of Gymnasium's robots, with sensors for what the positions do not tell."""

import ctypes.util
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from metarl.envs.extras import how_to_install


def _draw_without_display() -> None:
    """Choose an OpenGL that needs no display where there is none; MuJoCo reads it when it is first imported."""
    headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless and "MUJOCO_GL" not in os.environ:
        for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
            if ctypes.util.find_library(library):
                os.environ["MUJOCO_GL"] = backend
                break


_draw_without_display()


def import_mujoco() -> Any:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import mujoco
    except ImportError as error:
        raise ValueError(f"locomotion needs MuJoCo ({error}): {how_to_install()}") from error
    return mujoco


State = dict[str, Tensor]
"""qpos (*batch, nq) and qvel (*batch, nv), float64 on the CPU; and readings (*batch, S) where there are sensors."""


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
class Measured:
    """Sensor readings, leaves (*batch, …).

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
    def of(cls, readings: Tensor, sensors: Sensors, num_bodies: int, num_joints: int) -> "Measured":
        """Readings (*batch, S) of the sensors that `load_robot` adds; what is not measured has size 0."""
        contact_size, frame_size = sum(_CONTACT) * sensors.contacts, sum(_FRAME) * sensors.motion
        sizes = [_CENTRE_SIZE, num_bodies * contact_size, num_bodies * frame_size, num_joints * sensors.motion]
        centre, contacts, frames, joints = torch.split(readings, sizes, dim=-1)
        per_body = (*readings.shape[:-1], num_bodies)
        return cls(centre, contacts.reshape(*per_body, contact_size), frames.reshape(*per_body, frame_size), joints)

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
        mass, moments = (position.new_tensor(field[1:]) for field in (model.body_mass, model.body_inertia))
        axes = _rotation(quaternion)
        arm = position - self.centre.unsqueeze(-2)
        own = (axes * moments.unsqueeze(-2)) @ axes.mT
        identity = torch.eye(3, dtype=arm.dtype, device=arm.device)
        shift = arm.square().sum(-1)[..., None, None] * identity - arm.unsqueeze(-1) * arm.unsqueeze(-2)
        tensor = own + mass[:, None, None] * shift
        rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
        masses = mass.expand(arm.shape[:-1]).unsqueeze(-1)
        return torch.cat([tensor[..., rows, columns], masses * arm, masses], dim=-1)


def load_robot(file: str, sensors: Sensors) -> Any:
    """The MjModel of a robot from Gymnasium's own assets, with sensors.

    Args:
        file: such as "ant.xml".
        sensors: what to measure; sensors of the file itself are not kept apart, so it should have none.
    """
    mujoco = import_mujoco()
    gymnasium = importlib.util.find_spec("gymnasium")
    assert gymnasium is not None and gymnasium.origin is not None
    tree = ElementTree.parse(Path(gymnasium.origin).parent / "envs" / "mujoco" / "assets" / file)
    root = tree.getroot()
    # The attribute is deprecated, and MuJoCo says so on every load; the function for it stays.
    compiler = root.find("compiler")
    total_mass = compiler.attrib.pop("settotalmass", None) if compiler is not None else None
    spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    if sensors:
        _add_sensors(mujoco, spec, sensors)
    model = spec.compile()
    if total_mass is not None:
        mujoco.mj_setTotalmass(model, float(total_mass))
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def _add_sensors(mujoco: Any, spec: Any, sensors: Sensors) -> None:
    bodies = spec.bodies[1:]
    for index, body in enumerate(bodies):
        body.name = body.name or f"unnamed-{index}"
    kinds, body_type = mujoco.mjtSensor, mujoco.mjtObj.mjOBJ_BODY
    spec.add_sensor(type=kinds.mjSENS_SUBTREECOM, objtype=body_type, objname=bodies[0].name)
    if sensors.contacts:
        if not hasattr(kinds, "mjSENS_CONTACT"):
            raise ValueError(
                f"contact forces need a newer MuJoCo than {mujoco.__version__}: install by constraints.txt"
            )
        fields = mujoco.mjtConDataField
        wanted = sum(1 << int(f) for f in (fields.mjCONDATA_FORCE, fields.mjCONDATA_TORQUE, fields.mjCONDATA_POS))
        net_force = 3  # all contacts of the body as one, in the frame of the world
        for body in bodies:
            spec.add_sensor(
                type=kinds.mjSENS_CONTACT, objtype=body_type, objname=body.name, intprm=[wanted, net_force, 1]
            )
    if sensors.motion:
        frame = (kinds.mjSENS_FRAMEPOS, kinds.mjSENS_FRAMEQUAT, kinds.mjSENS_FRAMELINVEL, kinds.mjSENS_FRAMEANGVEL)
        for body in bodies:
            for kind in frame:
                spec.add_sensor(type=kind, objtype=body_type, objname=body.name)
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
