"""The run directory: everything a run writes, and everything needed to resume, evaluate or reproduce it.

runs/<name>/
config.yaml          resolved configuration
metadata.json        library versions, git commit, seed, hardware, command
metrics.jsonl        one JSON object per meta-iteration
events.out.tfevents… TensorBoard
<env>.yaml           the environment, where it is described by a file
observation_space.json what the policy sees of a Gymnasium environment, in its order
source/              the user's own source files of the environment, as they were
checkpoints/         iteration-0000100.safetensors …, best.safetensors
evaluation-test.json evaluation at the end of training, with its figures <figure>-test.png
report.html          the page of `metarl report`
"""

import contextlib
import dataclasses
import errno
import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from metarl.console import shell_command
from metarl.envs.registry import env_label, is_env_file
from metarl.errors import UserError, unknown
from metarl.run.checkpoint import BEST, CheckpointStore, read_checkpoint
from metarl.run.config import TrainConfig, from_yaml, to_yaml
from metarl.run.device import resolve_device
from metarl.run.files import (
    is_empty_directory,
    open_unlinked,
    remove_abandoned,
    temporary_directory,
    write_atomically,
)
from metarl.run.reference_runs import reference_run, reference_runs

CONFIG_FILE = "config.yaml"
METADATA_FILE = "metadata.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"

_PACKAGES = ("gymnasium", "mujoco", "torch", "numpy", "scipy", "stable-baselines3", "tensorboard", "safetensors")


