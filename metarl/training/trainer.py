"""The model trainer: one loop that collects, adapts, updates, logs, validates and saves."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial

import torch
from rich.console import Console

from metarl.agents.gradients.processes import ProcessLostError, sum_over_processes
from metarl.agents.teachers import Teachers
from metarl.baselines.teachers import load_or_train_teachers
from metarl.console import say
from metarl.envs.checks.live_env import warn_where_repeats_differ
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.registry import env_label
from metarl.envs.spaces.action_map import missing_bounds_warning
from metarl.envs.task_space import Task
from metarl.errors import TrainingError, what_happened
from metarl.evaluation.adaptation import rollout_generator
from metarl.evaluation.evaluation import Evaluation
from metarl.run.build import (
    RATE_FACTORS,
    build,
    keep_observations,
    keep_sources,
    restore_learner,
    restore_observations,
    warn_of_changed_sources,
)
from metarl.run.checkpoint import BEST, Checkpoint, NewestCheckpoint, Progress
from metarl.run.config import TrainConfig, to_json
from metarl.run.device import resolve_device
from metarl.run.run_directory import RunDirectory
from metarl.training.curriculum import make_curriculum
from metarl.training.first_look import first_look
from metarl.training.logs.run_log import MetaIteration, RunLog
from metarl.training.machine import distributed
from metarl.training.machine.accelerate import compile_env, first_use, use_graphs
from metarl.training.machine.memory import out_of_memory
from metarl.training.meta_iteration import run_meta_iteration
from metarl.training.progress import Reporter, make_reporter
from metarl.training.state import TrainingState
from metarl.training.stopping import StopRequest, stop_requests
from metarl.training.validation import (
    choose_rates,
    draw_curriculum,
    draw_validation,
    validate,
    validation_generator,
    with_rates,
)

FIRST_LOOK_SEED_OFFSET = 3_000_000
"""The first look at the observations draws from seed + this, so that it changes nothing else."""

Log = RunLog | None
"""None in the processes of a job that do not write."""


def resolve(config: TrainConfig) -> TrainConfig:
    """The configuration with the device 'auto' and 0 threads replaced by what this machine has.

    Raises:
        UserError: the device is not there.
    """
    return dataclasses.replace(
        config,
        device=str(resolve_device(distributed.local_device(config.device))),
        num_threads=config.num_threads or distributed.local_cores(),
    )


class Trainer:
    """Trains the learner of one run directory.

    The whole state is the learner, the curriculum, one random generator and `Progress`. A checkpoint holds exactly
    these, so a run that was killed and resumed ends as one that was not. In a job of several processes each has its
    shard of the tasks, and the first one validates and writes; a checkpoint is the same whatever their number.

    Attributes:
        stop_requested: whether a signal asked to stop while it trained.

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
        self.progress = Progress()
        self.stop_requested = False

        self.generator = torch.Generator(resolve_device(self.config.device)).manual_seed(self.config.seed)
        self.distribution, self.learner = build(self.config, self.generator)
        restore_observations(self.run, self.distribution)
        warn_of_changed_sources(self.run, self.distribution)
        assumed = missing_bounds_warning(self.distribution.env.native_action_space, self.config.action_scale)
        if assumed is not None:
            say(console, f"warning: {assumed}")
        if self.config.compile_env:
            compile_env(self.distribution, self.generator.device)
        self.curriculum = make_curriculum(self.config, self.learner)
        self.state = TrainingState(self.learner, self.curriculum, self.generator)

        if self.config.start_from and not self.run.checkpoints.iterations():
            self._take_policy(RunDirectory.open(self.config.start_from, self.config.run_dir))
        spent = self.learner.prepare(self)
        self.progress = dataclasses.replace(self.progress, env_steps=self.progress.env_steps + spent)

        self._recorded_config = to_json(self.config)
        self._whole = self._checkpoint()
        self._on_disk: Checkpoint | None = None
        self._doing = "before the first iteration"

        notice = first_use(self.generator.device, fuse=self.config.cuda_graphs == "fused")
        if notice:
            say(console, notice)

        # Last, because a learner may have changed what training samples from.
        if self.config.cuda_graphs != "off":
            use_graphs(
                self.distribution,
                self.learner,
                self.generator.device,
                say=lambda text: say(console, f"warning: {text}"),
                fuse=self.config.cuda_graphs == "fused",
            )

    def _take_policy(self, start: RunDirectory) -> None:
        """Start from what another run's learner had learned when it was best; what that took counts as training.

        Raises:
            CheckpointError: it is not of this learner.
        """
        best = start.checkpoints.load(BEST)
        restore_learner(self.learner, best, start.checkpoints.path(BEST))
        if self.learner.rate_factors is not None:
            self.learner.rate_factors = ()  # they are chosen anew when this training ends
        spent = start.last_progress()
        self.progress = Progress(env_steps=spent.env_steps, evaluation_env_steps=spent.evaluation_env_steps)

    # ------------------------------------------------------------------ what a learner may ask for (Lab)

    def teachers(self) -> tuple[Teachers, int]:
        """See Lab.teachers."""
        return load_or_train_teachers(self.run, self.distribution, partial(say, self.console))

    def train_on(self, tasks: Task) -> None:
        """See Lab.train_on."""
        self.distribution = self.distribution.with_train_tasks(tasks)

    # ------------------------------------------------------------------ the loop

    def train(self) -> bool:
        """Run the remaining meta-iterations.

        Returns:
            True at the end, False where a signal asked to stop; the run is saved either way.

        Raises:
            TrainingError: whatever ended it, even `sys.exit` in an environment; what was done is saved, and the message
                says what happened, where, and what is saved.
            KeyboardInterrupt: a second signal came before the iteration was done, or after the first one an environment
                hung; likewise.
        """
        with stop_requests(self._say_that_it_stops) as stop, self._saving_whatever_happens():
            self._run_iterations(stop)

            if self._share_done() >= 1 and not stop.requested:
                self._choose_rates()

        # A signal during the last iteration ends no loop, but the caller must still hear of it.
        self.stop_requested |= stop.requested
        return self._share_done() >= 1

    def _say_that_it_stops(self) -> None:
        """Answer the first signal at once, because an iteration may take long."""
        say(self.console, "stopping after this iteration; once more stops at once")

    def _run_iterations(self, stop: StopRequest) -> None:
        """Begin, where the run does; then one iteration after the other until the end, or until asked to stop."""
        # Where it starts from another run's policy, that has decided already.
        if not self._begun and self.progress.iteration == 0 and not self.config.start_from:
            self._look_at_observations()
        with (
            self._open_log() as log,
            make_reporter(self.console, self.progress.iteration, self.progress.env_steps) as reporter,
        ):
            if log is not None and not self._begun:
                self._begin(log, reporter)

            while self._share_done() < 1 and not self._stops(stop):
                self._train_once(log, reporter)
                if self.progress.iteration % self.config.checkpoint_interval == 0:
                    self._save()
        self._save()

    def _look_at_observations(self) -> None:
        """Decide, in every process, whether observations are normalised; counts the environment steps it takes."""
        self._doing = "the first look at the observations"
        generator = rollout_generator(self.generator.device, self.config.seed + FIRST_LOOK_SEED_OFFSET)
        env_steps = first_look(self.config, self.learner, self.distribution, generator)
        self.progress = dataclasses.replace(self.progress, env_steps=self.progress.env_steps + env_steps)
        self._whole = self._checkpoint()

    def _begin(self, log: RunLog, reporter: Reporter) -> None:
        """Log and save the learner as it is before the first iteration."""
        keep_observations(self.run, self.distribution)
        keep_sources(self.run, self.distribution)
        warn_where_repeats_differ(self.distribution)
        evaluation = self._validate(log, reporter)
        log.layout(with_success=evaluation.success_rate is not None)
        log.write(self.progress)
        self._whole = self._checkpoint()
        self._save()

    def _train_once(self, log: Log, reporter: Reporter) -> None:
        """Collect, adapt and update; then log, in one row with the validation that may be due."""
        self._doing = f"iteration {self.progress.iteration + 1}"
        done = self._iterate()
        reporter.iteration(
            self.progress.iteration,
            self._iterations_expected(done.env_steps),
            self.progress.env_steps,
            done.returns,
        )

        if log is not None:
            log.iteration(done)
            if self._validation_is_due():
                self._validate(log, reporter)
            log.write(self.progress)

        # Only with its row in the log an iteration is done: a resumed run repeats whatever comes after this.
        # A copy, although `update` is all or nothing: where validation or the log fails after one, it is undone by it.
        self._whole = self._checkpoint()
        self._doing = f"after iteration {self.progress.iteration}"

    def _iterate(self) -> MetaIteration:
        """One meta-iteration; counts it."""
        done = run_meta_iteration(
            self.learner,
            self.distribution,
            self.curriculum,
            self.config.num_tasks,
            self.config.episodes,
            self._share_done(),
            self.generator,
        )

        self.progress = dataclasses.replace(
            self.progress,
            iteration=self.progress.iteration + 1,
            env_steps=self.progress.env_steps + done.env_steps,
            seconds=self.progress.seconds + done.seconds,
        )
        return done

    def _stops(self, stop: StopRequest) -> bool:
        """Whether any process of the job was asked to stop; all of them stop after the same iteration."""
        requested = torch.tensor(float(stop.requested), device=self.generator.device, dtype=torch.float32)
        self.stop_requested = bool(sum_over_processes(requested))
        return self.stop_requested

    # ------------------------------------------------------------------ the one way out

    @contextlib.contextmanager
    def _saving_whatever_happens(self) -> Iterator[None]:
        """Save what was done where the block ends by an exception, whichever, and say what is saved.

        Raises:
            TrainingError, KeyboardInterrupt: see `train`.
        """
        self._whole = self._checkpoint()
        self._on_disk = None
        try:
            yield
        except BaseException as error:
            # What an iteration left half done is given up.
            self.state.restore(self._whole)
            self.progress = self._whole.progress
            saved = self._try_to_save()

            if isinstance(error, KeyboardInterrupt):
                why = f" ({error})" if str(error) else ""
                raise KeyboardInterrupt(f"interrupted in {self._doing}{why}; {saved}") from error
            raise TrainingError(f"{self._doing}: {self._reason_of(error)}; {saved}") from error

    def _reason_of(self, error: BaseException) -> str:
        """What happened; errors of our own say it themselves."""
        if isinstance(error, torch.OutOfMemoryError):
            return out_of_memory(self.config, self.distribution)
        if isinstance(error, FloatingPointError | ProcessLostError | EnvironmentFailedError | TrainingError):
            return str(error)
        return f"{what_happened(error)} on {env_label(self.config.env)}"

    def _try_to_save(self) -> str:
        """Save what was done, and say what is saved; a disk error here must not hide what happened before."""
        if not self._writes:
            return "the first process saves the run"
        try:
            self._save()
        except OSError as error:
            kept = self.run.checkpoints.iterations()
            newest = f"the newest checkpoint is of iteration {kept[0]}" if kept else "there is no checkpoint"
            return f"the run could not be saved ({what_happened(error)}): {newest}"
        return f"the run is saved as it was after iteration {self.progress.iteration}"

    # ------------------------------------------------------------------ how far it is

    @property
    def _begun(self) -> bool:
        """Whether the validation before the first iteration is done."""
        return self.progress.best_validation is not None

    def _share_done(self) -> float:
        """Share of the training that is done, 0 … 1: of its iterations, or of its environment steps if limited."""
        of_iterations = self.progress.iteration / self.config.iterations
        if not self.config.max_env_steps:
            return of_iterations

        of_env_steps = min(self.progress.env_steps / self.config.max_env_steps, 1.0)
        return max(of_iterations, of_env_steps)

    def _iterations_expected(self, env_steps: int) -> int:
        """Iterations at the end, if those to come take as many environment steps as the last one."""
        limit = self.config.max_env_steps
        if not limit or not env_steps:
            return self.config.iterations

        left = math.ceil(max(limit - self.progress.env_steps, 0) / env_steps)
        return min(self.config.iterations, self.progress.iteration + left)

    # ------------------------------------------------------------------ validation

    def _validation_is_due(self) -> bool:
        """Whether to validate after this iteration: at the interval, and at the end."""
        return self.progress.iteration % self.config.eval_interval == 0 or self._share_done() >= 1

    def _validate(self, log: RunLog, reporter: Reporter) -> Evaluation:
        """Evaluate on the validation split, keep the best checkpoint, and show the result."""
        self._doing = f"validation after iteration {self.progress.iteration}"
        start = time.perf_counter()
        generator = validation_generator(self.config, self.generator.device)
        validation = validate(self.config, self.learner, self.distribution, generator)
        self._keep_best(validation.evaluation)

        draw_validation(log, self.config, self.distribution, validation, self.progress)
        draw_curriculum(log, self.curriculum, self.config.num_tasks, self.distribution, self.progress, generator)
        reporter.evaluated(self.progress.iteration, validation.evaluation)
        log.validation(validation.evaluation, seconds=time.perf_counter() - start)
        return validation.evaluation

    def _keep_best(self, evaluation: Evaluation) -> None:
        """Count the evaluation, and save the best checkpoint if its score is the best so far."""
        score = evaluation.score
        best = self.progress.best_validation
        self.progress = dataclasses.replace(
            self.progress,
            evaluation_env_steps=self.progress.evaluation_env_steps + evaluation.total_env_steps,
            best_validation=score if best is None else max(best, score),
        )
        if best is None or score > best:
            self.run.checkpoints.save_best(self._checkpoint())

    def _choose_rates(self) -> None:
        """Choose the rates of adaptation of the best policy on validation tasks, where the learner leaves them open."""
        if self.learner.rate_factors is None or not self._writes:
            return
        best = self.run.checkpoints.load(BEST)
        if RATE_FACTORS not in best.tensors:
            best = self._with_rates(best)

        # The best checkpoint was written first. A run that was killed after it takes the count of steps from there.
        counted = best.progress.evaluation_env_steps
        if counted > self.progress.evaluation_env_steps:
            self.progress = dataclasses.replace(self.progress, evaluation_env_steps=counted)
            self._whole = self._checkpoint()
            self._save()

    def _with_rates(self, best: Checkpoint) -> Checkpoint:
        """The best checkpoint with the rates that are best on validation tasks, and with the steps that this took."""
        self._doing = "choosing the rates of adaptation"
        chosen = choose_rates(self.run, best, self.distribution, self.generator.device)

        given = ", ".join(f"{factor:g}" for factor in chosen.factors) or "1 each"
        say(self.console, f"rates of adaptation, chosen on validation tasks: {given} of the given ones")
        best = with_rates(best, chosen, self.progress.evaluation_env_steps + chosen.env_steps)
        self.run.checkpoints.save_best(best)
        return best

    # ------------------------------------------------------------------ logging

    def _open_log(self) -> contextlib.AbstractContextManager[Log]:
        """The log of the run, with the hyper-parameters where it begins; None in processes that do not write."""
        if not self._writes:
            return contextlib.nullcontext()
        if self._begun:
            return RunLog(self.run, resumed_from=self.progress)

        log = RunLog(self.run, resumed_from=None)
        log.hyper_parameters(self.config, self.learner.adaptation_steps)
        return log

    # ------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        """Go on from the newest checkpoint that can be read; says which ones could not.

        A run that was killed before its first checkpoint starts from the beginning.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
            UserError: see `RunDirectory.check_can_resume`.
        """
        # One process reads, so that all of them go on from the same checkpoint even if a disk fails meanwhile.
        newest = distributed.broadcast(self._newest_checkpoint)
        if newest is None:
            self._rewind_metrics(-1)
            return

        checkpoint, problems = newest
        for problem in problems:
            say(self.console, f"warning: {problem}; going on from the one before")
        self.state.restore_file(self.run.checkpoints.path(checkpoint.progress.iteration), checkpoint)
        self.progress = checkpoint.progress
        if not self.run.has_metrics():
            say(self.console, f"warning: {self.run.path} has no metrics; they begin anew where training goes on")
        self._rewind_metrics(checkpoint.progress.iteration)

    def _newest_checkpoint(self) -> NewestCheckpoint | None:
        """The checkpoint to resume and what was wrong with newer ones; None where the run begins."""
        self.run.check_can_resume()
        return self.run.checkpoints.load_newest_good() if self.run.checkpoints.iterations() else None

    def _rewind_metrics(self, iteration: int) -> None:
        """Delete the rows of metrics that training writes again; only now that the checkpoint proved to fit."""
        if self._writes:
            self.run.rewind_metrics(iteration)

    def _checkpoint(self) -> Checkpoint:
        """The whole state, as copies."""
        return self.state.checkpoint(self.progress, self._recorded_config)

    @property
    def _writes(self) -> bool:
        """Whether this process is the one that validates and writes the run."""
        return distributed.rank() == 0

    def _save(self) -> None:
        """Write the checkpoint of the last whole iteration, unless that is the one on the disk."""
        if self._writes and self._on_disk is not self._whole:
            self.run.sync_metrics()
            self.run.checkpoints.save(self._whole)
            self._on_disk = self._whole
