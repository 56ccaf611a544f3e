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
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypedDict

from metarl.console import shell_command
from metarl.envs.physics.robot_env import is_deterministic
from metarl.envs.registry import env_label, is_env_file, modules_named_by
from metarl.errors import UserError
from metarl.run.checkpoint import BEST, LAST, CheckpointStore, Progress, is_whole, read_checkpoint
from metarl.run.config import TrainConfig, differences, from_plain, from_yaml, to_plain, to_yaml
from metarl.run.device import cpu_name, device_name, resolve_device
from metarl.run.files import (
    is_empty_directory,
    naming,
    open_file,
    remove_abandoned,
    require_own_directories,
    temporary_directory,
    what_stands_at,
    write_atomically,
)
from metarl.run.find_run import CHECKPOINTS, CONFIG_FILE, find_run
from metarl.run.schema import SchemaError, load_json, parse, parse_json, read_json, read_text

METADATA_FILE = "metadata.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = ".lock"
SOURCES = "source"
"""In a run of a user's own environment: the source files that it was trained with."""

_WRITTEN = (
    CONFIG_FILE,
    LOCK_FILE,
    "*.json",
    "*.jsonl",
    "*.png",
    "events.out.tfevents.*",
    f"{CHECKPOINTS}/*.safetensors",
)
"""Names of the files that training writes into a run that is there."""


class MetricsRow(TypedDict):
    """What every line of metrics.jsonl has, besides what was measured in that iteration."""

    iteration: int
    env_steps: int
    evaluation_env_steps: int
    seconds: float


class Metadata(TypedDict, total=False):
    """What metadata.json may hold; runs of earlier versions lack some of it."""

    metarl: str
    python: str
    platform: str
    packages: dict[str, str]
    git_commit: str | None
    seed: int
    device: str
    device_name: str
    physics_determinism: str
    cpu_name: str
    cpu_count: int | None
    command: list[str]
    modules: dict[str, str]
    config: dict[str, Any]


