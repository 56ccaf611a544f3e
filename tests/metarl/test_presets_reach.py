"""What the presets promise in the README, trained and measured on the held-out test tasks: minutes each."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from metarl.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def trained(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Train by the command line; the evaluation on 100 test tasks that it ends with."""
    assert main(["train", *arguments, "--run-dir", str(tmp_path), "--name", "run"]) == 0
    report: dict[str, Any] = json.loads((tmp_path / "run" / "evaluation-test.json").read_text())
    return report


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_improves_at_every_step_and_reaches_minus_9(tmp_path: Path, seed: int) -> None:
    means = trained(tmp_path, "maml", "point-navigation/finn", "--seed", str(seed))["return_mean"]
    assert len(means) == 4
    assert all(later > earlier for earlier, later in itertools.pairwise(means))
    assert means[3] >= -9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_reaches_minus_14(tmp_path: Path, seed: int) -> None:
    report = trained(tmp_path, "maml", "point-navigation/finn", "--preset", "one-step", "--seed", str(seed))
    assert report["adaptation_steps"] == 1
    assert report["return_mean"][1] >= -14


@pytest.mark.parametrize("env", ["point-dynamics", "point-navigation/pearl", "point-navigation/pearl-sparse"])
def test_adaptation_pays_on_every_family(tmp_path: Path, env: str) -> None:
    report = trained(tmp_path, "maml", env)
    assert report["gain_ci95"][0] > 0
