"""Runs that were killed, interrupted, damaged or extended end as those that were not."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metarl.cli.main import main
from metarl.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, UserError
from metarl.run.checkpoint import read_checkpoint
from metarl.run.run_directory import RunDirectory
from tests.helpers.without_figures import empty_figures
from tests.helpers.workbench import (
    ITERATIONS,
    RUN,
    Moment,
    checkpoint_file,
    complaint,
    curves_of,
    files_under,
    final_evaluation_of,
    forget_config,
    layouts_of,
    metrics_of,
    run_with_signal,
    same_tensors,
    shown_of,
    tensors_of,
    train,
    train_arguments,
)

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")

OUTERS = ("ppo", "trpo")
SAVE = "metarl.run.checkpoint.CheckpointStore.save"
UPDATE = "metarl.agents.maml.MAML.update"
MOMENTS = {
    "before the first checkpoint": Moment(SAVE, 1),
    "between the layout of the charts and the first row": Moment("metarl.training.logs.run_log.RunLog.layout", 1, True),
    "within the first iteration": Moment(UPDATE, 1),
    "right after the second checkpoint": Moment(SAVE, 2, after=True),
    "within the second iteration": Moment(UPDATE, 2),
    "while a checkpoint is written": Moment("os.fsync", 6),
    "within a validation": Moment("metarl.training.validation.summarize", 3),
    "between metrics and checkpoint": Moment(SAVE, 3),
    "after the last checkpoint": Moment("metarl.reporting.run_evaluation.adaptation_loop", 1),
}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run of each outer step."""
    with pytest.MonkeyPatch.context() as patch:
        empty_figures(patch.setattr)
        return {outer: train(tmp_path_factory.mktemp(outer), "--outer", outer) for outer in OUTERS}


