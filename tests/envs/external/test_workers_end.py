"""Workers end with their parent, whatever ends it, and a signal to the whole group is a stop and no fault."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metarl.errors import EXIT_INTERRUPTED

# One worker of a pool of environments, and two that train Stable-Baselines3 on a family that never gets ready.
SCRIPT = """
import time
from pathlib import Path

import metarl.envs
import torch
from metarl.baselines.sb3 import TaskJob, learn_tasks
from metarl.envs import GymnasiumTasks, Uniform
from metarl.errors import EXIT_INTERRUPTED, interruptible


def slow():
    Path(f"ready-{time.monotonic_ns()}").touch()
    time.sleep(300)


if __name__ == "__main__":
    tasks = GymnasiumTasks("Pendulum-v1", {"g": Uniform(8, 12)}, num_workers=1)
    generator = torch.Generator()
    tasks.bind(tasks.sample(2, "train", generator), 1).reset(generator)
    jobs = [TaskJob("ppo", "workers_end:slow", {"goal": [0.0, 1.0]}, 0, (1,), 1, f"task-{n}") for n in range(2)]
    try:
        with interruptible():
            list(learn_tasks(jobs, 2))
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED)
"""
PATIENCE = 120
"""Seconds to wait at most, on a busy machine."""


def children_of(parent: int) -> set[int]:
    """Processes that a process has started and that run, by Linux's table of processes."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name_and_rest = status.read_text()
        except OSError:  # ended meanwhile
            continue
        state, owner = name_and_rest.rpartition(")")[2].split()[:2]
        if int(owner) == parent and state != "Z":
            found.add(int(status.parent.name))
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's table of processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_none_is_left(number: signal.Signals, tmp_path: Path) -> None:
    """SIGKILL of the parent alone; SIGTERM to all of them."""
    (tmp_path / "workers_end.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "workers_end.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_until(lambda: len(list(tmp_path.glob("ready-*"))) == 2 or process.poll() is not None, "no workers")
        workers = children_of(process.pid)
        assert len(workers) >= 3, process.poll()
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        _, said = process.communicate(timeout=PATIENCE)

    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else EXIT_INTERRUPTED), said
    if number != signal.SIGKILL:
        assert said == ""
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), f"left: {workers}")
