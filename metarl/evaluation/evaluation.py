"""The model evaluator: how fast and how well does a learner adapt to tasks it never saw?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from metarl.envs.rollout import Episodes

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Evaluation:
    """Adaptation curves of M tasks over k = 0 … K adaptation steps.

    Attributes:
        returns: mean undiscounted return of each task's E episodes after k steps, (K+1, M).
        env_steps: environment steps a task had cost before its policy of step k was ready, mean over tasks, (K+1,).
        total_env_steps: environment steps of the whole evaluation, all tasks, the last batch included.
        episodes_per_step: E.
        successes: number of each task's E episodes that succeeded after k steps, (K+1, M); None where the environment
            does not say.
        pooled: True: all E episodes of a step inform the next policy. False: they are E separate trials of the task,
            each of K+1 episodes, and a task costs what one trial takes.
    """

    returns: NDArray[np.float64]
    env_steps: NDArray[np.float64]
    total_env_steps: int
    episodes_per_step: int
    successes: NDArray[np.int64] | None = None
    pooled: bool = True

    @property
    def episodes_informing(self) -> int:
        """Episodes of a step that inform the next policy: E, or 1 where the E episodes are separate trials."""
        return self.episodes_per_step if self.pooled else 1

    @property
    def score(self) -> float:
        """What a checkpoint is chosen by: the return after the last step, or a separate trial's mean over episodes."""
        return float(self.return_mean[-1] if self.pooled else self.return_mean.mean())

    @property
    def trial_returns(self) -> NDArray[np.float64] | None:
        """Return of a whole trial of K+1 episodes, mean over each task's trials, (M,); None where they are pooled."""
        return None if self.pooled else np.asarray(self.returns.sum(axis=0))

    @property
    def success_rate(self) -> NDArray[np.float64] | None:
        """Share of all episodes that succeeded, (K+1,)."""
        return None if self.successes is None else np.asarray(self.successes.mean(axis=1) / self.episodes_per_step)

    @property
    def success_ci95(self) -> NDArray[np.float64] | None:
        """95% Wilson score interval of each share, (K+1, 2); the trials are all episodes of all tasks.

        Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
        """
        if self.successes is None:
            return None

        trials = self.successes.shape[1] * self.episodes_per_step
        intervals = []
        for count in self.successes.sum(axis=1):
            test = stats.binomtest(int(count), trials)
            intervals.append(test.proportion_ci(CONFIDENCE, method="wilson"))

        return np.array(intervals)

    @property
    def return_mean(self) -> NDArray[np.float64]:
        """Mean over tasks, (K+1,)."""
        return np.asarray(self.returns.mean(axis=1))

    @property
    def return_ci95(self) -> NDArray[np.float64]:
        """95% bootstrap interval over tasks of each mean, (K+1, 2)."""
        return np.stack([bootstrap_ci(row) for row in self.returns])

    @property
    def gains(self) -> NDArray[np.float64]:
        """Return after the last step minus return before the first, of each task, (M,)."""
        return np.asarray(self.returns[-1] - self.returns[0])

    @property
    def gain_ci95(self) -> NDArray[np.float64]:
        """95% bootstrap interval over tasks of the mean gain, (2,)."""
        return bootstrap_ci(self.gains)

    def to_json(self) -> dict[str, Any]:
        """Plain data for reports."""
        data: dict[str, Any] = {
            "num_tasks": self.returns.shape[1],
            "episodes_per_step": self.episodes_per_step,
            "adaptation_steps": len(self.returns) - 1,
            "episodes": [k * self.episodes_informing for k in range(len(self.returns))],
            "env_steps": self.env_steps.tolist(),
            "return_mean": self.return_mean.tolist(),
            "return_ci95": self.return_ci95.tolist(),
            "gain_mean": float(self.gains.mean()),
            "gain_ci95": self.gain_ci95.tolist(),
            "total_env_steps": self.total_env_steps,
        }

        trials = self.trial_returns
        if trials is not None:
            data["pooled"] = False
            data["trials_per_task"] = self.episodes_per_step
            data["trial_return_mean"] = float(trials.mean())
            data["trial_return_ci95"] = bootstrap_ci(trials).tolist()

        if self.success_rate is not None and self.success_ci95 is not None:
            data["success_rate"] = self.success_rate.tolist()
            data["success_ci95"] = self.success_ci95.tolist()

        return data


def bootstrap_ci(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """95% percentile bootstrap interval of a mean; equal values, or a single one, are their own interval.

    The values are what is resampled: one for each task, so that the interval speaks of other tasks of the distribution.

    Args:
        values: one number for each task, (n,).

    Returns:
        Low and high end, (2,).

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    # SciPy warns of a degenerate distribution here.
    if len(values) == 1 or bool(np.all(values == values[0])):
        return np.array([values[0], values[0]])

    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval

    return np.array([interval.low, interval.high])


def summarize(batches: list[Episodes], pooled: bool = True) -> Evaluation:
    """The adaptation curves that the batches of `adaptation_episodes` show.

    Args:
        batches: of M tasks × E episodes, after k = 0 … K adaptation steps.
        pooled: whether all E episodes inform the next policy, or are separate trials (`Sampling.pooled`).
    """
    steps_per_task = np.array([batch.mask.sum(dim=(1, 2)).double().mean().item() for batch in batches])
    if not pooled:
        steps_per_task = steps_per_task / batches[0].reward.shape[1]

    return Evaluation(
        returns=np.stack([batch.returns.double().mean(dim=1).cpu().numpy() for batch in batches]),
        # The policy of step k has cost the batches before it; what the last batch took only measures.
        env_steps=np.concatenate([[0.0], np.cumsum(steps_per_task[:-1])]),
        total_env_steps=sum(batch.env_steps for batch in batches),
        episodes_per_step=batches[0].reward.shape[1],
        successes=_successes(batches),
        pooled=pooled,
    )


def _successes(batches: list[Episodes]) -> NDArray[np.int64] | None:
    """Number of each task's episodes that succeeded in each batch, (K+1, M); None where one of them does not say."""
    counts = [batch.success.sum(dim=1).cpu().numpy() for batch in batches if batch.success is not None]
    return np.stack(counts) if len(counts) == len(batches) else None
