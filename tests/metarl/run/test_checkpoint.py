"""Checkpoints: whole or not there, damage noticed, nothing executed, the right ones kept."""

import errno
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from metarl.run.checkpoint import (
    BEST,
    KEEP,
    LAST,
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    Progress,
    read_checkpoint,
    write_checkpoint,
)
from metarl.run.files import write_atomically
from tests.helpers.workbench import files_under, same_tensors

CHECKPOINT = Checkpoint(
    tensors={
        "learner.weight": torch.tensor([[1.5, -2.0], [torch.inf, 0.1]]),
        "learner.step": torch.tensor(7.0),
        "learner.transposed": torch.arange(6.0).reshape(2, 3).T,
        "generator": torch.Generator().manual_seed(1).get_state()[:40],
    },
    progress=Progress(
        iteration=12, env_steps=3_000_000_000, evaluation_env_steps=5, best_validation=-3.25, seconds=0.1
    ),
)


def at(iteration: int) -> Checkpoint:
    return replace(CHECKPOINT, progress=replace(CHECKPOINT.progress, iteration=iteration))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "one.safetensors"
    write_checkpoint(path, CHECKPOINT)
    return path


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def test_round_trip_is_exact(path: Path) -> None:
    read = read_checkpoint(path)
    assert same_tensors(read.tensors, CHECKPOINT.tensors)
    assert {name: value.dtype for name, value in read.tensors.items()} == {
        name: value.dtype for name, value in CHECKPOINT.tensors.items()
    }
    assert read.progress == CHECKPOINT.progress


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_failed_write_leaves_the_old_content_and_no_temporary(
    failing: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files_under(path.parent)
    monkeypatch.setattr(failing, disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, at(13))
    assert files_under(path.parent) == before


def test_refused_write_leaves_the_old_content(path: Path) -> None:
    """Refused by the system itself: a file cannot lie below a file."""
    before = path.read_bytes()
    with pytest.raises(OSError):
        write_atomically(path / "below a file", b"new")
    assert path.read_bytes() == before


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for position in range(len(content)):
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
        content[position] ^= 1 << position % 8
    path.write_bytes(content)
    assert read_checkpoint(path).progress == CHECKPOINT.progress


def test_every_truncation_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            read_checkpoint(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint .*nothing"):
        read_checkpoint(tmp_path / "nothing")


def test_foreign_safetensors_file_is_refused(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        read_checkpoint(path)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("dump", [torch.save, pickle.dump], ids=["torch.save", "pickle.dump"])
def test_pickle_is_refused_and_not_executed(dump: Any, path: Path) -> None:
    trace = path.with_name("executed")
    with path.open("wb") as file:
        dump(Payload(trace), file)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not trace.exists()
    with path.open("rb") as file:
        pickle.load(file) if dump is pickle.dump else torch.load(file, weights_only=False)
    assert trace.exists(), "the payload is harmless: the test shows nothing"


def test_store_keeps_the_last_ones_and_the_best(store: CheckpointStore) -> None:
    store.save(at(0))
    store.save_best(at(0))
    for iteration in (5, 10, 15, 100):
        store.save(at(iteration))
    assert store.iterations() == [100, 15, 10]
    assert len(store.iterations()) == KEEP
    assert store.load(BEST).progress.iteration == 0
    assert store.load(LAST).progress.iteration == 100
    assert store.load("15").progress.iteration == 15
    store.save_best(at(15))
    assert store.load(BEST).progress.iteration == 15
    assert len(files_under(store.directory)) == KEEP + 1


@pytest.mark.parametrize("which", ["5", "-1", "first", "", "../best"])
def test_store_says_which_checkpoints_it_has(which: str, store: CheckpointStore) -> None:
    store.save(at(3))
    with pytest.raises(CheckpointError, match="it has best, last, 3"):
        store.load(which)


def test_newest_good_checkpoint_is_found(store: CheckpointStore) -> None:
    for iteration in (1, 2, 3):
        store.save(at(iteration))
    assert store.load_newest_good().checkpoint.progress.iteration == 3
    assert store.load_newest_good().problems == []
    three, two, one = (store.directory / f"iteration-000000{i}.safetensors" for i in (3, 2, 1))
    three.write_bytes(b"")
    two.write_bytes(two.read_bytes()[:-1])
    checkpoint, problems = store.load_newest_good()
    assert checkpoint.progress.iteration == 1
    assert [str(path) in problem for path, problem in zip((three, two), problems, strict=True)] == [True, True]
    one.unlink()
    with pytest.raises(CheckpointError, match=r"0000003.*0000002"):
        store.load_newest_good()


def test_empty_store_is_an_error(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        store.load_newest_good()
    with pytest.raises(CheckpointError, match="none"):
        store.load(LAST)
