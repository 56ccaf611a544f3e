"""The command line: `metarl train`, `evaluate`, `adapt`, `render`, `report`, `compare` and the others."""

import contextlib
import dataclasses
import importlib.metadata
import io
import itertools
import json
import os
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from metarl.agents.gradients.processes import num_processes
from metarl.agents.registry import AGENTS
from metarl.baselines.teachers import check_teacher
from metarl.cli.adapt import Adapt
from metarl.cli.bench import Bench
from metarl.comparison import report as comparison_report
from metarl.comparison.comparer import Comparer
from metarl.comparison.config import CompareConfig
from metarl.console import say
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.registry import FAMILIES, env_label, is_env_file, make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_TRAINING_FAILED,
    TrainingError,
    UserError,
    require_at_least,
    unknown,
)
from metarl.rendering.draw import Render
from metarl.reporting.html import Report
from metarl.reporting.run_evaluation import RunEvaluation, evaluate_run
from metarl.run.build import build
from metarl.run.checkpoint import BEST
from metarl.run.config import DEFAULT_AGENT, DEFAULT_ENV, MAX_SEED, TrainConfig
from metarl.run.device import resolve_device
from metarl.run.files import check_directory_writable
from metarl.run.presets import default_config, presets_for
from metarl.run.run_directory import RunDirectory
from metarl.training import distributed
from metarl.training.accelerate import compile_env
from metarl.training.curriculum import make_curriculum
from metarl.training.memory import check_memory, keep_freed_memory
from metarl.training.progress import evaluation_table, success_table
from metarl.training.tensorboard import RunLog
from metarl.training.trainer import Trainer, resolve

TRACEBACK_VARIABLE = "METARL_TRACEBACK"
"""Environment variable: where it is set, errors come with their traceback instead of as one line."""

