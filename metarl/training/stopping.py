"""How training is asked to stop: a signal ends it after the meta-iteration, with everything saved.

Ctrl-C (SIGINT), SIGTERM and SIGHUP, which a terminal sends that is closed, and SIGUSR1, which Slurm sends before the
end of a job's time. The second signal stops at once. A batch system sends one only, so where an environment hangs, the
first one is enough: after HANGS_AFTER seconds without progress training stops by itself.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from metarl.envs.rollout import env_at_work
from metarl.errors import SIGNALS

HANGS_AFTER = 10.0
"""Seconds: once training was asked to stop, an environment that does not get on for so long is not waited for."""

_LOOK_EVERY = 0.2
"""Seconds between two looks at whether a signal came, and whether an environment gets on."""


def is_ignored_by_wish(number: int) -> bool:
    """Whether the program was started so that a closed terminal does not end it, as `nohup` does."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        requested: set by the first signal.
        number: which signal that was.
        reason: why it is interrupted without a second signal; empty as long as it is not.
    """

    def __init__(self) -> None:
        self.requested = False
        self.number = signal.SIGINT
        self.reason = ""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; the second one interrupts at once.

        Raises:
            KeyboardInterrupt: it is the second one.
        """
        if self.requested:
            raise KeyboardInterrupt(self.reason)
        self.number = signal.Signals(number)
        self.requested = True


@contextlib.contextmanager
def stop_requests(say: Callable[[], object]) -> Iterator[StopRequest]:
    """Take signals as requests to stop while the block runs; afterwards they mean what they meant before.

    Args:
        say: tells the user that the first signal has come; called by another thread.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python takes signal handlers only there
        yield stop
        return

    # A thread, because printing in a signal handler may come in the middle of another line.
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(stop, ended, say), name="stop requests", daemon=True)
    watch.start()

    taken = [number for number in SIGNALS if not is_ignored_by_wish(number)]
    previous = {number: signal.signal(number, stop.handle) for number in taken}
    try:
        yield stop
    finally:
        ended.set()
        watch.join()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch(stop: StopRequest, ended: threading.Event, say: Callable[[], object]) -> None:
    """Wait for the first signal, answer it, and send the second one where an environment hangs."""
    while not stop.requested:
        if ended.wait(_LOOK_EVERY):
            return
    say()

    seen = env_at_work()
    since = time.monotonic()
    while not ended.wait(_LOOK_EVERY):
        found = env_at_work()
        if found is None or found != seen:
            seen = found
            since = time.monotonic()
        elif time.monotonic() - since >= HANGS_AFTER:
            stop.reason = f"environment {found[0]} did not get on for {HANGS_AFTER:g} s"
            # To the thread that waits, so that its system call ends.
            signal.pthread_kill(threading.main_thread().ident or 0, stop.number)
            since = time.monotonic()
