"""The fair comparison: agents on the same held-out tasks, counted in the same environment steps."""

import time
from pathlib import Path

from rich.console import Console

from metarl.agents.registry import is_agent
from metarl.baselines.strategies import STRATEGIES
from metarl.comparison.comparison import Comparison
from metarl.comparison.config import SB3_BASELINES, CompareConfig
from metarl.comparison.directory import ComparisonDirectory
from metarl.comparison.meta_learners import (
    measure_reference,
    measure_runs,
    measure_strategy,
    measure_untrained,
    train_baseline,
)
from metarl.comparison.plan import Plan, make_plan
from metarl.console import format_number, say
from metarl.envs.task_space import select_tasks, task_text
from metarl.evaluation.evaluation import TASKS_LISTED
from metarl.evaluation.statistics import Curve
from metarl.run.build import may_normalize


class Comparer:
    """Measures one agent of a plan after the other.

    Args:
        plan: what is compared.
        directory: keeps what is done.
        console: shows the progress.

    Attributes:
        doing: what it is at, for the message of an error: the agent that it measures.
    """

    def __init__(self, plan: Plan, directory: ComparisonDirectory, console: Console) -> None:
        self._plan = plan
        self._directory = directory
        self._console = console
        self.doing = "preparation"

    @classmethod
    def prepare(cls, config: CompareConfig, console: Console) -> "Comparer":
        """Check what was asked for, and open the directory.

        Raises:
            UserError, ValueError: it cannot be done; nothing was written.
        """
        plan = make_plan(config)
        return cls(plan, ComparisonDirectory.open(plan), console)

    @property
    def path(self) -> Path:
        """The directory of the comparison."""
        return self._directory.path

    def compare(self) -> Comparison:
        """Do what is not done yet, and gather the curves.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was done is kept, and the same command goes on.
            TrainingError: training a baseline met a number that is not finite, or Stable-Baselines3 failed.
        """
        start = time.perf_counter()
        labels = self._plan.labels
        curves = []
        for number, label in enumerate(labels, 1):
            say(self._console, f"[{number}/{len(labels)}] {label}")
            self.doing = label
            curves.append(self._measure_and_tell(label))
        self.doing = "writing the results"

        config = self._plan.config
        return Comparison(
            env=self._plan.env,
            split=config.split,
            num_tasks=self._plan.num_tasks,
            budget=config.task_budget,
            curves=curves,
            metadata={
                "runs": [str(run.path) for run in self._plan.runs],
                "episodes": config.episodes,
                "seconds": time.perf_counter() - start,
            },
            held_out=not self._plan.distribution.shares_tasks(config.split),
            exhaustive=self._plan.exhaustive,
            task_names=self._task_names(),
            notes=self._notes(),
            optimum=self._optimum(len(curves[0].env_steps)),
            horizon=self._plan.distribution.horizon,
            num_asked=config.tasks_compared,
        )

    def _optimum(self, num_episodes: int) -> tuple[float, ...]:
        """What the family says of the best trial: a mean over all tasks that there are, so that none may be missing."""
        return self._plan.distribution.env.optimum(num_episodes) if self._plan.exhaustive else ()

    def _task_names(self) -> list[str]:
        """Each of a few tasks that are all that there are in words; else none."""
        num_tasks = self._plan.num_tasks
        if not self._plan.exhaustive or num_tasks > TASKS_LISTED:
            return []
        return [task_text(select_tasks(self._plan.tasks, number)) for number in range(num_tasks)]

    def _notes(self) -> list[str]:
        """What the agents do not have in common: Stable-Baselines3 is given observations as the first run sees them."""
        plan = self._plan
        raw = [label for label in plan.labels if label in SB3_BASELINES]
        scaled = [label for label, runs in plan.pools.items() if may_normalize(runs[0].config, plan.distribution)]
        if not (raw and scaled):
            return []

        if scaled[0] == plan.labels[0]:
            return [
                f"where {scaled[0]} normalises observations (--normalize-obs), {', '.join(raw)} of Stable-Baselines3 "
                "sees them normalised by the same statistics of meta-training"
            ]

        return [
            f"{', '.join(scaled)} may normalise observations by statistics of meta-training (--normalize-obs), but "
            f"{', '.join(raw)} of Stable-Baselines3 sees them as they are: a part of the difference may be the scale"
        ]

    def _measure_and_tell(self, label: str) -> Curve:
        start = time.perf_counter()
        curve = self._measure(label)

        before, after = curve.mean[0], curve.mean[-1]
        learns = len(curve.env_steps) > 1
        change = f"{format_number(before, '.2f')} → " * learns + format_number(after, ".2f")
        say(self._console, f"      return {change}, {time.perf_counter() - start:.0f} s")
        return curve

    def _measure(self, label: str) -> Curve:
        """The curve of one agent, by its kind."""
        plan = self._plan
        directory = self._directory
        if label in plan.pools:
            return measure_runs(plan, directory, label, plan.pools[label])

        if is_agent(label):
            seeds = range(plan.config.seeds)
            runs = [train_baseline(plan, directory, label, seed, self._console) for seed in seeds]
            return measure_runs(plan, directory, label, runs)

        if label in SB3_BASELINES:
            from metarl.comparison.sb3_baselines import measure_sb3  # slow to import, and not always needed

            return measure_sb3(plan, directory, label, self._console)

        if label == "untrained":
            return measure_untrained(plan, directory)
        if label in STRATEGIES:
            return measure_strategy(plan, directory, label)
        return measure_reference(plan, directory, label)
