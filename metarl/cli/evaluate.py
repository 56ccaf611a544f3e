"""`metarl evaluate`: measure how a trained agent adapts to tasks it never saw."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from metarl.cli.run_selection import TaskSelection
from metarl.console import say
from metarl.reporting.run_evaluation import RunEvaluation, evaluate_run
from metarl.run.files import check_directory_writable
from metarl.run.run_directory import RunDirectory
from metarl.training.progress import evaluation_table, success_table


@dataclass(frozen=True, kw_only=True)
class Evaluate(TaskSelection):
    """Measure how a trained agent adapts to tasks it never saw: its return after k = 0 … K adaptation steps.

    Attributes:
        task: adapt to this one task instead, num_tasks times: 'goal=0.3,0.2' or a JSON object.
        out: directory to write evaluation-<split>.json and its figures <figure>-<split>.png to.
    """

    out: str = ""

    def execute(self, console: Console) -> int:
        """Evaluate; print a table or JSON."""
        evaluated = self.evaluate(self.open_run())
        if self.json:
            print(json.dumps(evaluated.to_json()))
        else:
            self.show(evaluated, console)
        return 0

    def evaluate(self, run: RunDirectory) -> RunEvaluation:
        """Evaluate, and write what `out` asks for."""
        if self.out:
            check_directory_writable(Path(self.out))

        evaluated = evaluate_run(
            run,
            split=self.split,
            task=self.task,
            num_tasks=self.num_tasks,
            steps=self.steps,
            episodes=self.episodes,
            seed=self.seed,
            checkpoint=self.checkpoint,
            device=self.device,
        )
        if self.out:
            evaluated.write(Path(self.out))
        return evaluated

    @staticmethod
    def show(evaluated: RunEvaluation, console: Console) -> None:
        """Print the tables."""
        console.print(evaluation_table(evaluated.evaluation, evaluated.title))
        successes = success_table(evaluated.evaluation)
        if successes is not None:
            console.print(successes)
        if evaluated.section:
            for line in evaluated.section.lines():
                say(console, line)
