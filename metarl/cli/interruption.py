"""What signals mean to a command: Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 all ask it to save and stop.

While modules are imported there is nothing to save, and an exception in the middle of a library's import comes out as
something else; so a signal ends the process at once. As soon as the command runs, a signal is a KeyboardInterrupt,
which every command takes as the wish to keep what is done and leave. Training takes it over while it iterates
(`metarl/training/stopping.py`).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from metarl.errors import EXIT_INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextlib.contextmanager
def signals_of_a_program() -> Iterator[None]:
    """End the process at once at a signal while the block runs, except within `interruptible`.

    Afterwards signals mean what they meant before. A signal that was ignored from the start, as SIGHUP under `nohup`,
    stays so.
    """
    with _handling(_leave):
        yield


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make a KeyboardInterrupt of a signal while the block runs."""
    with _handling(_interrupt):
        yield


@contextlib.contextmanager
def _handling(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python takes signal handlers only there
        yield
        return

    taken = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in taken}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"metarl: interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
