"""Validation: how the learner adapts to validation tasks, its figures, and the rates of adaptation chosen there."""

import dataclasses
from typing import NamedTuple

import torch

from metarl.agents.learner import Learner
from metarl.envs.registry import env_label
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of
from metarl.evaluation.adaptation import ChosenRates, adaptation_episodes, choose_rate_factors, rollout_generator
from metarl.evaluation.evaluation import Evaluation, summarize
from metarl.run.build import RATE_FACTORS, make_learner, restore_learner
from metarl.run.checkpoint import BEST, Checkpoint, Progress
from metarl.run.config import TrainConfig
from metarl.run.run_directory import RunDirectory
from metarl.training.curriculum import Curriculum
from metarl.training.logs.run_log import CURRICULUM_TASKS, EVAL_ADAPTATION, EVAL_TRAJECTORIES, RunLog

VALIDATION_SEED_OFFSET = 1_000_000
"""Validation draws from seed + this, each time the same tasks and noise, so that its curve compares with itself."""


class Validation(NamedTuple):
    """The learner adapted to validation tasks.

    Attributes:
        tasks: M tasks.
        batches: episodes after k = 0 … K adaptation steps.
        evaluation: what they show.
    """

    tasks: Task
    batches: list[Episodes]
    evaluation: Evaluation


def validation_generator(config: TrainConfig, device: torch.device) -> torch.Generator:
    """A generator of its own: how often a run is validated must not change what it learns."""
    return rollout_generator(device, config.seed + VALIDATION_SEED_OFFSET)


def validate(
    config: TrainConfig, learner: Learner, distribution: TaskDistribution, generator: torch.Generator
) -> Validation:
    """Adapt to the validation tasks; the learner is left as it is."""
    tasks = distribution.sample(config.eval_tasks, "validation", generator)
    batches = adaptation_episodes(learner, distribution, tasks, learner.adaptation_steps, config.episodes, generator)

    exhaustive = distribution.exhausts("validation", num_tasks_of(tasks))
    return Validation(tasks, batches, summarize(batches, exhaustive, learner.sampling.pooled))


# ---------------------------------------------------------------------- figures


def draw_validation(
    log: RunLog, config: TrainConfig, distribution: TaskDistribution, validation: Validation, progress: Progress
) -> None:
    """Figures of the adaptation curve and, where the family has such, of trajectories."""
    from metarl.evaluation import plots  # matplotlib is slow to import

    title = f"{config.agent} on {env_label(config.env)}, {config.eval_tasks} validation tasks"
    log.figure(EVAL_ADAPTATION, plots.adaptation_curve(validation.evaluation, title), progress)

    trajectories = plots.trajectories(distribution, validation.tasks, validation.batches)
    if trajectories is not None:
        log.figure(EVAL_TRAJECTORIES, trajectories, progress)


def draw_curriculum(
    log: RunLog,
    curriculum: Curriculum,
    num_tasks: int,
    distribution: TaskDistribution,
    progress: Progress,
    generator: torch.Generator,
) -> None:
    """Figure of the tasks that the curriculum replays, where there is something to replay."""
    replay = curriculum.replay(num_tasks)
    if replay is None:
        return

    from metarl.training.curriculum_plots import PLOTTED_TASKS, task_densities  # matplotlib is slow to import

    tasks, probability = replay
    uniform = distribution.sample(PLOTTED_TASKS, "train", generator)
    log.figure(CURRICULUM_TASKS, task_densities(tasks, probability, uniform), progress)


# ---------------------------------------------------------------------- rates of adaptation


def choose_rates(
    run: RunDirectory, best: Checkpoint, distribution: TaskDistribution, device: torch.device
) -> ChosenRates:
    """The rates of adaptation with which a run's best policy does best on the validation tasks."""
    # A learner of its own: the one that trains stays as it is, and its graphs know the given rates only.
    config = run.config
    learner = make_learner(config, distribution, torch.Generator(device))
    restore_learner(learner, best, run.checkpoints.path(BEST))

    generator = validation_generator(config, device)
    tasks = distribution.sample(config.eval_tasks, "validation", generator)
    env = distribution.bind(tasks, config.episodes)
    return choose_rate_factors(learner, env, learner.adaptation_steps, generator)


def with_rates(best: Checkpoint, chosen: ChosenRates, evaluation_env_steps: int) -> Checkpoint:
    """The best checkpoint with the rates that were chosen for it.

    Args:
        best: as it was.
        chosen: the rates.
        evaluation_env_steps: environment steps of all evaluations, this choice included.
    """
    tensors = {**best.tensors, RATE_FACTORS: torch.tensor(chosen.factors, dtype=torch.float64)}
    progress = dataclasses.replace(best.progress, evaluation_env_steps=evaluation_env_steps)
    return dataclasses.replace(best, tensors=tensors, progress=progress)
