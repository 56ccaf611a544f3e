"""Cells of a comparison: one agent of one seed on some of the tasks, kept on disk from the moment it is measured."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarl.evaluation.statistics import Curve, Kind
from metarl.run.files import write_atomically


@dataclass(frozen=True)
class Cell:
    """Return of one agent of one seed on some tasks as a function of the environment steps spent on each.

    Attributes:
        env_steps: environment steps spent on a task before each point, mean over the tasks; P of them.
        returns: mean return of each task at each point, P lists.
        evaluation_env_steps: environment steps that measuring took besides, all tasks together.
    """

    env_steps: Sequence[float]
    returns: Sequence[Sequence[float]]
    evaluation_env_steps: int


class CellStore:
    """Cells by agent and by everything that decides their content.

    Args:
        directory: one JSON file per cell.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, label: str, settings: dict[str, Any]) -> Cell | None:
        """The cell of these settings; None where there is none, or none that can be read."""
        try:
            data = json.loads(self._path(label, settings).read_text())
            return Cell(**data["cell"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, label: str, settings: dict[str, Any], cell: Cell) -> None:
        """Write a cell with its settings, atomically."""
        data = {"agent": label, "settings": settings, "cell": dataclasses.asdict(cell)}
        write_atomically(self._path(label, settings), json.dumps(data).encode())

    def measure(self, label: str, settings: dict[str, Any], measure: Callable[[], Cell]) -> Cell:
        """The cell of these settings, measured now if it is not there."""
        cell = self.load(label, settings)
        if cell is None:
            cell = measure()
            self.save(label, settings, cell)
        return cell

    def _path(self, label: str, settings: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return self.directory / f"{label}-{digest}.json"


def side_by_side(cells: Sequence[Cell]) -> Cell:
    """One cell of all the tasks of several; their points are the same ones."""
    return Cell(
        env_steps=np.mean([cell.env_steps for cell in cells], axis=0).tolist(),
        returns=np.concatenate([cell.returns for cell in cells], axis=1).tolist(),
        evaluation_env_steps=sum(cell.evaluation_env_steps for cell in cells),
    )


def curve(
    label: str,
    kind: Kind,
    training_env_steps: int,
    seeds: Sequence[Cell],
) -> Curve:
    """The curve of an agent.

    Args:
        label: its name in tables and figures.
        kind: see Curve.
        training_env_steps: environment steps spent before it met the tasks, mean over seeds.
        seeds: S cells, each of all M tasks.
    """
    return Curve(
        label=label,
        kind=kind,
        training_env_steps=training_env_steps,
        env_steps=np.mean([cell.env_steps for cell in seeds], axis=0),
        returns=np.array([cell.returns for cell in seeds]),
        evaluation_env_steps=sum(cell.evaluation_env_steps for cell in seeds),
    )
