"""What the commands on a trained run share: the flags that choose the run, the tasks and the adaptation."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from metarl.errors import UserError, require_at_least
from metarl.run.checkpoint import BEST
from metarl.run.config import MAX_SEED
from metarl.run.find_run import RunAccess
from metarl.run.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class RunSelection(RunAccess):
    """Which run, and where to compute.

    Attributes:
        run: a run's directory, or its name below run_dir.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]

    def open_run(self) -> RunDirectory:
        """Open the run.

        Raises:
            UserError: there is none, or it is not a run.
        """
        return RunDirectory.open(self.run, self.run_dir)


@dataclass(frozen=True, kw_only=True)
class AdaptationSelection(RunSelection):
    """How a run's policy is adapted.

    Attributes:
        steps: K, the number of adaptation steps; by default as many as trained for.
        episodes: E, episodes per task and adaptation step; by default as many as trained with.
        seed: seed of the rollouts.
        checkpoint: 'best' on the validation split, 'last', or an iteration.
        json: print one JSON object and nothing else; messages go to standard error.
    """

    steps: int | None = None
    episodes: int | None = None
    seed: int = 0
    checkpoint: str = BEST
    json: bool = False

    def __post_init__(self) -> None:
        """Reject values out of range, naming the flag."""
        require_at_least(self, steps=0, episodes=1, seed=0)
        if self.seed > MAX_SEED:
            raise UserError(f"seed must be at most {MAX_SEED}, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class TaskSelection(AdaptationSelection):
    """Which tasks a run's policy is adapted to.

    Attributes:
        split: where the tasks come from: held-out 'test', 'ood' outside the training ranges, 'train' or 'validation'.
        task: adapt to this one task instead of a split: 'goal=0.3,0.2' or a JSON object.
        num_tasks: M, the number of tasks.
    """

    split: Literal["test", "ood", "train", "validation"] = "test"
    task: str = ""
    num_tasks: int = 100

    def __post_init__(self) -> None:
        """Reject values out of range, naming the flag."""
        super().__post_init__()
        require_at_least(self, num_tasks=1)
