"""The one adaptation loop: collect, adapt, collect again; training, evaluation and deployment call it."""

import time
from typing import NamedTuple

import torch

from metarl.agents.learner import Adapted, MetaLearner
from metarl.envs.rollout import BatchedEnv, Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task


def adaptation_episodes(
    learner: MetaLearner,
    distribution: TaskDistribution,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> list[Episodes]:
    """Episodes of the policies after k = 0 … K adaptation steps; each batch but the last also feeds the next step.

    Leaves the learner bit-identical.

    Args:
        learner: begins at its meta-trained parameters.
        distribution: what the tasks come from.
        tasks: M tasks.
        steps: K ≥ 0.
        episodes: E per task and step.
        generator: drives the rollouts.
    """
    return adapt_to_tasks(learner, distribution, tasks, steps, episodes, generator).batches


class Adaptation(NamedTuple):
    """What `adapt_to_tasks` did.

    Attributes:
        batches: episodes of the policies after k = 0 … K adaptation steps.
        adapted: the policies after the last one.
        collect_seconds: wall-clock seconds of the rollouts alone, adaptation not included.
    """

    batches: list[Episodes]
    adapted: Adapted
    collect_seconds: float


def adapt_to_tasks(
    learner: MetaLearner,
    distribution: TaskDistribution,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> Adaptation:
    """As `adaptation_episodes`, with the adapted policies and the time that the rollouts took."""
    return adapt_in(distribution.bind(tasks, episodes), learner, steps, generator)


def adapt_in(env: BatchedEnv, learner: MetaLearner, steps: int, generator: torch.Generator) -> Adaptation:
    """As `adapt_to_tasks`, in an environment bound to the M tasks × E episodes."""
    adapted = learner.begin(env.batch_shape[0])
    batches: list[Episodes] = []
    seconds = 0.0
    for step in range(steps + 1):
        start = time.perf_counter()
        batches.append(collect(env, learner.policy, adapted.params, generator))
        seconds += time.perf_counter() - start
        if step < steps:
            adapted = learner.adapt(adapted, batches[-1])
    return Adaptation(batches, adapted, seconds)


def rollout_generator(device: torch.device, seed: int) -> torch.Generator:
    """A generator for evaluations: theirs is never the training's."""
    return torch.Generator(device).manual_seed(seed)
