"""The fair comparison: agents on the same held-out tasks, counted in the same environment steps.

A comparison directory holds everything it writes and everything needed to go on after an interruption:

runs/comparison-<env>/
settings.json        what is compared
cells/               one JSON file per agent and seed (SB3: and task), each written when it is done
trained/             run directories of the baselines that were meta-trained here
sb3/                 models of Stable-Baselines3 as zips, with its own TensorBoard logs
comparison*          data and figures; see metarl.comparison.report
tensorboard/         the same for TensorBoard
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metarl.agents.distillation import DistillationConfig
from metarl.agents.learner import MetaLearner
from metarl.agents.registry import AGENTS
from metarl.baselines.references import reference_episodes
from metarl.baselines.teachers import total_training_env_steps
from metarl.comparison.comparison import Comparison
from metarl.comparison.measurements import Cell, CellStore, curve, side_by_side
from metarl.console import say
from metarl.envs.registry import make_distribution
from metarl.envs.task_distribution import FROZEN_SIZE
from metarl.errors import UserError, require_at_least, unknown
from metarl.evaluation.adaptation import adaptation_episodes, rollout_generator
from metarl.evaluation.evaluation import summarize
from metarl.evaluation.statistics import Curve
from metarl.run.build import build, load_learner
from metarl.run.checkpoint import BEST, LAST
from metarl.run.config import TrainConfig
from metarl.run.device import resolve_device
from metarl.run.files import write_atomically
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory, as_file_name
from metarl.training.distributed import local_cores
from metarl.training.progress import PlainReporter
from metarl.training.trainer import Trainer, resolve

SETTINGS_FILE = "settings.json"
CELLS = "cells"
TRAINED = "trained"
SB3 = "sb3"

DEFAULT_BASELINES = ("reptile", "multitask", "distill", "ppo", "ppo-pretrained", "random", "untrained", "oracle")
REFERENCES = ("random", "untrained", "oracle")
SB3_BASELINES = ("ppo", "a2c", "sac", "td3", "ddpg", "dqn", "ppo-pretrained")
PRETRAINED = "-pretrained"
NONE = "none"
MORE_ITERATIONS = 100_000
"""Iterations of a baseline whose end is a number of environment steps."""
EVALUATIONS = 40
"""SB3 models are evaluated this often on the way to the budget, at steps that grow geometrically."""

QUICK_TRAINING_SHARE = 0.2
"""Share of the run's meta-training steps that a baseline trained here gets with --quick; the table shows the steps."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare trained runs with baselines on the same held-out tasks, counted in the same environment steps.

    Attributes:
        runs: trained runs of one environment; runs of one agent that differ only in their seed are pooled.
        baselines: what to compare them with. Agents are meta-trained first with as many environment steps as the
            first run: maml, reptile, multitask, distill (taught by the first run). Stable-Baselines3 from scratch on
            each task: ppo, a2c, sac, td3, ddpg, dqn; trained over many tasks, then fine-tuned: ppo-pretrained.
            References: random, oracle, and untrained, the first run's agent at its initialisation. "none": none.
        num_tasks: M, held-out tasks; by default 20, with --quick 6.
        budget: environment steps that SB3 may spend on each task; by default 30,000, with --quick 10,000.
        seeds: seeds of each baseline.
        split: held-out 'test' tasks, 'ood' outside the training ranges, or 'validation'.
        episodes: episodes per task in each evaluation, and of each adaptation step.
        steps: K, adaptation steps of the meta-learners; by default as many as each was trained for.
        quick: a first look: fewer tasks and steps, and baselines trained here get a fifth of the meta-training.
        device: of the meta-learners: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        num_threads: CPU threads, and processes for SB3; 0 takes one per core.
        sb3_settings: arguments for Stable-Baselines3 on the new tasks, as JSON: '{"ppo": {"gamma": 0.9}}'.
        out: directory of the comparison; by default run_dir/comparison-ENV. Work done there before is not done again.
        run_dir: where runs are looked for by name.
    """

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    num_tasks: int | None = None
    budget: int | None = None
    seeds: int = 1
    split: Literal["test", "ood", "validation"] = "test"
    episodes: int = 20
    steps: int | None = None
    quick: bool = False
    device: str = "auto"
    num_threads: int = 0
    sb3_settings: str = ""
    out: str = ""
    run_dir: str = "runs"

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        require_at_least(self, num_tasks=1, seeds=1, episodes=1, steps=1, num_threads=0)
        if self.num_tasks is not None and self.num_tasks > FROZEN_SIZE:
            raise UserError(f"num_tasks must be at most {FROZEN_SIZE}, got {self.num_tasks}")

    @property
    def tasks_compared(self) -> int:
        """M."""
        return self.num_tasks or (6 if self.quick else 20)

    @property
    def task_budget(self) -> int:
        """Environment steps that SB3 may spend on each task."""
        return (10_000 if self.quick else 30_000) if self.budget is None else self.budget


class Comparer:
    """One comparison, from the checks of what was asked for to the curves.

    Args:
        config: what to compare.
        console: shows the progress.

    Raises:
        UserError, ValueError: it cannot be done; nothing was written.
    """

    def __init__(self, config: CompareConfig, console: Console) -> None:
        if not config.runs:
            raise UserError("compare needs a run: metarl compare RUN …; train one with: metarl train")
        self.config = config
        self.console = console
        self.device = str(resolve_device(config.device))
        self.runs = [RunDirectory.open(run, config.run_dir) for run in config.runs]
        self.env = _common_env(self.runs)
        self.distribution = make_distribution(self.env)
        if config.task_budget < self.distribution.horizon:
            raise UserError(
                f"budget must be at least one episode, {self.distribution.horizon} environment steps of {self.env}, "
                f"got {config.task_budget}"
            )
        self.tasks = self.distribution.sample(config.tasks_compared, config.split)
        self.groups = _pooled(self.runs)
        self.baselines = self._checked_baselines()
        self.sb3_changes = self._checked_sb3_settings()
        self.training_env_steps = self._share_of(self.runs[0].checkpoints.load(LAST).progress.env_steps)
        self.path = self._directory()
        self.cells = CellStore(self.path / CELLS)

    def compare(self) -> Comparison:
        """Do what is not done yet, and gather the curves.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was done is kept, and the same command goes on.
            TrainingError: training a baseline met a number that is not finite.
        """
        start = time.perf_counter()
        labels = [*self.groups, *self.baselines]
        curves = []
        for number, label in enumerate(labels, 1):
            say(self.console, f"[{number}/{len(labels)}] {label}")
            begun = time.perf_counter()
            measured = self._curve(label)
            curves.append(measured)
            before, after = measured.returns[:, 0].mean(), measured.returns[:, -1].mean()
            change = f"{before:.2f} → {after:.2f}" if len(measured.env_steps) > 1 else f"{after:.2f}"
            say(self.console, f"      return {change}, {time.perf_counter() - begun:.0f} s")
        return Comparison(
            env=self.env,
            split=self.config.split,
            num_tasks=self.config.tasks_compared,
            budget=self.config.task_budget,
            curves=curves,
            metadata={
                "runs": [str(run.path) for run in self.runs],
                "episodes": self.config.episodes,
                "seconds": time.perf_counter() - start,
            },
        )

    # ------------------------------------------------------------------ what is compared

    def _checked_baselines(self) -> list[str]:
        """The baselines in their order, without agents that the runs are of already.

        Raises:
            UserError, ValueError: unknown, or cannot act here.
        """
        chosen = [name for name in dict.fromkeys(self.config.baselines) if name != NONE]
        for name in chosen:
            known = (*AGENTS, *SB3_BASELINES, *REFERENCES, NONE)
            if name not in known:
                raise unknown("baseline", name, known)
            if name in SB3_BASELINES:
                from metarl.agents.sb3 import check_algorithm  # slow to import, and not always needed

                check_algorithm(name.removesuffix(PRETRAINED), self.distribution.action_space)
        if "oracle" in chosen and not self.distribution.env.has_oracle:
            if self.config.baselines != DEFAULT_BASELINES:
                raise UserError(f"{self.env} has no oracle; leave it out of --baselines")
            chosen.remove("oracle")
        return [name for name in chosen if name not in self.groups]

    def _checked_sb3_settings(self) -> dict[str, dict[str, Any]]:
        """Baseline → arguments of its algorithm, tried out on a model.

        Raises:
            UserError, ValueError: not such an object, of another baseline, or arguments that the algorithm refuses.
        """
        try:
            settings = json.loads(self.config.sb3_settings or "{}")
        except json.JSONDecodeError as error:
            raise UserError(f"sb3_settings is not valid JSON: {error}") from None
        if not isinstance(settings, dict) or not all(isinstance(value, dict) for value in settings.values()):
            raise UserError('sb3_settings must look like {"ppo": {"gamma": 0.9}}')
        for label, changes in settings.items():
            if label not in SB3_BASELINES:
                raise unknown("baseline", label, SB3_BASELINES)
            from metarl.agents.sb3 import make_model  # slow to import, and not always needed
            from metarl.baselines.sb3 import TRAINING_ENVS
            from metarl.envs.adapters.sb3 import make_sb3_vec_env

            env = make_sb3_vec_env(self.distribution, TRAINING_ENVS)
            try:
                make_model(label.removesuffix(PRETRAINED), env, seed=0, changes=changes)
            except (TypeError, AssertionError) as error:
                raise UserError(f"sb3_settings of {label}: {error}") from None
        return settings

    def _share_of(self, env_steps: int) -> int:
        """Environment steps of meta-training for baselines trained here, given the first run's."""
        return max(1, round(env_steps * (QUICK_TRAINING_SHARE if self.config.quick else 1.0)))

    def _directory(self) -> Path:
        """Where this comparison was begun, or a new directory."""
        settings = json.dumps(self._settings(), indent=1)
        stem = Path(self.config.run_dir) / f"comparison-{as_file_name(self.env)}"
        path, number = Path(self.config.out or stem), 1
        while not self.config.out and path.exists() and _text(path / SETTINGS_FILE) != settings:
            number += 1
            path = stem.with_name(f"{stem.name}-{number}")
        try:
            write_atomically(path / SETTINGS_FILE, settings.encode())
        except OSError as error:
            raise UserError(f"comparison directory {path} cannot be written: {error}") from None
        return path

    def _settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        config = self.config
        return {
            "runs": {str(run.path): _digest(run) for run in self.runs},
            "baselines": self.baselines,
            "num_tasks": config.tasks_compared,
            "budget": config.task_budget,
            "sb3_settings": self.sb3_changes,
            **{name: getattr(config, name) for name in ("seeds", "split", "episodes", "steps", "quick")},
        }

    def _curve(self, label: str) -> Curve:
        if label in self.groups:
            return self._meta_learner(label, self.groups[label])
        if label in AGENTS:
            return self._meta_learner(label, [self._train(label, seed) for seed in range(self.config.seeds)])
        if label in SB3_BASELINES:
            return self._sb3(label)
        return self._untrained() if label == "untrained" else self._reference(label)

    # ------------------------------------------------------------------ meta-learners and references

    def _meta_learner(self, label: str, runs: Sequence[RunDirectory]) -> Curve:
        """Adaptation of meta-trained runs, one seed each."""

        def trained(run: RunDirectory) -> MetaLearner:
            return load_learner(run, BEST, self.device)[1]

        cells = [self._adaptation(label, {"checkpoint": _digest(run)}, functools.partial(trained, run)) for run in runs]
        spent = [total_training_env_steps(run) for run in runs]
        return curve(label, "meta-learner", round(float(np.mean(spent))), cells)

    def _untrained(self) -> Curve:
        """The first run's agent before any training, with the same adaptation."""
        config = self.runs[0].config

        def initial(seed: int) -> MetaLearner:
            return build(config, torch.Generator(self.device).manual_seed(seed))[1]

        learner = dataclasses.asdict(config.learner)
        cells = [
            self._adaptation("untrained", {"learner": learner, "seed": seed}, functools.partial(initial, seed))
            for seed in range(self.config.seeds)
        ]
        return curve("untrained", "reference", 0, cells)

    def _adaptation(self, label: str, settings: dict[str, Any], load: Callable[[], MetaLearner]) -> Cell:
        """Adaptation of one learner to all tasks."""

        def measure() -> Cell:
            learner, generator = load(), rollout_generator(torch.device(self.device), seed=0)
            steps = learner.adaptation_steps if self.config.steps is None else self.config.steps
            tasks = {name: value.to(self.device) for name, value in self.tasks.items()}
            batches = adaptation_episodes(learner, self.distribution, tasks, steps, self.config.episodes, generator)
            evaluation = summarize(batches)
            # A batch after k < K steps is the data of step k + 1: only the last one merely measures.
            return Cell(evaluation.env_steps.tolist(), evaluation.returns.tolist(), batches[-1].env_steps)

        return self.cells.measure(label, {**settings, **self._protocol(), "steps": self.config.steps}, measure)

    def _reference(self, name: str) -> Curve:
        def measure() -> Cell:
            generator = rollout_generator(torch.device("cpu"), seed=0)
            episodes = reference_episodes(self.distribution, self.tasks, self.config.episodes, generator)[name]
            return Cell([0.0], [episodes.returns.double().mean(dim=1).tolist()], episodes.env_steps)

        return curve(name, "reference", 0, [self.cells.measure(name, self._protocol(), measure)])

    def _protocol(self) -> dict[str, Any]:
        """What decides a measurement besides the agent."""
        return {
            "env": self.env,
            "split": self.config.split,
            "num_tasks": self.config.tasks_compared,
            "episodes": self.config.episodes,
        }

    def _train(self, agent: str, seed: int) -> RunDirectory:
        """Meta-train a baseline, or go on with it; where it is done already, this costs nothing."""
        config = self._training_config(agent, seed)
        path = self.path / TRAINED / config.name
        run = RunDirectory.open(str(path)) if path.exists() else RunDirectory.create(config)
        if _without_seed(run.config) != _without_seed(config):
            raise UserError(f"{path} was trained with other settings; choose another --out")
        with run.locked():
            trainer = Trainer(run, self.console)
            trainer.resume()
            trainer.train()
            if trainer.stop_requested:
                raise KeyboardInterrupt
        return run

    def _training_config(self, agent: str, seed: int) -> TrainConfig:
        """The agent's default preset, for as many environment steps as the first run had."""
        config = default_config(agent, self.env)
        if isinstance(config.learner, DistillationConfig):
            config = dataclasses.replace(config, learner=self._taught_by_first_run(config, config.learner))
        config = dataclasses.replace(
            config,
            seed=seed,
            device=self.device,
            num_threads=self.config.num_threads,
            iterations=MORE_ITERATIONS,
            max_env_steps=self.training_env_steps,
            name=f"{agent}-seed{seed}",
            run_dir=str(self.path / TRAINED),
        )
        return resolve(config)

    def _taught_by_first_run(self, config: TrainConfig, learner: DistillationConfig) -> DistillationConfig:
        """As many teachers as leave the student at least half of the environment steps."""
        steps = load_learner(self.runs[0])[1].adaptation_steps
        cost = (steps + 1) * config.episodes * self.distribution.horizon
        affordable = max(1, self.training_env_steps // (2 * cost))
        return dataclasses.replace(
            learner, teacher=str(self.runs[0].path), num_teachers=min(learner.num_teachers, affordable)
        )

    # ------------------------------------------------------------------ Stable-Baselines3

    def _sb3(self, label: str) -> Curve:
        """Learning curves of an SB3 algorithm, a model for each seed and task."""
        from metarl.agents.sb3 import ALGORITHMS  # slow to import, and not always needed
        from metarl.baselines.sb3 import TaskJob, learn_tasks

        algorithm = label.removesuffix(PRETRAINED)
        pretraining = self.training_env_steps if label != algorithm else 0
        jobs = [
            TaskJob(
                algorithm=algorithm,
                env=self.env,
                task={name: value[number].tolist() for name, value in self.tasks.items()},
                seed=seed,
                schedule=self._schedule(),
                episodes=self.config.episodes,
                directory=str(self.path / SB3 / f"{label}-seed{seed}" / f"task-{number:03d}"),
                pretrained=self._pretrain(label, algorithm, seed) if pretraining else "",
                changes=self.sb3_changes.get(label, {}),
            )
            for seed in range(self.config.seeds)
            for number in range(self.config.tasks_compared)
        ]
        also = {"pretraining_env_steps": pretraining, "defaults": repr(ALGORITHMS[algorithm])}
        settings = [dataclasses.asdict(job) | also for job in jobs]
        cells = [self.cells.load(label, one) for one in settings]
        missing = [index for index, cell in enumerate(cells) if cell is None]
        done_before = len(jobs) - len(missing)
        with self._bar("tasks", len(jobs), done_before) as show:
            finished = itertools.count(done_before + 1)
            for position, learned in learn_tasks([jobs[index] for index in missing], self._num_processes):
                index = missing[position]
                cell = Cell(learned.env_steps, [[value] for value in learned.returns], learned.evaluation_env_steps)
                self.cells.save(label, settings[index], cell)
                cells[index] = cell
                show(next(finished))
        done = [cell for cell in cells if cell is not None]
        width = self.config.tasks_compared
        seeds = [side_by_side(done[start : start + width]) for start in range(0, len(done), width)]
        return curve(label, "baseline", pretraining, seeds)

    def _pretrain(self, label: str, algorithm: str, seed: int) -> str:
        """Zip of the model trained over many tasks; where it is there already, this costs nothing."""
        from metarl.baselines.sb3 import MODEL_FILE, pretrain

        directory = self.path / SB3 / f"{label}-seed{seed}" / f"pretraining-{self.training_env_steps}"
        if not (directory / MODEL_FILE).exists():
            with self._bar("steps of pretraining", self.training_env_steps) as show:
                pretrain(algorithm, self.env, self.training_env_steps, seed, directory, show)
        return str(directory / MODEL_FILE)

    def _schedule(self) -> tuple[int, ...]:
        """Environment steps at which SB3 models are evaluated: 0, then geometrically from one episode to the budget."""
        first, last = self.distribution.horizon, self.config.task_budget
        return (0, *sorted({round(float(count)) for count in np.geomspace(first, last, EVALUATIONS)}))

    @property
    def _num_processes(self) -> int:
        return self.config.num_threads or local_cores()

    # ------------------------------------------------------------------ progress

    @contextlib.contextmanager
    def _bar(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A progress bar, or a line now and then where the output is no terminal; gives what shows a count."""
        columns = (TextColumn(f"      {what}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task, shown = bar.add_task(what, total=total, completed=done), time.monotonic()

            def show(count: int) -> None:
                nonlocal shown
                bar.update(task, completed=count)
                if bar.disable and time.monotonic() - shown >= PlainReporter.INTERVAL:
                    shown = time.monotonic()
                    say(self.console, f"      {count:,}/{total:,} {what}")

            yield show


def _common_env(runs: Sequence[RunDirectory]) -> str:
    """The environment of all runs.

    Raises:
        UserError: there are several.
    """
    first = runs[0]
    for run in runs:
        if make_distribution(run.config.env).name != make_distribution(first.config.env).name:
            raise UserError(
                f"runs of different environments cannot be compared: {first.path} is of {first.config.env}, "
                f"{run.path} of {run.config.env}"
            )
    return first.config.env


def _pooled(runs: Sequence[RunDirectory]) -> dict[str, list[RunDirectory]]:
    """Runs that differ only in their seed and where they ran, by the label of their agent.

    Two settings of one agent are told apart by the name of their first run.
    """
    pools: list[list[RunDirectory]] = []
    for run in runs:
        for pool in pools:
            if _without_seed(pool[0].config) == _without_seed(run.config):
                if any(other.path.resolve() == run.path.resolve() for other in pool):
                    raise UserError(f"run {run.path} is given twice")
                pool.append(run)
                break
        else:
            pools.append([run])
    agents = [pool[0].config.agent for pool in pools]
    labels = [
        agent if agents.count(agent) == 1 else f"{agent} ({pool[0].path.name})"
        for agent, pool in zip(agents, pools, strict=True)
    ]
    return dict(zip(labels, pools, strict=True))


def _without_seed(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, seed=0, name="", run_dir="", device="", num_threads=0)


def _digest(run: RunDirectory) -> str:
    """Identity of a run's best checkpoint."""
    path = run.checkpoints.path(BEST)
    run.checkpoints.load(BEST)  # what cannot be read is said now, in one line
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None
