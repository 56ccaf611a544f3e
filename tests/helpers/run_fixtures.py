"""Fixtures of the workbench's tests, taken by `pytest_plugins = ["tests.helpers.run_fixtures"]`.

Not a conftest.py: mypy takes one module of each name.
"""

import shutil
from pathlib import Path

import pytest

from tests.helpers.without_figures import empty_figures
from tests.helpers.workbench import RUN, train


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    return train(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def workplace(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a copy of the finished run as runs/run; it is the current directory."""
    place = tmp_path / "workplace"
    shutil.copytree(trained_run, place / "runs" / RUN)
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty figures instead of plots."""
    empty_figures(monkeypatch.setattr)
