"""The one adaptation loop: collect, adapt, collect again; training, evaluation and deployment call it."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from metarl.agents.learner import Adapted, MetaLearner
from metarl.envs.rollout import BatchedEnv, Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task

Experience = Callable[[Adapted], Episodes]
"""Gives the episodes of policies under adaptation: of a simulation, a live environment, or a record."""


def adapt_from(
    experience: Experience, learner: MetaLearner, num_tasks: int, steps: int
) -> tuple[list[Episodes], list[Adapted]]:
    """K adaptation steps, each on the episodes of the policies adapted so far.

    Args:
        experience: called K times, before each adaptation step.
        learner: begins at its meta-trained parameters.
        num_tasks: M.
        steps: K ≥ 0.

    Returns:
        The K batches of episodes, and the policies after k = 0 … K adaptation steps.
    """
    path = [learner.begin(num_tasks)]
    batches: list[Episodes] = []

    for _ in range(steps):
        batches.append(experience(path[-1]))
        path.append(learner.adapt(path[-1], batches[-1]))

    return batches, path


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
    seconds = 0.0

    def experience(adapted: Adapted) -> Episodes:
        nonlocal seconds
        start = time.perf_counter()
        episodes = collect(env, learner.policy, adapted.params, generator)
        seconds += time.perf_counter() - start
        return episodes

    batches, path = adapt_from(experience, learner, env.batch_shape[0], steps)
    batches.append(experience(path[-1]))
    return Adaptation(batches, path[-1], seconds)


def rollout_generator(device: torch.device, seed: int) -> torch.Generator:
    """A generator for evaluations: theirs is never the training's."""
    return torch.Generator(device).manual_seed(seed)
