"""VariedRobot: a RobotEnv whose tasks scale masses, inertias, damping and friction of the robot's model."""

from typing import Any

import torch

from metarl.envs.physics.robot_env import RobotEnv, TaskValues
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_space import Task


class VariedRobot(RobotEnv):
    """What the families of varied dynamics share: factors of the model's own values, one for each element.

    Task: some of "body_mass" (B,), "body_inertia" (B, 3), "dof_damping" (nv,) and "geom_friction" (G, 3), factors of
    what the robot's model holds, for its bodies without the world and for all geoms.

    Attributes:
        scaled: the fields of MuJoCo's model that tasks scale.
    """

    scaled: tuple[str, ...] = ("body_mass", "body_inertia", "dof_damping", "geom_friction")

    def apply_task(self, model: Any, task: TaskValues) -> None:
        """See RobotEnv.apply_task."""
        for name in self.scaled:
            field = getattr(model, name)
            field[len(field) - len(task[name]) :] *= task[name]  # bodies begin with the world, which is left out

    def get_default_params(self, **kwargs: Any) -> Task:
        """The robot as Gymnasium has it."""
        return {name: torch.ones(self.shape_of(name), dtype=float_dtype()) for name in self.scaled}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a task parameter."""
        bodies = self.robot.num_bodies
        shapes: dict[str, tuple[int, ...]] = {
            "body_mass": (bodies,),
            "body_inertia": (bodies, 3),
            "dof_damping": (self.robot.num_velocities,),
            "geom_friction": (self.robot.num_geoms, 3),
        }
        return shapes[name]
