"""Files and directories that appear whole or not at all, and whether a place can be written."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from metarl.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its name holds either the old content or the new, whatever happens meanwhile."""
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def check_writable(path: Path) -> None:
    """Find out that a file can be written, before the work whose result it is to hold.

    Raises:
        UserError: it is a directory, or nothing can be written beside it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to write to, which gets its name when the block ends and is gone when the block fails.

    It is made at once, so that a bad path costs nothing.

    Raises:
        UserError: the path exists, or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another directory, or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        try:
            temporary.rename(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
