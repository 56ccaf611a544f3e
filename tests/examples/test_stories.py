"""The three stories, each from beginning to end, at sizes of a few seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from PIL import Image

import metarl
from metarl.run.run_directory import RunDirectory
from tests.examples import classroom_story, research_story, robot_story

pytest_plugins = ["tests.helpers.run_fixtures"]

TINY: dict[str, Any] = {
    "iterations": 2,
    "num_tasks": 2,
    "episodes": 3,
    "eval_tasks": 2,
    "test_tasks": 2,
    "hidden_sizes": [8],
    "adaptation_steps": 1,
    "quiet": True,
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a story happens; it is the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("without_figures")
def test_research_pools_the_seeds_of_two_agents_in_one_picture() -> None:
    runs = research_story.train("bandit/bernoulli/n10-k5", range(2), **TINY)
    comparison = research_story.compare(runs, num_tasks=3, episodes=3, quiet=True)
    maml, joint = comparison.curves[:2]
    assert (maml.label, maml.num_seeds, joint.label, joint.num_seeds) == ("maml", 2, "multitask", 2)
    assert maml.training_env_steps == joint.training_env_steps
    assert comparison.pairwise_comparisons[0].verdict != "none"  # equal budgets and seeds of both allow one

    left, right = research_story.draw(runs, comparison).axes
    assert [line.get_label() for line in left.lines] == ["maml", "multitask"]
    ends = [run.metrics()["eval/return_k1"].dropna().iloc[-1] for run in runs["maml"]]
    assert np.asarray(left.lines[0].get_ydata())[-1] == pytest.approx(np.mean(ends))
    assert len(right.containers) == 2


@pytest.mark.usefixtures("without_figures")
def test_a_robot_is_driven_by_what_was_exported_and_nothing_else(place: Path) -> None:
    pytest.importorskip("onnxruntime")
    robot_story.adapt(robot_story.train(**TINY), 2, place / "policy")
    policy = metarl.load_policy(place / "policy")
    steps = robot_story.drive(place / "policy")

    space = robot_story.crane_on_the_bench().action_space
    assert isinstance(space, Box)
    low, high = space.low, space.high
    assert len(steps) == robot_story.HORIZON
    assert len({tuple(action) for _, action, _ in steps}) > 1
    for readings, action, _ in steps:
        assert (low <= action).all()
        assert (action <= high).all()
        expected, _ = policy.predict(readings)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-5 * (high - low).max())

    # Readings in the hundreds and the tens of thousands, which the exported program normalises itself.
    assert json.loads((place / "policy" / "policy.json").read_text())["network"]["observation_shift"][2] > 10_000


@pytest.mark.parametrize("package", ["metarl", "torch", "gymnasium"])
def test_the_controller_of_the_robot_could_import_nothing_else(package: str, place: Path) -> None:
    program = place / "program.py"
    program.write_text(f"import {package}")
    with robot_story.controller(place, program) as process:
        assert f"import of {package} halted" in process.communicate()[1]


def test_a_class_is_shown_a_page_a_video_and_a_figure(place: Path) -> None:
    small = TINY | {"hidden_sizes": [4]}
    files = classroom_story.show("point-navigation/finn", classroom_story.GOAL, place / "class", **small)
    assert [file.name for file in files] == ["report.html", "video.gif", "paths.png"]
    assert "<img" in files[0].read_text(encoding="utf-8")

    with Image.open(files[1]) as video:
        assert video.n_frames > 50  # type: ignore[attr-defined]
    assert RunDirectory.open("maml-point-navigation-finn-seed0").config.iterations == TINY["iterations"]
