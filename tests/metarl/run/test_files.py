"""Files: what cannot be written is said before the work, and a new directory is whole or not there."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from metarl.errors import UserError
from metarl.run.files import (
    check_directory_writable,
    check_writable,
    new_directory,
    open_file,
    read_file,
    remove_abandoned,
    require_own_directories,
    temporary_directory,
    write_atomically,
)
from tests.helpers.workbench import files_under

NOT_WRITABLE = "/proc/nothing"
"""Not even by root."""


def test_a_file_that_can_be_written_is_not_made_by_the_check(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "page.html")
    assert files_under(tmp_path) == {"new/": b""}


def test_what_stands_there_is_left_alone_by_the_check(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(b"old")
    check_writable(tmp_path / "page.html")
    check_directory_writable(tmp_path)
    assert files_under(tmp_path) == {"page.html": b"old"}


def test_a_directory_is_made_by_its_check(tmp_path: Path) -> None:
    check_directory_writable(tmp_path / "new" / "figures")
    assert files_under(tmp_path) == {"new/": b"", "new/figures/": b""}


@pytest.mark.parametrize("place", ["folder", "file/page.html", f"{NOT_WRITABLE}/page.html"])
def test_a_file_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{place} cannot be written: \w+"):
        check_writable(tmp_path / place)


@pytest.mark.parametrize("place", ["file", "file/figures", NOT_WRITABLE])
def test_a_directory_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{place} cannot be written: \w+"):
        check_directory_writable(tmp_path / place)


def test_a_new_directory_gets_its_name_at_the_end(tmp_path: Path) -> None:
    with new_directory(tmp_path / "policy") as directory:
        (directory / "model").write_bytes(b"content")
        assert not (tmp_path / "policy").exists()
    assert files_under(tmp_path) == {"policy/": b"", "policy/model": b"content"}


def test_a_new_directory_is_gone_where_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed"), new_directory(tmp_path / "policy") as directory:
        (directory / "model").write_bytes(b"content")
        raise RuntimeError("failed")
    assert files_under(tmp_path) == {}


def test_a_new_directory_does_not_replace_what_stands_there(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    with pytest.raises(UserError, match="exists already"), new_directory(tmp_path / "policy"):
        pytest.fail("the work began")


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_under_the_temporary_name_is_not_written_through(dangling: bool, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    if not dangling:
        target.write_text("precious")
    (tmp_path / ".metrics.jsonl.tmp").symlink_to(target)
    write_atomically(tmp_path / "metrics.jsonl", b"new")
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"new"
    assert not (tmp_path / "metrics.jsonl").is_symlink()
    assert target.read_text() == "precious" if not dangling else not target.exists()


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_makes_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = temporary_directory(tmp_path / "run")
    left = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{dead.pid}."))
    elsewhere = left.with_name(left.name.replace(socket.gethostname(), "another-machine"))
    for path in (mine, left, elsewhere):
        (path / "deep").mkdir(parents=True)
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere])


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (os.mkfifo, "is a pipe, not a file"),
        (bind_socket, "is a socket, not a file"),
        (Path.mkdir, "is a directory, not a file"),
        (lambda path: path.symlink_to("/etc/passwd"), "is a symbolic link, which is not followed"),
        (lambda path: path.symlink_to("/dev/zero"), "is a symbolic link, which is not followed"),
    ],
    ids=["pipe", "socket", "directory", "link", "link to a device"],
)
def test_what_is_no_file_is_neither_read_nor_written(
    make: Callable[[Path], object], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    make(Path("odd"))
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_APPEND):
        with pytest.raises(OSError, match=f"{named}.*odd"):
            open_file(Path("odd"), flags)


def test_a_device_is_not_read() -> None:
    with pytest.raises(OSError, match="is a device, not a file"):
        read_file(Path("/dev/zero"))


def test_a_directory_that_is_a_link_is_not_one_to_write_into(tmp_path: Path) -> None:
    (tmp_path / "cells" / "deep").mkdir(parents=True)
    require_own_directories(tmp_path, ("cells", "absent"))

    link = tmp_path / "cells" / "deep" / "elsewhere"
    link.symlink_to(tmp_path)
    with pytest.raises(UserError, match="elsewhere is a symbolic link, which is not followed"):
        require_own_directories(tmp_path, ("cells",))
