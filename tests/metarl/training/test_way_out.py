"""Whatever ends training, the last whole iteration is saved, one line says how to go on, and nothing differs later."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarl.cli.main import main
from metarl.errors import EXIT_INTERRUPTED, EXIT_TRAINING_FAILED
from tests.helpers.workbench import (
    ITERATIONS,
    RUN,
    checkpoint_file,
    complaint,
    metrics_of,
    same_tensors,
    tensors_of,
    train_arguments,
)

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")

BIND = "metarl.envs.task_distribution.TaskDistribution.bind"
"""Called for the validation before training, and then by each iteration and each validation."""


def failing_in_call(number: int, error: BaseException, original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that raises in its n-th call."""
    calls = itertools.count(1)

    def fail(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise error
        return original(*arguments, **options)

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IndexError("no such joint"), "IndexError: no such joint (test_way_out.py:"),
        (KeyError("arm"), "KeyError: 'arm' ("),
        (AssertionError(), "AssertionError ("),
        (ValueError("two\nlines"), "ValueError: two lines ("),
        (OSError(5, "the bus is gone"), "OSError: [Errno 5] the bus is gone ("),
        (SystemExit(3), "SystemExit: called sys.exit(3) ("),
        (MemoryError(), "MemoryError ("),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_exception_is_saved_and_said(
    error: BaseException,
    said: str,
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from metarl.envs.task_distribution import TaskDistribution

    with monkeypatch.context() as broken:
        broken.setattr(BIND, failing_in_call(4, error, TaskDistribution.bind))
        assert main(train_arguments(tmp_path, "--checkpoint-interval", "100")) == EXIT_TRAINING_FAILED
    message = complaint(capsys)
    assert f"iteration 2: {said}" in message
    assert message.endswith(f"after iteration 1; go on with: metarl train --resume {tmp_path / RUN}\n")
    assert main(["train", "--resume", str(tmp_path / RUN)]) == 0
    assert same_tensors(tensors_of(tmp_path / RUN), tensors_of(trained_run))
    assert metrics_of(tmp_path / RUN) == metrics_of(trained_run)


def test_failing_validation_repeats_its_iteration_when_resumed(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row of metrics holds both, so that an iteration without its validation is not done."""
    from metarl.envs.task_distribution import TaskDistribution

    with monkeypatch.context() as broken:
        broken.setattr(BIND, failing_in_call(5, IndexError("lost"), TaskDistribution.bind))
        assert main(train_arguments(tmp_path, "--checkpoint-interval", "100")) == EXIT_TRAINING_FAILED
    assert "validation after iteration 2: IndexError" in complaint(capsys)
    assert checkpoint_file(tmp_path / RUN, 1).exists()
    assert main(["train", "--resume", str(tmp_path / RUN)]) == 0
    assert metrics_of(tmp_path / RUN) == metrics_of(trained_run)


def test_interrupted_final_evaluation_says_that_training_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("metarl.reporting.run_evaluation.adaptation_loop", interrupted)
    assert main(train_arguments(tmp_path)) == EXIT_INTERRUPTED
    assert "interrupted in the final evaluation; training is done and saved" in complaint(capsys)
    assert checkpoint_file(tmp_path / RUN, ITERATIONS).exists()


@pytest.mark.slow
def test_closed_standard_output_ends_nothing(tmp_path: Path) -> None:
    """As `metarl train | head -1` does."""
    command = [sys.executable, "-m", "metarl", *train_arguments(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("meta-training")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert (tmp_path / RUN / "evaluation-test.json").exists()
