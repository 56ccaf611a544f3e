"""What ends a command before its end: errors, shown as one line without a traceback, exit codes and signals.

Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 all ask a command to save and stop. While modules are imported there is nothing to
save, and an exception in the middle of a library's import comes out as something else; so a signal ends the process at
once. As soon as the command runs, a signal is a KeyboardInterrupt, which every command takes as the wish to keep what
is done and leave. Training takes it over while it iterates (`metarl/training/stopping.py`).
"""

import contextlib
import difflib
import math
import os
import signal
import sysconfig
import threading
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

EXIT_TRAINING_FAILED = 1
"""Training, an environment or the program itself failed; what was done is saved."""
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
"""By Ctrl-C, or by another signal that asks to stop; what was done is saved."""

MAX_REASON = 400
"""Characters of an exception's message that an error line shows."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class UserError(ValueError):
    """The user asked for something impossible; the message says what is wrong and what is allowed. Exit code 2."""


class TrainingError(RuntimeError):
    """Training stopped, for example at a number that was not finite; what was done is saved. Exit code 1."""


def what_happened(error: BaseException) -> str:
    """An exception of any kind on one line: its type, what it says, and where it was raised.

    The place is the innermost one that is not in a library, because that is the one to mend.
    """
    message = " ".join(str(error).split())
    if len(message) > MAX_REASON:
        message = f"{message[:MAX_REASON]}…"
    if isinstance(error, SystemExit):
        message = f"called sys.exit({message})"
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__

    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _in_a_library(frame.filename):
            return f"{said} ({Path(frame.filename).name}:{frame.lineno})"
    return said


def _in_a_library(filename: str) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    libraries = (sysconfig.get_path("stdlib"), "site-packages", "<frozen")
    return any(part in filename for part in libraries)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not known: 'unknown KIND NAME (did you mean …?); known are …'."""
    names = list(known)
    return UserError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known are {', '.join(names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)' where a known name is near, else ''."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def require_at_least(config: object, **least: int) -> None:
    """Check that fields of a configuration are not below their least values; None is no value.

    Args:
        config: the configuration.
        least: field → its least value.

    Raises:
        UserError: names the first field that is below.
    """
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise UserError(f"{name} must be at least {bound}, got {value}")


def require_seconds(field: str, value: float) -> None:
    """Check that a length of time is finite and not negative.

    Raises:
        UserError: names the field.
    """
    if not math.isfinite(value):
        raise UserError(f"{field} must be finite, got {value}")
    if value < 0:
        raise UserError(f"{field} must not be negative, got {value}")


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
