"""Engine: what steps the worlds of a robot, on the CPU or on a GPU."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.physics.cpu import CpuEngine
from metarl.envs.physics.models import State

ENGINES = ("auto", "mujoco", "warp")


class Engine(Protocol):
    """Steps N worlds, each from its state alone."""

    def assign(self, models: Sequence[Any], rows: NDArray[np.int64]) -> None:
        """Give each world one of these MjModels, rows (N,); at first all have the nominal one."""
        ...

    def state(self, qpos: Tensor, qvel: Tensor) -> State:
        """The state with these positions (N, nq) and velocities (N, nv), under no control."""
        ...

    def step(self, state: State, control: Tensor) -> State:
        """The state after an environment step under a control, (N, nu)."""
        ...


def make_engine(
    name: str,
    device: torch.device,
    model: Any,
    num_worlds: int,
    frame_skip: int,
    num_threads: int,
    deterministic: bool = True,
) -> Engine:
    """An engine for N worlds.

    Args:
        name: one of ENGINES; "auto" takes MuJoCo on the CPU and MuJoCo Warp on a GPU.
        device: where the states are.
        model: the robot's MjModel, with its sensors.
        num_worlds: N.
        frame_skip: physics steps in an environment step.
        num_threads: CPU threads; 0 = one per core.
        deterministic: whether MuJoCo Warp repeats a step bit for bit; MuJoCo always does.

    Raises:
        ValueError: unknown engine, one that is not installed, or one that does not run on the device.
    """
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")

    if name == "warp" or (name == "auto" and device.type == "cuda"):
        from metarl.envs.physics.warp import WarpEngine  # a GPU's; its package is an extra

        return WarpEngine(model, num_worlds, frame_skip, device, deterministic)

    if device.type != "cpu":
        raise ValueError(f"the engine mujoco runs on the CPU, not on {device}")
    return CpuEngine(model, num_worlds, frame_skip, num_threads)
