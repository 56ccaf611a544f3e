"""MuJoCo Warp on a GPU: all worlds of a batch at once, on torch's own memory and stream."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.extras import how_to_install
from metarl.envs.graphs.capture import between_graphs
from metarl.envs.physics.models import State, with_warps_solver

VARIED_FIELDS = (
    "body_mass",
    "body_inertia",
    "body_subtreemass",
    "body_invweight0",
    "dof_damping",
    "dof_invweight0",
    "geom_friction",
)
"""Of a model, what may differ between worlds: what families scale, and what MuJoCo derives from it."""


class WorldsDoNotFitError(ValueError):
    """The device's memory does not hold so many worlds.

    Args:
        num_worlds: N.
        device: where they were to lie.
        reason: what the library says.
        flags: what a user lowers.
    """

    def __init__(self, num_worlds: int, device: str, reason: str, flags: str = "--num-tasks or --episodes") -> None:
        super().__init__(f"{num_worlds} worlds of this robot do not fit on {device}: lower {flags} ({reason})")
        self._of = num_worlds, device, reason

    def lower(self, flags: str) -> "WorldsDoNotFitError":
        """The same where other flags say how many worlds there are."""
        return WorldsDoNotFitError(*self._of, flags)


@contextmanager
def worlds_that_fit(num_worlds: int, device: torch.device) -> Iterator[None]:
    """What makes so many worlds in here.

    Raises:
        WorldsDoNotFitError: they do not fit into the device's memory.
    """
    try:
        yield
    except RuntimeError as error:
        raise WorldsDoNotFitError(num_worlds, str(device), " ".join(str(error).split())) from error


@cache
def _say_that_it_compiles() -> None:
    """Once in a process, whichever command it runs."""
    print(
        "the first steps compile the robot's physics: a minute on a machine that has not done so before",
        file=sys.stderr,
    )


class WarpEngine:
    """Steps N worlds in float32 without waiting for the device; a step is one CUDA graph there.

    It computes what `CpuEngine` does, but in float32, and with a Newton solver where the model asks for PGS, which Warp
    does not have. It turns friction pyramids to the axes of the world, `CpuEngine` to the axis of a capsule: a robot
    that moves in space slips a little differently. On the CPU it runs too, slowly: for tests.

    Args:
        model: the robot's MjModel, with its sensors.
        num_worlds: N.
        frame_skip: physics steps in an environment step.
        device: of the states.
        deterministic: whether the same step gives the same bits for sure. If not, sums of the library have no fixed
            order; those of the solver do.

    Raises:
        WorldsDoNotFitError: they do not fit into the device's memory.
        ValueError: Warp is not installed.
    """

    def __init__(
        self, model: Any, num_worlds: int, frame_skip: int, device: torch.device, deterministic: bool = True
    ) -> None:
        try:
            import warp

            warp.config.log_level = warp.LOG_WARNING  # else a line for each of hundreds of modules that it loads
            import mujoco_warp
        except ImportError as error:
            raise ValueError(
                f"robots on {device} need MuJoCo Warp ({error}): "
                f"{how_to_install('warp')}; or train them with --device cpu"
            ) from error
        self._warp = warp
        self._mujoco_warp = mujoco_warp
        self._frame_skip = frame_skip
        self._device = device

        model = with_warps_solver(model)
        with worlds_that_fit(num_worlds, device), warp.ScopedDevice(str(device)):
            self._model = mujoco_warp.put_model(model, batch_sizes=dict.fromkeys(VARIED_FIELDS, num_worlds))
            self._data = mujoco_warp.make_data(model, nworld=num_worlds)
        orders = mujoco_warp.DeterminismType
        self._model.opt.deterministic = orders.ALL if deterministic else orders.CONTACTS | orders.CONSTRAINT

        self._choose_how(model, deterministic)

        # Torch's views of Warp's memory.
        names = ("qpos", "qvel", "ctrl", "qacc_warmstart", "sensordata")
        self._views = {name: warp.to_torch(getattr(self._data, name)) for name in names}
        self._launches: dict[str, Callable[[], None]] = {}

        self.assign([model], np.zeros(num_worlds, np.int64))

    def _choose_how(self, model: Any, deterministic: bool) -> None:
        """Leave out what nobody reads, and take the quick steps where the robot allows them."""
        from metarl.envs.physics import newton  # imports Warp

        self._how: Callable[[bool], AbstractContextManager[None]] = lambda is_step: nullcontext()
        if newton.supports(model, self._data.njmax):
            self._how = newton.QuickSteps(model, str(self._device), branches=not deterministic)
            self._model.opt.run_qacc_smooth = False  # where the library's solver begins, not the kernel

        # Sensors are read after a step, by a forward pass, and nobody looks through the cameras of this copy.
        flags = self._model.opt.disableflags
        self._disabled = {"step": flags | self._mujoco_warp.DisableBit.SENSOR, "forward": flags}
        self._model.ncam = 0
        self._model.nlight = 0

    def assign(self, models: Sequence[Any], rows: NDArray[np.int64]) -> None:
        """See Engine.assign."""
        for name in VARIED_FIELDS:
            values = np.stack([getattr(model, name) for model in models])[rows]
            view = self._warp.to_torch(getattr(self._model, name))
            view.copy_(torch.from_numpy(values).reshape(view.shape))

    def state(self, qpos: Tensor, qvel: Tensor) -> State:
        """See Engine.state."""
        self._write(qpos, qvel)
        self._views["ctrl"].zero_()
        return self._current_state()

    def step(self, state: State, control: Tensor) -> State:
        """See Engine.step."""
        self._write(state["qpos"], state["qvel"])
        self._views["ctrl"].copy_(control)
        self._run("step", self._frame_skip)
        return self._current_state()

    def _write(self, qpos: Tensor, qvel: Tensor) -> None:
        """Put all worlds into states with these positions and velocities."""
        self._views["qpos"].copy_(qpos)
        self._views["qvel"].copy_(qvel)
        self._views["qacc_warmstart"].zero_()  # a step depends on the state alone

    def _current_state(self) -> State:
        """A copy of the state of all worlds, with the readings of the sensors where there are any."""
        state = {name: self._views[name].clone() for name in ("qpos", "qvel")}

        # A step reads the sensors at its start; a forward pass reads them in the state that it has led to.
        if self._views["sensordata"].shape[1]:
            self._run("forward", 1)
            state["readings"] = self._views["sensordata"].clone()
        return state

    def _run(self, name: str, times: int) -> None:
        """Call a function of MuJoCo Warp some times, in the order of torch's own work."""
        if name not in self._launches:
            on_gpu = self._device.type == "cuda"
            call = partial(self._call, name, times)
            self._launches[name] = self._captured(call) if on_gpu else call
        between_graphs(self._launches[name])

    def _call(self, name: str, times: int) -> None:
        function = getattr(self._mujoco_warp, name)
        self._model.opt.disableflags = self._disabled[name]
        with self._warp.ScopedDevice(str(self._device)), self._how(name == "step"):
            for _ in range(times):
                function(self._model, self._data)

    def _captured(self, call: Callable[[], None]) -> Callable[[], None]:
        """What launches a CUDA graph of a call on torch's stream, so that it runs in the order of torch's own work.

        It is captured on the stream that Warp has for the device: Warp cannot capture torch's default stream.
        """
        before = {name: view.clone() for name, view in self._views.items()}
        torch.cuda.synchronize(self._device)  # the call reads what torch has written, on another stream
        _say_that_it_compiles()
        call()  # may compile kernels, which a capture does not allow
        with self._warp.ScopedDevice(str(self._device)), self._warp.ScopedCapture() as capture:
            call()
        self._warp.synchronize_device(str(self._device))
        for name, view in self._views.items():
            view.copy_(before[name])  # that call has taken a step

        def launch() -> None:
            stream = self._warp.stream_from_torch(torch.cuda.current_stream(self._device))
            self._warp.capture_launch(capture.graph, stream=stream)

        return launch
