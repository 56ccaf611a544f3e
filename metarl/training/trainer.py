"""The model trainer: one loop of sample, adapt, update, log, evaluate and save."""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import NamedTuple

import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from metarl.agents.distillation import Distillation
from metarl.agents.gradients.processes import ProcessLostError, num_processes, sum_over_processes
from metarl.agents.learner import MetaLearner
from metarl.baselines.teachers import load_or_train_teachers
from metarl.console import say
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.registry import env_label
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import TrainingError
from metarl.evaluation import plots
from metarl.evaluation.adaptation import adapt_to_tasks, adaptation_episodes, rollout_generator
from metarl.evaluation.evaluation import summarize
from metarl.run.build import build, curriculum_state, learner_state
from metarl.run.checkpoint import Checkpoint, Progress
from metarl.run.config import TrainConfig
from metarl.run.device import resolve_device
from metarl.run.run_directory import RunDirectory
from metarl.training import distributed, tensorboard
from metarl.training.accelerate import capture_rollouts, compile_env
from metarl.training.curriculum import make_curriculum
from metarl.training.curriculum_plots import PICTURED_TASKS, task_densities
from metarl.training.memory import out_of_memory
from metarl.training.progress import Reporter, make_reporter

VALIDATION_SEED_OFFSET = 1_000_000
"""Validation rollouts draw from seed + this, the same at every evaluation: curves compare with themselves."""


def resolve(config: TrainConfig) -> TrainConfig:
    """The configuration with 'auto' and 0 replaced by what this machine has.

    Raises:
        UserError: the device is not there.
    """
    return dataclasses.replace(
        config,
        device=str(resolve_device(distributed.local_device(config.device))),
        num_threads=config.num_threads or distributed.local_cores(),
    )


