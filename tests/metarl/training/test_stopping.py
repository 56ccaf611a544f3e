"""The first signal asks to stop, the second one interrupts, and afterwards signals mean what they meant before."""

import os
import signal
import threading
import time

import pytest
import torch

from metarl.envs.rollout import begin
from metarl.errors import SIGNALS
from metarl.training import stopping
from metarl.training.stopping import stop_requests


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_asks_and_second_interrupts(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    said = threading.Event()
    with pytest.raises(KeyboardInterrupt), stop_requests(said.set) as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert said.wait(5), "the first signal is answered while the work goes on"
        os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_in_another_thread_nothing_is_asked() -> None:
    requested = []

    def run() -> None:
        with stop_requests(lambda: None) as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert requested == [False]


class Slow:
    """An environment whose reset takes a second, in n parts of which it tells."""

    label, batch_shape = "slow", (1, 1)

    def __init__(self, parts: int) -> None:
        self.parts, self.done = parts, 0

    def progress(self) -> int:
        """How many parts are done."""
        return self.done

    def reset(self, generator: torch.Generator) -> torch.Tensor:
        """Take a second, in which a signal has come."""
        os.kill(os.getpid(), signal.SIGTERM)
        while self.done < self.parts:
            time.sleep(1 / self.parts)
            self.done += 1
        return torch.zeros(1, 1, 1)


@pytest.mark.parametrize("parts", [1, 10])
def test_after_one_signal_an_environment_that_hangs_is_left_and_a_slow_one_is_waited_for(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "HANGS_AFTER", 0.5)
    env = Slow(parts)
    reason = ""
    try:
        with stop_requests(lambda: None) as stop:
            begin(env, torch.Generator())  # type: ignore[arg-type]
    except KeyboardInterrupt as interrupt:
        reason = str(interrupt)
    assert stop.requested
    assert reason == ("environment slow did not get on for 0.5 s" if parts == 1 else "")


def test_work_without_an_environment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "HANGS_AFTER", 0.2)
    with stop_requests(lambda: None) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.8)
    assert stop.requested
