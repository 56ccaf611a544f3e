"""The first signal asks to stop, the second one interrupts, and afterwards signals mean what they meant before."""

import os
import signal
import threading

import pytest

from metarl.errors import SIGNALS
from metarl.training.stopping import stop_requests


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_asks_and_second_interrupts(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_in_another_thread_nothing_is_asked() -> None:
    requested = []

    def run() -> None:
        with stop_requests() as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert requested == [False]
