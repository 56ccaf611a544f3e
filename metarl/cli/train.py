"""`metarl train`: meta-train an agent, evaluate it on held-out tasks, and say what to do next."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro
from rich.console import Console

from metarl.agents.gradients.processes import num_processes
from metarl.agents.learner import Learner
from metarl.baselines.teachers import check_teacher, check_teachers_memory
from metarl.cli.evaluate import Evaluate
from metarl.cli.flags.before_parsing import value_of
from metarl.cli.flags.groups import flags_in_groups
from metarl.cli.flags.values import leading_agent_and_env, parse_options, parse_seeds
from metarl.console import counted, say, shell_command
from metarl.envs.checks.contract import check_task_env
from metarl.envs.registry import base_name, env_label, is_env_file, with_options
from metarl.envs.task_env import TaskEnv
from metarl.errors import EXIT_INTERRUPTED, TrainingError, UserError, what_happened
from metarl.run.build import build, observations_state, restore_learner
from metarl.run.checkpoint import BEST
from metarl.run.config import TrainConfig, from_yaml, require_whole
from metarl.run.device import resolve_device
from metarl.run.find_run import CONFIG_FILE, Trust
from metarl.run.presets import default_config
from metarl.run.reproduce import settings_to_start_from
from metarl.run.run_directory import METRICS_FILE, RunDirectory, require_as_trained
from metarl.run.schema import read_text
from metarl.training.curriculum import make_curriculum
from metarl.training.logs.run_log import RunLog, check_logger, where_to_watch
from metarl.training.machine import distributed
from metarl.training.machine.accelerate import compile_env
from metarl.training.machine.memory import check_memory
from metarl.training.trainer import Trainer, resolve

CONFIG_FIELDS = tuple(field.name for field in dataclasses.fields(TrainConfig))

GROUPS = {
    "run": (
        "preset",
        "seed",
        "device",
        "iterations",
        "max_env_steps",
        "checkpoint_interval",
        "logger",
        "start_from",
        "name",
        "run_dir",
        "resume",
        "config_file",
        "seeds",
        "trust",
    ),
    "environment": ("env_file", "set", "env_timeout", "action_scale", "normalize_obs"),
    "sampling": ("num_tasks", "episodes"),
    "evaluation": ("eval_interval", "eval_tasks", "test_tasks"),
    "curriculum": ("curriculum", "curriculum_buffer", "curriculum_fresh", "curriculum_correction"),
    "acceleration": ("num_threads", "compile_env", "cuda_graphs", "physics_determinism"),
}
"""Boxes of `metarl train --help`, each with the fields of `Train` whose flags it shows.