class RunDirectory:
    """One run on disk.

    Attributes:
        path: the directory.
        config: the resolved configuration.
        checkpoints: its checkpoints.
    """

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self.path = path
        self.config = config
        self.checkpoints = CheckpointStore(path / CHECKPOINTS)

    @classmethod
    def create(cls, config: TrainConfig) -> "RunDirectory":
        """Make the directory of a new run.

        A name that was asked for is never reused; one that is made up gets a number where it is taken.

        Raises:
            UserError: the name exists, or the directory cannot be written.
        """
        parent = Path(config.run_dir)
        temporary = temporary_directory(parent / run_stem(config))
        try:
            parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(parent)
            temporary.mkdir()
            try:
                return cls._under_first_free_name(parent, config, temporary)
            finally:  # where the run got its name, this is there no more
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raise UserError(f"run directory {parent} cannot be written: {error}") from None

    @classmethod
    def _under_first_free_name(cls, parent: Path, config: TrainConfig, temporary: Path) -> "RunDirectory":
        """Write a run's first files into a temporary directory, and rename it to the first name that is free."""
        for name in _names(config):
            path = parent / name
            if path.is_symlink() or (path.exists() and not is_empty_directory(path)):
                continue

            run = cls(path, dataclasses.replace(config, name=name))
            run._write_first_files(temporary)
            try:
                temporary.rename(path)  # atomic: two processes never get the same directory
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            return run

        taken = parent / config.name
        go_on = shell_command("metarl", "train", "--resume", taken)
        raise UserError(f"run {taken} exists; choose another --name, or go on with: {go_on}")

    def _write_first_files(self, directory: Path) -> None:
        """What a run holds before it trains; the environment's file is copied, so that the run does not need it.

        Args:
            directory: where the run lies for now.
        """
        if is_env_file(self.config.env):
            shutil.copy(self.config.env, directory / env_label(self.config.env))
            self._use_own_env_file()
        write_atomically(directory / CONFIG_FILE, to_yaml(self.config).encode())
        write_atomically(directory / METADATA_FILE, json.dumps(_metadata(self.config), indent=1).encode())
        (directory / METRICS_FILE).touch()

    @classmethod
    def open(cls, run: str, parent: str = "runs") -> "RunDirectory":
        """Open an existing run by its path, by its name below `parent`, or a reference run by its name.

        Raises:
            UserError: there is none, or it is not a run.
        """
        candidates = (Path(run), Path(parent) / run, reference_run(run))
        path = next((path for path in candidates if path is not None and path.is_dir()), None)
        if path is None:
            own, shipped = _run_names(Path(parent)), _run_names(reference_runs())
            if own:
                raise unknown("run", run, [*own, *shipped])
            raise UserError(
                f"there is no run {run!r}, neither here nor in {parent}/; train one with: metarl train, "
                f"or take one that is shipped: {', '.join(shipped)}"
            )

        try:
            config = from_yaml((path / CONFIG_FILE).read_text())
        except OSError as error:
            raise UserError(f"{path} is not a run: {error}") from None
        except ValueError as error:
            raise UserError(f"{path / CONFIG_FILE}: {error}") from None

        opened = cls(path, config)
        opened._use_own_env_file()
        return opened

    @classmethod
    def newest(cls, config: TrainConfig) -> "RunDirectory | None":
        """The run that `create` made last from this configuration; None where there is none."""
        newest = None
        for name in _names(config):
            path = Path(config.run_dir) / name
            if not (path / CONFIG_FILE).is_file():
                break
            newest = path
        return cls.open(str(newest)) if newest else None

    def _use_own_env_file(self) -> None:
        """Read the environment from the run's own copy of its file, wherever the run lies by now."""
        if is_env_file(self.config.env):
            self.config = dataclasses.replace(self.config, env=str(self.path / env_label(self.config.env)))

    def check_can_resume(self) -> None:
        """Find out that training can go on from what the run holds; reads only.

        A run that was killed before its first regular checkpoint has nothing to lose, and begins again.

        Raises:
            CheckpointError: no regular checkpoint can be read.
            UserError: the run has none, but holds the result of training, which a new beginning would overwrite.
        """
        if self.checkpoints.iterations():
            self.checkpoints.load_newest_good()
            return

        best = self.checkpoints.path(BEST)
        trained = max((row["iteration"] for row in self.read_metrics()), default=0)
        if best.exists():
            trained = max(trained, read_checkpoint(best).progress.iteration)
        if trained > 0 or any(self.path.glob("evaluation-*.json")):
            holds = "only the best policy" if best.exists() else "no checkpoint"
            iterations = trained or self.config.iterations
            raise UserError(
                f"run {self.path} cannot be resumed: of its {iterations} iterations it holds {holds}, "
                "and not the state that training goes on from; nothing was changed"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for writing while the block runs; the lock ends with the process at the latest.

        Raises:
            UserError: another process is writing it, or the directory cannot be written.
        """
        # The file is closed after the block, but an OSError of the block is not one of the lock.
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open_unlinked(self.path / ".lock", os.O_WRONLY | os.O_CREAT))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"run {self.path} is being written by another process") from None
            except OSError as error:
                raise UserError(f"run {self.path} cannot be written: {error}") from None
            yield

    def set_iterations(self, iterations: int) -> None:
        """Change how many iterations the run is to have; `write_config` saves it.

        Raises:
            UserError: the run has done more already.
        """
        done = max(self.checkpoints.iterations(), default=0)
        if iterations < done:
            raise UserError(f"run {self.path} has done {done} iterations; --iterations {iterations} is less")
        self.config = dataclasses.replace(self.config, iterations=iterations)

    def write_config(self) -> None:
        """Save the configuration as it is now."""
        write_atomically(self.path / CONFIG_FILE, to_yaml(self.config).encode())

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with open_unlinked(self.path / METRICS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
            file.write((json.dumps(metrics) + "\n").encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; one that was cut off by a crash is left out."""
        try:
            lines = (self.path / METRICS_FILE).read_text().splitlines()
        except FileNotFoundError:  # a run that was moved without it
            return []

        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def rewind_metrics(self, iteration: int) -> None:
        """Delete the rows after an iteration, because training writes them again."""
        kept = [json.dumps(row) + "\n" for row in self.read_metrics() if row["iteration"] <= iteration]
        write_atomically(self.path / METRICS_FILE, "".join(kept).encode())


def _run_names(parent: Path) -> list[str]:
    """Names of the runs in a directory."""
    names = (path.parent.name for path in parent.glob(f"*/{CONFIG_FILE}"))
    return sorted(name for name in names if not name.startswith("."))  # not one that is being made


def run_stem(config: TrainConfig) -> str:
    """A run's name before it gets a number."""
    if config.name:
        return config.name
    label = Path(env_label(config.env)).stem if is_env_file(config.env) else config.env
    return f"{config.agent}-{as_file_name(label)}-seed{config.seed}"


def numbered(stem: str, number: int) -> str:
    """The n-th name of a stem; the first one has no number."""
    return stem if number == 1 else f"{stem}-{number}"


def as_file_name(env: str) -> str:
    """An environment's name as part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in env).strip("-").lower()


def _names(config: TrainConfig) -> Iterator[str]:
    """The names that a run of this configuration may take, in order: one that was asked for, or numbered ones."""
    stem = run_stem(config)
    if config.name:
        yield stem
    else:
        yield from (numbered(stem, number) for number in itertools.count(1))


def _metadata(config: TrainConfig) -> dict[str, Any]:
    """What it takes to reproduce the run, besides its configuration."""
    return {
        "metarl": importlib.metadata.version("metarl-testbed"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "seed": config.seed,
        "device": str(resolve_device(config.device)),
        "device_name": torch.cuda.get_device_name() if config.device.startswith("cuda") else platform.processor(),
        "cpu_count": os.cpu_count(),
        "command": ["metarl", *sys.argv[1:]],
    }


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, '+changes' if there are any; None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain") else commit
    except (OSError, subprocess.SubprocessError):
        return None
