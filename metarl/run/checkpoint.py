"""Checkpoints: one safetensors file each, written atomically and checked when read. Reading never executes code.

The file's header holds the progress of the run as JSON, and a SHA-256 over it and every tensor by which damage is
noticed. A file is written under a temporary name, synced and renamed, so that a checkpoint's name always stands for a
complete file.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize_tensors
from torch import Tensor

from metarl.errors import UserError
from metarl.run.files import open_file, write_atomically
from metarl.run.schema import SchemaError, parse_json

FORMAT = "metarl-checkpoint-1"
KEEP = 3
"""Regular checkpoints that are kept, besides the best one."""

BEST = "best"
"""The checkpoint that was best on the validation split."""
LAST = "last"
"""The newest regular checkpoint."""

_SUFFIX = ".safetensors"


class CheckpointError(ValueError):
    """A checkpoint is missing, truncated, corrupt or foreign."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        iteration: meta-iterations done.
        env_steps: environment steps taken by training, adaptation included.
        evaluation_env_steps: environment steps taken by evaluations during training.
        best_validation: best score on the validation split so far: the mean return after the last adaptation step, or
            of a trial where trials are separate.
        seconds: wall-clock seconds of training.
    """

    iteration: int = 0
    env_steps: int = 0
    evaluation_env_steps: int = 0
    best_validation: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a run at one moment; training that goes on from it gives the same numbers.

    Attributes:
        tensors: the learner's state ("learner.*"), the curriculum's ("curriculum.*"), the statistics of the
            observations ("observations.*") and the random generator's ("generator").
        progress: how far the run is.
        config: what it was trained with, as JSON (see `metarl.run.config.to_json`); "" in those of earlier versions.
    """

    tensors: dict[str, Tensor]
    progress: Progress
    config: str = ""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically.

    Raises:
        OSError: the file cannot be written; whatever stood there before still does.
    """
    # Contiguous, because the digest is over the bytes in memory.
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    progress = json.dumps(asdict(checkpoint.progress))
    header = {"format": FORMAT, "progress": progress, "sha256": _digest(tensors, progress, checkpoint.config)}
    if checkpoint.config:
        header["config"] = checkpoint.config
    write_atomically(path, serialize_tensors(tensors, metadata=header))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check one; its tensors lie on the CPU.

    Raises:
        CheckpointError: missing, truncated, corrupt or foreign; names the file and what is wrong.
    """
    if not os.path.lexists(path):
        raise CheckpointError(f"there is no checkpoint {path}")
    _require_file(path)

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        config = header.get("config", "")
        digest = _digest(tensors, header.get("progress", ""), config)
    # A header may name types and sizes of any kind: each way to fail means the same.
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"checkpoint {path} is truncated or corrupt: {error}") from None

    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this program (format {header.get('format')!r})")
    if header.get("sha256") != digest:
        raise CheckpointError(f"checkpoint {path} is corrupt: its content is not what was saved")
    # Whoever writes a file of his own can give it a checksum that is right.
    try:
        return Checkpoint(tensors, _parse_progress(header["progress"]), config)
    except UserError as error:
        raise CheckpointError(f"checkpoint {path}: progress: {error}") from None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read, and holds what was saved."""
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _header(path: Path) -> dict[str, str]:
    """The header of a file; empty where it cannot be read."""
    try:
        _require_file(path)
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (CheckpointError, SafetensorError, OSError, ValueError):
        return {}


def _require_file(path: Path) -> None:
    """Refuse what is no regular file; the library that reads checkpoints opens them itself.

    Raises:
        CheckpointError: says what it is.
    """
    try:
        open_file(path, os.O_RDONLY).close()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from None


class NewestCheckpoint(NamedTuple):
    """The newest regular checkpoint of a run that can be read.

    Attributes:
        checkpoint: as it was read.
        problems: what was wrong with newer ones, a line each.
    """

    checkpoint: Checkpoint
    problems: list[str]


class CheckpointStore:
    """The checkpoints of one run: the last KEEP, named by iteration, and the best on the validation split."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint of its iteration and delete those older than the last KEEP."""
        write_checkpoint(self.path(checkpoint.progress.iteration), checkpoint)
        for old in self.iterations()[KEEP:]:
            self.path(old).unlink(missing_ok=True)

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Replace the best checkpoint."""
        write_checkpoint(self.path(BEST), checkpoint)

    def recorded_configs(self) -> Iterator[tuple[Path, str]]:
        """What checkpoints say the run was trained with, as JSON, each with its file; the newest first.

        Those of earlier versions do not say it. Only headers are read: whether a file is whole is not found out.
        """
        paths = [*map(self.path, self.iterations()), self.path(BEST)]
        for path in paths:
            config = _header(path).get("config")
            if config:
                yield path, config

    def iterations(self) -> list[int]:
        """Iterations with a regular checkpoint, newest first.

        Raises:
            CheckpointError: the directory is there, but cannot be read.
        """
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"{self.directory} cannot be read: {error.strerror or error}") from None

        numbers = [name.removeprefix("iteration-").removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        return sorted((int(number) for number in numbers if number.isdigit()), reverse=True)

    def load(self, which: str) -> Checkpoint:
        """Read one.

        Args:
            which: "best", "last" or an iteration.

        Raises:
            CheckpointError: there is none of that name, or it cannot be read.
        """
        kept = self.iterations()
        if which == BEST:
            return read_checkpoint(self.path(BEST))
        if which == LAST and kept:
            return self._read(kept[0])
        if which.isdigit() and int(which) in kept:
            return self._read(int(which))

        offered = ", ".join([BEST, LAST, *map(str, kept)]) if kept else "none"
        raise CheckpointError(f"{self.directory} has no checkpoint {which!r}; it has {offered}")

    def load_newest_good(self) -> NewestCheckpoint:
        """The newest regular checkpoint that can be read.

        Raises:
            CheckpointError: none can be read.
        """
        problems: list[str] = []
        for iteration in self.iterations():
            try:
                return NewestCheckpoint(self._read(iteration), problems)
            except CheckpointError as error:
                problems.append(str(error))

        raise CheckpointError("; ".join(problems) or f"{self.directory} holds no checkpoint")

    def _read(self, iteration: int) -> Checkpoint:
        """Read a regular checkpoint.

        Raises:
            CheckpointError: it cannot be read, or is that of another iteration.
        """
        path = self.path(iteration)
        checkpoint = read_checkpoint(path)
        if checkpoint.progress.iteration != iteration:
            raise CheckpointError(f"checkpoint {path} is that of iteration {checkpoint.progress.iteration}")
        return checkpoint

    def path_of(self, which: str) -> Path:
        """File of the checkpoint that `load` takes."""
        if which == LAST:
            return self.path(self.iterations()[0])
        return self.path(int(which) if which.isdigit() else which)

    def path(self, which: int | str) -> Path:
        """File of the best checkpoint (BEST) or of an iteration."""
        stem = which if isinstance(which, str) else f"iteration-{which:07d}"
        return self.directory / f"{stem}{_SUFFIX}"


def _parse_progress(text: str) -> Progress:
    """The progress of a run.

    Raises:
        UserError: it is not one; names the field.
    """
    progress = parse_json(text, Progress)
    assert isinstance(progress, Progress)
    for name in ("iteration", "env_steps", "evaluation_env_steps"):
        if getattr(progress, name) < 0:
            raise SchemaError(name, f"must not be negative, got {getattr(progress, name)}")
    return progress


def require_state_like(path: Path, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Refuse tensors that are not of the types of a learner's own, or hold what no training writes.

    Names and shapes are the learner's to check. A parameter that is not a number would make every action one, and the
    environment would be blamed.

    Args:
        path: the file that they come from.
        state: by name.
        own: the learner's present state.

    Raises:
        CheckpointError: names the file and the tensor.
    """
    for name, value in state.items():
        if name in own and value.dtype != own[name].dtype:
            raise CheckpointError(f"checkpoint {path}: {name} must be {own[name].dtype}, got {value.dtype}")
        if value.is_floating_point() and bool(value.isnan().any()):
            raise CheckpointError(f"checkpoint {path}: {name} holds a value that is not a number")


def _digest(tensors: dict[str, Tensor], progress: str, config: str) -> str:
    """SHA-256 over the progress, the configuration, and every tensor with its name, type and shape."""
    digest = hashlib.sha256(progress.encode())
    digest.update(config.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
