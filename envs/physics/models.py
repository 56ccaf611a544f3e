"""MuJoCo models of Gymnasium's robots, with sensors."""

import copy
import ctypes.util
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from torch import Tensor

from metarl.envs.extras import how_to_install
from metarl.envs.physics.sensors import Sensors, add_sensors


def _choose_opengl() -> None:
    """Choose an OpenGL that needs no display where there is none; MuJoCo reads it when it is first imported."""
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if sys.platform != "linux" or has_display or "MUJOCO_GL" in os.environ:
        return

    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return


_choose_opengl()


def import_mujoco() -> Any:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import mujoco
    except ImportError as error:
        raise ValueError(f"locomotion needs MuJoCo ({error}): {how_to_install()}") from error

    say_warnings_of_mujoco()
    return mujoco


_said: list[str] = []
"""The first warning of this process, which was printed."""


def say_warnings_of_mujoco() -> None:
    """Print MuJoCo's first warning in this process, now or as soon as it is loaded, instead of writing a file.

    By itself it appends each one, such as that of an unstable simulation, to MUJOCO_LOG.TXT in the working directory.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None:
        mujoco.set_mju_user_warning(_say_once)
    elif not any(isinstance(finder, _WaitsForMujoco) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WaitsForMujoco())


class _WaitsForMujoco(importlib.abc.MetaPathFinder):
    """Lets the import of MuJoCo, by an environment that needs it, be followed by `say_warnings_of_mujoco`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """See Python; its own finders answer for everything."""
        if name != "mujoco":
            return None

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_listen(module: Any) -> None:
                load(module)
                say_warnings_of_mujoco()

            spec.loader.exec_module = load_and_listen  # type: ignore[method-assign]
        return spec


def _say_once(warning: str) -> None:
    # Gymnasium's own robots, which nobody here can mend, are old-fashioned each time they are loaded.
    if not _said and "is deprecated" not in warning:
        _said.append(warning)
        print(f"mujoco: {warning} (further warnings are not shown)", file=sys.stderr)


State = dict[str, Tensor]
"""qpos (*batch, nq) and qvel (*batch, nv), float64 on the CPU; and readings (*batch, S) where there are sensors."""


def load_robot(file: str, sensors: Sensors) -> Any:
    """The MjModel of a robot from Gymnasium's own assets, with sensors.

    Args:
        file: such as "ant.xml".
        sensors: what to measure; sensors of the file itself are not kept apart, so it should have none.
    """
    mujoco = import_mujoco()
    gymnasium = importlib.util.find_spec("gymnasium")
    assert gymnasium is not None and gymnasium.origin is not None
    root = ElementTree.parse(Path(gymnasium.origin).parent / "envs" / "mujoco" / "assets" / file).getroot()

    # The attribute is deprecated, and MuJoCo says so on every load; the function for it stays.
    compiler = root.find("compiler")
    total_mass = compiler.attrib.pop("settotalmass", None) if compiler is not None else None

    spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    if sensors:
        add_sensors(mujoco, spec, sensors)
    model = spec.compile()

    if total_mass is not None:
        mujoco.mj_setTotalmass(model, float(total_mass))
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def with_warps_solver(model: Any) -> Any:
    """An MjModel that MuJoCo Warp can solve: itself, or a copy with Newton's method where it asks for PGS."""
    mujoco = import_mujoco()
    if model.opt.solver != mujoco.mjtSolver.mjSOL_PGS:
        return model
    model = copy.copy(model)
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return model
