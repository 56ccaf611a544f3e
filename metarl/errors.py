"""Errors that the command line shows as one line, without a traceback, and the exit codes."""

import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

EXIT_TRAINING_FAILED = 1
"""Training, an environment or the program itself failed; what was done is saved."""
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
"""By Ctrl-C, or by another signal that asks to stop; what was done is saved."""

MAX_REASON = 400
"""Characters of an exception's message that an error line shows."""


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

    frames = traceback.extract_tb(error.__traceback__)
    libraries = (sysconfig.get_path("stdlib"), "site-packages", "<frozen")
    ours = [frame for frame in frames if not any(part in frame.filename for part in libraries)]
    if not ours:
        return said
    return f"{said} ({Path(ours[-1].filename).name}:{ours[-1].lineno})"


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not known: 'unknown KIND NAME (did you mean …?); known are …'."""
    from metarl.envs.registry import did_you_mean  # imports PyTorch, which the command line does without for long

    names = list(known)
    return UserError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known are {', '.join(names)}")


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