@pytest.fixture
def finished(references: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of an uninterrupted run, to be damaged."""
    return Path(shutil.copytree(references["ppo"], tmp_path / RUN))


def resume(run: Path, *flags: str) -> int:
    """Resume in this process, in another second than the one before: TensorBoard orders files of events by seconds."""
    time.sleep(1 - time.time() % 1)
    return main(["train", "--resume", str(run), *flags])


def assert_same_result(run: Path, reference: Path) -> None:
    """Bit-identical checkpoints, and the same curves, metrics and evaluation."""
    names = sorted(path.name for path in (reference / "checkpoints").iterdir())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    for name in names:
        one, other = (read_checkpoint(path / "checkpoints" / name) for path in (run, reference))
        assert same_tensors(one.tensors, other.tensors), name
        for field in ("iteration", "env_steps", "evaluation_env_steps", "best_validation"):
            assert getattr(one.progress, field) == getattr(other.progress, field), (name, field)
    assert metrics_of(run) == metrics_of(reference)
    assert shown_of(run) == shown_of(reference)
    assert layouts_of(run) == layouts_of(reference) == 1
    assert final_evaluation_of(run) == final_evaluation_of(reference)


def test_reference_is_worth_comparing_with(references: dict[str, Path]) -> None:
    reference = references["ppo"]
    assert [row["iteration"] for row in metrics_of(reference)] == list(range(ITERATIONS + 1))
    assert not same_tensors(tensors_of(reference, ITERATIONS), tensors_of(reference, ITERATIONS - 1))
    steps = [step for step, _ in curves_of(reference)["eval/return_k1"]]
    assert steps == sorted(set(steps))
    assert len(steps) == ITERATIONS + 1
    assert not same_tensors(tensors_of(reference), tensors_of(references["trpo"]))


@pytest.mark.parametrize(
    ("outer", "moment"),
    [("ppo", moment) for moment in MOMENTS]
    + [("trpo", "right after the second checkpoint"), ("trpo", "within the second iteration")],
)
def test_killed_and_resumed_ends_as_uninterrupted(
    outer: str, moment: str, references: dict[str, Path], tmp_path: Path
) -> None:
    arguments = train_arguments(tmp_path, "--outer", outer)
    assert run_with_signal(arguments, MOMENTS[moment], signal.SIGKILL, tmp_path / "output") == -signal.SIGKILL
    assert not (tmp_path / RUN / "evaluation-test.json").exists()
    assert resume(tmp_path / RUN) == 0
    assert_same_result(tmp_path / RUN, references[outer])


@pytest.mark.parametrize(
    "moment",
    [
        Moment("metarl.run.run_directory.to_yaml", 1),
        Moment("metarl.run.run_directory._metadata", 1),
        Moment("pathlib.Path.rename", 1),
    ],
    ids=["before its configuration", "before its metadata", "before it gets its name"],
)
def test_killed_while_the_run_directory_is_made_leaves_the_name_free(moment: Moment, tmp_path: Path) -> None:
    output = tmp_path / "output"
    arguments = train_arguments(tmp_path / "runs", "--iterations", "1")
    assert run_with_signal(arguments, moment, signal.SIGKILL, output) == -signal.SIGKILL
    (left,) = (tmp_path / "runs").iterdir()
    assert left.name.startswith(".")
    train(tmp_path / "runs", "--iterations", "1")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [RUN]


@pytest.mark.parametrize(
    ("agent", "update"),
    [
        ("reptile", "metarl.agents.reptile.Reptile.update"),
        ("multitask", "metarl.agents.multitask.Multitask.update"),
    ],
)
def test_other_agents_end_at_their_budget_killed_or_not(agent: str, update: str, tmp_path: Path) -> None:
    """A batch of 2 tasks × 3 episodes × 20 steps in each iteration: the third one reaches 300 steps."""
    budget = ("--iterations", "1000", "--max-env-steps", "300")
    whole = train(tmp_path / "whole", *budget, agent=agent)
    assert [row["env_steps"] for row in metrics_of(whole)] == [0, 120, 240, 360]
    arguments = train_arguments(tmp_path, *budget, agent=agent)
    assert run_with_signal(arguments, Moment(update, 2), signal.SIGKILL, tmp_path / "output") == -signal.SIGKILL
    assert resume(tmp_path / RUN) == 0
    assert_same_result(tmp_path / RUN, whole)


def test_killed_twice_and_resumed_ends_as_uninterrupted(references: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "output"
    run_with_signal(train_arguments(tmp_path, "--outer", "ppo"), Moment(UPDATE, 2), signal.SIGKILL, output)
    again = ["train", "--resume", str(tmp_path / RUN)]
    assert run_with_signal(again, Moment(UPDATE, 2), signal.SIGKILL, output) == -signal.SIGKILL
    assert resume(tmp_path / RUN) == 0
    assert_same_result(tmp_path / RUN, references["ppo"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_interrupted_run_is_saved_and_says_how_to_go_on(
    number: signal.Signals, references: dict[str, Path], tmp_path: Path
) -> None:
    run, output = tmp_path / RUN, tmp_path / "output"
    # Checkpoints far apart: what is there afterwards was saved because of the signal.
    arguments = train_arguments(tmp_path, "--outer", "ppo", "--checkpoint-interval", "100")
    assert run_with_signal(arguments, Moment(UPDATE, 2), number, output) == EXIT_INTERRUPTED
    assert f"stopped after iteration 2 of {ITERATIONS}" in output.read_text()
    assert output.read_text().splitlines()[-1] == f"go on with: metarl train --resume {run}"
    assert same_tensors(tensors_of(run, 2), tensors_of(references["ppo"], 2))
    assert resume(run) == 0
    assert same_tensors(tensors_of(run), tensors_of(references["ppo"]))
    assert metrics_of(run) == metrics_of(references["ppo"])


def test_finished_run_is_resumed_without_change(finished: Path, references: dict[str, Path]) -> None:
    assert resume(finished) == 0
    assert_same_result(finished, references["ppo"])


def test_run_is_found_by_name_below_run_dir(finished: Path, references: dict[str, Path]) -> None:
    assert main(["train", "--resume", finished.name, "--run-dir", str(finished.parent)]) == 0
    assert_same_result(finished, references["ppo"])


def test_copy_of_a_run_is_resumed_and_the_original_left_alone(
    finished: Path, references: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy's configuration names the directory of the original."""
    shutil.copytree(finished, tmp_path / "elsewhere" / "runs" / RUN)
    checkpoint_file(tmp_path / "elsewhere" / "runs" / RUN, ITERATIONS).unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = files_under(references["ppo"])
    assert resume(Path(RUN)) == 0
    assert files_under(references["ppo"]) == before
    assert_same_result(Path("runs") / RUN, references["ppo"])


def test_extended_run_equals_one_trained_for_as_long_from_the_start(tmp_path: Path) -> None:
    """Where nothing follows the progress of the training, as the preset's rate does."""
    constant_rate = ["--outer", "ppo", "--outer-lr-final", "1"]
    whole = train(tmp_path / "whole", *constant_rate)
    run = train(tmp_path, *constant_rate, "--iterations", str(ITERATIONS - 1))
    assert resume(run, "--iterations", str(ITERATIONS)) == 0
    assert (tmp_path / RUN / "config.yaml").read_text().count(f"iterations: {ITERATIONS}\n") == 1
    assert same_tensors(tensors_of(run), tensors_of(whole))
    assert metrics_of(run) == metrics_of(whole)
    assert curves_of(run) == curves_of(whole)


@pytest.mark.parametrize(
    "flags",
    [("--seed", "3"), ("--inner-lr", "0.5"), ("--episodes=4",), ("--name", "other"), ("--iterations", "1")],
    ids=lambda flags: flags[0],
)
def test_settings_that_a_resumed_run_cannot_change_are_refused(
    flags: tuple[str, ...], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_under(finished)
    assert resume(finished, *flags) == EXIT_BAD_INPUT
    assert "iterations" in complaint(capsys)
    assert files_under(finished) == before


def test_truncated_newest_checkpoint_falls_back_to_the_one_before(
    finished: Path, references: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoint_file(finished, ITERATIONS)
    newest.write_bytes(newest.read_bytes()[:-20])
    assert resume(finished) == 0
    (warning,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("warning"))
    assert str(newest) in warning
    assert "truncated" in warning
    assert_same_result(finished, references["ppo"])


def test_run_without_a_good_checkpoint_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (finished / "checkpoints").glob("iteration-*"):
        path.write_bytes(path.read_bytes()[:100])
    before = files_under(finished)
    assert resume(finished, "--iterations", str(ITERATIONS + 2)) == EXIT_BAD_INPUT
    assert "truncated or corrupt" in complaint(capsys)
    assert files_under(finished) == before


def only_best(run: Path) -> None:
    """As in a reference run."""
    for path in (run / "checkpoints").glob("iteration-*"):
        path.unlink()


def no_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def checkpoints_that_are_a_file(run: Path) -> None:
    no_checkpoints(run)
    (run / "checkpoints").write_text("not a directory")


def best_that_is_damaged(run: Path) -> None:
    only_best(run)
    (run / "metrics.jsonl").unlink()
    best = run / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (only_best, f"of its {ITERATIONS} iterations it holds only the best policy"),
        (no_checkpoints, f"of its {ITERATIONS} iterations it holds no checkpoint"),
        (checkpoints_that_are_a_file, "checkpoints cannot be read: Not a directory"),
        (best_that_is_damaged, "truncated or corrupt"),
    ],
)
def test_run_that_would_begin_again_over_its_own_result_is_refused(
    damage: Callable[[Path], None], named: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(finished)
    (finished / ".lock").unlink()
    before = files_under(finished)
    assert resume(finished, "--iterations", str(ITERATIONS + 2)) == EXIT_BAD_INPUT
    assert named in complaint(capsys)
    assert files_under(finished) == before


def test_checkpoint_of_another_learner_changes_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It reads well, and fits only the network that the configuration described before."""
    config = finished / "config.yaml"
    config.write_text(config.read_text().replace("    - 8\n", "    - 9\n"))
    checkpoint_file(finished, ITERATIONS).unlink()
    forget_config(finished)
    before = files_under(finished)
    assert resume(finished) == EXIT_BAD_INPUT
    assert "the state is not this learner's" in complaint(capsys)
    assert files_under(finished) == before


def cut_config(run: Path) -> None:
    """What is left is a valid configuration, of another algorithm."""
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text[: text.index("  outer: ppo")])


def cut_config_before_the_first_checkpoint(run: Path) -> None:
    cut_config(run)
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").write_text("")
    (run / "evaluation-test.json").unlink()


def another_seed(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else in the place of a file of the run."""

    def damage(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return damage


def last_row_lost(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:-1]))


def checkpoints_elsewhere(run: Path) -> None:
    """Training would remove the oldest of them."""
    (run / "checkpoints").rename(run / "elsewhere")
    (run / "checkpoints").symlink_to(run / "elsewhere")


ODD = {
    "link as directory": (checkpoints_elsewhere, "checkpoints is a symbolic link, which is not followed"),
    "cut configuration": (cut_config, "config.yaml is not the one that this run was trained with"),
    "cut at once": (cut_config_before_the_first_checkpoint, "by {run}/metadata.json: it lacks learner.outer"),
    "edited configuration": (another_seed, "seed is 1, and was 0. Restore it, or remove it"),
    "emptied metrics": (in_place_of("metrics.jsonl", Path.touch), f"lacks rows of iterations 0 to {ITERATIONS}, but"),
    "shortened metrics": (last_row_lost, f"lacks rows of iteration {ITERATIONS}, but the run's checkpoint is of"),
    "directory as best": (in_place_of("checkpoints/best.safetensors", Path.mkdir), "safetensors is a directory"),
    "directory as evaluation": (in_place_of("evaluation-test.json", Path.mkdir), "evaluation-test.json is a directory"),
    "pipe as metrics": (in_place_of("metrics.jsonl", os.mkfifo), "metrics.jsonl is a pipe"),
    "pipe as metadata": (in_place_of("metadata.json", os.mkfifo), "metadata.json is a pipe"),
    "pipe as lock": (in_place_of(".lock", os.mkfifo), ".lock is a pipe"),
    "pipe as configuration": (in_place_of("config.yaml", os.mkfifo), "config.yaml cannot be read: is a pipe"),
    "pipe as checkpoint": (
        in_place_of(f"checkpoints/iteration-{ITERATIONS:07d}.safetensors", os.mkfifo),
        ".safetensors is a pipe",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_would_become_another_run_or_hang_is_refused_before_training(
    name: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, named = ODD[name]
    damage(finished)
    before = regular_files(finished)
    assert main(["train", "--resume", str(finished), "--iterations", str(ITERATIONS + 1)]) == EXIT_BAD_INPUT
    assert named.format(run=finished) in complaint(capsys)
    assert regular_files(finished) == before


def regular_files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_without_its_configuration_a_run_has_that_of_its_checkpoints(
    finished: Path, references: dict[str, Path]
) -> None:
    checkpoint_file(finished, ITERATIONS).unlink()
    (finished / "config.yaml").unlink()
    assert RunDirectory.open(str(finished)).config == RunDirectory.open(str(references["ppo"])).config
    assert resume(finished) == 0
    assert (finished / "config.yaml").read_text() == (references["ppo"] / "config.yaml").read_text()
    assert_same_result(finished, references["ppo"])


def test_without_its_metrics_a_run_goes_on_and_says_so(
    finished: Path, references: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_file(finished, ITERATIONS).unlink()
    (finished / "metrics.jsonl").unlink()
    assert resume(finished) == 0
    assert "warning" in capsys.readouterr().out
    assert same_tensors(tensors_of(finished), tensors_of(references["ppo"]))
    assert metrics_of(finished) == metrics_of(references["ppo"])[ITERATIONS:]

    # Killed then, its rows are again fewer than its iterations.
    (finished / "metrics.jsonl").unlink()
    RunDirectory.open(str(finished)).check_can_resume()


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_a_file_of_the_run_that_is_a_link_is_not_followed(name: str, finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    run = RunDirectory.open(str(finished))
    (finished / name).unlink()
    (finished / name).symlink_to(target)
    with pytest.raises((UserError, OSError), match="is a symbolic link, which is not followed"):
        if name == ".lock":
            run.locked().__enter__()
        else:
            run.append_metrics({"iteration": 9})
    assert target.read_text() == "precious"


def test_row_of_metrics_that_was_cut_off_is_written_again(finished: Path, references: dict[str, Path]) -> None:
    checkpoint_file(finished, ITERATIONS).unlink()
    metrics = finished / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-30])
    assert resume(finished) == 0
    assert metrics_of(finished) == metrics_of(references["ppo"])


def test_run_that_another_process_writes_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_under(finished)
    with RunDirectory.open(str(finished)).locked():
        assert resume(finished) == EXIT_BAD_INPUT
    assert "another process" in complaint(capsys)
    assert files_under(finished) == before
