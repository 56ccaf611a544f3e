"""Memory: keep what is freed for the next step, and say before a run begins what will not fit."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**30


def keep_freed_memory() -> None:
    """Let the process keep the memory that torch frees, so that the next tensor need not fetch its pages anew.

    glibc hands freed megabytes back to the system at once. Fetching them again costs as much as computing on them,
    and threads of one process wait for each other meanwhile: Fisher products on two threads took as long as on one.
    Where the C library has no such setting, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(parameter, _NEVER)