OneRun = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class Train(TrainConfig):
    """Meta-train an agent. AGENT and ENV come before the flags; the flags' defaults depend on them and on --preset.

    Attributes:
        resume: go on with this run, exactly where it stopped; of the other flags only --iterations may be changed.
        env_file: a YAML file that describes the environment and its tasks, in place of ENV.
    """

    resume: str = ""
    env_file: str = ""

    def execute(self, console: Console) -> int:
        """Train, evaluate on held-out tasks, and say what to do next; as one process of a job under torchrun."""
        with distributed.process_group(resolve_device(distributed.local_device(self.device))):
            first = distributed.rank() == 0
            config = TrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainConfig)})
            if self.env_file:
                config = dataclasses.replace(config, env=self._checked_env_file())
            here = resolve(config)
            distributed.check_job(config)
            if not self.resume:
                check_teacher(here)
                # What cannot be built or does not fit is said before anything is written.
                distribution, learner = build(here, torch.Generator(here.device))
                check_memory(here, distribution, learner)
                make_curriculum(here, learner)
                if here.compile_env:
                    compile_env(distribution, torch.device(here.device))
            run, resumed = distributed.broadcast(lambda: self._open(here))
            if num_processes() > 1:
                run.config = dataclasses.replace(run.config, device=here.device, num_threads=here.num_threads)
            with run.locked() if first else contextlib.nullcontext():
                return self._train(run, resumed, console if first else Console(quiet=True))

    def _checked_env_file(self) -> str:
        if not is_env_file(self.env_file):
            raise UserError(f"env_file must end in .yaml or .yml, got {self.env_file!r}")
        return self.env_file

    def _open(self, config: TrainConfig) -> tuple[RunDirectory, bool]:
        """The run directory and whether it is to be resumed: by --resume, or in a job that torchrun started again."""
        if self.resume:
            return RunDirectory.open(self.resume, config.run_dir), True
        begun = RunDirectory.newest(config) if distributed.is_restart() else None
        return (begun, True) if begun is not None else (RunDirectory.create(config), False)

    def _train(self, run: RunDirectory, resumed: bool, console: Console) -> int:
        if resumed:
            run.set_iterations(self.iterations)
        trainer = Trainer(run, console)
        if resumed:
            trainer.resume()
            if distributed.rank() == 0:
                run.write_config()
        config = run.config
        start = f"resuming at iteration {trainer.progress.iteration}" if resumed else "meta-training"
        say(
            console,
            f"{start}: {config.agent} on {env_label(config.env)}, {config.iterations} iterations, in {run.path}",
        )
        say(console, f"watch it with: metarl tensorboard --run-dir {run.path.parent}")
        if not trainer.train():
            say(console, f"stopped after iteration {trainer.progress.iteration} of {config.iterations}; all is saved")
            say(console, f"go on with: metarl train --resume {run.path}")
            return EXIT_INTERRUPTED
        if distributed.rank() > 0:
            return 0
        progress = trainer.progress
        say(
            console,
            f"trained {progress.iteration} iterations on {progress.env_steps:,} environment steps "
            f"(and {progress.evaluation_env_steps:,} for validation) in {progress.seconds:.0f} s",
        )
        final = Evaluate(run=str(run.path), num_tasks=config.test_tasks, out=str(run.path))
        evaluated = final.evaluate(run)
        RunLog.test(run, evaluated.evaluation, evaluated.figures, evaluated.checkpoint.progress.env_steps)
        final.show(evaluated, console)
        say(console, "next:")
        if "ood" in trainer.distribution.splits:
            say(console, f"  metarl evaluate {run.path} --split ood")
        say(console, f"  metarl evaluate {run.path} --steps {trainer.learner.adaptation_steps + 2}")
        say(console, f"  metarl tensorboard --run-dir {run.path.parent}")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure how a trained agent adapts to tasks it never saw: its return after k = 0 … K adaptation steps.

    Attributes:
        run: a run's directory, or its name below run_dir.
        split: which tasks: held-out 'test', 'ood' outside the training ranges, 'train' or 'validation'.
        task: adapt to this one task instead, num_tasks times over: 'goal=0.3,0.2' or a JSON object.
        num_tasks: number of tasks.
        steps: K, adaptation steps; by default as many as trained for.
        episodes: episodes per task and step; by default as many as trained with.
        seed: seed of the rollouts.
        checkpoint: 'best' on the validation split, 'last', or an iteration.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        json: print one JSON object and nothing else.
        out: directory to write evaluation-<split>.json and its figures <figure>-<split>.png to.
        run_dir: where runs are looked for by name.
    """

    run: OneRun
    split: Literal["test", "ood", "train", "validation"] = "test"
    task: str = ""
    num_tasks: int = 100
    steps: int | None = None
    episodes: int | None = None
    seed: int = 0
    checkpoint: str = BEST
    device: str = "auto"
    json: bool = False
    out: str = ""
    run_dir: str = "runs"

    def __post_init__(self) -> None:
        """Reject values out of range, naming the flag."""
        require_at_least(self, num_tasks=1, steps=0, episodes=1, seed=0)
        if self.seed > MAX_SEED:
            raise UserError(f"seed must be at most {MAX_SEED}, got {self.seed}")

    def execute(self, console: Console) -> int:
        """Evaluate; print a table or JSON."""
        evaluated = self.evaluate(RunDirectory.open(self.run, self.run_dir))
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
            self.split,
            self.task,
            self.num_tasks,
            self.steps,
            self.episodes,
            self.seed,
            self.checkpoint,
            self.device,
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
        for line in evaluated.kept.lines() if evaluated.kept else ():
            say(console, line)


@dataclass(frozen=True)
class Compare(CompareConfig):
    """Compare trained runs with baselines on the same held-out tasks, counted in the same environment steps.

    Attributes:
        json: print one JSON object and nothing else; progress goes to standard error.
    """

    json: bool = False

    def execute(self, console: Console) -> int:
        """Compare; print the table and the headlines, and write data, figures and TensorBoard events."""
        config = CompareConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(CompareConfig)})
        progress = Console(stderr=True) if self.json else console
        comparer = Comparer.prepare(config, progress)
        try:
            comparison = comparer.compare()
        except KeyboardInterrupt:
            say(progress, f"stopped; what is done is kept in {comparer.path}; the same command goes on")
            return EXIT_INTERRUPTED
        written = comparison_report.write(comparison, comparer.path)
        if self.json:
            print(json.dumps(comparison.to_json()))
            return 0
        console.print(comparison_report.table(comparison))
        for line in comparison_report.headlines(comparison):
            say(console, line)
        say(console, f"written to {comparer.path}: {', '.join(path.name for path in written)}")
        say(console, f"curves and figures in TensorBoard: metarl tensorboard --run-dir {comparer.path}")
        return 0


@dataclass(frozen=True)
class Envs:
    """List the families of tasks, or show one: parameters, units, ranges and splits.

    Attributes:
        name: a family, or your own as 'package.module:MyDistribution'; all of them by default.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""

    def execute(self, console: Console) -> int:
        """Print the tables."""
        if not self.name:
            for family in FAMILIES.values():
                say(console, family.name + (f"   gymnasium id {family.gymnasium_id}" if family.gymnasium_id else ""))
                say(console, f"  {family.summary}")
                if not family.available:
                    say(console, f"  not installed: {family.how_to_install}\n")
                    continue
                console.print(Padding(self._parameters(family.make()), (0, 0, 1, 2)))
            say(console, "more of one: metarl envs NAME; your own: metarl train maml package.module:MyDistribution")
            return 0
        distribution = make_distribution(self.name)
        described = " ".join((type(distribution.env).__doc__ or "").split(".")[0].split())
        if distribution.name in FAMILIES:
            described = FAMILIES[distribution.name].summary
        say(console, f"{distribution.name}: {described}")
        say(console, f"observation {distribution.observation_space}")
        say(console, f"action      {distribution.action_space}")
        say(console, f"horizon     {distribution.horizon} steps")
        say(console, f"splits      {', '.join(distribution.splits)} (train is drawn afresh, the others are frozen)")
        console.print(self._parameters(distribution))
        return 0

    @staticmethod
    def _parameters(distribution: TaskDistribution) -> Table:
        """Task parameters with units and ranges in each split."""
        others = {split: ranges for split in ("test", "ood") if (ranges := getattr(distribution, split))}
        training = "train, validation" + ("" if "test" in others else ", test")
        table = Table("task parameter", "units", training, *others)
        for name, range_ in distribution.train.items():
            outside = [str(ranges.get(name, "as in training")) for ranges in others.values()]
            table.add_row(name, range_.units, str(range_), *outside)
        return table


