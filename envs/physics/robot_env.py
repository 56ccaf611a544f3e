"""RobotEnv: a robot in a physics engine as a TaskEnv; rewards and tasks are a subclass's, in torch."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.physics.engine import Engine, make_engine
from metarl.envs.physics.models import Measured, Sensors, State, import_mujoco, load_robot
from metarl.envs.physics.picture import RobotCamera
from metarl.envs.physics.robots import Robot
from metarl.envs.rollout import ActingPolicy
from metarl.envs.rollout_graphs import Capture, cuda_graph
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task

OBSERVED_UP_TO = 1e4
"""Observations are clipped there, ±; nothing sane comes near."""

KEPT_ENGINES = 4
"""Engines of one environment, for batches of as many sizes: training, validation, and what may come besides."""


class RobotEnv(TaskEnv):
    """A robot that is paid for how it moves. A subclass says how much, and which task parameters change the robot.

    The state holds qpos (*batch, nq) and qvel (*batch, nv), float64 on the CPU, and sensor readings where the robot
    has sensors. An action of ±1 is the strongest that each actuator can do.

    Attributes:
        robot: the robot.
        sensors: what is measured of it beside positions and velocities.
        engine: "auto" (MuJoCo on the CPU, MuJoCo Warp on a GPU), "mujoco" or "warp".
        num_threads: CPU threads of the physics; 0: one per core.

    Args:
        horizon: H.
        num_extras: how many numbers of `extras` are observed; 0: none.
    """

    robot: Robot
    sensors: Sensors = Sensors()
    engine: str = "auto"
    num_threads: int = 0

    def __init__(self, horizon: int = 200, num_extras: int = 0) -> None:
        self.horizon = horizon
        robot = self.robot
        size = len(robot.start_position) + robot.num_velocities - robot.hidden_positions + num_extras
        self.observation_space = Box(-OBSERVED_UP_TO, OBSERVED_UP_TO, (size,), np.float32)
        self.action_space = Box(-1.0, 1.0, (robot.num_actuators,), np.float32)
        self.render_fps = round(1 / robot.dt)
        self._num_extras = num_extras
        self._model: Any = None
        self._engines: dict[tuple[int, torch.device], Engine] = {}
        self._held: dict[tuple[int, torch.device], tuple[list[tuple[int, int]], list[Tensor]]] = {}

    def pay(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """Reward of a transition, (*batch,), float64 on the CPU; `action` is within [−1, 1]."""
        raise NotImplementedError

    def extras(self, state: State) -> Tensor:
        """What is observed besides positions and velocities where the family is asked to, (*batch, num_extras)."""
        raise NotImplementedError

    def vary(self, model: Any, task: Mapping[str, NDArray[np.float32]]) -> None:
        """Write a task into a copy of the robot's MjModel. Default: every task has the same robot."""

    def control(self, action: Tensor, params: Task) -> Tensor:
        """What the actuators are told, (*batch, A), for an action within [−1, 1]."""
        return action * self.robot.max_control

    def initial(self, rng: torch.Generator, params: Task | None = None) -> State:
        """See TaskEnv.initial."""
        assert params is not None
        return self.state_of(*self.robot.start(self._batch_shape(params), rng), params)

    def state_of(self, qpos: Tensor, qvel: Tensor, params: Task) -> State:
        """The state with these positions (*batch, nq) and velocities (*batch, nv), under no control."""
        shape = tuple(qpos.shape[:-1])
        rows = (part.reshape(-1, part.shape[-1]) for part in (qpos, qvel))
        return _with_shape(self._engine_of(params, shape).state(*rows), shape)

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task | None = None) -> State:
        """See TaskEnv.transition."""
        assert params is not None
        shape = tuple(action.shape[:-1])
        control = self.control(action.clamp(-1, 1), params)
        rows = {name: part.reshape(-1, part.shape[-1]) for name, part in state.items()}
        after = self._engine_of(params, shape).step(rows, control.reshape(-1, control.shape[-1]))
        return _with_shape(after, shape)

    def observation(self, state: State, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See Robot.observe."""
        assert params is not None
        obs = self.robot.observe(state["qpos"], state["qvel"])
        if self._num_extras:
            obs = torch.cat([obs, self.extras(state)], dim=-1)
        return obs.clamp(-OBSERVED_UP_TO, OBSERVED_UP_TO).to(next(iter(params.values())).dtype)

    def reward(
        self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        assert params is not None
        paid = self.pay(state, action.clamp(-1, 1).to(state["qpos"].dtype), next_state, params)
        return paid.to(next(iter(params.values())).dtype)

    def terminal(self, state: State, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """Where the robot is not healthy any more."""
        return ~self.robot.is_healthy(state["qpos"], state["qvel"])

    def compile(self, **options: Any) -> None:
        """Physics engines are compiled already."""

    def capture_rollouts(self, policy: ActingPolicy, capture: Capture = cuda_graph) -> None:
        """Physics engines capture their own steps, where they run on a GPU."""

    @property
    def model(self) -> Any:
        """The robot's MjModel as Gymnasium has it, with the sensors; loaded when it is first needed."""
        if self._model is None:
            self._model = load_robot(self.robot.file, self.sensors)
        return self._model

    def velocity(self, before: State, after: State) -> Tensor:
        """Mean velocity of the root along x and y in an environment step, (*batch, 2), m/s."""
        return (after["qpos"][..., :2] - before["qpos"][..., :2]) / self.robot.dt

    def measured(self, state: State) -> Measured:
        """What the sensors say in a state."""
        return Measured.of(state["readings"], self.sensors, self.robot.num_bodies, self.robot.num_actuators)

    def render_init(self, params: Task | None = None, **kwargs: Any) -> RobotCamera:
        """A camera that follows the robot of this task; raises a ValueError where nothing can be drawn."""
        assert params is not None
        return RobotCamera(self._models(params, ())[0][0] if self._varies else self.model, self.robot.camera_distance)

    def render_image(
        self, state: State, render_state: RobotCamera, params: Task | None = None
    ) -> tuple[RobotCamera, NDArray[np.uint8]]:
        """Picture of the robot, (256, 256, 3)."""
        return render_state, render_state.picture(state["qpos"].cpu().numpy(), state["qvel"].cpu().numpy())

    def render_close(self, render_state: RobotCamera, params: Task | None = None) -> None:
        """Release the camera."""
        render_state.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without engine and model: they are made anew where they are needed."""
        return {**self.__dict__, "_model": None, "_engines": {}, "_held": {}}

    @property
    def _varies(self) -> bool:
        """Whether tasks have robots of their own."""
        return type(self).vary is not RobotEnv.vary

    def _batch_shape(self, params: Task) -> tuple[int, ...]:
        name = next(iter(params))
        value_shape = self.get_default_params()[name].shape
        return tuple(params[name].shape[: params[name].ndim - len(value_shape)])

    def get_default_params(self, **kwargs: Any) -> Task:
        """The robot as Gymnasium has it."""
        raise NotImplementedError

    def _engine_of(self, params: Task, shape: tuple[int, ...]) -> Engine:
        """The engine for a batch of this shape, holding the robots of these tasks."""
        tasks = next(iter(params.values()))
        key = (math.prod(shape), tasks.device)
        engine = self._engines.get(key)
        if engine is None:
            while len(self._engines) >= KEPT_ENGINES:
                self._engines.pop(next(iter(self._engines)))
            engine = make_engine(self.engine, tasks.device, self.model, key[0], self.robot.frame_skip, self.num_threads)
            self._engines[key] = engine
            self._held.pop(key, None)
        if self._varies:
            # The tensors themselves are held too, so that their ids stay theirs.
            held = ([(id(value), value._version) for value in params.values()], list(params.values()))
            if key not in self._held or self._held[key][0] != held[0]:
                engine.assign(*self._models(params, shape))
                self._held[key] = held
        return engine

    def _models(self, params: Task, shape: tuple[int, ...]) -> tuple[list[Any], NDArray[np.int64]]:
        """The different robots among these tasks, and which of them each world has, (N,)."""
        names, count = list(params), math.prod(shape)
        flat = [params[name].reshape(count, -1).cpu().numpy() for name in names]
        different, rows = np.unique(np.concatenate(flat, axis=1), axis=0, return_inverse=True)
        ends = np.cumsum([part.shape[1] for part in flat])[:-1]
        models = []
        for values in different:
            parts = zip(names, np.split(values, ends), strict=True)
            models.append(self._varied({name: part.reshape(params[name].shape[len(shape) :]) for name, part in parts}))
        return models, rows.reshape(-1)

    def _varied(self, task: Mapping[str, NDArray[np.float32]]) -> Any:
        mujoco = import_mujoco()
        model = copy.copy(self.model)
        self.vary(model, task)
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model


def _with_shape(state: State, shape: tuple[int, ...]) -> State:
    """Rows (N, …) as (*shape, …)."""
    return {name: part.reshape(*shape, part.shape[-1]) for name, part in state.items()}