The learner's own flags follow in boxes that its configuration makes: learner, policy, trust region, …
"""


@dataclass(frozen=True)
class Train(TrainConfig, Trust):
    """Meta-train an agent. AGENT and ENV come before the flags; the flags' defaults depend on them and on --preset.

    Attributes:
        resume: continue this run exactly where it stopped. Of the other flags, only --iterations may be changed.
        config_file: a run's config.yaml: a new run with these settings, unless they are given as flags.
        seeds: train a run for each of these seeds, '0-4' or '1,5,7', one after the other.
        env_file: a YAML file that describes the environment and its tasks, in place of ENV.
        set: an option of the environment, such as env.horizon=50, in place of its default; may be given several times.
            `metarl envs ENV` lists them.
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = GROUPS

    resume: str = ""
    config_file: Annotated[str, tyro.conf.arg(name="config")] = ""
    seeds: str = ""
    env_file: str = ""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="env.NAME=VALUE")] = ()

    @property
    def config(self) -> TrainConfig:
        """The configuration of the run that was asked for, with the environment of --env-file and --set."""
        config = TrainConfig(**{name: getattr(self, name) for name in CONFIG_FIELDS})
        if self.env_file and not is_env_file(self.env_file):
            raise UserError(f"env_file must end in .yaml or .yml, got {self.env_file!r}")

        env = self.env_file or config.env
        return dataclasses.replace(config, env=with_options(env, parse_options(self.set)))

    def execute(self, console: Console) -> int:
        """Train, evaluate on held-out tasks, and say what to do next; under torchrun as one process of several."""
        if self.seeds:
            return self._train_seeds(console)
        code, _ = self.train(console)
        return code

    def _train_seeds(self, console: Console) -> int:
        """One run after the other for each of the seeds; the first that is stopped or fails is the last."""
        seeds = parse_seeds(self.seeds)
        if self.resume:
            raise UserError("--seeds makes new runs, and does not go with --resume")
        if num_processes() > 1:
            raise UserError("--seeds does not go with torchrun; start a job for each --seed")

        runs = []
        for seed in seeds:
            name = f"{self.name}-seed{seed}" if self.name else ""
            code, run = dataclasses.replace(self, seed=seed, seeds="", name=name).train(console)
            if code != 0:
                return code
            runs.append(run.path)

        say(console, f"{counted(len(runs), 'seed')} together:")
        say(console, f"  {shell_command('metarl', 'evaluate', *runs)}")
        return 0

    def train(self, console: Console) -> tuple[int, RunDirectory]:
        """Do what `execute` does; returns the exit code and the run."""
        with distributed.process_group(resolve_device(distributed.local_device(self.device))):
            config = resolve(self.config)
            distributed.check_job(config)
            if not self.resume:
                _check_before_writing(config)
            run, resumed = distributed.broadcast(lambda: self._open(config))

            # The other processes use their own device and their own share of the cores.
            if num_processes() > 1:
                run.config = dataclasses.replace(run.config, device=config.device, num_threads=config.num_threads)

            # Only the first process writes the run and speaks.
            if distributed.rank() > 0:
                return self._train(run, resumed, Console(quiet=True)), run
            with run.locked():
                return self._train(run, resumed, console), run

    def _open(self, config: TrainConfig) -> tuple[RunDirectory, bool]:
        """The run directory and whether it is to be resumed: by --resume, or in a job that torchrun restarted."""
        if self.resume:
            run = RunDirectory.open(self.resume, config.run_dir)
            run.check_can_resume()  # before anything is written, the lock included
            return run, True
        if distributed.is_restart():
            begun = RunDirectory.newest(config)
            if begun is not None:
                return begun, True
        return RunDirectory.create(config), False

    def _train(self, run: RunDirectory, resumed: bool, console: Console) -> int:
        """Train in a run directory that is open; returns the exit code."""
        if resumed:
            run.set_iterations(self.iterations)
        trainer = Trainer(run, console)
        if resumed:
            trainer.resume()
            # Only now, after the checkpoint was found whole, the new number of iterations is kept.
            if distributed.rank() == 0:
                run.write_config()

        config = run.config
        start = f"resuming at iteration {trainer.progress.iteration}" if resumed else "meta-training"
        what = f"{config.agent} on {env_label(config.env)}, {counted(config.iterations, 'iteration')}, in {run.path}"
        say(console, f"{start}: {what}")
        say(console, f"watch it with: {where_to_watch(run)}")

        with _told_how_to_go_on(run):
            done = trainer.train()
        if not done:
            say(console, f"stopped after iteration {trainer.progress.iteration} of {config.iterations}; all is saved")
            say(console, f"go on with: {shell_command('metarl', 'train', '--resume', run.path)}")
            return EXIT_INTERRUPTED

        if distributed.rank() == 0:
            with _told_that_training_is_done(run):
                _finish(run, trainer, console)
        return 0


@contextlib.contextmanager
def _told_how_to_go_on(run: RunDirectory) -> Iterator[None]:
    """Add to the error of a training that failed, or was interrupted, how to go on."""
    try:
        yield
    except (TrainingError, KeyboardInterrupt) as error:
        go_on = shell_command("metarl", "train", "--resume", run.path)
        raise type(error)(f"{error}; go on with: {go_on}") from error


