"""`metarl adapt`: one command from a trained run to a policy for one task, in files that run anywhere."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from metarl.cli.flags.run_selection import AdaptationSelection
from metarl.console import print_json, say, shell_command, show_table
from metarl.deployment import export, model_card
from metarl.deployment.live_record import LiveRecord, LiveRecordError
from metarl.deployment.meta_policy import MetaPolicy
from metarl.deployment.policy import SpecialisedPolicy
from metarl.deployment.specialise import ReportLine
from metarl.envs.external.live_env import LiveGymEnv, make_live_env
from metarl.envs.external.worker_pool import EnvironmentFailedError, one_line
from metarl.errors import EXIT_INTERRUPTED, UserError
from metarl.run.files import new_directory
from metarl.run.run_directory import RunDirectory
from metarl.run.schema import load_json, read_text


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
        onnx: whether policy.onnx is written as well; without the extra 'export', a warning says that it is missing.
        keep: the policy that is written: 'auto', after the last step, or an earlier one that earned more by two
            standard errors; 'best', the one with the highest mean return of those measured, which the last one is
            unless --measure-episodes is 0; 'last', after the last step.
        noise_scale: --env, continuous actions: factor on the exploration noise, for a robot that takes no large
            deviations; 1 = as trained.
        action_limit: --env: share of the range of actions, around its middle, that the policy may use, while it
            adapts and when it is written; 1 = all of it.
        pause: --env: seconds between two episodes, or 'enter' to wait for the Enter key while a robot is put back.
        env_timeout: --env: seconds that a step or a reset may take; one that takes longer has failed, and what was
            collected before it is saved; 0 = unlimited.
        resume: --env: go on with what an interrupted command left in OUT.unfinished; give the same flags again.
    """

    out: str
    task: str = ""
    task_file: str = ""
    env: str = ""
    measure_episodes: int | None = None
    onnx: bool = True
    keep: Literal["auto", "best", "last"] = "auto"
    noise_scale: float = 1.0
    action_limit: float = 1.0
    pause: str = "0"
    env_timeout: float = 0.0
    resume: bool = False

    def __post_init__(self) -> None:
        """Ask for exactly one task, and for a place to write to."""
        super().__post_init__()
        flags = {"--task": self.task, "--task-file": self.task_file, "--env": self.env}
        given = [flag for flag, value in flags.items() if value]
        if len(given) != 1:
            raise UserError(f"give one of --task, --task-file and --env, got {', '.join(given) or 'none'}")
        if not self.out:
            raise UserError("--out needs a directory")

        only_live = {
            "--noise-scale": self.noise_scale != 1,
            "--action-limit": self.action_limit != 1,
            "--pause": self.pause != "0",
            "--env-timeout": self.env_timeout != 0,
            "--resume": self.resume,
        }
        for flag, is_given in only_live.items():
            if is_given and not self.env:
                raise UserError(f"{flag} is for live environments: give it with --env")

    def execute(self, console: Console) -> int:
        """Adapt, write, and say what came of it."""
        # The policy is worth more than one of its files: the others are written.
        missing = export.missing_for_onnx() if self.onnx else ""
        if missing:
            print(f"metarl: warning: policy.onnx is left out; {missing}", file=sys.stderr)
        run = self.open_run()
        out = Path(self.out)
        if out.resolve().is_relative_to(run.path.resolve()):
            raise UserError(f"{out} lies in the run, which stays as it is; choose a directory outside {run.path}")

        if self.env and not self.resume:
            self._record().check_new()

        progress = Console(stderr=True) if self.json else console
        try:
            with self._saying_what_is_saved():
                description, files = self._write(run, out, progress)
        except _InterruptedError as stop:
            print(f"metarl: interrupted; {stop}", file=sys.stderr)
            return EXIT_INTERRUPTED

        if self.json:
            print_json({"out": str(out), **description})
            return 0
        show_table(console, _table(description))
        for line in model_card.summary(description):
            say(console, line)
        say(console, f"written to {out}: {', '.join(files)}")
        return 0

    def _write(self, run: RunDirectory, out: Path, progress: Console) -> tuple[dict[str, Any], list[str]]:
        """Adapt and write; returns what policy.json holds, and the names of what was written."""
        with new_directory(out) as directory:
            policy = self._policy(MetaPolicy(run, self.checkpoint, self.device), progress)
            files = policy.write(directory, self.onnx and not export.missing_for_onnx())
            description = json.loads(read_text(directory / "policy.json"))

        # The policy is safe: now its episodes may move in with it.
        if self.env:
            self._record().path.rename(out / EPISODES_DIRECTORY)
            files.append(f"{EPISODES_DIRECTORY}/")
        return description, files

    def _policy(self, parent: MetaPolicy, progress: Console) -> SpecialisedPolicy:
        """Adapt to the task or the live environment that was asked for."""

        def report(line: str) -> None:
            say(progress, line)

        budget: dict[str, Any] = {
            "episodes": self.episodes,
            "steps": self.steps,
            "seed": self.seed,
            "measure_episodes": self.measure_episodes,
            "keep": self.keep,
            "report": report,
        }
        if not self.env:
            return parent.adapt_to(self.task or _read_task(Path(self.task_file)), **budget)

        # Of a live environment only its episodes are known, of a stated task its parameters.
        with _closing(make_live_env(self.env), report) as env:
            return parent.adapt(
                env,
                label=self.env,
                noise_scale=self.noise_scale,
                action_limit=self.action_limit,
                pause=self.pause,
                timeout=self.env_timeout,
                record=self._record().path,
                resume=self.resume,
                **budget,
            )

    def _record(self) -> LiveRecord:
        """Where a live adaptation is saved as it goes: beside the directory to write."""
        out = Path(self.out)
        return LiveRecord(out.with_name(f"{out.name}.unfinished"))

    @contextlib.contextmanager
    def _saying_what_is_saved(self) -> Iterator[None]:
        """Add to an error what a live adaptation has saved, and the command that goes on with it.

        Raises:
            _InterruptedError: in place of a KeyboardInterrupt.
        """
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if not self.env or not self._record().num_episodes or isinstance(error, LiveRecordError):
                raise

            saved = f"{self._record().summary()}; go on with: {self._command_to_resume()}"
            if isinstance(error, KeyboardInterrupt):
                raise _InterruptedError(saved) from error
            if isinstance(error, EnvironmentFailedError | FloatingPointError):
                raise type(error)(f"{error}; {saved}") from error
            if isinstance(error, ValueError | OSError):
                raise UserError(f"{error}; {saved}") from error
            raise

    def _command_to_resume(self) -> str:
        """This command with --resume, with every flag that is not at its default."""
        words = ["metarl", "adapt", self.run]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("run", "resume") or (field.default is not MISSING and value == field.default):
                continue

            flag = f"--{field.name.replace('_', '-')}"
            if value is False:
                words.append(f"--no-{flag.removeprefix('--')}")
            else:
                words += [flag] if value is True else [flag, str(value)]
        return shell_command(*words, "--resume")


EPISODES_DIRECTORY = "adaptation"
"""Where the episodes and policies of a finished live adaptation lie in the directory that was written."""


class _InterruptedError(Exception):
    """Ctrl-C came; says what is saved."""


@contextlib.contextmanager
def _closing(env: LiveGymEnv, report: ReportLine) -> Iterator[LiveGymEnv]:
    """Close a live environment in the end; one that fails even in that costs nothing that was collected."""
    try:
        yield env
    finally:
        try:
            env.close()
        except Exception as error:
            report(f"the environment could not be closed: {type(error).__name__}: {one_line(error)}")


def _read_task(file: Path) -> dict[str, Any]:
    """The task that a file holds.

    Raises:
        UserError: it holds no JSON object.
    """
    text = read_text(file, named_by_user=True)
    try:
        task = load_json(text)
    except UserError as error:
        raise UserError(f"task file {file}: {error}") from None
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
