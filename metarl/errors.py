"""Errors that the command line shows as one line, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was asked for cannot be done; the message says what is wrong and what is allowed. Exit code 2."""


class TrainingError(RuntimeError):
    """Training stopped because a number was not finite; the run was saved first. Exit code 1."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """'unknown KIND NAME (did you mean …?); known are …'."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint}; known are {', '.join(names)}")
