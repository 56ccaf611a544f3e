"""The console: lines on it, a standard output that may close without ending the work, and signals.

Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 all ask a command to save and stop. While modules are imported there is nothing to
save, and an exception in the middle of a library's import comes out as something else; so a signal ends the process at
once. As soon as the command runs, a signal is a KeyboardInterrupt, which every command takes as the wish to keep what
is done and leave. Training takes it over while it iterates (`metarl/training/stopping.py`).
"""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from metarl.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:  # `metarl --help` does without it
    from rich.console import Console


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def say(console: "Console", line: str) -> None:
    """Print a line as it is, without markup or colours and never wrapped, so that paths in it can be copied."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


class _Output(io.FileIO):
    """Standard output or error; where it cannot be written any more, the rest goes to /dev/null.

    Attributes:
        lost: why it cannot be written; None as long as it can.
    """

    lost: OSError | None = None

    def write(self, content: Any) -> int:
        """Write, or give up for good; the number of bytes that were taken."""
        try:
            return super().write(content)
        except BlockingIOError:
            raise
        except OSError as error:
            self.lost = error
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            return len(content)


class OutputsLost:
    """What could not be printed.

    Attributes:
        reasons: for each output why, if it was another reason than that nobody reads it any more.
    """

    def __init__(self, outputs: dict[str, _Output]) -> None:
        self._outputs = outputs

    @property
    def reasons(self) -> dict[str, str]:
        """See above."""
        nobody_reads = (errno.EPIPE, errno.EIO)  # a pipe, or a terminal, that was closed
        lost = {name: output.lost for name, output in self._outputs.items()}
        return {name: str(error) for name, error in lost.items() if error and error.errno not in nobody_reads}


@contextlib.contextmanager
def outputs_that_may_close() -> Iterator[OutputsLost]:
    """Let standard output and error be closed by whoever reads them, as `| head -1` does, while the block runs.

    Rich makes an exit of a closed pipe, and Python an exception; neither must end training. Where tests or notebooks
    have put something else in the place of the two, that stays.

    Yields:
        what could not be printed, to look at afterwards.
    """
    before = {"stdout": sys.stdout, "stderr": sys.stderr}
    outputs: dict[str, _Output] = {}
    for name, stream in before.items():
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        stream.flush()
        outputs[name] = _Output(stream.fileno(), "wb", closefd=False)
        setattr(sys, name, _as_text(outputs[name], stream))

    try:
        yield OutputsLost(outputs)
    finally:
        for name, stream in before.items():
            if name in outputs:
                getattr(sys, name).flush()
                setattr(sys, name, stream)


def _as_text(output: _Output, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """A text stream on an output, with the encoding and the buffering of another one."""
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=like.encoding,
        errors="replace",  # an arrow that a terminal cannot show is no reason to stop
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


# ---------------------------------------------------------------------- signals


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
