"""Measuring Stable-Baselines3: learning curves of one model for each seed and task, from scratch or pretrained."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metarl.agents.sb3 import ALGORITHMS, ObservationScale
from metarl.baselines.sb3 import MODEL_FILE, TaskJob, learn_tasks, pretrain
from metarl.comparison.config import PRETRAINED
from metarl.comparison.directory import ComparisonDirectory
from metarl.comparison.measurements import Measurement, concatenate_tasks, make_curve
from metarl.comparison.plan import Plan
from metarl.console import say
from metarl.envs.cores import num_cores
from metarl.envs.spaces.action_map import DEFAULT_SCALE
from metarl.envs.task_distribution import FROZEN_SIZE
from metarl.evaluation.statistics import Curve
from metarl.run.build import load_learner
from metarl.run.checkpoint import BEST
from metarl.training.progress import PlainReporter

NUM_EVALUATIONS = 40
"""Models are evaluated this often on the way to the budget, at steps that grow geometrically."""


def measure_sb3(plan: Plan, directory: ComparisonDirectory, label: str, console: Console) -> Curve:
    """Learning curves of an SB3 algorithm; tasks that were learned before are not learned again.

    Raises:
        TrainingError: Stable-Baselines3 failed.
    """
    algorithm = label.removesuffix(PRETRAINED)
    pretraining_env_steps = plan.training_env_steps if label.endswith(PRETRAINED) else 0

    scale = observation_scale(plan)
    jobs: list[TaskJob] = []
    for seed in range(plan.config.seeds):
        pretrained = _pretrained_model(plan, directory, label, seed, console, scale) if pretraining_env_steps else ""
        jobs += _jobs(plan, directory, label, seed, pretrained, scale)

    # Whatever decides the curve of a job belongs to the settings under which it is kept.
    also: dict[str, Any] = {"pretraining_env_steps": pretraining_env_steps, "defaults": repr(ALGORITHMS[algorithm])}
    if plan.exhaustive:
        also["exhaustive"] = True  # only now measurements hold their errors
    settings = [job_settings(job) | also for job in jobs]
    measurements = _measure_jobs(plan, directory, label, jobs, settings, console)

    num_tasks = plan.num_tasks
    starts = range(0, len(measurements), num_tasks)
    seeds = [concatenate_tasks(measurements[start : start + num_tasks]) for start in starts]
    return make_curve(label, "baseline", pretraining_env_steps, seeds, episodes=plan.episodes_that_err)


def job_settings(job: TaskJob) -> dict[str, Any]:
    """A job as plain data; what was measured before there were these scales is that of the usual ones."""
    settings = dataclasses.asdict(job)
    if job.action_scale == DEFAULT_SCALE:
        del settings["action_scale"]
    if job.observation_scale is None:
        del settings["observation_scale"]
    return settings


def observation_scale(plan: Plan) -> ObservationScale | None:
    """How the first of the runs normalises observations, which the baselines then see in the same way.

    None where it takes them as they are.
    """
    learner = load_learner(plan.runs[0], BEST).learner
    normalizer = learner.policy.observations
    return ObservationScale.of(normalizer) if normalizer.active else None


def _jobs(
    plan: Plan,
    directory: ComparisonDirectory,
    label: str,
    seed: int,
    pretrained: str,
    scale: ObservationScale | None,
) -> list[TaskJob]:
    """A job for each task of one seed."""
    schedule = evaluation_schedule(plan.distribution.horizon, plan.config.task_budget)

    jobs = []
    for number in range(plan.num_tasks):
        job = TaskJob(
            algorithm=label.removesuffix(PRETRAINED),
            env=plan.env,
            task={name: value[number].tolist() for name, value in plan.tasks.items()},
            # A network of its own for each task and repetition: one for all would make its luck that of every task.
            seed=seed * FROZEN_SIZE + number,
            schedule=schedule,
            episodes=plan.config.episodes,
            directory=str(directory.sb3_model(label, seed, f"task-{number:03d}")),
            pretrained=pretrained,
            changes=plan.sb3_changes.get(label, {}),
            action_scale=plan.action_scale,
            observation_scale=scale,
        )
        jobs.append(job)
    return jobs


def _measure_jobs(
    plan: Plan,
    directory: ComparisonDirectory,
    label: str,
    jobs: list[TaskJob],
    settings: list[dict[str, Any]],
    console: Console,
) -> list[Measurement]:
    """A measurement for each job, in their order; each is kept as soon as its process is done."""
    # What an earlier, interrupted comparison measured is taken as it is.
    store = directory.measurements
    done: dict[int, Measurement] = {}
    for index, settings_of_job in enumerate(settings):
        measurement = store.load(label, settings_of_job)
        if measurement is not None:
            done[index] = measurement

    # Processes end in any order.
    missing = [index for index in range(len(jobs)) if index not in done]
    num_processes = plan.config.num_threads or num_cores()
    with _progress_bar(console, "tasks", len(jobs), len(done)) as show:
        for position, learned in learn_tasks([jobs[index] for index in missing], num_processes):
            index = missing[position]
            returns = [[value] for value in learned.returns]
            errors = [[value] for value in learned.errors] if plan.exhaustive else None
            done[index] = Measurement(learned.env_steps, returns, learned.evaluation_env_steps, errors)
            store.save(label, settings[index], done[index])
            show(len(done))
    return [done[index] for index in range(len(jobs))]


def _pretrained_model(
    plan: Plan,
    directory: ComparisonDirectory,
    label: str,
    seed: int,
    console: Console,
    scale: ObservationScale | None,
) -> str:
    """Zip of the model trained over many tasks; where it is there already, this costs nothing."""
    env_steps = plan.training_env_steps
    # A model on observations as they are, of a comparison begun before, acts on others wrongly.
    kind = "pretraining" if scale is None else "normalised-pretraining"
    place = directory.sb3_model(label, seed, f"{kind}-{env_steps}")
    if not (place / MODEL_FILE).exists():
        with _progress_bar(console, "steps of pretraining", env_steps) as show:
            algorithm = label.removesuffix(PRETRAINED)
            pretrain(algorithm, plan.env, env_steps, seed, place, show, plan.action_scale, scale)
    return str(place / MODEL_FILE)


def evaluation_schedule(horizon: int, budget: int) -> tuple[int, ...]:
    """Environment steps at which models are evaluated: 0, then geometrically from one episode to the budget."""
    counts = np.geomspace(horizon, budget, NUM_EVALUATIONS)
    return (0, *sorted({round(float(count)) for count in counts}))


@contextlib.contextmanager
def _progress_bar(console: Console, what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar, or a line now and then where the output is no terminal; gives what shows a count."""
    columns = (TextColumn(f"      {what}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        shown = time.monotonic()

        def show(count: int) -> None:
            nonlocal shown
            bar.update(task, completed=count)
            if bar.disable and time.monotonic() - shown >= PlainReporter.INTERVAL:
                shown = time.monotonic()
                say(console, f"      {count:,}/{total:,} {what}")

        yield show
