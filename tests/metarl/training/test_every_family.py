"""`metarl train AGENT FAMILY` works for every family that needs no extra package."""

import json
from pathlib import Path

import pytest

from metarl.benchmarks.robots import ONE_OF_EACH
from metarl.cli.main import main
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.registry import FAMILIES
from tests.helpers.without_figures import empty_figures

TORCH_FAMILIES = [name for name, family in FAMILIES.items() if family.gymnasium_id]
COUNTS = {"iterations": 1, "num-tasks": 2, "episodes": 2, "eval-tasks": 2, "test-tasks": 2, "hidden-sizes": 4}
COUNTS["adaptation-steps"] = 1
SMALL = [text for flag, count in COUNTS.items() for text in (f"--{flag}", str(count))]


ROBOTS = [name for name in TORCH_FAMILIES if isinstance(FAMILIES[name].make().env, RobotEnv)]
OTHERS = [name for name in TORCH_FAMILIES if name not in ROBOTS]
# The physics takes its time, and knows nothing of the agent: one of each robot. Another agent in each kind of space.
WITH_MAML = [("maml", name) for name in [*ONE_OF_EACH, *OTHERS]]
WITH_REPTILE = [("reptile", "point-dynamics"), ("reptile", "cart-pole")]


# Of what differs in training alone, one each: continuous, discrete and integer actions, memory, physics, pictures.
QUICK = ("bandit/bernoulli", "cart-pole", "driving/lane-keeping", "half-cheetah-direction", "maze", "pendulum")
CASES = [
    pytest.param(agent, name, marks=() if name in QUICK or agent == "reptile" else pytest.mark.slow)
    for agent, name in (*WITH_MAML, *WITH_REPTILE)
]


@pytest.mark.parametrize(("agent", "name"), CASES)
def test_it_trains_and_evaluates(name: str, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_figures(monkeypatch.setattr)
    assert main(["train", agent, name, *SMALL, "--run-dir", str(tmp_path), "--name", "run"]) == 0
    report = json.loads((tmp_path / "run" / "evaluation-test.json").read_text())
    assert report["env"] == name
    assert len(report["return_mean"]) == report["adaptation_steps"] + 1
    assert report["total_env_steps"] > 0
    assert (tmp_path / "run" / "adaptation-test.png").exists()


@pytest.mark.parametrize("name", [pytest.param("driving/racing-line", marks=pytest.mark.slow), "grid-navigation"])
def test_its_figures_are_drawn(name: str, tmp_path: Path) -> None:
    assert main(["train", "maml", name, *SMALL, "--run-dir", str(tmp_path), "--name", "run"]) == 0
    assert (tmp_path / "run" / "trajectories-test.png").stat().st_size > 10_000
