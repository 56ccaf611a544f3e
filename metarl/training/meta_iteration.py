"""One meta-iteration, the whole of it: draw tasks, sample and adapt, update the learner, tell the curriculum."""

import numbers
import time
from dataclasses import replace
from typing import NamedTuple

import torch

from metarl.agents.gradients.processes import num_processes, sum_over_processes
from metarl.agents.learner import Adapted, Learner, MetaBatch
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import TrainingError
from metarl.evaluation.adaptation import Sampler, adaptation_loop, rollouts_in
from metarl.training.curriculum import Curriculum
from metarl.training.logs.run_log import MetaIteration
from metarl.training.machine import distributed


class Sampled(NamedTuple):
    """What one meta-iteration samples.

    Attributes:
        batch: support and query as the learner's update takes them.
        collect_seconds: wall-clock seconds of the rollouts alone, adaptation not included.
    """

    batch: MetaBatch
    collect_seconds: float


def run_meta_iteration(
    learner: Learner,
    distribution: TaskDistribution,
    curriculum: Curriculum,
    num_tasks: int,
    episodes: int,
    progress: float,
    generator: torch.Generator,
) -> MetaIteration:
    """Improve the learner on one meta-batch of tasks.

    Args:
        learner: updated in place.
        distribution: what the tasks come from.
        curriculum: draws the tasks and learns from their returns.
        num_tasks: M, of the whole job.
        episodes: E per task and batch.
        progress: share of the training that is done, 0 … 1, for the learner's schedules.
        generator: draws the tasks and drives the rollouts; in the same state in every process.

    Raises:
        FloatingPointError: a number is not finite.
        ProcessLostError: another process of the job has ended.
    """
    start = time.perf_counter()
    draw = curriculum.draw(distribution, num_tasks, generator)
    batch, collect_seconds = sample_iteration(distribution, learner, draw.tasks, episodes, generator)
    sampling_ends = time.perf_counter()

    # The draw is of the whole job; the batch and its weights are of this process's shard of the tasks.
    importance = distributed.local_shard(draw.importance)
    metrics = learner.update(replace(batch, progress=progress, importance=importance))
    _check_metrics(metrics, learner)
    if learner.policy.observations.count > 0:
        observe(learner, batch.batches)

    # Every process holds the whole curriculum, so each of them needs the returns of all tasks.
    env_steps, returns = _over_all_tasks(batch.batches, generator.device)
    if batch.batches:
        curriculum.learn(draw, distributed.all_gather(batch.batches[-1].returns.mean(dim=1)))

    adapt_seconds = sampling_ends - start - collect_seconds
    update_seconds = time.perf_counter() - sampling_ends
    return MetaIteration(env_steps, returns, metrics, draw.metrics, collect_seconds, adapt_seconds, update_seconds)


def _check_metrics(metrics: object, learner: Learner) -> None:
    """Refuse what cannot be logged.

    Raises:
        TrainingError: metrics are no numbers by name; names learner and metric.
    """
    what = f"{type(learner).__name__}.update() must return numbers by name"
    if not isinstance(metrics, dict):
        raise TrainingError(f"{what}, not {type(metrics).__name__}")
    for name, value in metrics.items():
        if not isinstance(value, numbers.Real):
            raise TrainingError(f"{what}, and {name!r} is a {type(value).__name__}")


def observe(learner: Learner, batches: list[Episodes]) -> None:
    """Add the observations of all processes' batches to the statistics that the learner's policy normalises with."""
    observations = learner.policy.observations
    observations.merge(sum_over_processes(observations.moments(batches)))


def sample_iteration(
    distribution: TaskDistribution, learner: Learner, tasks: Task, episodes: int, generator: torch.Generator
) -> Sampled:
    """Sample and adapt as often as the learner asks for; each process of a job does it for its shard of the tasks.

    Args:
        distribution: what the tasks come from.
        learner: adapts to them; not changed.
        tasks: M tasks; the same in every process.
        episodes: E per task and batch.
        generator: drives the rollouts.
    """
    tasks, rollouts = distributed.shard(tasks, generator, distributed.rank(), num_processes())
    num_batches = learner.sampling.batches
    if num_batches == 0:  # a student that learns from its teachers' episodes alone
        return Sampled(MetaBatch([], None, tasks=tasks), 0.0)

    env = distribution.bind(tasks, episodes)
    sampler = _TimedSampler(rollouts_in(env, learner, rollouts))
    # The learner needs no policy beyond that of the last batch, so there is one adaptation step less than batches.
    batches = adaptation_loop(learner, env.batch_shape[0], num_batches - 1, sampler, generator=rollouts).batches

    query = batches[-1] if learner.sampling.query else None
    batch = MetaBatch(batches[: learner.sampling.support], query, tasks=tasks)
    return Sampled(batch, sampler.seconds)


class _TimedSampler:
    """A sampler that counts the wall-clock seconds it takes.

    Attributes:
        seconds: of all batches so far.
    """

    def __init__(self, sample: Sampler) -> None:
        self._sample = sample
        self.seconds = 0.0

    def __call__(self, adapted: Adapted) -> Episodes:
        start = time.perf_counter()
        episodes = self._sample(adapted)
        self.seconds += time.perf_counter() - start
        return episodes


def _over_all_tasks(batches: list[Episodes], device: torch.device) -> tuple[int, list[float]]:
    """Environment steps of the batches together and the mean return of each, over the tasks of all processes."""
    env_steps = sum(batch.env_steps for batch in batches)
    returns = [batch.returns.mean().item() for batch in batches]

    # Every process has equally many tasks, so that the mean of the processes' means is that of all tasks.
    own = torch.tensor([env_steps, *returns], dtype=torch.float64, device=device)
    total_steps, *return_sums = sum_over_processes(own).tolist()
    return int(total_steps), [value / num_processes() for value in return_sums]
