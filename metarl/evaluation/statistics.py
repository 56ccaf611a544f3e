"""Statistics of comparisons: agents on the same M held-out tasks, S seeds each, with 95% bootstrap intervals.

Every interval is a percentile bootstrap that resamples tasks and, independently of them, seeds: a task that is drawn is
drawn for every seed, because all seeds met the same tasks, and for both agents of a difference, because both did.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", sections 4.2 and
4.3 (interquartile mean, probability of improvement, stratified bootstrap). Deviation: there the tasks are a fixed
benchmark and only runs are resampled within each; here the tasks are themselves a sample of a distribution, so they
are resampled too.

Shapes: S seeds, M tasks, P points of a curve, B resamples.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarl.evaluation.evaluation import CONFIDENCE

Floats = NDArray[np.float64]

RESAMPLES = 2_000
_SEED = 0
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
"""Quantiles of the resampled statistic between which the interval lies."""

Kind = Literal["meta-learner", "baseline", "reference"]


@dataclass(frozen=True)
class Curve:
    """Return of one agent on M held-out tasks as a function of the environment steps spent on each of them.

    Attributes:
        label: its name in tables and figures.
        kind: "meta-learner" adapts trained parameters, "baseline" is Stable-Baselines3, "reference" a fixed point.
        training_env_steps: environment steps spent before it met these tasks, mean over seeds.
        env_steps: environment steps spent on one task before each point, mean over tasks and seeds, (P,), ascending.
        returns: mean return of each seed and task at each point, (S, P, M).
        evaluation_env_steps: environment steps that only measured, over all seeds and tasks.
    """

    label: str
    kind: Kind
    training_env_steps: int
    env_steps: Floats
    returns: Floats
    evaluation_env_steps: int = 0

    @property
    def mean(self) -> Floats:
        """Mean over seeds and tasks, (P,)."""
        return np.asarray(self.returns.mean(axis=(0, 2)))

    @property
    def final(self) -> Floats:
        """Returns at the last point, (S, M)."""
        return np.asarray(self.returns[:, -1])

    def at(self, env_steps: float) -> Floats:
        """Returns after so many steps on the new task, (S, M): linear between points, constant beyond them."""
        if len(self.env_steps) == 1:
            return self.final

        right = int(np.clip(np.searchsorted(self.env_steps, env_steps), 1, len(self.env_steps) - 1))
        left = right - 1
        first = self.env_steps[left]
        second = self.env_steps[right]

        weight = float(np.clip((env_steps - first) / (second - first), 0, 1))
        return np.asarray((1 - weight) * self.returns[:, left] + weight * self.returns[:, right])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "label": self.label,
            "kind": self.kind,
            "training_env_steps": self.training_env_steps,
            "evaluation_env_steps": self.evaluation_env_steps,
            "env_steps": self.env_steps.tolist(),
            "returns": self.returns.tolist(),
        }


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95% bootstrap interval.

    Attributes:
        value: the statistic of the data itself.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def iqm(values: Floats) -> float:
    """Interquartile mean over all entries: the mean of what is left without the lowest and the highest quarter.

    A quarter is rounded down to whole entries, as in `scipy.stats.trim_mean(values, 0.25)`.

    Source: Agarwal et al. 2021, section 4.3.
    """
    return float(_iqm_of_rows(values.reshape(1, -1))[0])


def mean_estimate(returns: Floats) -> Estimate:
    """Mean over seeds and tasks of (S, M) returns; tasks and seeds are resampled."""
    resampled = _resample(returns, _indices(returns))
    return _estimate(float(returns.mean()), resampled.mean(axis=1))


def iqm_estimate(returns: Floats) -> Estimate:
    """Interquartile mean over the S·M entries of (S, M) returns; tasks and seeds are resampled."""
    resampled = _resample(returns, _indices(returns))
    return _estimate(iqm(returns), _iqm_of_rows(resampled))


def cvar_10(returns: Floats) -> Estimate:
    """Conditional value at risk at 10%: each seed's mean over its worst 10% of tasks, then the mean over seeds.

    Tasks and seeds are resampled. The number of worst tasks is rounded, to one at least.

    Args:
        returns: (S, M).

    Source: Rockafellar and Uryasev 2000, "Optimization of Conditional Value-at-Risk"; of returns, the low tail.
    """
    seeds, tasks = _indices(returns)
    resampled = returns[seeds[:, :, None], tasks[:, None, :]]  # (B, S, M)
    return _estimate(float(_cvar_10_of_rows(returns).mean()), _cvar_10_of_rows(resampled).mean(axis=1))


def mean_interval(curve: Curve) -> Floats:
    """95% interval of the curve's mean at each point by itself, as of `mean_estimate`, (P, 2)."""
    estimates = [mean_estimate(curve.returns[:, point]) for point in range(len(curve.env_steps))]
    return np.array([(estimate.low, estimate.high) for estimate in estimates])


def difference(ours: Floats, theirs: Floats) -> Estimate:
    """Mean of one agent's returns minus mean of another's on the same tasks.

    The difference itself is resampled: the same tasks are drawn for both agents, so that what is common to them
    cancels; seeds are drawn for each agent by itself.

    Args:
        ours: returns, (S, M).
        theirs: returns on the same tasks, (S', M).
    """
    our_indices = _indices(ours)
    their_indices = _indices(theirs, first_draw=1)
    our_means = _resample(ours, our_indices).mean(axis=1)
    their_means = _resample(theirs, their_indices).mean(axis=1)
    return _estimate(float(ours.mean() - theirs.mean()), our_means - their_means)


