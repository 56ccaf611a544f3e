"""How many CPU cores there are to compute on: the one count of the project."""

import os


def num_cores() -> int:
    """CPU cores for this process, at least 1.

    These are the cores that its affinity mask allows (`taskset`, a container's limit, …). Processes that torchrun
    started on one machine share them equally.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // _processes_here())


def _processes_here() -> int:
    """How many processes torchrun started on this machine; 1 without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))