@contextlib.contextmanager
def _told_that_training_is_done(run: RunDirectory) -> Iterator[None]:
    """Say where the final evaluation failed or was interrupted, and that only it is missing."""
    again = f"training is done and saved; evaluate with: {shell_command('metarl', 'train', '--resume', run.path)}"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"interrupted in the final evaluation; {again}") from interrupt
    except BaseException as error:
        raise TrainingError(f"final evaluation: {what_happened(error)}; {again}") from error


def _check_before_writing(config: TrainConfig) -> None:
    """Refuse what cannot be built, or does not fit into memory, before anything is written.

    Raises:
        UserError, ValueError: says what is wrong.
    """
    check_teacher(config)
    check_logger(config.logger)

    generator = torch.Generator(config.device)
    distribution, learner = build(config, generator)
    if config.start_from:
        _check_start(RunDirectory.open(config.start_from, config.run_dir), config, learner)

    check_memory(config, distribution, learner)
    check_teachers_memory(config, distribution)

    # A user's own methods, tried on as many tasks as training will have.
    if isinstance(distribution.env, TaskEnv):
        check_task_env(distribution.env, distribution.sample(config.num_tasks, "train", generator), config.episodes)
    make_curriculum(config, learner)
    if config.compile_env:
        compile_env(distribution, torch.device(config.device))


def _check_start(start: RunDirectory, config: TrainConfig, learner: Learner) -> None:
    """Refuse a run to start from whose policy is another one, sees other numbers, or took all the steps already.

    Raises:
        CheckpointError, UserError: says which.
    """
    best = start.checkpoints.load(BEST)
    restore_learner(learner, best, start.checkpoints.path(BEST))

    normalized = bool(observations_state(best))
    if config.normalize_obs == ("off" if normalized else "on"):
        does = "normalises" if normalized else "does not normalise"
        raise UserError(f"{start.path} {does} observations, and its policy needs the same: leave --normalize-obs out")

    spent = start.last_progress().env_steps
    if 0 < config.max_env_steps <= spent:
        raise UserError(
            f"max_env_steps must be above the {spent:,} environment steps that {start.path} took, which count as this "
            f"run's; got {config.max_env_steps:,}"
        )


def _finish(run: RunDirectory, trainer: Trainer, console: Console) -> None:
    """Evaluate the trained policy on the test tasks, keep that in the run, and suggest the next commands."""
    progress = trainer.progress
    say(
        console,
        f"trained {counted(progress.iteration, 'iteration')} on {progress.env_steps:,} environment steps "
        f"(and {progress.evaluation_env_steps:,} for validation) in {progress.seconds:,.0f} s",
    )

    # As `metarl evaluate RUN` does, so that the command gives the same numbers.
    final = Evaluate(run=str(run.path), num_tasks=run.config.test_tasks, out=str(run.path))
    evaluated = final.evaluate(run)
    RunLog.test(run, evaluated.evaluation, evaluated.images, evaluated.checkpoint.progress)
    final.show(evaluated, console)

    say(console, "next:")
    if "ood" in trainer.distribution.splits:
        say(console, f"  {shell_command('metarl', 'evaluate', run.path, '--split', 'ood')}")
    say(console, f"  {shell_command('metarl', 'evaluate', run.path, '--steps', trainer.learner.adaptation_steps + 2)}")
    say(console, f"  {where_to_watch(run)}")


# ---------------------------------------------------------------------- reading the flags


def read_train(arguments: list[str], read: Callable[[type[Any]], Any]) -> Train:
    """The command that the arguments after `metarl train` ask for.

    Args:
        arguments: the command line after 'train'.
        read: parses the command line into an instance of a class that declares the flags.

    Raises:
        UserError: unknown agent, environment, preset or run, or flags that do not go together.
    """
    defaults = default_train(arguments)
    command: Train = read(flags_in_groups(defaults)).command

    # The defaults were made for what stands first; another AGENT or ENV after a flag would get the wrong ones.
    if command.resume:
        _check_resumed(command, defaults)
    elif (command.agent, command.env) != (defaults.agent, defaults.env) and not (
        command.start_from or command.config_file
    ):
        raise UserError("write AGENT and ENV right after 'train', before the flags: metarl train AGENT ENV --flag …")
    return command