class Trainer:
    """Trains the learner of one run directory, from its newest checkpoint on.

    The whole state lies in the learner, the curriculum, one random generator and `Progress`; a checkpoint holds exactly
    these, so a run that was killed and resumed ends as one that was not. Of the processes of a job, each has its share
    of the tasks and the first one writes; a checkpoint is the same whatever their number.

    Attributes:
        stop_requested: whether Ctrl-C or SIGTERM came while it trained.

    Args:
        run: the run directory, locked by this process.
        console: shows the progress.

    Raises:
        UserError, ValueError: the configuration cannot be built.
    """

    def __init__(self, run: RunDirectory, console: Console) -> None:
        self.run = run
        self.config = run.config
        self.console = console
        self.generator = torch.Generator(resolve_device(self.config.device)).manual_seed(self.config.seed)
        self.distribution, self.learner = build(self.config, self.generator)
        if self.config.compile_env:
            compile_env(self.distribution, self.generator.device)
        self.curriculum = make_curriculum(self.config, self.learner)
        self.progress = Progress()
        self.stop_requested = False
        if isinstance(self.learner, Distillation):
            self.learner.teachers, env_steps = load_or_train_teachers(run, self.distribution, partial(say, console))
            self.distribution = self.distribution.with_train_tasks(self.learner.teachers.tasks)
            self.progress = Progress(env_steps=env_steps)
        if self.config.cuda_graphs == "auto":
            problem = capture_rollouts(self.distribution, self.learner, self.generator)
            if problem is not None:
                say(console, f"warning: {problem}")

    def resume(self) -> None:
        """Take up the newest checkpoint that can be read; says which ones could not.

        A run that was killed before its first checkpoint starts from the beginning.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
        """
        newest = distributed.broadcast(self._newest_checkpoint)
        if newest is None:
            return
        checkpoint, problems = newest
        for problem in problems:
            say(self.console, f"warning: {problem}; going on from the one before")
        self._restore(checkpoint)

    def _newest_checkpoint(self) -> tuple[Checkpoint, list[str]] | None:
        """What there is to resume, with the metrics rewound to it."""
        if not self.run.checkpoints.iterations():
            self.run.rewind_metrics(-1)
            return None
        checkpoint, problems = self.run.checkpoints.load_newest_good()
        self.run.rewind_metrics(checkpoint.progress.iteration)
        return checkpoint, problems

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.learner.load_state_dict(learner_state(checkpoint))
        self.curriculum.load_state_dict(curriculum_state(checkpoint))
        self.generator.set_state(checkpoint.tensors["generator"])
        self.progress = checkpoint.progress

    def train(self) -> bool:
        """Run the remaining meta-iterations.

        Returns:
            True at the end, False where Ctrl-C or SIGTERM asked to stop; the run is saved either way.

        Raises:
            TrainingError: a number was not finite; the state before that iteration is saved.
        """
        with (
            _stop_requests() as stop,
            self._writer() as writer,
            make_reporter(self.console, self.progress.iteration, self.progress.env_steps) as reporter,
        ):
            if writer is not None and not self._begun:
                row = self._validate(writer, reporter)
                tensorboard.write_layout(writer, row)
                self._log(writer, row)
                self._save()
            while self._share_done() < 1 and not self._stops(stop):
                self._iterate(writer, reporter)
        self.stop_requested |= stop.requested
        self._save()
        return self._share_done() >= 1

    def _stops(self, stop: "_StopFlag") -> bool:
        """Whether any process of the job was asked to stop."""
        requested = torch.tensor(float(stop.requested), device=self.generator.device)
        try:
            self.stop_requested = bool(sum_over_processes(requested))
        except ProcessLostError as error:
            self._save()
            raise TrainingError(f"after iteration {self.progress.iteration}: {error}; the run is saved") from error
        return self.stop_requested

    def _iterate(self, writer: SummaryWriter | None, reporter: Reporter) -> None:
        """One meta-iteration with its logging, and the evaluation and checkpoint that may be due."""
        config, start, before = self.config, time.perf_counter(), self._checkpoint()
        iteration = self.progress.iteration + 1
        try:
            draw = self.curriculum.draw(self.distribution, config.num_tasks, self.generator)
            sampled = sample_iteration(self.distribution, self.learner, draw.tasks, config.episodes, self.generator)
            adapted = time.perf_counter()
            metrics = self.learner.meta_update(
                sampled.support,
                sampled.query,
                self._share_done(),
                sampled.tasks,
                distributed.local_shard(draw.importance),
            )
            sampled_steps, returns = self._over_all_tasks(sampled)
            if sampled.batches:
                self.curriculum.learn(draw, distributed.all_gather(sampled.batches[-1].returns.mean(dim=1)))
        except (FloatingPointError, ProcessLostError, EnvironmentFailedError, torch.OutOfMemoryError) as error:
            self._restore(before)
            self._save()
            reason = out_of_memory(config, self.distribution) if isinstance(error, torch.OutOfMemoryError) else error
            raise TrainingError(f"iteration {iteration}: {reason}; the run is saved as it was before it") from error
        updated = time.perf_counter()
        self.progress = dataclasses.replace(
            self.progress,
            iteration=iteration,
            env_steps=self.progress.env_steps + sampled_steps,
            seconds=self.progress.seconds + updated - start,
        )
        row = {f"train/return_k{k}": value for k, value in enumerate(returns)}
        row |= {f"train/{name}": value for name, value in metrics.items()} | draw.metrics
        row |= {
            "time/collect": sampled.collect_seconds,
            "time/adapt": adapted - start - sampled.collect_seconds,
            "time/meta_update": updated - adapted,
            "time/env_steps_per_second": sampled_steps / sampled.collect_seconds,
        }
        reporter.iteration(iteration, self._iterations_expected(sampled_steps), self.progress.env_steps, returns)
        if writer is not None and (iteration % config.eval_interval == 0 or self._share_done() >= 1):
            row |= self._validate(writer, reporter)
        self._log(writer, row)
        if iteration % config.checkpoint_interval == 0:
            self._save()

    def _over_all_tasks(self, sampled: "MetaBatch") -> tuple[int, list[float]]:
        """Environment steps of the iteration and mean returns of its batches, over the tasks of all processes."""
        own = [sum(batch.env_steps for batch in sampled.batches), *(b.returns.mean().item() for b in sampled.batches)]
        total = sum_over_processes(torch.tensor(own, dtype=torch.float64, device=self.generator.device)).tolist()
        return int(total[0]), [value / num_processes() for value in total[1:]]

    def _validate(self, writer: SummaryWriter, reporter: Reporter) -> dict[str, float]:
        """Evaluate on the validation split, draw the figures, and keep the best checkpoint."""
        config, start = self.config, time.perf_counter()
        generator = rollout_generator(self.generator.device, config.seed + VALIDATION_SEED_OFFSET)
        tasks = self.distribution.sample(config.eval_tasks, "validation", generator)
        try:
            batches = adaptation_episodes(
                self.learner, self.distribution, tasks, self.learner.adaptation_steps, config.episodes, generator
            )
        except (FloatingPointError, EnvironmentFailedError) as error:
            self._save()
            where = f"validation after iteration {self.progress.iteration}"
            raise TrainingError(f"{where}: {error}; the run is saved") from error
        evaluation = summarize(batches)
        score = float(evaluation.return_mean[-1])
        best = self.progress.best_validation
        self.progress = dataclasses.replace(
            self.progress,
            evaluation_env_steps=self.progress.evaluation_env_steps + evaluation.total_env_steps,
            best_validation=score if best is None else max(best, score),
        )
        if best is None or score > best:
            self.run.checkpoints.save_best(self._checkpoint())
        step = self.progress.env_steps
        writer.add_figure("eval/adaptation", plots.adaptation_curve(evaluation, _title(config)), step)
        picture = plots.trajectories(self.distribution, tasks, batches)
        if picture is not None:
            writer.add_figure("eval/trajectories", picture, step)
        replay = self.curriculum.replay(config.num_tasks)
        if replay is not None:
            uniform = self.distribution.sample(PICTURED_TASKS, "train", generator)
            writer.add_figure("curriculum/tasks", task_densities(*replay, uniform), step)
        reporter.evaluated(self.progress.iteration, evaluation)
        row = {f"eval/return_k{k}": float(value) for k, value in enumerate(evaluation.return_mean)}
        if evaluation.success_rate is not None:
            row |= {f"eval/success_k{k}": float(value) for k, value in enumerate(evaluation.success_rate)}
        return row | {"eval/gain": float(evaluation.gains.mean()), "time/evaluate": time.perf_counter() - start}

    def _log(self, writer: SummaryWriter | None, row: dict[str, float]) -> None:
        if writer is None:
            return
        for tag, value in row.items():
            writer.add_scalar(tag, value, self.progress.env_steps)
        writer.flush()  # so that a kill loses nothing of what the next checkpoint holds
        counts = {name: getattr(self.progress, name) for name in ("iteration", "env_steps", "evaluation_env_steps")}
        self.run.append_metrics(counts | {"seconds": self.progress.seconds} | row)

    def _share_done(self) -> float:
        """Share of the training that is done, 0 … 1: of its iterations, or of its environment steps if limited."""
        limit = self.config.max_env_steps
        return max(
            self.progress.iteration / self.config.iterations, min(self.progress.env_steps / limit, 1.0) if limit else 0
        )

    def _iterations_expected(self, sampled_steps: int) -> int:
        """Iterations at the end, if those to come take as many environment steps as the last one."""
        limit = self.config.max_env_steps
        left = math.ceil(max(limit - self.progress.env_steps, 0) / sampled_steps)
        return min(self.config.iterations, self.progress.iteration + left) if limit else self.config.iterations

    @property
    def _begun(self) -> bool:
        """Whether the evaluation before the first iteration is done."""
        return self.progress.best_validation is not None

    @property
    def _writes(self) -> bool:
        """Whether this process is the one that evaluates and writes the run."""
        return distributed.rank() == 0

    def _save(self) -> None:
        if self._writes:
            self.run.checkpoints.save(self._checkpoint())

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        tensors |= {f"curriculum.{name}": value for name, value in self.curriculum.state_dict().items()}
        return Checkpoint(tensors | {"generator": self.generator.get_state()}, self.progress)

    @contextlib.contextmanager
    def _writer(self) -> Iterator[SummaryWriter | None]:
        """TensorBoard, with the hyper-parameters written first and events after the checkpoint purged on resume.

        None in the processes of a job that do not write.
        """
        if not self._writes:
            yield None
            return
        # A run killed before its first checkpoint may have left events of iteration 0: these are purged as well.
        writer = SummaryWriter(str(self.run.path), purge_step=self.progress.env_steps + 1 if self._begun else 0)
        try:
            if not self._begun:
                tensorboard.write_hyper_parameters(writer, self.config, self.learner.adaptation_steps)
            yield writer
        finally:
            writer.close()


