"""Robots on a GPU beside the physics alone; the CPU stands in for the GPU."""

import sys
from typing import Any
from unittest import mock

import pytest
import torch

from metarl.benchmarks import robots
from metarl.benchmarks.environments import DIFFERENT_ACTIONS
from metarl.benchmarks.robots import GpuRobotThroughput, gpu_robot_throughput
from metarl.benchmarks.tables import gpu_robots_table
from metarl.cli import bench
from metarl.cli.main import main
from metarl.envs.physics.warp import WorldsDoNotFitError, worlds_that_fit
from metarl.envs.registry import make_distribution
from metarl.errors import EXIT_BAD_INPUT

ROBOT = "half-cheetah-direction"


def test_bare_physics_are_the_librarys_own_steps_under_random_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    warp, library, control = mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
    library.make_data.return_value.ctrl = "controls"
    warp.to_torch.side_effect = lambda array: control if array == "controls" else mock.MagicMock()
    monkeypatch.setitem(sys.modules, "warp", warp)
    monkeypatch.setitem(sys.modules, "mujoco_warp", library)
    monkeypatch.setattr(robots, "make_engine", pytest.fail)  # ours has a solver of its own, and no sensors

    env: Any = make_distribution(ROBOT).env
    assert robots._bare_rate(env, 3, torch.device("cpu"), deterministic=False, repeats=1) > 0
    runs = 2  # one is not timed
    assert library.step.call_count == runs * robots.PHYSICS_STEPS * env.robot.frame_skip
    assert library.step.call_args.args == (library.put_model.return_value, library.make_data.return_value)
    assert library.put_model.call_args.args[0] is env.model

    given = torch.stack([call.args[0] for call in control.copy_.call_args_list])
    assert given.shape == (runs * robots.PHYSICS_STEPS, 3, env.robot.num_actuators)
    assert given.abs().max() <= env.robot.max_control
    assert len({step.numpy().tobytes() for step in given}) == DIFFERENT_ACTIONS
    assert given.std() > 0.3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_robots_are_measured_beside_both_physics(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco_warp")
    monkeypatch.setattr(robots, "PHYSICS_STEPS", 2)
    made = make_distribution(ROBOT)
    made.env.horizon = 2
    env: Any = made.env
    env.engine = "warp"
    monkeypatch.setattr(robots, "make_distribution", lambda name: made)
    rate = gpu_robot_throughput(ROBOT, 2, torch.device("cpu"), repeats=1)
    assert min(rate.captured, rate.eager, rate.physics, rate.bare) > 0


def test_the_table_tells_our_physics_from_the_librarys() -> None:
    rate = GpuRobotThroughput(ROBOT, 400, "a GPU", False, captured=400.0, eager=300.0, physics=500.0, bare=200.0)
    table = gpu_robots_table([rate])
    cells = {str(column.header): next(iter(column.cells)) for column in table.columns}
    assert cells["our physics alone"] == "500"
    assert cells["MuJoCo Warp alone"] == "200"
    assert cells["ratio to it"] == "2.00"
    assert rate.to_json()["ratio_to_bare"] == 2.0


def test_worlds_that_do_not_fit_are_refused_with_the_flag_of_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str, num_envs: int, *arguments: object, **options: object) -> GpuRobotThroughput:
        with worlds_that_fit(num_envs, torch.device("cuda")):
            raise RuntimeError("Failed to allocate\n99 bytes")

    monkeypatch.setattr(bench, "gpu_robot_throughput", refuse)
    monkeypatch.setattr(bench, "resolve_device", lambda name: torch.device("cuda"))
    assert main(["bench", "robots", ROBOT, "--num-envs", "9000", "--json"]) == EXIT_BAD_INPUT
    said = " ".join(capsys.readouterr().err.split())
    assert "9000 worlds of this robot do not fit on cuda: lower --num-envs (Failed to allocate 99 bytes)" in said


def test_bare_physics_that_do_not_fit_are_refused_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    library = mock.MagicMock()
    library.make_data.side_effect = RuntimeError("Failed to allocate 99 bytes")
    monkeypatch.setitem(sys.modules, "warp", mock.MagicMock())
    monkeypatch.setitem(sys.modules, "mujoco_warp", library)
    env: Any = make_distribution(ROBOT).env
    with pytest.raises(WorldsDoNotFitError, match="3 worlds"):
        robots._bare_rate(env, 3, torch.device("cpu"), deterministic=False, repeats=1)
