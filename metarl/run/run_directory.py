"""The run directory: everything a run writes and everything needed to go on, evaluate or reproduce it.

runs/<name>/
config.yaml          resolved configuration
metadata.json        library versions, git commit, seed, hardware, command
metrics.jsonl        one JSON object per meta-iteration
events.out.tfevents… TensorBoard
<env>.yaml           the environment, where it is described by a file
checkpoints/         iteration-0000100.safetensors …, best.safetensors
evaluation-test.json evaluation at the end of training, with its figures <figure>-test.png
report.html          the page of `metarl report`
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
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

from metarl.envs.registry import env_label, is_env_file
from metarl.errors import UserError, unknown
from metarl.run.checkpoint import CheckpointStore
from metarl.run.config import TrainConfig, from_yaml, to_yaml
from metarl.run.device import resolve_device
from metarl.run.files import write_atomically
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

        An explicit name is never reused; a name made up here gets a number where it is taken.

        Raises:
            UserError: the name exists, or the directory cannot be written.
        """
        parent = Path(config.run_dir)
        stem, number = run_stem(config), 1
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while True:
                name = numbered(stem, number)
                try:
                    (parent / name).mkdir()
                    break
                except FileExistsError:
                    if config.name:
                        raise UserError(
                            f"run {parent / name} exists; choose another --name, or go on with: "
                            f"metarl train --resume {parent / name}"
                        ) from None
                    number += 1
            run = cls(parent / name, dataclasses.replace(config, name=name))
            try:
                if is_env_file(config.env):
                    shutil.copy(config.env, run.path / env_label(config.env))
                    run._use_own_env_file()
                run.write_config()
                write_atomically(run.path / METADATA_FILE, json.dumps(_metadata(run.config), indent=1).encode())
                (run.path / METRICS_FILE).touch()
            except OSError:
                shutil.rmtree(run.path, ignore_errors=True)
                raise
        except OSError as error:
            raise UserError(f"run directory {parent} cannot be written: {error}") from None
        return run

    @classmethod
    def open(cls, run: str, parent: str = "runs") -> "RunDirectory":
        """Open an existing run by its path, by its name below `parent`, or a reference run by its name.

        Raises:
            UserError: there is none, or it is not a run.
        """
        candidates = (Path(run), Path(parent) / run, reference_run(run))
        path = next((path for path in candidates if path is not None and path.is_dir()), None)
        if path is None:
            known = [*_run_names(Path(parent)), *_run_names(reference_runs())]
            raise unknown("run", run, known)
        try:
            run_directory = cls(path, from_yaml((path / CONFIG_FILE).read_text()))
        except OSError as error:
            raise UserError(f"{path} is not a run: {error}") from None
        except ValueError as error:
            raise UserError(f"{path / CONFIG_FILE}: {error}") from None
        run_directory._use_own_env_file()
        return run_directory

    def _use_own_env_file(self) -> None:
        """Read the environment from the run's copy of its file, wherever the run lies by now."""
        if is_env_file(self.config.env):
            self.config = dataclasses.replace(self.config, env=str(self.path / env_label(self.config.env)))

    @classmethod
    def newest(cls, config: TrainConfig) -> "RunDirectory | None":
        """The run that `create` made last from this configuration, None where there is none."""
        parent, stem = Path(config.run_dir), run_stem(config)
        found, number = None, 1
        while (parent / (name := numbered(stem, number)) / CONFIG_FILE).is_file():
            found, number = name, number + 1
            if config.name:
                break
        return cls.open(str(parent / found)) if found else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for writing; the lock ends with the process at the latest.

        Raises:
            UserError: another process is writing it, or the directory cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                fcntl.flock(stack.enter_context((self.path / ".lock").open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"run {self.path} is being written by another process") from None
            except OSError as error:
                raise UserError(f"run {self.path} cannot be written: {error}") from None
            yield

    def set_iterations(self, iterations: int) -> None:
        """Change how long the run is to go on; `write_config` makes it last.

        Raises:
            UserError: the run has done more already.
        """
        done = max(self.checkpoints.iterations(), default=0)
        if iterations < done:
            raise UserError(f"run {self.path} has done {done} iterations; --iterations {iterations} is less")
        self.config = dataclasses.replace(self.config, iterations=iterations)

    def write_config(self) -> None:
        """Write the configuration as it is now."""
        write_atomically(self.path / CONFIG_FILE, to_yaml(self.config).encode())

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / METRICS_FILE).open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl; a line that was cut off by a crash is left out."""
        rows = []
        for line in (self.path / METRICS_FILE).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def rewind_metrics(self, iteration: int) -> None:
        """Drop what was written after an iteration, before it is written again."""
        (self.path / METRICS_FILE).touch()  # a run killed while it was made has none
        kept = [row for row in self.read_metrics() if row["iteration"] <= iteration]
        write_atomically(self.path / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _run_names(parent: Path) -> list[str]:
    """Names of the runs in a directory."""
    return sorted(path.parent.name for path in parent.glob(f"*/{CONFIG_FILE}"))


def run_stem(config: TrainConfig) -> str:
    """A run's name before it is given a number."""
    label = Path(env_label(config.env)).stem if is_env_file(config.env) else config.env
    return config.name or f"{config.agent}-{as_file_name(label)}-seed{config.seed}"


def numbered(stem: str, number: int) -> str:
    """The first run of a name has no number."""
    return stem if number == 1 else f"{stem}-{number}"


def as_file_name(env: str) -> str:
    """An environment's name as part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in env).strip("-").lower()


def _metadata(config: TrainConfig) -> dict[str, Any]:
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
    """Commit of the source tree this package runs from, with '+changes' if it has any; None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
