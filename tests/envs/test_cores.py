"""The count of cores: the affinity mask and the share of one process of a torchrun job."""

import os
import subprocess
import sys

import pytest

from metarl.envs.cores import num_cores
from metarl.training.machine.distributed import local_cores

COUNT = "from metarl.envs.cores import num_cores; print(num_cores())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_a_process_on_one_core_counts_one() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); {COUNT}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 8),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "1"}, 8),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "3"}, 2),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "16"}, 1),
        ({"LOCAL_WORLD_SIZE": "4"}, 8),  # left over in the shell, but no torchrun
    ],
)
def test_processes_of_a_job_share_the_allowed_cores(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: int
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert num_cores() == local_cores() == expected
