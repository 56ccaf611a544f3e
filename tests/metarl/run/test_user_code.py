"""A run keeps the source files of the user's own environment, and says where they have changed."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from metarl.cli.main import main
from metarl.envs.external.user_code import user_sources
from metarl.envs.registry import make_distribution
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
    assert sources == {name: package / name for name in names}


@pytest.mark.parametrize("name", ["point-navigation/finn", "cart-pole"])
def test_what_ships_with_the_project_is_not_the_users(name: str) -> None:
    assert user_sources(make_distribution(name)) == {}


def test_a_run_keeps_them_and_says_which_changed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_figures(monkeypatch.setattr)
    path = train(tmp_path / "runs", "--iterations", "1", env=f"{package.name}.envs.rail:Rails")
    kept = path / "source"
    assert (kept / "envs" / "rail.py").read_text() == (package / "envs" / "rail.py").read_text()
    assert sorted(file.name for file in kept.rglob("*.py")) == ["lengths.py", "numbers.py", "rail.py"]

    run = RunDirectory.open(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_learner(run)

    (package / "tools" / "numbers.py").write_text("GAIN = 0.2\n")
    with pytest.warns(UserWarning, match=r"numbers\.py has changed since .* what it was trained with is kept as"):
        assert main(["evaluate", str(path), "--num-tasks", "2", "--episodes", "2"]) == 0
