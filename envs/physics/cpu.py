"""MuJoCo on the CPU: all worlds of a batch in one call of `mujoco.rollout`, spread over threads."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.cores import num_cores
from metarl.envs.physics.models import State, import_mujoco


class CpuEngine:
    """Steps N worlds. Each starts from its state alone, so results do not depend on the number of threads.

    The solver starts cold at each call: `mujoco.rollout` does not give its warm start back for each row. Next states
    equal those of a warm-started solver to its tolerance.

    Args:
        model: the robot's MjModel, with its sensors.
        num_worlds: N.
        frame_skip: physics steps in an environment step.
        num_threads: CPU threads; 0 = one per core.
    """

    def __init__(self, model: Any, num_worlds: int, frame_skip: int, num_threads: int) -> None:
        mujoco = import_mujoco()
        self._nq = model.nq
        self._num_sensors = model.nsensordata
        self._num_worlds = num_worlds
        self._state_size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        assert self._state_size == 1 + model.nq + model.nv, "a robot's state is time, positions and velocities"

        threads = min(num_threads or num_cores(), num_worlds)
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._rollout = _rollout(threads)

        # Kept: fetching fresh pages for them at each step takes as long as the rest of the work around the physics.
        self._start = np.zeros((num_worlds, self._state_size))
        self._control = np.zeros((num_worlds, frame_skip, model.nu))
        self._end = np.empty((num_worlds, frame_skip, self._state_size))
        self._unused_readings = np.empty((num_worlds, frame_skip, model.nsensordata))

        self.assign([model], np.zeros(num_worlds, np.int64))

    def assign(self, models: Sequence[Any], rows: NDArray[np.int64]) -> None:
        """See Engine.assign."""
        mujoco = import_mujoco()

        # One copy of each model takes the steps, without sensors; another reads the sensors.
        step_models = [copy.copy(model) for model in models]
        for model in step_models:
            model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
        sensor_models = [copy.copy(model) for model in models]
        for model in sensor_models:
            model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER  # of all of them it computes the fewest forces

        self._step_models = [step_models[row] for row in rows]
        self._sensor_models = [sensor_models[row] for row in rows]

    def step(self, state: State, control: Tensor) -> State:
        """See Engine.step."""
        self._start[:, 1 : 1 + self._nq] = state["qpos"].numpy()
        self._start[:, 1 + self._nq :] = state["qvel"].numpy()
        self._control[:] = control.numpy()[:, None]  # held over the physics steps
        self._run(self._step_models, self._start, self._control, self._end, self._unused_readings)
        return self._with_readings(self._end[:, -1])

    def state(self, qpos: Tensor, qvel: Tensor) -> State:
        """See Engine.state."""
        time = np.zeros((self._num_worlds, 1))
        self._control[:] = 0
        return self._with_readings(np.concatenate([time, qpos.numpy(), qvel.numpy()], axis=1))

    def _with_readings(self, full: NDArray[np.float64]) -> State:
        """Copies of positions and velocities, and what sensors say under the control of the last physics step.

        Args:
            full: time, positions and velocities, (N, 1 + nq + nv).
        """
        positions = full[:, 1 : 1 + self._nq]
        velocities = full[:, 1 + self._nq :]
        state = {"qpos": torch.tensor(positions), "qvel": torch.tensor(velocities)}

        if self._num_sensors:
            # Sensors are read at the start of a step, so one more step from here reads them here.
            unused_end = np.empty((self._num_worlds, 1, self._state_size))
            readings = np.empty((self._num_worlds, 1, self._num_sensors))
            control = np.ascontiguousarray(self._control[:, -1:])
            self._run(self._sensor_models, np.ascontiguousarray(full), control, unused_end, readings)
            state["readings"] = torch.tensor(readings[:, 0])

        return state

    def _run(self, models: list[Any], start: Any, control: Any, end: Any, readings: Any) -> None:
        """As many physics steps as `end` (N, steps, …) has room for, of each world."""
        self._rollout.rollout(
            models, self._data, start, control, skip_checks=True, nstep=end.shape[1], state=end, sensordata=readings
        )


@functools.cache
def _rollout(num_threads: int) -> Any:
    """A pool of threads, kept for good; one thread computes in the caller."""
    from mujoco.rollout import Rollout

    return Rollout(nthread=num_threads if num_threads > 1 else 0)
