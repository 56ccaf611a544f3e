"""The examples do what they say."""

from pathlib import Path

import pytest

from metarl.cli.main import main
from tests.examples.adapt_from_python import adapted_return

HERE = Path(__file__).parent


def test_a_family_of_ones_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    small = ["--iterations", "1", "--num-tasks", "2", "--episodes", "2", "--eval-tasks", "2", "--test-tasks", "2"]
    assert main(["train", "maml", "own_family:tanks", "--name", "tanks", *small]) == 0
    assert main(["evaluate", "tanks", "--split", "ood", "--num-tasks", "2", "--json"]) == 0


def test_a_policy_adapted_from_python_reaches_the_goal() -> None:
    before_adaptation = -37
    assert adapted_return(episodes=10) > before_adaptation / 2