def probability_of_improvement(ours: Floats, theirs: Floats) -> Estimate:
    """P(ours > theirs) + ½ P(ours = theirs) for a random seed of each on the same random task.

    On each task this is the Mann–Whitney U statistic divided by S·S'; it is averaged over tasks. Tasks are resampled
    for both agents together, seeds for each by itself.

    Args:
        ours: returns, (S, M).
        theirs: returns on the same tasks, (S', M).

    Source: Agarwal et al. 2021, section 4.3.
    """
    our_seeds, tasks = _indices(ours)
    their_seeds, _ = _indices(theirs, first_draw=1)
    wins = _wins(ours[:, None], theirs[None])  # (S, S', M)

    # One resample after the other: all at once would take B·S·S'·M numbers.
    resampled = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = wins[:, :, tasks[number]][our_seeds[number]][:, their_seeds[number]]
        resampled[number] = drawn.mean()

    return _estimate(float(wins.mean()), resampled)


def normalized(returns: Floats, random: Floats, oracle: Floats) -> Floats:
    """Normalised score of (…, M) returns: (return − random) / (oracle − random), task by task.

    Args:
        returns: (…, M).
        random: return of the random policy on each task, (M,): score 0.
        oracle: return of the oracle on each task, (M,): score 1.

    Raises:
        ValueError: the two are equal on some task.
    """
    span = oracle - random
    if np.any(span == 0):
        task = int(np.flatnonzero(span == 0)[0])
        raise ValueError(f"task {task}: random and oracle have the same return")
    return np.asarray((returns - random) / span)


def steps_to_reach(curve: Curve, target: Floats) -> Estimate:
    """Environment steps on a new task until a curve's mean first reaches the mean of other returns on the same tasks.

    The mean is linear between two points; inf stands for "not within the budget". Tasks are resampled for curve and
    target together, seeds for each by itself. The interval's ends are values of resamples, never between two of them:
    some may be infinite.

    Args:
        curve: of M tasks.
        target: returns to reach, (S', M).
    """
    indices = _indices(curve.final)
    target_indices = _indices(target, first_draw=1)
    points = range(len(curve.env_steps))
    means = np.stack([_resample(curve.returns[:, point], indices).mean(axis=1) for point in points], axis=1)  # (B, P)
    targets = _resample(target, target_indices).mean(axis=1)

    value = _first_crossing(curve.env_steps, curve.mean[None], np.array([target.mean()]))[0]
    resampled = _first_crossing(curve.env_steps, means, targets)
    low, high = np.quantile(resampled, _TAILS, method="nearest")
    return Estimate(float(value), float(low), float(high))


def _first_crossing(env_steps: Floats, means: Floats, targets: Floats) -> Floats:
    """Where each row of means first reaches its target, by linear interpolation.

    Args:
        env_steps: ascending, (P,).
        means: (B, P).
        targets: (B,).

    Returns:
        Environment steps, (B,); inf where a row never reaches its target.
    """
    reached = means >= targets[:, None]
    right = reached.argmax(axis=1)  # the first point that reaches it
    left = np.maximum(right - 1, 0)

    rows = np.arange(len(means))
    below = means[rows, left]
    above = means[rows, right]

    # A row that reaches it at its first point has nothing to interpolate: weight 0 gives that point's own steps.
    inside = right > 0
    rise = np.where(inside, above - below, 1.0)
    weight = np.where(inside, (targets - below) / np.where(rise == 0, 1.0, rise), 0.0)

    steps = env_steps[left] + weight * (env_steps[right] - env_steps[left])
    return np.where(reached.any(axis=1), steps, np.inf)


def _wins(ours: Floats, theirs: Floats) -> Floats:
    """1 where ours is larger, ½ where they are equal, 0 elsewhere."""
    return np.asarray((ours > theirs) + 0.5 * (ours == theirs))


def _indices(returns: Floats, first_draw: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which seeds and tasks each resample draws, with replacement; the same in every call.

    Args:
        returns: (S, M).
        first_draw: another number draws other seeds, but the same tasks: for a second agent on the same tasks.

    Returns:
        Seeds (B, S) and tasks (B, M).
    """
    num_seeds, num_tasks = returns.shape
    tasks = np.random.default_rng([_SEED, 0]).integers(num_tasks, size=(RESAMPLES, num_tasks))
    seeds = np.random.default_rng([_SEED, 1 + first_draw]).integers(num_seeds, size=(RESAMPLES, num_seeds))
    return seeds, tasks


def _resample(returns: Floats, indices: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Floats:
    """Returns (S, M) of each resample, (B, S·M): every drawn task for every drawn seed."""
    seeds, tasks = indices
    return np.asarray(returns[seeds[:, :, None], tasks[:, None, :]].reshape(len(seeds), -1))


def _iqm_of_rows(rows: Floats) -> Floats:
    """Interquartile mean of each row of (B, n), (B,)."""
    cut = rows.shape[1] // 4
    return np.asarray(np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut].mean(axis=1))


def _cvar_10_of_rows(rows: Floats) -> Floats:
    """Mean of the lowest 10% of each row of (…, n), of one entry at least, (…,)."""
    count = max(1, round(0.1 * rows.shape[-1]))
    return np.asarray(np.sort(rows, axis=-1)[..., :count].mean(axis=-1))


def _estimate(value: float, resampled: Floats) -> Estimate:
    """The statistic with its percentile bootstrap interval."""
    low, high = np.quantile(resampled, _TAILS)
    return Estimate(value, float(low), float(high))