def default_train(arguments: list[str]) -> Train:
    """Defaults of the flags, which depend on the leading AGENT and ENV, on --preset and on --resume."""
    resume = value_of("--resume", arguments)
    start = value_of("--start-from", arguments)
    file = value_of("--config", arguments)
    if file is not None:
        if resume is not None or start:
            raise UserError("--config makes a new run, and does not go with --resume or --start-from")
        return _as_train(_settings_in(file, arguments))
    if resume is None and start:
        return _as_train(_settings_of(start, arguments))
    if resume is None:
        agent, env = leading_agent_and_env(arguments)
        return _as_train(default_config(agent, env, value_of("--preset", arguments) or "default"))

    if not resume:
        raise UserError("--resume needs a run: metarl train --resume RUN")
    run = RunDirectory.open(resume, value_of("--run-dir", arguments) or "runs")
    # The run may have been moved since its configuration was written.
    return _as_train(dataclasses.replace(run.config, run_dir=str(run.path.parent)), resume)


def _settings_in(file: str, arguments: list[str]) -> TrainConfig:
    """The settings in a run's config.yaml, as those of a new run: its name and place are its own.

    Raises:
        UserError: there is no such file, it is no configuration, or AGENT and ENV are others.
    """
    path = Path(file)
    if not file or not path.is_file():
        raise UserError(f"--config needs a file such as a run's config.yaml; there is none at {file!r}")
    try:
        text = read_text(path, named_by_user=True)
        config = from_yaml(text)
        require_whole(text, config)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if path.name == CONFIG_FILE and (path.parent / METRICS_FILE).is_file():
        require_as_trained(path, text)

    given = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[:2]))
    own = [config.agent, config.env]
    if not _agree(given, own):
        raise UserError(f"{path} is of {' '.join(own)}, and cannot be that of {' '.join(given)}")

    # The environment's file was copied beside the configuration; where it was before, nobody needs it.
    env = config.env
    if is_env_file(env) and (path.parent / env_label(env)).is_file():
        env = str(path.parent / env_label(env))
    return dataclasses.replace(config, env=env, name="", run_dir="runs", device="auto", num_threads=0)


def _agree(given: list[str], own: list[str]) -> bool:
    """Whether the AGENT and the ENV that were given, if any, are those of a run; its options may be others."""
    return [*map(base_name, given)] == [*map(base_name, own[: len(given)])]


def _settings_of(start: str, arguments: list[str]) -> TrainConfig:
    """The settings of the run that a new one starts from; its name, place and device are its own.

    Raises:
        UserError: there is no such run, or AGENT and ENV are others.
    """
    run = RunDirectory.open(start, value_of("--run-dir", arguments) or "runs")
    given = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[:2]))
    own = [run.config.agent, run.config.env]
    if not _agree(given, own):
        raise UserError(f"run {run.path} is of {' '.join(own)}, and cannot be the start of {' '.join(given)}")

    return settings_to_start_from(run)


def _as_train(config: TrainConfig, resume: str = "") -> Train:
    return Train(**{name: getattr(config, name) for name in CONFIG_FIELDS}, resume=resume)


def _check_resumed(command: Train, defaults: Train) -> None:
    """Refuse other settings than those of the run that is resumed.

    Raises:
        UserError: names the settings.
    """
    may_change = ("iterations", "run_dir", "trust")
    changed = [
        field.name
        for field in dataclasses.fields(command)
        if field.name not in may_change and getattr(command, field.name) != getattr(defaults, field.name)
    ]
    if changed:
        raise UserError(f"--resume keeps the run's settings; only --iterations may be changed, not {changed}")
