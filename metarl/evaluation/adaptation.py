"""The one adaptation loop: sample, adapt, sample again. Training, evaluation, deployment and interpretation call it."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from metarl.agents.learner import Adapted, Learner
from metarl.envs.rollout import BatchedEnv, Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task

Sampler = Callable[[Adapted], Episodes]
"""Samples one batch of episodes, (M, E, …), with the policies as they are adapted so far.

It may step M × E environments side by side, or a single live environment episode by episode.
"""


class Adaptation(NamedTuple):
    """What the adaptation loop did.

    Attributes:
        batches: the episodes that were sampled, in order: of the policies after k = 0, 1, … adaptation steps.
        adapted: the policies after the last adaptation step.
    """

    batches: list[Episodes]
    adapted: Adapted


def adaptation_loop(
    learner: Learner,
    num_tasks: int,
    steps: int,
    sample: Sampler,
    last_batch: bool = True,
    generator: torch.Generator | None = None,
) -> Adaptation:
    """Adapt to M tasks: K times sample a batch and adapt on it. Leaves the learner bit-identical.

    Args:
        learner: begins at its meta-trained parameters.
        num_tasks: M.
        steps: K ≥ 0.
        sample: called once for each batch; `adapted.steps` tells it which k is due.
        last_batch: whether to sample one more batch, with the policies after the last step.
        generator: draws what is random in the adaptation itself.

    Returns:
        K + 1 batches, or K without the last one, and the adapted policies.
    """
    adapted = learner.begin(num_tasks, generator)
    batches: list[Episodes] = []

    for _ in range(steps):
        batches.append(sample(adapted))
        adapted = learner.adapt(adapted, batches[-1], generator)

    if last_batch:
        batches.append(sample(adapted))
    return Adaptation(batches, adapted)


def rollouts_in(env: BatchedEnv, learner: Learner, generator: torch.Generator) -> Sampler:
    """A sampler that steps all M tasks × E episodes of an environment side by side.

    Args:
        env: bound to the M tasks × E episodes.
        learner: whose policy acts.
        generator: drives the rollouts.
    """

    def sample(adapted: Adapted) -> Episodes:
        return collect(env, learner.policy, adapted, generator)

    return sample


def adapt_in(env: BatchedEnv, learner: Learner, steps: int, generator: torch.Generator) -> Adaptation:
    """Adapt to the tasks of an environment.

    Args:
        env: bound to the M tasks × E episodes.
        learner: begins at its meta-trained parameters; left bit-identical.
        steps: K ≥ 0.
        generator: drives the rollouts.

    Returns:
        the episodes after k = 0 … K steps, and the adapted policies.
    """
    return adaptation_loop(
        learner, env.batch_shape[0], steps, rollouts_in(env, learner, generator), generator=generator
    )


def adapt_to_tasks(
    learner: Learner,
    distribution: TaskDistribution,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> Adaptation:
    """Adapt to stated tasks of a distribution.

    Args:
        learner: begins at its meta-trained parameters; left bit-identical.
        distribution: what the tasks come from.
        tasks: M tasks.
        steps: K ≥ 0.
        episodes: E per task and step.
        generator: drives the rollouts.

    Returns:
        the episodes after k = 0 … K steps, and the adapted policies.
    """
    return adapt_in(distribution.bind(tasks, episodes), learner, steps, generator)


def adaptation_episodes(
    learner: Learner,
    distribution: TaskDistribution,
    tasks: Task,
    steps: int,
    episodes: int,
    generator: torch.Generator,
) -> list[Episodes]:
    """The episodes of `adapt_to_tasks` alone, after k = 0 … K adaptation steps."""
    return adapt_to_tasks(learner, distribution, tasks, steps, episodes, generator).batches


def rollout_generator(device: torch.device, seed: int) -> torch.Generator:
    """A random generator for evaluations, so that they never draw from the one of training."""
    return torch.Generator(device).manual_seed(seed)
