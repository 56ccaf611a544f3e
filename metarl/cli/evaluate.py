"""`metarl evaluate`: measure how a trained agent adapts to tasks it never saw."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metarl.cli.flags.run_selection import TaskSelection
from metarl.comparison.plan import pool_seeds
from metarl.console import print_json, say, show_table
from metarl.envs.registry import env_label
from metarl.envs.task_space import tasks_to_json
from metarl.errors import UserError
from metarl.evaluation.evaluation import cautions
from metarl.evaluation.pooling import pool, rollout_seed
from metarl.reporting.run_evaluation import (
    EvaluationSettings,
    RunEvaluation,
    evaluate_run,
    evaluation_file,
    figure_file,
)
from metarl.run.files import check_directory_writable, write_atomically
from metarl.run.run_directory import RunDirectory
from metarl.training.progress import evaluation_table, success_table


@dataclass(frozen=True, kw_only=True)
class Evaluate(TaskSelection):
    """Measure how a trained agent adapts to tasks it never saw: its return after k = 0 … K adaptation steps.

    Several runs of one agent that differ only in their seed are pooled: intervals over seeds and tasks.

    Attributes:
        others: further runs, of other seeds.
        task: adapt to this one task instead, num_tasks times: 'goal=0.3,0.2' or a JSON object.
        out: directory to write evaluation-<split>.json and its figures <figure>-<split>.png to; of several runs
            evaluation-<split>-seeds.json.
    """

    others: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RUN …]")] = ()
    out: str = ""

    def execute(self, console: Console) -> int:
        """Evaluate; print a table or JSON."""
        if self.others:
            return self._execute_pooled(console)

        evaluated = self.evaluate(self.open_run())
        if self.json:
            print_json(evaluated.to_json())
        else:
            self.show(evaluated, console)
        return 0

    def _execute_pooled(self, console: Console) -> int:
        """Evaluate several seeds; print one table or JSON."""
        runs = [self.open_run(), *(RunDirectory.open(run, self.run_dir) for run in self.others)]
        if len(pool_seeds(runs)) > 1:
            raise UserError("runs that are evaluated together must differ in their seed only; compare others: compare")
        if self.out:
            check_directory_writable(Path(self.out))

        evaluated = self._evaluate_each(runs)
        pooled = pool([result.evaluation for result in evaluated])
        title = f"{evaluated[0].title}, {len(runs)} seeds"
        scope = "other seeds" if pooled.exhaustive else "other seeds and other tasks"
        data = {
            "agent": runs[0].config.agent,
            "env": env_label(runs[0].config.env),
            "runs": [str(run.path) for run in runs],
            "split": evaluated[0].split,
            "task": evaluated[0].task,
            "seed": self.seed,
            **pooled.to_json(),
            "intervals_over": scope,
            "held_out": evaluated[0].held_out,
            "tasks": tasks_to_json(evaluated[0].tasks),
        }

        if self.out:
            from metarl.evaluation.plots import adaptation_curve, figure_bytes  # matplotlib is slow to import

            # Of other data than one run's evaluation: a report of a run reads that one.
            label = f"{'task' if self.task else self.split}-seeds"
            figure = figure_bytes(adaptation_curve(pooled, title))
            write_atomically(Path(self.out) / figure_file("adaptation", label), figure)
            write_atomically(Path(self.out) / evaluation_file(label), json.dumps(data, indent=1).encode())
        if self.json:
            print_json(data)
            return 0

        show_table(console, evaluation_table(pooled, title))
        successes = success_table(pooled)
        if successes is not None:
            show_table(console, successes)
        few = [] if self.task else cautions(pooled.returns.shape[1], [len(runs)], pooled.exhaustive)
        spoken_of = f"{len(runs)} seeds: the intervals speak of {scope}"
        for line in (spoken_of, *few, *evaluated[0].caveats(), *pooled.lines()):
            say(console, line)
        return 0

    def _evaluate_each(self, runs: Sequence[RunDirectory]) -> list[RunEvaluation]:
        """Evaluate the seeds of one agent one by one, on the same tasks."""
        evaluated = [self._evaluate_one(runs[0], self.seed)]
        exhaustive = evaluated[0].evaluation.exhaustive
        for index, run in enumerate(runs[1:], 1):
            evaluated.append(self._evaluate_one(run, rollout_seed(self.seed, index, exhaustive)))
        return evaluated

    def evaluate(self, run: RunDirectory) -> RunEvaluation:
        """Evaluate, and write what `out` asks for."""
        if self.out:
            check_directory_writable(Path(self.out))

        evaluated = self._evaluate_one(run, self.seed)
        if self.out:
            evaluated.write(Path(self.out))
        return evaluated

    def _evaluate_one(self, run: RunDirectory, seed: int) -> RunEvaluation:
        settings = EvaluationSettings(
            split=self.split,
            task=self.task,
            num_tasks=self.num_tasks,
            steps=self.steps,
            episodes=self.episodes,
            seed=seed,
            checkpoint=self.checkpoint,
            device=self.device,
        )
        return evaluate_run(run, settings)

    @staticmethod
    def show(evaluated: RunEvaluation, console: Console) -> None:
        """Print the tables."""
        show_table(console, evaluation_table(evaluated.evaluation, evaluated.title))
        successes = success_table(evaluated.evaluation)
        if successes is not None:
            show_table(console, successes)
        for line in evaluated.lines():
            say(console, line)
        if evaluated.section:
            for line in evaluated.section.lines():
                say(console, line)
