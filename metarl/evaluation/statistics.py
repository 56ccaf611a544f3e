"""Statistics of comparisons: agents on the same M held-out tasks, S seeds each, with 95% bootstrap intervals.

Intervals resample tasks and, independently, seeds: a task that is drawn is drawn for every seed, because all seeds
met the same tasks, and for both agents of a difference, because both did.

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
        right = int(np.clip(np.searchsorted(self.env_steps, env_steps), 1, max(len(self.env_steps) - 1, 1)))
        if len(self.env_steps) == 1:
            return self.final
        first, second = self.env_steps[right - 1 : right + 1]
        share = float(np.clip((env_steps - first) / (second - first), 0, 1))
        return np.asarray((1 - share) * self.returns[:, right - 1] + share * self.returns[:, right])

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
    """Interquartile mean over all entries: the mean of the middle half, as scipy's trim_mean cuts it."""
    return float(_iqm_of_rows(values.reshape(1, -1))[0])


def mean_estimate(returns: Floats) -> Estimate:
    """Mean over seeds and tasks of (S, M) returns."""
    return _estimate(float(returns.mean()), _resampled(returns, _indices(returns)).mean(axis=1))


def iqm_estimate(returns: Floats) -> Estimate:
    """Interquartile mean over seeds and tasks of (S, M) returns."""
    return _estimate(iqm(returns), _iqm_of_rows(_resampled(returns, _indices(returns))))


def cvar_10(returns: Floats) -> Estimate:
    """Mean over seeds of the conditional value at risk: each seed's mean over its worst 10% of (S, M) returns."""
    seeds, tasks = _indices(returns)
    resampled = returns[seeds[:, :, None], tasks[:, None, :]]
    return _estimate(float(_cvar_10_of_rows(returns).mean()), _cvar_10_of_rows(resampled).mean(axis=1))


def mean_interval(curve: Curve) -> Floats:
    """95% interval of the curve's mean at each point, (P, 2)."""
    estimates = [mean_estimate(curve.returns[:, point]) for point in range(len(curve.env_steps))]
    return np.array([(one.low, one.high) for one in estimates])


def difference(ours: Floats, theirs: Floats) -> Estimate:
    """Mean of (S, M) returns minus mean of (S', M) returns on the same tasks, bootstrapped as the difference it is."""
    (our_seeds, tasks), (their_seeds, _) = _indices(ours), _indices(theirs, first_draw=1)
    resampled = _resampled(ours, (our_seeds, tasks)).mean(axis=1) - _resampled(theirs, (their_seeds, tasks)).mean(
        axis=1
    )
    return _estimate(float(ours.mean() - theirs.mean()), resampled)


def probability_of_improvement(ours: Floats, theirs: Floats) -> Estimate:
    """P(ours > theirs) + ½ P(equal) for a random seed of each on the same random task; returns (S, M) and (S', M)."""
    (our_seeds, tasks), (their_seeds, _) = _indices(ours), _indices(theirs, first_draw=1)
    wins = _wins(ours[:, None], theirs[None])  # (S, S', M)
    resampled = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = wins[:, :, tasks[number]][our_seeds[number]][:, their_seeds[number]]
        resampled[number] = drawn.mean()
    return _estimate(float(wins.mean()), resampled)


def normalized(returns: Floats, random: Floats, oracle: Floats) -> Floats:
    """Normalised score of (…, M) returns: (return − random) / (oracle − random), task by task.

    Args:
        returns: (…, M).
        random: return of the random policy on each task, (M,): 0.
        oracle: return of the oracle on each task, (M,): 1.

    Raises:
        ValueError: the two are equal on some task.
    """
    span = oracle - random
    if np.any(span == 0):
        raise ValueError(f"task {int(np.flatnonzero(span == 0)[0])}: random and oracle have the same return")
    return np.asarray((returns - random) / span)


def steps_to_reach(curve: Curve, target: Floats) -> Estimate:
    """Environment steps on a new task until `curve` reaches the mean of (S', M) returns on the same tasks.

    The mean is linear between two points; inf stands for 'not within the budget'. Each resample draws the same tasks
    for both.
    """
    (seeds, tasks), (target_seeds, _) = _indices(curve.final), _indices(target, first_draw=1)
    means = np.stack(
        [_resampled(curve.returns[:, p], (seeds, tasks)).mean(axis=1) for p in range(len(curve.env_steps))], axis=1
    )
    targets = _resampled(target, (target_seeds, tasks)).mean(axis=1)
    value = _first_crossing(curve.env_steps, curve.mean[None], np.array([target.mean()]))[0]
    low, high = np.quantile(_first_crossing(curve.env_steps, means, targets), _tails(), method="nearest")
    return Estimate(float(value), float(low), float(high))


def _first_crossing(env_steps: Floats, means: Floats, targets: Floats) -> Floats:
    """Where each row of means (B, P) over env_steps (P,) first reaches its target (B,); inf where it never does."""
    reached = means >= targets[:, None]
    right = reached.argmax(axis=1)
    left = np.maximum(right - 1, 0)
    rows = np.arange(len(means))
    below, above = means[rows, left], means[rows, right]
    rise = np.where(right > 0, above - below, 1.0)  # at the first point already: its own number of steps
    share = np.where(right > 0, (targets - below) / np.where(rise == 0, 1.0, rise), 0.0)
    steps = env_steps[left] + share * (env_steps[right] - env_steps[left])
    return np.where(reached.any(axis=1), steps, np.inf)


def _wins(ours: Floats, theirs: Floats) -> Floats:
    return np.asarray((ours > theirs) + 0.5 * (ours == theirs))


def _indices(returns: Floats, first_draw: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seeds (B, S) and tasks (B, M) of each resample, the same in every call; `first_draw` gives other seeds."""
    num_seeds, num_tasks = returns.shape
    tasks = np.random.default_rng([_SEED, 0]).integers(num_tasks, size=(RESAMPLES, num_tasks))
    seeds = np.random.default_rng([_SEED, 1 + first_draw]).integers(num_seeds, size=(RESAMPLES, num_seeds))
    return seeds, tasks


def _resampled(returns: Floats, indices: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Floats:
    """Returns (S, M) of each resample, (B, S·M)."""
    seeds, tasks = indices
    return np.asarray(returns[seeds[:, :, None], tasks[:, None, :]].reshape(len(seeds), -1))


def _iqm_of_rows(rows: Floats) -> Floats:
    """Interquartile mean of each row of (B, n)."""
    cut = rows.shape[1] // 4
    return np.asarray(np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut].mean(axis=1))


def _cvar_10_of_rows(rows: Floats) -> Floats:
    """Mean of the lowest 10% of each row of (…, n), of one entry at least."""
    return np.asarray(np.sort(rows, axis=-1)[..., : max(1, round(0.1 * rows.shape[-1]))].mean(axis=-1))


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.quantile(resampled, _tails())
    return Estimate(value, float(low), float(high))
