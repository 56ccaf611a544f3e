"""Worker processes: they leave signals to their parent, and end with it whatever ends it.

A signal that goes to a whole group of processes, such as Ctrl-C or the SIGTERM of a batch system, asks the parent to
stop. Workers that died of it would look like a fault of their environments.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker
from types import FrameType
from typing import Any

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask a program to stop; a worker takes no notice of them, so its parent ends it by SIGKILL."""


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Start processes in the block: they begin with the signals of a group blocked, until `leave_signals_to_parent`.

    A signal that comes meanwhile is delivered to this process after the block.
    """
    # Started now, because it unblocks the signals when it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_worker() -> None:
    """The first thing that a worker process does."""
    # Handlers and not SIG_IGN, which the programs that an environment starts would inherit.
    for number in GROUP_SIGNALS:
        signal.signal(number, _take_no_notice)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)

    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _take_no_notice(number: int, frame: FrameType | None) -> None:
    """Handle a signal by going on."""


def _end_with_parent() -> None:
    """Wait for the end of the parent process, even by SIGKILL, and end this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    connection.wait([parent.sentinel])
    os._exit(1)


def env_worker(*arguments: Any) -> None:
    """What a worker of Gymnasium's AsyncVectorEnv runs: Gymnasium's own loop, in a process that was prepared."""
    from gymnasium.vector.async_vector_env import _async_worker

    prepare_worker()
    _async_worker(*arguments)


def kill(processes: list[Any]) -> None:
    """End worker processes at once, and wait until they are gone.

    Args:
        processes: of `multiprocessing`.
    """
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()
