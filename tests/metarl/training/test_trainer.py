"""The training loop: what it counts and logs, what decides its result, and how it stops when something fails."""

import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.plugins.hparams import metadata as hparams_metadata

from metarl.cli.main import main
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import EXIT_TRAINING_FAILED
from metarl.evaluation.evaluation import Evaluation, summarize
from metarl.run.build import load_learner
from metarl.run.checkpoint import Checkpoint, read_checkpoint
from metarl.run.config import flat_items
from metarl.run.run_directory import METADATA_FILE, RunDirectory
from tests.helpers.workbench import (
    EPISODES,
    ITERATIONS,
    RUN,
    checkpoint_file,
    complaint,
    curves_of,
    early_ending,
    events_of,
    metrics_of,
    same_tensors,
    tensors_of,
    train,
    train_arguments,
)

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")


def own_family(function: Callable[[], object]) -> str:
    """Name of a family of tasks of the tests, as a user gives his own."""
    return f"tests.helpers.workbench:{function.__name__}"


# ---------------------------------------------------------------------- what is counted and logged


@pytest.mark.parametrize(
    ("agent", "batches"),
    [("maml", 2), ("reptile", 1), ("multitask", 1)],
    ids=["maml: support and query", "reptile: no query", "multitask: no support"],
)
def test_every_environment_step_is_counted(
    agent: str, batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def collect_and_note(*arguments: Any) -> Episodes:
        episodes = collect(*arguments)
        taken.append(episodes.env_steps)
        return episodes

    monkeypatch.setattr("metarl.evaluation.adaptation.collect", collect_and_note)
    run = train(tmp_path, "--seed", "3", env=own_family(early_ending), agent=agent)
    # A validation, then a training iteration and a validation in turn, and the test evaluation at the end; before that
    # the choice of rates: a validation with the given ones, and a batch for each of five factors.
    evaluation = 2  # k = 0 and 1
    choice = 0 if agent == "maml" else evaluation + 5
    ends = np.cumsum([evaluation, *[batches, evaluation] * ITERATIONS, choice])
    *in_turn, chosen, test = [part.sum() for part in np.split(np.array(taken), ends)]
    training, evaluations = np.array(in_turn[1::2]), [*in_turn[::2], test]
    assert len(taken) == ends[-1] + evaluation
    spent = read_checkpoint(checkpoint_file(run, ITERATIONS)).progress.evaluation_env_steps
    assert spent == sum(evaluations[:-1]) + chosen
    assert (training % early_ending().horizon).any(), "no episode of the training ended early"
    rows = metrics_of(run)
    assert [row["env_steps"] for row in rows] == [0, *np.cumsum(training)]
    assert [row["evaluation_env_steps"] for row in rows] == np.cumsum(evaluations[:-1]).tolist()
    report = json.loads((run / "evaluation-test.json").read_text())
    assert report["total_env_steps"] == evaluations[-1]
    assert report["training_env_steps"] in [row["env_steps"] for row in rows]


def test_tensorboard_holds_what_metrics_hold(trained_run: Path) -> None:
    rows, curves = metrics_of(trained_run), curves_of(trained_run)
    expected = {"train/return_k0", "train/return_k1", "eval/return_k0", "eval/return_k1", "eval/gain"}
    expected |= {"train/kl", "train/entropy", "train/gradient_norm", "train/surrogate"}
    assert expected <= set(curves)
    for tag, points in curves.items():
        if tag.startswith("test/"):  # of the evaluation at the end
            continue
        in_rows = [(row["env_steps"], row[tag]) for row in rows if tag in row]
        np.testing.assert_allclose(points, in_rows, rtol=1e-6, err_msg=tag)
    assert [step for step, _ in curves["eval/gain"]] == [row["env_steps"] for row in rows]
    assert [step for step, _ in curves["train/kl"]] == [row["env_steps"] for row in rows[1:]]


def test_tensorboard_holds_times_figures_and_hyper_parameters(trained_run: Path) -> None:
    events = events_of(trained_run)
    tags = events.Tags()
    assert {
        f"time/{phase}" for phase in ("collect", "adapt", "meta_update", "evaluate", "env_steps_per_second")
    } <= set(tags["scalars"])
    env_steps = [row["env_steps"] for row in metrics_of(trained_run)]
    for figure in ("eval/adaptation", "eval/trajectories"):
        images = events.Images(figure)
        assert [image.step for image in images] == env_steps
        assert all(image.width > 100 and image.height > 100 for image in images)
    start = events.summary_metadata[hparams_metadata.SESSION_START_INFO_TAG]
    shown = hparams_metadata.parse_session_start_info_plugin_data(start.plugin_data.content).hparams
    flags = {name.rpartition(".")[2] for name in flat_items(RunDirectory.open(str(trained_run)).config)}
    assert (
        flags
        > set(shown)
        >= flags
        - {"name", "run_dir", "logger", "device", "num_threads", "compile_env", "cuda_graphs", "physics_determinism"}
        - {f"{what}_{which}" for what in ("eval", "test", "checkpoint") for which in ("interval", "tasks")}
    )
    assert shown["outer"].string_value == "ppo"
    assert shown["num_tasks"].number_value == 2
    assert shown["first_order"].string_value == "false"
    experiment = events.summary_metadata[hparams_metadata.EXPERIMENT_TAG]
    metrics = hparams_metadata.parse_experiment_plugin_data(experiment.plugin_data.content).metric_infos
    assert [metric.name.tag for metric in metrics if metric.name.tag not in tags["scalars"]] == []
    assert {"eval/return_k1", "test/return_k1"} <= {metric.name.tag for metric in metrics}


def test_run_directory_tells_how_to_reproduce_the_run(trained_run: Path) -> None:
    about = json.loads((trained_run / METADATA_FILE).read_text())
    assert about["seed"] == 0
    assert about["device"] == "cpu"
    assert {"torch", "numpy", "gymnasium"} <= set(about["packages"])
    assert all(about[name] for name in ("metarl", "python", "platform", "git_commit", "command"))


def test_best_checkpoint_is_that_of_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([-5.0, -6.0, -3.0, -4.0, -3.0, -3.5])

    def summary(batches: list[Episodes], *more: Any) -> Evaluation:
        return replace(summarize(batches, *more), returns=np.array([[-9.0], [next(scores)]]))

    monkeypatch.setattr("metarl.training.validation.summarize", summary)
    run = train(tmp_path, "--iterations", "5")
    progress = read_checkpoint(run / "checkpoints" / "best.safetensors").progress
    assert (progress.iteration, progress.best_validation) == (2, -3.0)
    assert [checkpoint_file(run, i).exists() for i in range(6)] == [False] * 3 + [True] * 3


def test_rates_chosen_when_training_ends_belong_to_the_best_policy(tmp_path: Path) -> None:
    """Killed before or after they were written and resumed: the same; what acts with the best policy takes them."""
    flags = ("--inner-lr", "20", "--eval-tasks", "8")
    run = train(tmp_path, *flags, agent="multitask")
    best = read_checkpoint(run / "checkpoints" / "best.safetensors")
    factors = best.tensors["rate_factors"].tolist()
    assert len(factors) == 1 and factors[0] < 1
    directory = RunDirectory.open(str(run))
    assert load_learner(directory).learner.rate_factors == tuple(factors)
    assert load_learner(directory, "last").learner.rate_factors == ()

    last = checkpoint_file(run, ITERATIONS)
    progress = read_checkpoint(last).progress
    without = {name: value for name, value in best.tensors.items() if name != "rate_factors"}
    spent = (2 + 5) * 8 * EPISODES * 20  # given rates, and five factors; H = 20
    before = replace(progress, evaluation_env_steps=progress.evaluation_env_steps - spent)
    for killed in (Checkpoint(without, best.progress), best):
        directory.checkpoints.save_best(killed)
        directory.checkpoints.save(Checkpoint(read_checkpoint(last).tensors, before))
        assert main(["train", "--resume", str(run)]) == 0
        assert read_checkpoint(run / "checkpoints" / "best.safetensors").tensors["rate_factors"].tolist() == factors
        assert read_checkpoint(last).progress == progress


def test_intervals_decide_when_to_evaluate_and_save(tmp_path: Path) -> None:
    run = train(tmp_path, "--iterations", "5", "--eval-interval", "2", "--checkpoint-interval", "3")
    assert [row["iteration"] for row in metrics_of(run) if "eval/gain" in row] == [0, 2, 4, 5]
    assert RunDirectory.open(str(run)).checkpoints.iterations() == [5, 3, 0]


def test_a_student_that_collects_no_episodes_trains(trained_run: Path, tmp_path: Path) -> None:
    """It learns from its teachers' episodes alone: an iteration takes no environment steps."""
    flags = ["--states", "teacher", "--match", "initial", "--objective-steps", "last", "--max-env-steps", "100000"]
    run = train(tmp_path, "--teacher", str(trained_run), "--num-teachers", "2", *flags, agent="distill")
    rows = metrics_of(run)
    assert [row["iteration"] for row in rows] == list(range(ITERATIONS + 1))
    assert rows[0]["env_steps"] == rows[-1]["env_steps"] > 0  # what the teachers cost
    assert "train/return_k0" not in rows[-1]
    assert "train/kl" in rows[-1]


# ---------------------------------------------------------------------- what decides the result


@pytest.fixture(scope="module")
def reference(trained_run: Path) -> dict[str, Any]:
    return tensors_of(trained_run)


@pytest.mark.parametrize(
    "flags",
    [(), ("--eval-interval", "100"), ("--eval-tasks", "5"), ("--checkpoint-interval", "100"), ("--test-tasks", "1")],
    ids=" ".join,
)
def test_training_does_not_depend_on_how_it_is_watched(
    flags: tuple[str, ...], reference: dict[str, Any], tmp_path: Path
) -> None:
    assert same_tensors(tensors_of(train(tmp_path, *flags)), reference)


@pytest.mark.parametrize(
    "flags", [("--seed", "1"), ("--inner-lr", "0.2"), ("--outer", "trpo"), ("--first-order",)], ids=" ".join
)
def test_training_depends_on_its_settings(flags: tuple[str, ...], reference: dict[str, Any], tmp_path: Path) -> None:
    assert not same_tensors(tensors_of(train(tmp_path, *flags)), reference)


@pytest.mark.parametrize("outer", ["ppo", "trpo"])
def test_number_of_threads_does_not_change_the_result(outer: str, tmp_path: Path) -> None:
    flags = ("--outer", outer, "--num-tasks", "4", "--task-chunk", "1", "--eval-interval", "100")
    one, two = (train(tmp_path / n, *flags, "--num-threads", n) for n in ("1", "2"))
    assert same_tensors(tensors_of(one), tensors_of(two))
    assert metrics_of(one) == metrics_of(two)


# ---------------------------------------------------------------------- failures


def test_number_that_is_not_finite_stops_the_run_after_saving_it(
    reference: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = "tests.helpers.workbench:failing_in_second_iteration"
    arguments = train_arguments(tmp_path, "--checkpoint-interval", "100", env=env)
    assert main(arguments) == EXIT_TRAINING_FAILED
    message = complaint(capsys)
    assert "iteration 2" in message
    assert "task 1 of the batch" in message
    run = RunDirectory.open(str(tmp_path / RUN))
    assert run.checkpoints.iterations() == [1, 0]
    assert [row["iteration"] for row in metrics_of(run.path)] == [0, 1]
    monkeypatch.setattr("tests.helpers.workbench.Failing.bind", TaskDistribution.bind)  # healthy again
    assert main(["train", "--resume", str(run.path)]) == 0
    assert same_tensors(tensors_of(run.path), reference)


def test_an_iteration_that_does_not_fit_names_the_batch_and_what_to_lower(
    reference: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greedy(*arguments: object, **more: object) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB")

    with monkeypatch.context() as full:
        full.setattr("metarl.agents.maml.MAML.update", greedy)
        assert main(train_arguments(tmp_path)) == EXIT_TRAINING_FAILED
    message = complaint(capsys)
    assert re.search(
        r"iteration 1: num_tasks \d+ × episodes \d+ × horizon 20 do not fit into the memory of cpu", message
    )
    assert "lower --num-tasks, --episodes or --task-chunk; the run is saved" in message
    assert main(["train", "--resume", str(tmp_path / RUN)]) == 0
    assert same_tensors(tensors_of(tmp_path / RUN), reference)


def test_validation_that_is_not_finite_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = train_arguments(tmp_path, env="tests.helpers.workbench:failing_in_first_validation")
    assert main(arguments) == EXIT_TRAINING_FAILED
    message = complaint(capsys)
    assert "validation after iteration 0" in message
    assert "task 1 of the batch" in message
    assert checkpoint_file(tmp_path / RUN, 0).exists()


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_full_disk_stops_the_run_and_loses_nothing(
    call: str,
    reference: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / RUN
    original = os.fsync if call == "os.fsync" else Path.replace

    def full_once_there_are_two_checkpoints(*arguments: Any) -> Any:
        if checkpoint_file(run, 1).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(call, full_once_there_are_two_checkpoints)
        assert main(train_arguments(tmp_path)) == EXIT_TRAINING_FAILED
    message = complaint(capsys)
    assert "No space left on device" in message
    assert "the run is saved as it was after iteration 1; go on with: metarl train --resume" in message
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.safetensors", "iteration-0000000.safetensors", "iteration-0000001.safetensors"]
    for name in names:
        read_checkpoint(run / "checkpoints" / name)
    assert main(["train", "--resume", str(run)]) == 0
    assert same_tensors(tensors_of(run), reference)
