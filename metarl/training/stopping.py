"""How training is asked to stop: a signal ends it after the meta-iteration, with everything saved.

Ctrl-C (SIGINT), SIGTERM and SIGHUP, which a terminal sends that is closed, and SIGUSR1, which Slurm sends before the
end of a job's time.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from metarl.errors import SIGNALS


def is_ignored_by_wish(number: int) -> bool:
    """Whether the program was started so that a closed terminal does not end it, as `nohup` does."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        requested: set by the first signal.
    """

    def __init__(self) -> None:
        self.requested = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; the second one interrupts at once.

        Raises:
            KeyboardInterrupt: it is the second one.
        """
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Take signals as requests to stop while the block runs; afterwards they mean what they meant before."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python takes signal handlers only there
        yield stop
        return

    taken = [number for number in SIGNALS if not is_ignored_by_wish(number)]
    previous = {number: signal.signal(number, stop.handle) for number in taken}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
