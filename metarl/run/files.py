"""A directory that appears whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from metarl.errors import UserError


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
