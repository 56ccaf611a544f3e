"""The one adaptation loop: sample, adapt, sample again. Training, evaluation, deployment and interpretation call it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.agents.learner import Adapted, Learner
from metarl.agents.policies.parameters import Parameters
from metarl.envs.rollout import BatchedEnv, Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import TrainingError
from metarl.evaluation.intervals import exceeds_by_more_than_noise

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
    start: Adapted | None = None,
) -> Adaptation:
    """Adapt to M tasks: K times sample a batch and adapt on it. Leaves the learner bit-identical.

    Args:
        learner: begins at its meta-trained parameters.
        num_tasks: M.
        steps: K ≥ 0.
        sample: called once for each batch; `adapted.steps` tells it which k is due.
        last_batch: whether to sample one more batch, with the policies after the last step.
        generator: draws what is random in the adaptation itself.
        start: policies that have taken steps already; None: the meta-trained ones.

    Returns:
        K + 1 batches, or K without the last one, and the adapted policies.
    """
    adapted = start
    if adapted is None:
        adapted = learner.begin(num_tasks, generator)
        _check_adapted(adapted, num_tasks, learner, "begin")
    batches: list[Episodes] = []

    for _ in range(steps):
        batches.append(sample(adapted))
        adapted = learner.adapt(adapted, batches[-1], generator)
        _check_adapted(adapted, num_tasks, learner, "adapt")

    if last_batch:
        batches.append(sample(adapted))
    return Adaptation(batches, adapted)


def _check_adapted(adapted: object, num_tasks: int, learner: Learner, method: str) -> None:
    """Refuse what would act on other tasks than it was adapted to: a leaf of one task would serve all of them.

    Raises:
        TrainingError: it is no Adapted, or not of so many tasks; names learner, method and leaf.
    """
    what = f"{type(learner).__name__}.{method}()"
    if not isinstance(adapted, Adapted):
        raise TrainingError(f"{what} must return a metarl.agents.learner.Adapted, not a {type(adapted).__name__}")
    for name, leaf in adapted.params.items():
        if leaf.ndim == 0 or len(leaf) != num_tasks:
            shape = tuple(leaf.shape)
            raise TrainingError(f"{what} gave {name!r} of shape {shape}; its first dimension is the tasks, {num_tasks}")


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


def noting_path(sample: Sampler, path: list[Parameters]) -> Sampler:
    """The same sampler, which also appends the task-batched parameters that it samples with to a path."""

    def sample_and_note(adapted: Adapted) -> Episodes:
        path.append(adapted.params)
        return sample(adapted)

    return sample_and_note


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


CANDIDATE_FACTORS = (1.0, 0.5, 0.25, 1 / 16, 2.0)
"""What `choose_rate_factors` tries out on each step."""


class _Trial(NamedTuple):
    """An adaptation with these factors so far, and the episodes that followed."""

    factors: tuple[float, ...]
    adapted: Adapted
    batch: Episodes


class ChosenRates(NamedTuple):
    """Which sizes of adaptation steps turned out best.

    Attributes:
        factors: what the given rate of each step is multiplied by; (): nothing.
        env_steps: environment steps that finding out took.
    """

    factors: tuple[float, ...]
    env_steps: int


def choose_rate_factors(learner: Learner, env: BatchedEnv, steps: int, generator: torch.Generator) -> ChosenRates:
    """Choose the size of one adaptation step after the other by the return that follows it.

    A factor replaces the one before it only where the return is higher by more than its noise, task by task. All are
    given up, (), where they do not so better the return after the last step.

    Args:
        learner: its `rate_factors` are chosen, and set; else it is left bit-identical.
        env: bound to validation tasks.
        steps: K ≥ 1.
        generator: drives the rollouts; all factors meet the same random numbers.
    """
    learner.rate_factors = ()
    given = adapt_in(env, learner, steps, generator).batches
    spent = sum(batch.env_steps for batch in given)

    adapted = learner.begin(env.batch_shape[0], generator)
    now = _Trial((), adapted, given[0])
    for _ in range(steps):
        trials = [_try_factor(learner, env, now, factor, generator) for factor in CANDIDATE_FACTORS]
        spent += sum(trial.batch.env_steps for trial in trials)
        now = _best_of(trials)

    changed = any(factor != 1 for factor in now.factors)
    better = changed and exceeds_by_more_than_noise(_returns(now.batch), _returns(given[-1]))
    learner.rate_factors = now.factors if better else ()
    return ChosenRates(learner.rate_factors, spent)


def _try_factor(learner: Learner, env: BatchedEnv, now: _Trial, factor: float, generator: torch.Generator) -> _Trial:
    """One more adaptation step of this size; the generator is left as it was."""
    learner.rate_factors = (*now.factors, factor)
    roll_out = rollouts_in(env, learner, generator)

    def sample(adapted: Adapted) -> Episodes:
        # All factors adapt on the episodes that are there.
        return now.batch if adapted is now.adapted else roll_out(adapted)

    before = generator.get_state()
    done = adaptation_loop(learner, env.batch_shape[0], 1, sample, generator=generator, start=now.adapted)
    generator.set_state(before)
    return _Trial(learner.rate_factors, done.adapted, done.batches[-1])


def _best_of(trials: list[_Trial]) -> _Trial:
    """The first one, unless another has a higher return by more than its noise, and so on."""
    best = trials[0]
    for trial in trials[1:]:
        if exceeds_by_more_than_noise(_returns(trial.batch), _returns(best.batch)):
            best = trial
    return best


def _returns(batch: Episodes) -> NDArray[np.float64]:
    """Mean return on each task, (M,)."""
    return np.asarray(batch.returns.double().mean(dim=1).cpu().numpy())


def rollout_generator(device: torch.device, seed: int) -> torch.Generator:
    """A random generator for evaluations, so that they never draw from the one of training."""
    return torch.Generator(device).manual_seed(seed)
