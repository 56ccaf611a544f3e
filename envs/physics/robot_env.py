"""RobotEnv: a robot in a physics engine as a TaskEnv; rewards and tasks are a subclass's, in torch."""

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.physics.camera import RobotCamera
from metarl.envs.physics.engine import Engine, make_engine
from metarl.envs.physics.models import State, import_mujoco, load_robot
from metarl.envs.physics.robots import Robot
from metarl.envs.physics.sensors import SensorReadings, Sensors
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task

TaskValues = Mapping[str, NDArray[np.float32]]
"""One task as numpy arrays."""

OBSERVATION_LIMIT = 1e4
"""Observations are clipped to ± this; nothing sane comes near."""

MAX_ENGINES = 4
"""Engines that one environment keeps, for batches of as many sizes: training, validation, and what may come besides."""

EngineKey = tuple[int, torch.device]
"""Number of worlds and the device of an engine."""


class _AssignedTasks(NamedTuple):
    """The tasks whose robots an engine has: identity and version of each tensor, and the tensors themselves.

    The tensors are kept so that no other tensor gets the identity of one of them.
    """

    versions: list[tuple[int, int]]
    tensors: list[Tensor]


class RobotEnv(TaskEnv):
    """A robot that is rewarded for how it moves; a subclass defines the reward and what a task changes in the robot.

    The state holds qpos (*batch, nq) and qvel (*batch, nv), float64 on the CPU, and sensor readings where the robot
    has sensors. An action of ±1 is the strongest that each actuator can do.

    Deviations of every robot family from published codes: the robots are those of Gymnasium's v5 environments, actions
    are clipped to [−1, 1] before they cost anything, and velocities are differences of the root's position over an
    environment step.

    Attributes:
        robot: the robot.
        sensors: what is measured of it beside positions and velocities.
        engine: "auto" (MuJoCo on the CPU, MuJoCo Warp on a GPU), "mujoco" or "warp".
        physics_determinism: "on", "off" or "auto": whether MuJoCo Warp adds numbers up in the same order each time;
            "auto" is off on a GPU, where that made it 4.5 to 15 times as slow. MuJoCo on the CPU always does.
        num_threads: CPU threads of the physics; 0 = one per core.

    Args:
        horizon: H.
        num_extra_observations: how many numbers of `extra_observations` are observed; 0 = none.
    """

    robot: Robot
    sensors: Sensors = Sensors()
    engine: str = "auto"
    physics_determinism: str = "auto"
    num_threads: int = 0
    action_space: Box
    steps_per_graph = 1  # the physics of a step alone are hundreds of kernels

    def __init__(self, horizon: int = 200, num_extra_observations: int = 0) -> None:
        robot = self.robot
        num_positions = len(robot.start_position) - robot.hidden_positions
        size = num_positions + robot.num_velocities + num_extra_observations

        self.horizon = horizon
        self.observation_space = Box(-OBSERVATION_LIMIT, OBSERVATION_LIMIT, (size,), np.float32)
        self.action_space = Box(-1.0, 1.0, (robot.num_actuators,), np.float32)
        self.render_fps = round(1 / robot.dt)
        self._num_extra_observations = num_extra_observations
        self._model: Any = None
        self._engines: dict[EngineKey, Engine] = {}
        self._assigned_tasks: dict[EngineKey, _AssignedTasks] = {}

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """Reward of a transition, (*batch,), float64 on the CPU; `action` is within [−1, 1]."""
        raise NotImplementedError

    def extra_observations(self, state: State) -> Tensor:
        """What a family may observe besides positions and velocities, (*batch, num_extra_observations)."""
        raise NotImplementedError

    def apply_task(self, model: Any, task: TaskValues) -> None:
        """Write a task into a copy of the robot's MjModel. Default: every task has the same robot."""

    def scale_action(self, action: Tensor, params: Task) -> Tensor:
        """What the actuators are told, (*batch, A), for an action within [−1, 1]."""
        return action * self.robot.max_control

    def initial(self, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.initial."""
        qpos, qvel = self.robot.sample_start(self._batch_shape(params), rng)
        return self.state_of(qpos, qvel, params)

    def state_of(self, qpos: Tensor, qvel: Tensor, params: Task) -> State:
        """The state with these positions (*batch, nq) and velocities (*batch, nv), under no control."""
        shape = tuple(qpos.shape[:-1])
        engine = self._engine_of(params, shape)
        return _unflatten(engine.state(_flatten(qpos), _flatten(qvel)), shape)

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.transition."""
        shape = tuple(action.shape[:-1])
        control = self.scale_action(action.clamp(-1, 1), params)

        # An engine knows N worlds in a row, whatever the batch's shape is.
        rows = {name: _flatten(part) for name, part in state.items()}
        after = self._engine_of(params, shape).step(rows, _flatten(control))
        return _unflatten(after, shape)

    def observation(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See Robot.observe."""
        obs = self.robot.observe(state["qpos"], state["qvel"])
        if self._num_extra_observations:
            obs = torch.cat([obs, self.extra_observations(state)], dim=-1)
        return obs.clamp(-OBSERVATION_LIMIT, OBSERVATION_LIMIT).to(_dtype_of(params))

    def reward(self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward; that of `compute_reward`, in the tasks' precision."""
        clipped = action.clamp(-1, 1).to(state["qpos"].dtype)
        return self.compute_reward(state, clipped, next_state, params).to(_dtype_of(params))

    def terminal(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """Where the robot is not healthy any more."""
        return ~self.robot.is_healthy(state["qpos"], state["qvel"])

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "fell"

    def compile(self, **options: Any) -> None:
        """Physics engines are compiled already."""

    @property
    def model(self) -> Any:
        """The robot's MjModel as Gymnasium has it, with the sensors; loaded when it is first needed."""
        if self._model is None:
            self._model = load_robot(self.robot.file, self.sensors)
        return self._model

    def velocity(self, before: State, after: State) -> Tensor:
        """Mean velocity of the root along x and y in an environment step, (*batch, 2), m/s."""
        return (after["qpos"][..., :2] - before["qpos"][..., :2]) / self.robot.dt

    def sensor_readings(self, state: State) -> SensorReadings:
        """What the sensors say in a state."""
        return SensorReadings.split(
            state["readings"], self.sensors, self.robot.num_bodies, num_joints=self.robot.num_actuators
        )

    def get_default_params(self, **kwargs: Any) -> Task:
        """The robot as Gymnasium has it."""
        raise NotImplementedError

    def render_init(self, params: Task, **kwargs: Any) -> RobotCamera:
        """A camera that follows the robot of this task; raises a ValueError where nothing can be rendered."""
        model = self._models_of(params, ())[0][0] if self._task_changes_robot else self.model
        return RobotCamera(model, self.robot.camera_distance)

    def render_image(
        self, state: State, render_state: RobotCamera, params: Task
    ) -> tuple[RobotCamera, NDArray[np.uint8]]:
        """Picture of the robot, (256, 256, 3)."""
        return render_state, render_state.render(state["qpos"].cpu().numpy(), state["qvel"].cpu().numpy())

    def render_close(self, render_state: RobotCamera, params: Task | None = None) -> None:
        """Release the camera."""
        render_state.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without engines and model: they are built again where they are needed."""
        return {**self.__dict__, "_model": None, "_engines": {}, "_assigned_tasks": {}}

    @property
    def _task_changes_robot(self) -> bool:
        """Whether tasks have robots of their own."""
        return type(self).apply_task is not RobotEnv.apply_task

    def _batch_shape(self, params: Task) -> tuple[int, ...]:
        """The leading dimensions of these tasks."""
        name = next(iter(params))
        value_shape = self.get_default_params()[name].shape
        return tuple(params[name].shape[: params[name].ndim - len(value_shape)])

    def _engine_of(self, params: Task, shape: tuple[int, ...]) -> Engine:
        """The engine for a batch of this shape, holding the robots of these tasks."""
        num_worlds = math.prod(shape)
        device = next(iter(params.values())).device
        key = (num_worlds, device)

        engine = self._engines.get(key)
        if engine is None:
            # Each engine holds memory for its worlds: the oldest makes room.
            while len(self._engines) >= MAX_ENGINES:
                oldest = next(iter(self._engines))
                self._engines.pop(oldest)
                if self.rollout_graphs is not None:
                    self.rollout_graphs.forget()  # they step in the engine's memory

            engine = self._make_engine(num_worlds, device)
            self._engines[key] = engine
            self._assigned_tasks.pop(key, None)

        if self._task_changes_robot:
            # By identity and version: comparing values at each step would wait for a GPU.
            versions = [(id(value), value._version) for value in params.values()]
            if key not in self._assigned_tasks or self._assigned_tasks[key].versions != versions:
                engine.assign(*self._models_of(params, shape))
                self._assigned_tasks[key] = _AssignedTasks(versions, list(params.values()))

        return engine

    def _make_engine(self, num_worlds: int, device: torch.device) -> Engine:
        deterministic = is_deterministic(self.physics_determinism, device)
        return make_engine(
            self.engine, device, self.model, num_worlds, self.robot.frame_skip, self.num_threads, deterministic
        )

    def _models_of(self, params: Task, shape: tuple[int, ...]) -> tuple[list[Any], NDArray[np.int64]]:
        """The different robots among the tasks of a batch (*shape), and which of them each world has, (N,)."""
        names = list(params)
        num_worlds = math.prod(shape)
        flat = [params[name].reshape(num_worlds, -1).cpu().numpy() for name in names]
        different, rows = np.unique(np.concatenate(flat, axis=1), axis=0, return_inverse=True)

        # Each different row of numbers is one task: take it apart into its parameters.
        ends = np.cumsum([part.shape[1] for part in flat])[:-1]
        models = []
        for values in different:
            task = {}
            for name, part in zip(names, np.split(values, ends), strict=True):
                task[name] = part.reshape(params[name].shape[len(shape) :])
            models.append(self._model_of(task))

        return models, rows.reshape(-1)

    def _model_of(self, task: TaskValues) -> Any:
        """A copy of the robot's model with a task in it, and with what MuJoCo derives from it."""
        mujoco = import_mujoco()
        model = copy.copy(self.model)
        self.apply_task(model, task)

        # What MuJoCo derives from masses and inertias, such as inverse weights, follows them only when it is asked to.
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model


def is_deterministic(physics_determinism: str, device: torch.device) -> bool:
    """What "on", "off" or "auto" means on a device; see RobotEnv."""
    return physics_determinism == "on" or (physics_determinism == "auto" and device.type != "cuda")


def along(velocity: Tensor, angle: Tensor) -> Tensor:
    """Component of a velocity (*batch, 2) in a direction of the plane, (*batch,)."""
    return velocity[..., 0] * angle.cos() + velocity[..., 1] * angle.sin()


def _dtype_of(params: Task) -> torch.dtype:
    """The precision of a task's parameters, in which observations and rewards are given."""
    return next(iter(params.values())).dtype


def _flatten(part: Tensor) -> Tensor:
    """(*batch, n) as rows (N, n), one for each world."""
    return part.reshape(-1, part.shape[-1])


def _unflatten(state: State, shape: tuple[int, ...]) -> State:
    """Rows (N, …) as (*shape, …)."""
    return {name: part.reshape(*shape, part.shape[-1]) for name, part in state.items()}