class MetaBatch(NamedTuple):
    """What one meta-iteration samples.

    Attributes:
        support: K batches, each collected after one more adaptation step.
        query: the batch after the last one; None where the learner collects none.
        tasks: the M tasks.
        collect_seconds: wall-clock seconds of the rollouts alone, adaptation not included.
    """

    support: list[Episodes]
    query: Episodes | None
    tasks: Task
    collect_seconds: float

    @property
    def batches(self) -> list[Episodes]:
        """Support and query, k = 0 … K."""
        return [*self.support, *([] if self.query is None else [self.query])]


def sample_iteration(
    distribution: TaskDistribution, learner: MetaLearner, tasks: Task, episodes: int, generator: torch.Generator
) -> MetaBatch:
    """The sampling of one meta-iteration; of a job's processes, each samples its share of the tasks.

    Args:
        distribution: what the tasks come from.
        learner: adapts to them; not changed.
        tasks: M tasks; the same in every process.
        episodes: E per task and batch.
        generator: drives the rollouts.
    """
    tasks, rollouts = distributed.shard(tasks, generator, distributed.rank(), num_processes())
    num_batches = learner.support_batches + learner.collects_query
    sampled = adapt_to_tasks(learner, distribution, tasks, num_batches - 1, episodes, rollouts)
    query = sampled.batches[-1] if learner.collects_query else None
    return MetaBatch(sampled.batches[: learner.support_batches], query, tasks, sampled.collect_seconds)


class _StopFlag:
    requested = False


@contextlib.contextmanager
def _stop_requests() -> Iterator[_StopFlag]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the iteration; a second one interrupts at once."""
    flag = _StopFlag()
    if threading.current_thread() is not threading.main_thread():  # Python takes signal handlers only there
        yield flag
        return

    def request(number: int, frame: FrameType | None) -> None:
        if flag.requested:
            raise KeyboardInterrupt
        flag.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _title(config: TrainConfig) -> str:
    return f"{config.agent} on {env_label(config.env)}, {config.eval_tasks} validation tasks"
