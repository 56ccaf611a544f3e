"""Intervals where the tasks are all that there are: other seeds and other episodes are left to chance, not other tasks.

A half-cheetah can run in two directions. Their mean is no estimate of a mean over more of them, so that nothing may be
resampled over tasks. With several seeds the mean over tasks of each is one number of the sample. With one seed, what
is left to chance are its episodes, and the interval says nothing of other seeds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.evaluation.intervals import Estimate, Variance, mean_variance, share_interval, sum_of_variances

Floats = NDArray[np.float64]


class Noise(NamedTuple):
    """How well the return on each task is known.

    Attributes:
        errors: standard error of each seed's mean over its episodes of a task, (S, M).
        episodes: E, from which it was estimated.
    """

    errors: Floats
    episodes: int

    def scaled(self, factor: Floats | float) -> "Noise":
        """The noise of returns that were multiplied by a factor, one for each task, (M,), or one for all."""
        return Noise(np.abs(factor) * self.errors, self.episodes)


def variance_of_mean(returns: Floats, noise: Noise) -> Variance:
    """How much the mean over seeds and all M tasks would vary over other seeds, or with one seed over other episodes.

    Several seeds had episodes of their own (`pooling.rollout_seed`): their spread contains that of the episodes.

    Args:
        returns: (S, M).
        noise: of the same.
    """
    if len(returns) > 1:
        return mean_variance(returns.mean(axis=1))

    if noise.episodes == 1:
        # One episode says nothing of others. That tasks differ as well only makes this wider.
        return mean_variance(returns)

    num_tasks = returns.shape[1]
    freedom = max(1, num_tasks * (noise.episodes - 1))
    return Variance(float(np.square(noise.errors).sum()) / num_tasks**2, freedom)


def mean_estimate(returns: Floats, noise: Noise) -> Estimate:
    """Mean over seeds and all tasks of (S, M) returns."""
    return _symmetric(float(returns.mean()), variance_of_mean(returns, noise))


def iqm_estimate(returns: Floats, noise: Noise, value: float) -> Estimate:
    """Interquartile mean over the S·M entries of (S, M) returns.

    Only what lies between the quartiles moves it: the others are moved to the quartiles, without an error of their own.

    Args:
        returns: (S, M).
        noise: of the same.
        value: the interquartile mean.
    """
    cut = returns.size // 4
    ordered = np.sort(returns, axis=None)
    low, high = ordered[cut], ordered[returns.size - 1 - cut]
    inside = (returns >= low) & (returns <= high)

    kept = 1 - 2 * cut / returns.size
    errors = np.where(inside, noise.errors, 0.0) / kept
    return _symmetric(value, variance_of_mean(np.clip(returns, low, high) / kept, Noise(errors, noise.episodes)))


def difference(ours: Floats, theirs: Floats, our_noise: Noise, their_noise: Noise) -> Estimate:
    """Mean of one agent's returns (S, M) minus mean of another's (S', M) on the same tasks."""
    variances = [variance_of_mean(ours, our_noise), variance_of_mean(theirs, their_noise)]
    return _symmetric(float(ours.mean() - theirs.mean()), sum_of_variances(variances))


def share(values: Floats) -> Estimate:
    """A share over seeds and all tasks, the last axis; each seed, or pair of seeds, is one trial."""
    return share_interval(values.mean(axis=-1, keepdims=True))


def _symmetric(value: float, variance: Variance) -> Estimate:
    half = variance.half_width if variance.value > 0 else 0.0
    return Estimate(value, value - half, value + half)
