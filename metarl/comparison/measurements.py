"""Measurements of a comparison: one agent of one seed on some of the tasks, kept on disk as soon as it is made."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from metarl.errors import UserError
from metarl.evaluation.statistics import Curve, Kind
from metarl.run.files import write_atomically
from metarl.run.schema import read_json


@dataclass(frozen=True)
class Measurement:
    """Return of one agent of one seed on some tasks as a function of the environment steps spent on each.

    Attributes:
        env_steps: environment steps spent on a task before each point, mean over the tasks; P of them.
        returns: mean return of each task at each point, P lists.
        evaluation_env_steps: environment steps that measuring took besides, all tasks together.
        errors: standard error of each mean return over its episodes, P lists; None where that was not asked for.
    """

    env_steps: Sequence[float]
    returns: Sequence[Sequence[float]]
    evaluation_env_steps: int
    errors: Sequence[Sequence[float]] | None = None


class MeasurementStore:
    """Measurements by agent and by everything that decides their content.

    Args:
        directory: one JSON file per measurement.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, label: str, settings: dict[str, Any]) -> Measurement | None:
        """The measurement of these settings; None where there is none, or none that can be read: it is made again."""
        try:
            data = read_json(self._path(label, settings), _MeasurementFile)
        except UserError:
            return None
        measurement: Measurement | None = data.get("measurement", data.get("cell"))
        return measurement if measurement is not None and _is_whole(measurement) else None

    def save(self, label: str, settings: dict[str, Any], measurement: Measurement) -> None:
        """Write a measurement with its settings, atomically."""
        data = {"agent": label, "settings": settings, "measurement": dataclasses.asdict(measurement)}
        write_atomically(self._path(label, settings), json.dumps(data).encode())

    def load_or_measure(self, label: str, settings: dict[str, Any], measure: Callable[[], Measurement]) -> Measurement:
        """The measurement of these settings, made and saved now if it is not there."""
        measurement = self.load(label, settings)
        if measurement is None:
            measurement = measure()
            self.save(label, settings, measurement)
        return measurement

    def _path(self, label: str, settings: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return self.directory / f"{label}-{digest}.json"


class _MeasurementFile(TypedDict):
    """What the file of a measurement holds, besides the agent's label and the settings."""

    measurement: NotRequired[Measurement]
    cell: NotRequired[Measurement]  # its name in files of earlier versions


def _is_whole(measurement: Measurement) -> bool:
    """Whether there is a return of every task at every point."""
    points = len(measurement.env_steps)
    sizes = {len(returns) for returns in measurement.returns}
    if not (points > 0 and len(measurement.returns) == points and len(sizes) == 1 and sizes != {0}):
        return False

    if measurement.errors is None:
        return True
    return [len(errors) for errors in measurement.errors] == [len(returns) for returns in measurement.returns]


def concatenate_tasks(measurements: Sequence[Measurement]) -> Measurement:
    """One measurement of all the tasks of several, in their order; each has the same number of points."""
    return Measurement(
        env_steps=np.mean([measurement.env_steps for measurement in measurements], axis=0).tolist(),
        returns=np.concatenate([measurement.returns for measurement in measurements], axis=1).tolist(),
        evaluation_env_steps=sum(measurement.evaluation_env_steps for measurement in measurements),
        errors=_concatenate([measurement.errors for measurement in measurements]),
    )


def _concatenate(errors: Sequence[Sequence[Sequence[float]] | None]) -> Sequence[Sequence[float]] | None:
    """Those of all tasks, P lists; None where they are not known of each."""
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    joined: list[list[float]] = np.concatenate(known, axis=1).tolist()
    return joined


def make_curve(
    label: str,
    kind: Kind,
    training_env_steps: int,
    seeds: Sequence[Measurement],
    validation_env_steps: int = 0,
    episodes: int | None = None,
) -> Curve:
    """The curve of an agent.

    Args:
        label: its name in tables and figures.
        kind: see Curve.
        training_env_steps: environment steps spent before it met the tasks, mean over seeds.
        seeds: S measurements, each of all M tasks.
        validation_env_steps: environment steps that choosing the best checkpoint took, mean over seeds.
        episodes: E of each mean return where the tasks are all that there are, and their errors count; None where they
            are a sample of more.
    """
    errors = None if episodes is None else np.array([measurement.errors for measurement in seeds])
    return Curve(
        label=label,
        kind=kind,
        training_env_steps=training_env_steps,
        env_steps=np.mean([measurement.env_steps for measurement in seeds], axis=0),
        returns=np.array([measurement.returns for measurement in seeds]),
        evaluation_env_steps=sum(measurement.evaluation_env_steps for measurement in seeds),
        validation_env_steps=validation_env_steps,
        errors=errors,
        episodes=episodes or 1,
    )
