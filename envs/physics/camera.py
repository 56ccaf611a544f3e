"""A camera that renders pictures of robots with MuJoCo's offscreen renderer."""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.envs.physics.models import import_mujoco

SIZE = 256  # pixels

LINE_SPACING = 2
LINES_SHOWN = 7
"""Metres between the lines across the ground, and how many of them are drawn on either side of the robot."""

START, FORWARD, BACKWARD = (0.9, 0.1, 0.1, 1.0), (0.1, 0.35, 0.9, 1.0), (0.95, 0.6, 0.1, 1.0)
"""Colours (RGBA) of the line at x = 0 and of those before and behind it."""


TORSO = 1
"""Its body in the model; 0 is the world."""

Vector = tuple[float, float, float]
Colour = tuple[float, float, float, float]


class RobotCamera:
    """Follows the robot's torso from the side, over a ground with lines across it that say where along x it is.

    Args:
        model: the robot's MjModel.
        distance: of the camera, m.

    Raises:
        ValueError: there is no OpenGL to draw with.
    """

    def __init__(self, model: Any, distance: float) -> None:
        mujoco = import_mujoco()
        self._mujoco = mujoco
        self._model = _with_endless_ground(model, mujoco)
        self._data = mujoco.MjData(self._model)
        try:
            self._renderer = mujoco.Renderer(self._model, SIZE, SIZE)
        # Which error it is depends on the OpenGL that is missing.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                "pictures of robots need OpenGL: install libegl1 (or libosmesa6 and set MUJOCO_GL=osmesa), "
                f"or set MUJOCO_GL to what is there; MuJoCo says: {reason}"
            ) from error

        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        self._camera.trackbodyid = TORSO
        self._camera.distance = distance
        self._camera.azimuth = 90.0
        self._camera.elevation = -15.0

    def render(self, qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Image (SIZE, SIZE, 3) of the robot in a state."""
        self._data.qpos[:] = qpos
        self._data.qvel[:] = qvel
        self._mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera)
        self._draw_lines()

        image: NDArray[np.uint8] = self._renderer.render()
        return image.copy()

    def _draw_lines(self) -> None:
        """Lines across the ground near the robot, each with its metres along x: without them all ground is alike."""
        x, y, _ = self._data.xpos[TORSO]
        nearest = round(x / LINE_SPACING)
        for number in range(nearest - LINES_SHOWN, nearest + LINES_SHOWN + 1):
            metres = LINE_SPACING * number
            colour = FORWARD if number > 0 else BACKWARD
            if number == 0:
                colour = START
            self._add_box((metres, y, 0.0), (0.03, 4.0, 0.004), colour)
            self._add_box((metres, y - 0.5, 0.0), (0.03, 0.03, 0.004), colour, label=f"{metres} m")

    def _add_box(self, centre: Vector, half_sides: Vector, colour: Colour, label: str = "") -> None:
        """Add a box to the scene of this picture alone, where the scene has room."""
        scene = self._renderer.scene
        if scene.ngeom >= scene.maxgeom:
            return

        geom = scene.geoms[scene.ngeom]
        self._mujoco.mjv_initGeom(
            geom,
            self._mujoco.mjtGeom.mjGEOM_BOX,
            np.array(half_sides),
            np.array(centre),
            np.eye(3).flatten(),
            np.array(colour, np.float32),
        )
        geom.label = label
        scene.ngeom += 1

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()


def _with_endless_ground(model: Any, mujoco: Any) -> Any:
    """A copy of the model whose ground goes on for ever in pictures, as it does in the physics, in squares of 1 m."""
    model = copy.copy(model)
    planes = np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE))
    model.geom_size[planes, :2] = 0.0

    for material in model.geom_matid[planes]:
        if material >= 0:
            model.mat_texuniform[material] = 1
            model.mat_texrepeat[material] = 0.5  # per metre; the texture is two squares wide
    return model
