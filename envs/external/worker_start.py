"""Why worker processes cannot start, in one line.

A worker is a new Python process: it imports the main script, then makes its environments from what it was sent. Of all
that fails there the parent sees only a closed pipe. So a worker writes the cause into a file before it ends.
"""

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium

from metarl.envs.physics.models import say_warnings_of_mujoco

EXIT_STARTS_AGAIN = 93
"""Exit code of a worker whose main script would start workers of its own while it is imported."""

_MAX_CAUSE = 500
"""Characters of a cause that an error message shows."""

WAYS_OUT = (
    "register the environment in a module of its own and name it 'module:id', put what makes it into a module, or "
    "take num_workers 0, all environments in this process"
)


class CannotStartError(RuntimeError):
    """Worker processes cannot start; says why."""


class BlockMaker:
    """Makes what a worker holds, from bytes: so that a fault in reading them is reported like any other.

    Args:
        payload: a function without arguments, as cloudpickle wrote it.
        fault_file: where a worker writes why it cannot start; it does not exist before.
    """

    def __init__(self, payload: bytes, fault_file: str) -> None:
        self.payload = payload
        self.fault_file = fault_file

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make it; a worker that cannot writes the cause down and ends without a traceback."""
        say_warnings_of_mujoco()
        try:
            made: gymnasium.Env[Any, Any] = cloudpickle.loads(self.payload)()
        except Exception as error:
            if multiprocessing.parent_process() is None:
                raise
            self._write_down(error)
            raise SystemExit(1) from None

        return made

    def _write_down(self, error: Exception) -> None:
        cause = f"a worker cannot make the environment that this process can make: {_in_one_line(error)}"
        with contextlib.suppress(FileExistsError), Path(self.fault_file).open("x", encoding="utf-8") as file:
            file.write(cause)


def block_makers(makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]], fault_file: str) -> list[BlockMaker]:
    """Prepare what is sent to the workers.

    Raises:
        CannotStartError: the workers could not import the main script, or what makes environments cannot be sent.
    """
    # Started once more, this script would start workers that start workers. The first process says so.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(EXIT_STARTS_AGAIN)

    problem = _main_problem()
    if problem:
        raise CannotStartError(problem)

    try:
        return [BlockMaker(cloudpickle.dumps(maker), fault_file) for maker in makers]
    except Exception as error:
        raise CannotStartError(
            "what makes the environment cannot be sent to them, since it holds what no other process can have, such as "
            f"an open file, a lock or a connection: {_in_one_line(error)}"
        ) from None


def why_ended(fault_file: str, exit_codes: Sequence[int | None]) -> str:
    """Why workers ended while they started: by what one of them wrote down, or else by an exit code."""
    file = Path(fault_file)
    if file.is_file():
        cause = file.read_text(encoding="utf-8")
        if "NameNotFound" in cause or "NamespaceNotFound" in cause:
            cause += " (an id that is registered under `if __name__ == '__main__':` or in a notebook is unknown there)"
        return cause

    main = getattr(sys.modules["__main__"], "__file__", None) or "the main module"
    code = next((code for code in exit_codes if code), None)
    if code == EXIT_STARTS_AGAIN:
        return (
            f"they import the main script, and {main} would start workers again: it needs `if __name__ == '__main__':`"
        )
    return f"one ended with exit code {code} while it imported {main}; what it said stands above"


def _main_problem() -> str:
    """Why workers cannot import the main script; empty where they can, or need not."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    by_name = getattr(main, "__spec__", None) is not None
    if file is None or by_name or Path(file).is_file():
        return ""
    return f"they import the main script, and {file} is no file that they could import: write the script to a file"


def _in_one_line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MAX_CAUSE else f"{text[:_MAX_CAUSE]}…"
