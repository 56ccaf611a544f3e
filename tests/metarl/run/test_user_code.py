"""A run keeps the source files of the user's own environment, and says where they have changed."""

import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from metarl.cli.main import main
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.external.user_code import kept_copies, user_sources
from metarl.envs.registry import make_distribution
from metarl.envs.task_space import Uniform
from metarl.run.build import load_learner
from metarl.run.run_directory import RunDirectory
from tests.helpers.without_figures import empty_figures
from tests.helpers.workbench import train

ENVIRONMENT = """
import numpy
import torch
from gymnasium.spaces import Box
from metarl.envs import TaskDistribution, TaskEnv, Uniform
from {package}.tools.numbers import GAIN
from . import lengths


class Rail(TaskEnv):
    observation_space = action_space = Box(-1, 1, (1,))
    horizon = lengths.HORIZON

    def initial(self, rng, params):
        return torch.zeros_like(params["goal"]).unsqueeze(-1)

    def transition(self, state, action, rng, params):
        return (state + GAIN * action).clamp(-1, 1)

    def observation(self, state, rng, params):
        return state

    def reward(self, state, action, next_state, rng, params):
        return -(next_state[..., 0] - params["goal"]).abs()


def Rails():
    return TaskDistribution(Rail(), {{"goal": Uniform(-1, 1)}})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the user's, with an environment that uses two of three other modules."""
    package = tmp_path / f"lab_{tmp_path.name.replace('-', '_')}"
    (package / "tools").mkdir(parents=True)
    (package / "envs").mkdir()
    (package / "envs" / "rail.py").write_text(ENVIRONMENT.format(package=package.name))
    (package / "envs" / "lengths.py").write_text("HORIZON = 5\n")
    (package / "tools" / "numbers.py").write_text("GAIN = 0.1\n")
    (package / "tools" / "unused.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


def test_what_is_imported_from_the_same_package_belongs_to_it(package: Path) -> None:
    sources = user_sources(make_distribution(f"{package.name}.envs.rail:Rails"))
    names = ["envs/lengths.py", "envs/rail.py", "tools/numbers.py"]
    assert sources == {f"{package.name}/{name}": package / name for name in names}


ROBOT = """
import gymnasium
from gymnasium.spaces import Box
from ..physics import MASS


class Robot(gymnasium.Env):
    observation_space = action_space = Box(-1, 1, (1,))

    def __init__(self, goal=0.0):
        self.goal = goal

    def reset(self, seed=None, options=None):
        return [0.0], {}

    def step(self, action):
        return [0.0], -abs(MASS * action[0] - self.goal), False, False, {}
"""

REGISTERED = """
import gymnasium
gymnasium.register("Kept{number}-v0", entry_point="{package}.envs.robot:Robot", max_episode_steps=3)
"""


def gymnasium_package(package: Path, init: str) -> None:
    """Gymnasium's usual layout: the package registers a class that is imported when it is first made."""
    (package / "__init__.py").write_text(init)
    (package / "physics.py").write_text("MASS = 1.0\n")
    (package / "envs" / "__init__.py").write_text("")
    (package / "envs" / "robot.py").write_text(ROBOT)


def test_a_class_that_a_package_registers_belongs_to_it_with_what_it_imports(package: Path) -> None:
    gymnasium_package(package, REGISTERED.format(number=package.name[-1], package=package.name))
    env_id = f"{package.name}:Kept{package.name[-1]}-v0"
    sources = user_sources(GymnasiumTasks(env_id, {"goal": Uniform(0, 1)}, num_workers=0))
    names = ["__init__.py", "envs/__init__.py", "envs/robot.py", "physics.py"]
    assert sources == {f"{package.name}/{name}": package / name for name in names}


def test_the_class_of_the_live_environment_counts_where_a_function_elsewhere_makes_it(package: Path) -> None:
    gymnasium_package(package, "")

    def make(goal: float) -> gymnasium.Env[Any, Any]:
        robot = import_module(f"{package.name}.envs.robot")
        return gymnasium.wrappers.TimeLimit(robot.Robot(goal), 3)

    distribution = GymnasiumTasks("Robot", {"goal": Uniform(0, 1)}, horizon=3, make=make, num_workers=0)
    sources = user_sources(distribution)
    assert sources[f"{package.name}/envs/robot.py"] == package / "envs" / "robot.py"
    assert sources[f"{package.name}/physics.py"] == package / "physics.py"


def test_copies_of_older_runs_are_found_without_the_package(tmp_path: Path) -> None:
    """They lie below the innermost folder that held all files; `__init__.py` must not pass for that of a subpackage."""
    names = ["lab/__init__.py", "lab/envs/__init__.py", "lab/envs/rail.py"]
    sources = {name: Path("/home/user") / name for name in names}
    (tmp_path / "__init__.py").write_text("")
    assert kept_copies(tmp_path, sources) == {sources[names[0]]: tmp_path / "__init__.py"}

    (tmp_path / "lab").mkdir()
    (tmp_path / "__init__.py").rename(tmp_path / "lab" / "__init__.py")
    assert kept_copies(tmp_path, sources) == {sources[names[0]]: tmp_path / "lab" / "__init__.py"}


@pytest.mark.parametrize("name", ["point-navigation/finn", "cart-pole"])
def test_what_ships_with_the_project_is_not_the_users(name: str) -> None:
    assert user_sources(make_distribution(name)) == {}


def test_a_run_keeps_them_and_says_which_changed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_figures(monkeypatch.setattr)
    path = train(tmp_path / "runs", "--iterations", "1", env=f"{package.name}.envs.rail:Rails")
    kept = path / "source" / package.name
    assert (kept / "envs" / "rail.py").read_text() == (package / "envs" / "rail.py").read_text()
    assert sorted(file.name for file in kept.rglob("*.py")) == ["lengths.py", "numbers.py", "rail.py"]

    run = RunDirectory.open(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_learner(run)

    (package / "tools" / "numbers.py").write_text("GAIN = 0.2\n")
    with pytest.warns(UserWarning, match=r"numbers\.py has changed since .* what it was trained with is kept as"):
        assert main(["evaluate", str(path), "--num-tasks", "2", "--episodes", "2"]) == 0
