"""A camera that renders pictures of robots with MuJoCo's offscreen renderer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.envs.physics.models import import_mujoco

SIZE = 256  # pixels


class RobotCamera:
    """Follows the robot's torso from the side.

    Args:
        model: the robot's MjModel.
        distance: of the camera, m.

    Raises:
        ValueError: there is no OpenGL to draw with.
    """

    def __init__(self, model: Any, distance: float) -> None:
        mujoco = import_mujoco()
        self._mujoco = mujoco
        self._model = model
        self._data = mujoco.MjData(model)
        try:
            self._renderer = mujoco.Renderer(model, SIZE, SIZE)
        # Which error it is depends on the OpenGL that is missing.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                "pictures of robots need OpenGL: install libegl1 (or libosmesa6 and set MUJOCO_GL=osmesa), "
                f"or set MUJOCO_GL to what is there; MuJoCo says: {reason}"
            ) from error

        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        self._camera.trackbodyid = 1  # the torso; 0 is the world
        self._camera.distance = distance
        self._camera.azimuth = 90.0
        self._camera.elevation = -15.0

    def render(self, qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Image (SIZE, SIZE, 3) of the robot in a state."""
        self._data.qpos[:] = qpos
        self._data.qvel[:] = qvel
        self._mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera)

        image: NDArray[np.uint8] = self._renderer.render()
        return image.copy()

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()
