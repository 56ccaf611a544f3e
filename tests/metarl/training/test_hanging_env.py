"""An environment that hangs is named after --env-timeout, and can be interrupted; what was done is saved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarl.cli.main import main
from metarl.errors import EXIT_INTERRUPTED, EXIT_TRAINING_FAILED
from metarl.training import stopping
from tests.helpers.hanging import FIRST_CHECKPOINT
from tests.helpers.workbench import RUN, checkpoint_file, complaint, train_arguments

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")

YAML = """
env_id: tests.helpers.hanging:Hanging-v0
num_workers: {workers}
task: {{goal: {{uniform: [0, 1]}}}}
"""


def arguments(place: Path, workers: int) -> list[str]:
    (place / "env.yaml").write_text(YAML.format(workers=workers))
    flags = ["--env-file", "env.yaml", "--name", RUN, "--run-dir", "runs"]
    tiny = train_arguments(place, "--env-timeout", "3")
    return [*tiny[:2], *tiny[3:], *flags]


@pytest.mark.parametrize("workers", [0, 1])
def test_it_is_named_with_its_task(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint_file(Path("runs") / RUN, 1) == FIRST_CHECKPOINT
    monkeypatch.chdir(tmp_path)
    Path("hang").touch()
    assert main(arguments(tmp_path, workers)) == EXIT_TRAINING_FAILED
    message = complaint(capsys)
    assert "environment tests.helpers.hanging:Hanging-v0 failed on the task" in message
    assert "did not answer within 3 s, the limit of --env-timeout" in message
    assert "the run is saved as it was after iteration 1; go on with" in message

    if not workers:  # starting workers again takes seconds
        Path("hang").unlink()
        assert main(["train", "--resume", f"runs/{RUN}"]) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_one_signal_is_enough(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch system sends one."""
    monkeypatch.setattr(stopping, "HANGS_AFTER", 1.0)
    monkeypatch.chdir(tmp_path)
    Path("hang").write_text(f"{os.getpid()} 1")
    assert main([*arguments(tmp_path, workers), "--env-timeout", "0"]) == EXIT_INTERRUPTED
    captured = capsys.readouterr()
    assert "stopping after this iteration; once more stops at once" in captured.out
    assert "environment tests.helpers.hanging:Hanging-v0 did not get on for 1 s" in captured.err
    assert "the run is saved as it was after iteration 1; go on with" in captured.err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_it_can_be_interrupted(workers: int, tmp_path: Path) -> None:
    """Two signals, as of somebody who loses patience."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "metarl", *arguments(tmp_path, workers), "--env-timeout", "0"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        (tmp_path / "hang").write_text(f"{process.pid} 2")
        _, said = process.communicate(timeout=200)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert "the run is saved as it was after iteration 1" in said
