"""`metarl adapt`: one command from a trained run to a policy for one task, in files that run anywhere."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from metarl.cli.run_selection import AdaptationSelection
from metarl.console import say
from metarl.deployment import export, model_card
from metarl.deployment.meta_policy import MetaPolicy
from metarl.deployment.policy import SpecialisedPolicy
from metarl.envs.external.live_env import make_live_env
from metarl.errors import UserError
from metarl.run.files import new_directory


@dataclass(frozen=True, kw_only=True)
class Adapt(AdaptationSelection):
    """Adapt a trained agent to one task and write the policy: parameters, model card, torch.export and ONNX programs.

    Attributes:
        out: directory to write the policy to; it must not exist.
        task: the task: 'goal=0.3,0.2' or a JSON object.
        task_file: a file that holds the task as a JSON object.
        env: a live environment whose task is unknown: 'my_module:make_env', a function that makes a gymnasium.Env, or
            an id that gymnasium.make knows. Its episodes come one after another.
        measure_episodes: episodes that only measure the adapted policy, as many with its exploration noise as without;
            by default E; 0 = the policy is not measured.
        json: print one JSON object, the model card, and nothing else; progress goes to standard error.
        onnx: write policy.onnx, which needs the extra 'export'; --no-onnx leaves it out.
    """

    out: str
    task: str = ""
    task_file: str = ""
    env: str = ""
    measure_episodes: int | None = None
    onnx: bool = True

    def __post_init__(self) -> None:
        """Ask for exactly one task, and for a place to write to."""
        super().__post_init__()
        flags = {"--task": self.task, "--task-file": self.task_file, "--env": self.env}
        given = [flag for flag, value in flags.items() if value]
        if len(given) != 1:
            raise UserError(f"give one of --task, --task-file and --env, got {', '.join(given) or 'none'}")
        if not self.out:
            raise UserError("--out needs a directory")

    def execute(self, console: Console) -> int:
        """Adapt, write, and say what came of it."""
        # What is missing or not allowed is said before the work.
        if self.onnx:
            export.require_onnx()
        run = self.open_run()
        out = Path(self.out)
        if out.resolve().is_relative_to(run.path.resolve()):
            raise UserError(f"{out} lies in the run, which stays as it is; choose a directory outside {run.path}")

        progress = Console(stderr=True) if self.json else console
        with new_directory(out) as directory:
            policy = self._policy(MetaPolicy(run, self.checkpoint, self.device), progress)
            files = policy.write(directory, self.onnx)
            description = json.loads((directory / "policy.json").read_text(encoding="utf-8"))

        if self.json:
            print(json.dumps({"out": str(out), **description}))
            return 0
        console.print(_table(description))
        for line in model_card.summary(description):
            say(console, line)
        say(console, f"written to {out}: {', '.join(files)}")
        return 0

    def _policy(self, parent: MetaPolicy, progress: Console) -> SpecialisedPolicy:
        """Adapt to the task or the live environment that was asked for."""
        budget: dict[str, Any] = {
            "episodes": self.episodes,
            "steps": self.steps,
            "seed": self.seed,
            "measure_episodes": self.measure_episodes,
            "report": lambda line: say(progress, line),
        }

        # Of a live environment only its episodes are known, of a stated task its parameters.
        if self.env:
            with contextlib.closing(make_live_env(self.env)) as env:
                return parent.adapt(env, label=self.env, **budget)
        return parent.adapt_to(self.task or _read_task(Path(self.task_file)), **budget)


def _read_task(file: Path) -> dict[str, Any]:
    """The task that a file holds.

    Raises:
        UserError: it holds no JSON object.
    """
    try:
        task = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"task file {file} cannot be read: {error}") from None
    if not isinstance(task, dict):
        raise UserError(f'task file {file} needs one JSON object like {{"goal": [0.3, 0.2]}}, got {task!r:.80}')
    return task


def _table(description: dict[str, Any]) -> Table:
    """Adaptation step → return."""
    table = Table(title=f"{description['parent']['agent']}: {model_card.title(description)}", title_justify="left")
    for heading in model_card.CURVE_HEADINGS:
        table.add_column(heading, justify="right")
    for row in model_card.curve_rows(description):
        table.add_row(*row)
    return table
