"""The examples do what they say."""

import json
from pathlib import Path
from typing import Any

import pytest

from metarl.cli.main import main
from tests.examples.adapt_from_python import adapted_return

pytest_plugins = ["tests.helpers.run_fixtures"]

HERE = Path(__file__).parent


@pytest.mark.usefixtures("without_figures")
def test_a_family_of_ones_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    small = ["--iterations", "1", "--num-tasks", "2", "--episodes", "2", "--eval-tasks", "2", "--test-tasks", "2"]
    assert main(["train", "maml", "own_family:tanks", "--name", "tanks", *small]) == 0
    assert main(["evaluate", "tanks", "--split", "ood", "--num-tasks", "2", "--json"]) == 0


def test_a_policy_adapted_from_python_reaches_the_goal() -> None:
    before_adaptation = -37
    assert adapted_return(episodes=10) > before_adaptation / 2


@pytest.mark.usefixtures("without_figures")
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((HERE / "first_steps.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile(cell, "first_steps.ipynb", "exec"), names)
    assert (names["runs"][0].path / "report.html").is_file()
    assert (tmp_path / "policy" / "policy.json").is_file()
