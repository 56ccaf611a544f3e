"""The directory of a comparison: everything that it writes, and everything needed to go on after an interruption.

runs/comparison-<env>/
settings.json        what is compared
measurements/        one JSON file per measurement (see metarl.comparison.measurements), written when it is done
trained/             run directories of the baselines that were meta-trained here
sb3/                 models of Stable-Baselines3 as zips, each with SB3's log as progress.csv
comparison*          data and figures; see metarl.comparison.report
tensorboard/         the same for TensorBoard
"""

import json
from dataclasses import dataclass
from pathlib import Path

from metarl.comparison.measurements import MeasurementStore
from metarl.comparison.plan import Plan
from metarl.errors import UserError
from metarl.run.files import is_empty_directory, new_directory, require_own_directories, write_atomically
from metarl.run.run_directory import as_file_name
from metarl.run.schema import read_text

SETTINGS_FILE = "settings.json"
MEASUREMENTS = "measurements"
EARLIER_MEASUREMENTS = "cells"
"""What an earlier version called the directory of measurements."""

TRAINED = "trained"
MODELS = "sb3"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class ComparisonDirectory:
    """Where the parts of a comparison lie.

    Attributes:
        path: the directory.
    """

    path: Path

    @classmethod
    def open(cls, plan: Plan) -> "ComparisonDirectory":
        """The directory in which this comparison was begun, or a new one; --out is taken as it is.

        Raises:
            UserError: it cannot be written, or a part of it is a link.
        """
        settings = json.dumps(plan.settings(), indent=1)
        path = Path(plan.config.out) if plan.config.out else _find_place(plan, settings)

        require_own_directories(path, (MEASUREMENTS, EARLIER_MEASUREMENTS, TRAINED, MODELS, TENSORBOARD))
        try:
            _write_settings(path, settings)
        except OSError as error:
            raise UserError(f"comparison directory {path} cannot be written: {error}") from None
        return cls(path)

    @property
    def measurements(self) -> MeasurementStore:
        """What was measured so far; in a directory of an earlier version it lies under that one's name."""
        earlier = self.path / EARLIER_MEASUREMENTS
        return MeasurementStore(earlier if earlier.is_dir() else self.path / MEASUREMENTS)

    @property
    def trained(self) -> Path:
        """Where baselines are meta-trained: a directory of runs."""
        return self.path / TRAINED

    def sb3_model(self, label: str, seed: int, what: str) -> Path:
        """Directory of one model of Stable-Baselines3.

        Args:
            label: the baseline.
            seed: of the model.
            what: the task that it learns, or its pretraining.
        """
        return self.path / MODELS / f"{label}-seed{seed}" / what


def _write_settings(path: Path, settings: str) -> None:
    """Make the directory with its settings in it, or change those of one that is there."""
    if path.is_dir():
        write_atomically(path / SETTINGS_FILE, settings.encode())
        return
    with new_directory(path) as directory:
        write_atomically(directory / SETTINGS_FILE, settings.encode())


def _find_place(plan: Plan, settings: str) -> Path:
    """The first of comparison-ENV, comparison-ENV-2, … that has these settings or does not exist yet."""
    first = Path(plan.config.run_dir) / f"comparison-{as_file_name(plan.env)}"
    path = first

    # The settings are compared as text: whatever decides the result tells two comparisons apart.
    number = 1
    while path.exists() and not is_empty_directory(path) and _read(path / SETTINGS_FILE) != settings:
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _read(path: Path) -> str | None:
    try:
        return read_text(path) if path.is_file() else None
    except UserError:  # not what a comparison writes
        return None
