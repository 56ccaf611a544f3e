"""Files and directories that appear whole or not at all, and whether a place can be written.

Whatever belongs to a run, a policy or a comparison is opened here, for reading as for writing: without following a
symbolic link of that name, because what came from somebody else must not lead to a file elsewhere, and without waiting,
because a pipe or a device in a file's place would be waited for without end.
"""

import contextlib
import errno
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from metarl.errors import UserError

_TEMPORARY = ".tmp"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that under its name lies either the old content or the new, even after a crash.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)  # what a killed process left, or a link that somebody put there

    try:
        with naming(path), open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the content must be on the disk before the name points to it
        temporary.replace(path)
    except BaseException:  # Ctrl-C included: nothing half-written stays behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file where the block fails of a full disk, which does not say which one it was."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def open_file(path: Path, flags: int) -> BinaryIO:
    """Open a regular file, and nothing else that may stand under its name.

    Args:
        path: the file.
        flags: as for `os.open`; the descriptor is not inherited by other programs.

    Raises:
        OSError: it is a link, a directory, a pipe, a socket or a device, or cannot be opened; names the file.
    """
    # Opening a pipe would wait for its other end.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode=0o666)
    except OSError as error:
        found = what_stands_at(path)
        raise OSError(error.errno, f"is {found}, not a file" if found else error.strerror, str(path)) from None

    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"is {what_stands_at(path)}, not a file", str(path))
    return os.fdopen(descriptor, "wb" if flags & (os.O_WRONLY | os.O_RDWR) else "rb")


def read_file(path: Path) -> bytes:
    """The content of a regular file; raises as `open_file`."""
    with open_file(path, os.O_RDONLY) as file:
        return file.read()


_OTHER_KINDS = {
    stat.S_IFLNK: "a symbolic link, which is not followed",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def what_stands_at(path: Path) -> str:
    """What stands in the place of a regular file, in words; "" where that is one, or nothing."""
    try:
        return _OTHER_KINDS.get(stat.S_IFMT(path.lstat().st_mode), "")
    except OSError:
        return ""


def require_own_directories(path: Path, names: Iterable[str]) -> None:
    """Refuse links in the place of directories: files would be written to, and removed from, where they lead.

    Args:
        path: a directory, which may itself be a link.
        names: directories in it, looked at with all that lie below.

    Raises:
        UserError: names the link.
    """
    for name in names:
        below = [Path(root, one) for root, directories, _ in os.walk(path / name) for one in directories]
        for directory in (path / name, *below):
            if directory.is_symlink():
                raise UserError(f"{directory} is {_OTHER_KINDS[stat.S_IFLNK]}; copy what it leads to, as `cp -rL` does")


def check_writable(path: Path) -> None:
    """Find out that a file can be written, before the work whose result it is to hold.

    Makes the directory of the file, but not the file.

    Raises:
        UserError: it is a directory, or its directory cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        _try_to_write_into(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def check_directory_writable(path: Path) -> None:
    """Make a directory, and find out that files can be written into it, before the work whose results it is to hold.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        _try_to_write_into(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def _try_to_write_into(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to write into, which gets its name when the block ends and is gone when the block fails.

    It is made before the block runs, so that a bad path shows before the work.

    Args:
        path: the name that it gets in the end.

    Yields:
        the directory under its temporary name.

    Raises:
        UserError: the path exists, or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another directory, or remove it")

    temporary = temporary_directory(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None

    try:
        yield temporary
        _sync_files(temporary)
        try:
            temporary.rename(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def temporary_directory(path: Path) -> Path:
    """The name under which this process makes a directory; `remove_abandoned` recognises it."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{_TEMPORARY}")


def is_empty_directory(path: Path) -> bool:
    """Whether a directory holds nothing, as one that was left where a process was killed before its first file."""
    return path.is_dir() and not any(path.iterdir())


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary directories that killed processes of this machine left below a directory."""
    for path in parent.glob(f".*.{socket.gethostname()}.*{_TEMPORARY}"):
        number = path.name.removesuffix(_TEMPORARY).rpartition(".")[2]
        if path.is_dir() and not path.is_symlink() and number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether there is a process of this number; one of another user counts."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_files(directory: Path) -> None:
    """Wait until the content of every file is on the disk, before the directory's name promises it."""
    for path in directory.iterdir():
        with open_file(path, os.O_RDONLY) as file:
            os.fsync(file.fileno())
