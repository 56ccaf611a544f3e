"""What the presets promise in runs/reference/README.md, trained and measured on test tasks: minutes each."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from metarl.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def trained(tmp_path: Path, *arguments: str, name: str = "run") -> dict[str, Any]:
    """Train by the command line; the evaluation on 100 test tasks that it ends with."""
    assert main(["train", *arguments, "--run-dir", str(tmp_path), "--name", name]) == 0
    report: dict[str, Any] = json.loads((tmp_path / name / "evaluation-test.json").read_text())
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


@pytest.mark.parametrize("agent", ["reptile", "multitask"])
def test_other_agents_adapt_to_held_out_goals(agent: str, tmp_path: Path) -> None:
    report = trained(tmp_path, agent, "point-navigation/finn")
    assert report["gain_ci95"][0] > 0
    assert report["return_mean"][3] >= -9


def test_a_student_of_a_quarter_keeps_nine_tenths_of_its_teacher(tmp_path: Path) -> None:
    trained(tmp_path, "maml", "point-navigation/finn", name="teacher")
    report = trained(tmp_path, "distill", "point-navigation/finn", "--teacher", "teacher")["distillation"]
    assert report["student_parameters"] <= report["teacher_parameters"] / 4
    assert report["kept"][-1] >= 0.9


def test_meta_learner_needs_fewer_steps_on_a_new_task_than_ppo(tmp_path: Path) -> None:
    trained(tmp_path, "maml", "point-navigation/finn")
    out = ["--out", str(tmp_path / "comparison"), "--num-threads", "0"]
    baselines = ["--baselines", "ppo", "random", "oracle", "--budget", "20000"]
    assert main(["compare", str(tmp_path / "run"), *baselines, *out]) == 0
    comparison = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    efficiency = comparison["sample_efficiencies"][-1]
    assert (efficiency["baseline"], efficiency["adaptation_step"]) == ("ppo", 3)
    assert efficiency["needed"]["low"] > efficiency["env_steps"]