@dataclass(frozen=True)
class Agents:
    """List the agents and the presets they have for each environment."""

    def execute(self, console: Console) -> int:
        """Print the tables."""
        table = Table("agent", "what it is", title="agents", title_justify="left")
        for agent in AGENTS.values():
            table.add_row(agent.name, agent.summary)
        console.print(table)
        table = Table("agent", "environment", "preset", "what it is", title="presets", title_justify="left")
        for agent_name in AGENTS:
            anywhere = presets_for(agent_name, "")
            for name, preset in anywhere.items():
                table.add_row(agent_name, "any", name, preset.summary)
            envs_with: dict[tuple[str, str], list[str]] = {}
            for env in FAMILIES:
                for name, preset in presets_for(agent_name, env).items():
                    if anywhere.get(name) is not preset:
                        envs_with.setdefault((name, preset.summary), []).append(env)
            for (name, summary), envs in envs_with.items():
                table.add_row(agent_name, ", ".join(envs), name, summary)
        console.print(table)
        say(console, "hyper-parameters: metarl train AGENT ENV --help")
        return 0


@dataclass(frozen=True)
class Tensorboard:
    """Show the runs in TensorBoard, on localhost.

    Attributes:
        run_dir: directory of the runs.
        port: port of the page.
    """

    run_dir: str = "runs"
    port: int = 6006

    def execute(self, console: Console) -> int:
        """Serve until Ctrl-C."""
        from tensorboard import program  # slow to import, and only needed here

        if not Path(self.run_dir).is_dir():
            raise UserError(f"there is no directory {self.run_dir!r}; train a run with: metarl train")
        if not 0 <= self.port < 2**16:
            raise UserError(f"port must be between 0 and 65535, got {self.port}")
        try:
            with socket.create_server(("localhost", self.port)):
                pass
        except OSError:
            raise UserError(f"port {self.port} is in use; choose another one with --port") from None
        board = program.TensorBoard()
        address = ["--host", "localhost", "--port", str(self.port)]
        board.configure(argv=[None, "--logdir", self.run_dir, *address, "--load_fast", "false"])
        return int(board.main())


@dataclass(frozen=True)
class Completion:
    """Print the shell's completion script; where to put it stands in the README.

    Attributes:
        shell: which shell.
    """

    shell: Annotated[tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]], tyro.conf.arg(metavar="SHELL")]

    def execute(self, console: Console) -> int:
        """Print it."""
        _parse(["--tyro-print-completion", self.shell])
        return 0


