"""A published run, which holds only its best policy, starts another, teaches, and is compared."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from metarl.cli.main import main
from metarl.errors import EXIT_BAD_INPUT
from metarl.run.checkpoint import read_checkpoint
from metarl.run.reproduce import train_command
from metarl.run.run_directory import RunDirectory
from tests.helpers.workbench import (
    ENV,
    RUN,
    TINY,
    Moment,
    complaint,
    files_under,
    metrics_of,
    run_with_signal,
    same_tensors,
    tensors_of,
)

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")

START = ["train", "--start-from", RUN, "--iterations", "1"]


@pytest.fixture
def published(workplace: Path) -> Path:
    """The finished run without its regular checkpoints."""
    run = workplace / "runs" / RUN
    for path in (run / "checkpoints").glob("iteration-*"):
        path.unlink()
    return run


def test_an_option_of_the_environment_is_another_one_to_start_in(published: Path) -> None:
    """The policy of the start goes on in episodes of another length, and the run knows that they are."""
    assert main([*START, "--set", "env.horizon=7", "--name", "shorter"]) == 0
    run = RunDirectory.open("shorter")
    assert run.config.env == f"{ENV}@horizon=7"

    best = read_checkpoint(published / "checkpoints" / "best.safetensors").tensors
    assert all(
        value.equal(best[name])
        for name, value in read_checkpoint(run.checkpoints.path(0)).tensors.items()
        if name.startswith("learner.params")
    )
    first, last = metrics_of(run.path)[0], metrics_of(run.path)[-1]
    batches = run.config.learner.adaptation_steps + 1
    assert 0 < last["env_steps"] - first["env_steps"] <= batches * run.config.num_tasks * run.config.episodes * 7

    words = train_command(run.config).split()
    assert main([*words[1:], "--name", "again"]) == 0
    assert same_tensors(tensors_of(Path("runs/again"), 1), tensors_of(run.path, 1))


def test_an_option_under_which_the_policy_does_not_fit_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--iterations", "1", "--num-tasks", "2", "--episodes", "2", "--eval-tasks", "2", "--test-tasks", "2"]
    assert main(["train", "maml", "grid-navigation", *small, "--name", "grid"]) == 0
    before = files_under(workplace)
    capsys.readouterr()
    assert main(["train", "--start-from", "grid", "--set", "env.size=4", "--name", "other"]) == EXIT_BAD_INPUT
    assert "grid" in complaint(capsys)
    assert files_under(workplace) == before


def test_training_starts_from_its_best_policy_with_its_settings(published: Path) -> None:
    before = files_under(published)
    best = read_checkpoint(published / "checkpoints" / "best.safetensors")
    assert main([*START, "--name", "next"]) == 0

    run = RunDirectory.open("next")
    first = read_checkpoint(run.checkpoints.path(0))
    learner = {name: value for name, value in first.tensors.items() if name.startswith("learner.")}
    assert same_tensors(learner, {name: best.tensors[name] for name in learner})
    assert metrics_of(run.path)[0]["env_steps"] == best.progress.env_steps > 0
    assert run.config.learner == RunDirectory.open(RUN).config.learner
    assert run.config.episodes == RunDirectory.open(RUN).config.episodes
    assert files_under(published) == before

    words = train_command(run.config).split()
    assert main([*words[1:], "--name", "again"]) == 0
    assert same_tensors(tensors_of(Path("runs/again"), 1), tensors_of(run.path, 1))


def test_killed_and_resumed_it_ends_the_same_even_if_the_start_is_gone(published: Path, tmp_path: Path) -> None:
    assert main([*START, "--name", "whole"]) == 0
    update = Moment("metarl.agents.maml.MAML.update", 1)
    killed = run_with_signal([*START, "--name", "killed"], update, signal.SIGKILL, tmp_path / "output")
    assert killed == -signal.SIGKILL
    shutil.rmtree(published)
    assert main(["train", "--resume", "killed"]) == 0
    assert same_tensors(tensors_of(Path("runs/killed"), 1), tensors_of(Path("runs/whole"), 1))


def test_a_start_that_does_not_fit_is_refused(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "reptile", ENV, "--start-from", RUN]) == EXIT_BAD_INPUT
    assert "cannot be the start of reptile" in complaint(capsys)
    assert main([*START, "--name", "next", "--hidden-sizes", "5"]) == EXIT_BAD_INPUT
    assert "not this learner's" in complaint(capsys)
    assert not Path("runs/next").exists()


def test_it_says_how_to_go_on(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", RUN]) == EXIT_BAD_INPUT
    assert f"start from its best policy: metarl train --start-from runs/{RUN}" in complaint(capsys)


def test_it_is_compared_and_teaches(published: Path) -> None:
    trained_for = metrics_of(published)[-1]["env_steps"]
    flags = ["--num-tasks", "2", "--budget", "20", "--episodes", "1", "--num-threads", "1"]
    assert main(["compare", RUN, "--baselines", "random", *flags, "--out", "comparison"]) == 0
    (subject, _) = json.loads(Path("comparison/comparison.json").read_text())["agents"]
    assert subject["training_env_steps"] == trained_for

    tiny = [*TINY, "--iterations", "1", "--num-teachers", "2", "--teacher", RUN, "--name", "student"]
    assert main(["train", "distill", ENV, *tiny]) == 0
    assert json.loads(Path("runs/student/teachers.json").read_text())["training_env_steps"] == trained_for
