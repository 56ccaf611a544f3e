"""Errors that the command line shows as one line, without a traceback, and the exit codes."""

from collections.abc import Iterable

EXIT_TRAINING_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class UserError(ValueError):
    """The user asked for something impossible; the message says what is wrong and what is allowed. Exit code 2."""


class TrainingError(RuntimeError):
    """Training stopped, for example at a number that was not finite; what was done is saved. Exit code 1."""


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