TRUST_VARIABLE = "METARL_TRUST"
"""Environment variable: where it is set, as by --trust, runs may import modules from the working directory."""

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
        metadata = _metadata(self.config)
        if is_env_file(self.config.env):
            shutil.copy(self.config.env, directory / env_label(self.config.env))
            self._use_own_env_file()
        write_atomically(directory / CONFIG_FILE, to_yaml(self.config).encode())
        write_atomically(directory / METADATA_FILE, json.dumps(metadata, indent=1).encode())
        (directory / METRICS_FILE).touch()

    @classmethod
    def open(cls, run: str, parent: str = "runs") -> "RunDirectory":
        """Open an existing run by its path, by its name below `parent`, or a reference run by its name.

        Raises:
            UserError: there is none, or it is not a run.
        """
        path = find_run(run, parent)
        opened = cls(path, _read_config(path))
        opened._use_own_env_file()
        opened._require_trust()
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
        """Read the environment from the run's own copy of its file, wherever the run lies by now.

        Raises:
            UserError: what has its name is no file.
        """
        if not is_env_file(self.config.env):
            return
        own = self.path / env_label(self.config.env)
        found = what_stands_at(own)
        if found:
            raise UserError(f"{own} is {found}, not a file")
        self.config = dataclasses.replace(self.config, env=str(own))

    def _require_trust(self) -> None:
        """Refuse a run of somebody else that would import modules from the working directory.

        What is installed, or lies on PYTHONPATH, the user has put there; a module in the working directory may have
        come with the run. One that this run was made with, here, is recorded in it.

        Raises:
            UserError: names the modules and their files.
        """
        modules = modules_named_by(self.config.env)
        if not modules or os.environ.get(TRUST_VARIABLE):
            return

        recorded = self.read_metadata().get("modules", {})
        for name in modules:
            file = _in_working_directory(name)
            if file is not None and recorded.get(name) != _fingerprint(file):
                raise UserError(
                    f"run {self.path} names code, and was not made here: it would import the module {name} from "
                    f"{file}; allow it with --trust if you trust whoever wrote it, or put its directory on PYTHONPATH"
                )

    def check_can_resume(self) -> None:
        """Find out that training can go on from what the run holds; reads only.

        A run that was killed before its first regular checkpoint has nothing to lose, and begins again.

        Raises:
            CheckpointError: no regular checkpoint can be read.
            UserError: the run has none, but holds the result of training, which a new beginning would overwrite; or
                rows of its metrics are lost; or something else stands where it will write a file.
        """
        self._check_kinds_of_files()
        if self.checkpoints.iterations():
            newest = self.checkpoints.load_newest_good().checkpoint
            self._check_no_metrics_lost(newest.progress.iteration)
            return

        best = self.checkpoints.path(BEST)
        trained = max((row["iteration"] for row in self.read_metrics()), default=0)
        if best.exists():
            trained = max(trained, read_checkpoint(best).progress.iteration)
        if trained > 0 or any(self.path.glob("evaluation-*.json")):
            holds = "only the best policy" if best.exists() else "no checkpoint"
            iterations = trained or self.config.iterations
            start = shell_command("metarl", "train", "--start-from", self.path)
            go_on = f". A new run can start from its best policy: {start}" if best.exists() else ""
            raise UserError(
                f"run {self.path} cannot be resumed: of its {iterations} iterations it holds {holds}, "
                f"and not the state that training goes on from; nothing was changed{go_on}"
            )

    def _check_kinds_of_files(self) -> None:
        """Find out that what training will write are files, or names that are free, before it trains.

        Raises:
            UserError: names what is something else.
        """
        require_own_directories(self.path, (CHECKPOINTS, SOURCES))
        for pattern in _WRITTEN:
            for path in sorted(self.path.glob(pattern)):
                found = what_stands_at(path)
                if found:
                    raise UserError(f"{path} is {found}; training would write a file of that name: move it away")

    def _check_no_metrics_lost(self, iteration: int) -> None:
        """Refuse to go on where rows of metrics.jsonl are lost, which is written before each checkpoint.

        Args:
            iteration: that of the checkpoint from which training goes on.

        Raises:
            UserError: says which are missing. Where the file is not there at all, its loss is known.
        """
        if not self.has_metrics():
            return

        path = self.path / METRICS_FILE
        there = [int(row["iteration"]) for row in self.read_metrics()]
        first = there[0] if there else 0
        missing = sorted(set(range(first, iteration + 1)) - set(there))
        if missing:
            which = f"iteration {missing[0]}" if len(missing) == 1 else f"iterations {missing[0]} to {missing[-1]}"
            raise UserError(
                f"{path} lacks rows of {which}, but the run's checkpoint is of iteration {iteration}. Restore the "
                "file, or remove it to go on without what it held"
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
                file = stack.enter_context(open_file(self.path / LOCK_FILE, os.O_WRONLY | os.O_CREAT))
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
        path = self.path / METRICS_FILE
        with naming(path), open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
            file.write((json.dumps(metrics) + "\n").encode())

    def has_metrics(self) -> bool:
        """Whether there is a metrics.jsonl, which a run may have been moved without."""
        return os.path.lexists(self.path / METRICS_FILE)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last one that was cut off by a crash is left out.

        Raises:
            UserError: the file cannot be read, or a line is no row; names the line and the field.
        """
        if not self.has_metrics():
            return []

        path = self.path / METRICS_FILE
        lines = read_text(path).split("\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(_metrics_row(line))
            except UserError as error:
                if number == len(lines):  # without its line break: the crash came in the middle of it
                    break
                raise UserError(f"{path}, line {number}: {error}") from None
        return rows

    def read_metadata(self) -> Metadata:
        """What metadata.json holds; empty where a run was copied without it.

        Raises:
            UserError: the file is damaged; names the field.
        """
        path = self.path / METADATA_FILE
        return typing.cast(Metadata, read_json(path, Metadata)) if os.path.lexists(path) else Metadata()

    def last_progress(self) -> Progress:
        """How far training came.

        A run that was published may hold only its best policy: then the rows of its metrics say how many steps it took.

        Raises:
            CheckpointError, UserError: what the run holds cannot be read.
        """
        if self.checkpoints.iterations():
            return self.checkpoints.load(LAST).progress

        best = self.checkpoints.load(BEST).progress
        rows = self.read_metrics()
        if not rows:
            return best
        counts = {name: max(getattr(best, name), rows[-1][name]) for name in ("env_steps", "evaluation_env_steps")}
        return dataclasses.replace(best, **counts)

    def rewind_metrics(self, iteration: int) -> None:
        """Delete the rows after an iteration, because training writes them again."""
        if self.has_metrics():
            kept = [json.dumps(row) + "\n" for row in self.read_metrics() if row["iteration"] <= iteration]
            write_atomically(self.path / METRICS_FILE, "".join(kept).encode())

    def sync_metrics(self) -> None:
        """Wait until the rows are on the disk, before a checkpoint promises them."""
        if self.has_metrics():
            with open_file(self.path / METRICS_FILE, os.O_RDONLY) as file:
                os.fsync(file.fileno())


def _read_config(path: Path) -> TrainConfig:
    """The configuration of a run, which must be the one that it was trained with.

    A file that lost some of its lines would be a valid configuration of other settings, even of another algorithm.

    Raises:
        UserError: the directory holds no configuration, or another one.
    """
    file = path / CONFIG_FILE
    if not os.path.lexists(file):
        return _config_of_checkpoints(path)

    text = read_text(file)
    try:
        config = from_yaml(text)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None

    require_as_trained(file, text)
    return config


def require_as_trained(file: Path, text: str) -> None:
    """Refuse a configuration that is not the one which its run was trained with.

    Args:
        file: in the run; where it lies in no run, nothing is known of it.
        text: the file's, a valid configuration.

    Raises:
        UserError: names what differs.
    """
    for source, trained_with in _recorded_configs(file.parent):
        try:
            different = differences(text, trained_with)
        except ValueError as error:
            different = [f"{source} does not say what it was trained with: {error}"]
        if not different:
            break

        # What a damaged checkpoint says counts for nothing.
        if source.name != METADATA_FILE and not is_whole(source):
            continue
        raise UserError(
            f"{file} is not the one that this run was trained with, by {source}: {'; '.join(different)}. Restore it, "
            f"or remove it: the run is then opened with what {source.name} says"
        )


def _config_of_checkpoints(path: Path) -> TrainConfig:
    """The configuration of a run whose own file is missing.

    Raises:
        UserError: nothing says what it was.
    """
    for _, trained_with in _recorded_configs(path):
        try:
            return from_plain(trained_with)
        except ValueError:
            continue
    raise UserError(f"{path} is not a run: it holds no {CONFIG_FILE}")


def _recorded_configs(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What says which configuration a run was trained with, best first; none in runs of earlier versions."""
    store = CheckpointStore(path / CHECKPOINTS)
    for file, text in store.recorded_configs():
        with contextlib.suppress(ValueError):  # a damaged header, which reading that checkpoint finds out
            yield file, parse_json(text, dict[str, Any])

    # Before the first checkpoint, what the run began with.
    if not store.iterations() and os.path.lexists(path / METADATA_FILE):
        config = read_json(path / METADATA_FILE, Metadata).get("config")
        if config:
            yield path / METADATA_FILE, config


def _metrics_row(line: str) -> dict[str, Any]:
    """One line of metrics.jsonl: every value a number.

    Raises:
        UserError: it is not one; names the field.
    """
    row = load_json(line)
    parse(row, MetricsRow)
    # Returns that are not finite are recorded as they are; Python reads and writes them.
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise SchemaError(name, f"must be a number, got {value!r:.60}")
    assert isinstance(row, dict)
    return row


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
    device = resolve_device(config.device)
    return {
        "metarl": importlib.metadata.version("metarl-testbed"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "seed": config.seed,
        "device": str(device),
        "device_name": device_name(device),
        "physics_determinism": "on" if is_deterministic(config.physics_determinism, device) else "off",
        "cpu_name": cpu_name(),
        "cpu_count": os.cpu_count(),
        "command": ["metarl", *sys.argv[1:]],
        "modules": _own_modules(config.env),
        "config": to_plain(config),
    }


def _own_modules(env: str) -> dict[str, str]:
    """The modules of the working directory that an environment is made of, with fingerprints of where they lie."""
    files = {name: _in_working_directory(name) for name in modules_named_by(env)}
    return {name: _fingerprint(file) for name, file in files.items() if file is not None}


def _in_working_directory(module: str) -> Path | None:
    """Where a module would be imported from, if that is the working directory and not the user's PYTHONPATH."""
    here = Path.cwd()
    if any(Path(entry).resolve() == here for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry):
        return None

    top = module.partition(".")[0]
    spec = PathFinder.find_spec(top, [str(here)])
    if spec is None:
        return None
    return Path(spec.origin) if spec.origin else here / top


def _fingerprint(file: Path) -> str:
    """A place on this machine, without telling others which."""
    return hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]


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