Command = Train | Evaluate | Adapt | Render | Report | Compare | Envs | Agents | Tensorboard | Bench | Completion
COMMANDS: dict[str, type[Command]] = {one.__name__.lower(): one for one in get_args(Command)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input gives one line on standard error and 2.

    A process of a job ends here, without returning.
    """
    code = _run(arguments)
    if distributed.is_job():
        distributed.leave(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, os.getcwd())  # the user's own modules, as `python -m` does
    torch.set_num_threads(1)  # learners spread chunks of tasks over the cores instead
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that a terminal cannot show is no reason to stop
    try:
        if arguments == ["--version"]:
            print(f"metarl {importlib.metadata.version('metarl-testbed')}")
            return 0
        command = _parse(arguments or ["--help"])
        if distributed.is_job() and not isinstance(command, Train):
            raise UserError("only 'metarl train' runs on several processes; start the others without torchrun")
        return command.execute(Console())
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except (TrainingError, FloatingPointError, EnvironmentFailedError) as error:
        return _fail(str(error), EXIT_TRAINING_FAILED)
    except (ValueError, OSError) as error:
        if TRACEBACK_VARIABLE in os.environ:
            raise
        return _fail(str(error), EXIT_BAD_INPUT)


def _parse(arguments: list[str]) -> Command:
    """Read the command line.

    Raises:
        UserError: it is not understood.
        SystemExit: help or a completion script was asked for and printed.
    """
    first = arguments[0]
    if not first.startswith("-") and first not in COMMANDS:
        raise unknown("command", first, COMMANDS)
    train = _train_defaults(arguments[1:] if arguments[:1] == ["train"] else [])
    commands: Any = Annotated[Train, tyro.conf.subcommand("train", default=train)]
    for name, command_class in COMMANDS.items():
        if command_class is not Train:
            commands |= Annotated[command_class, tyro.conf.subcommand(name)]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.cli(
                commands,
                prog="metarl",
                description="Meta-reinforcement learning: train agents that adapt within a few episodes.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue())) from None
    if isinstance(command, Train):
        _check_train(command, train)
    return command  # type: ignore[no-any-return]


def _train_defaults(arguments: list[str]) -> Train:
    """Defaults of `metarl train`, which depend on its leading AGENT and ENV, on --preset and on --resume."""
    resume = _value_of("--resume", arguments)
    if resume is not None:
        if not resume:
            raise UserError("--resume needs a run: metarl train --resume RUN")
        run = RunDirectory.open(resume, _value_of("--run-dir", arguments) or "runs")
        # Where the run is now, which need not be where it was written.
        return _as_train(dataclasses.replace(run.config, run_dir=str(run.path.parent)), resume)
    positional = []
    for argument in arguments[:2]:
        if argument.startswith("-"):
            break
        positional.append(argument)
    agent, env = (positional + [DEFAULT_AGENT, DEFAULT_ENV][len(positional) :])[:2]
    return _as_train(default_config(agent, env, _value_of("--preset", arguments) or "default"))


def _as_train(config: TrainConfig, resume: str = "") -> Train:
    return Train(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, resume=resume)


def _check_train(command: Train, defaults: Train) -> None:
    """Refuse what the defaults were not made for.

    Raises:
        UserError: AGENT or ENV after a flag, or a resumed run with other settings.
    """
    if command.resume:
        changed = [
            f.name
            for f in dataclasses.fields(command)
            if getattr(command, f.name) != getattr(defaults, f.name) and f.name not in ("iterations", "run_dir")
        ]
        if changed:
            raise UserError(f"--resume keeps the run's settings; only --iterations may be changed, not {changed}")
    elif (command.agent, command.env) != (defaults.agent, defaults.env):
        raise UserError("write AGENT and ENV right after 'train', before the flags: metarl train AGENT ENV --flag …")


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """Value of '--flag VALUE' or '--flag=VALUE', None where it is not given; the parser takes '_' for '-' as well."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else following
    return None


def _one_line(complaint: str) -> str:
    """The message of a complaint of the parser, without the frame, the title and the repetition of the help text.

    The title stands in a box's frame, or above a rule where standard output is not UTF-8.
    """
    sections = re.split("(?m)^[│ ]*[─-]{3,}[│ ]*$", complaint)
    section = sections[0].partition("\n")[2] if complaint.startswith("╭") else "".join(sections[1:2]) or complaint
    message = " ".join(" ".join(line.strip("│╰─╯ ") for line in section.splitlines()).split())
    message = re.sub(r"^Error parsing [^-]\S*: ", "", message)  # the parser's own name of a group of flags
    return f"{message} (see metarl --help)"


def _fail(message: str, code: int) -> int:
    where = f" (process {os.environ['RANK']} of the job)" if distributed.is_job() else ""
    print(f"metarl{where}: {' '.join(message.split())}", file=sys.stderr)
    return code
