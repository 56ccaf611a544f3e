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
    """

    returns: NDArray[np.float64]
    env_steps: NDArray[np.float64]
    total_env_steps: int
    episodes_per_step: int
    successes: NDArray[np.int64] | None = None

    @property
    def success_rate(self) -> NDArray[np.float64] | None:
        """Share of all episodes that succeeded, (K+1,)."""
        return None if self.successes is None else np.asarray(self.successes.mean(axis=1) / self.episodes_per_step)

    @property
    def success_ci95(self) -> NDArray[np.float64] | None:
        """95% Wilson interval of each share, (K+1, 2)."""
        if self.successes is None:
            return None
        trials = self.successes.shape[1] * self.episodes_per_step
        tests = (stats.binomtest(int(count), trials) for count in self.successes.sum(axis=1))
        return np.array([test.proportion_ci(CONFIDENCE, method="wilson") for test in tests])

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
        return {
            "num_tasks": self.returns.shape[1],
            "episodes_per_step": self.episodes_per_step,
            "adaptation_steps": len(self.returns) - 1,
            "episodes": [k * self.episodes_per_step for k in range(len(self.returns))],
            "env_steps": self.env_steps.tolist(),
            "return_mean": self.return_mean.tolist(),
            "return_ci95": self.return_ci95.tolist(),
            "gain_mean": float(self.gains.mean()),
            "gain_ci95": self.gain_ci95.tolist(),
            "total_env_steps": self.total_env_steps,
            **(
                {}
                if self.success_rate is None or self.success_ci95 is None
                else {
                    "success_rate": self.success_rate.tolist(),
                    "success_ci95": self.success_ci95.tolist(),
                }
            ),
        }


def bootstrap_ci(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """95% percentile bootstrap interval of the mean of (n,) values: (low, high). One value is its own interval."""
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


def summarize(batches: list[Episodes]) -> Evaluation:
    """The adaptation curves that the batches of `adaptation_episodes` show."""
    per_task = np.array([batch.mask.sum(dim=(1, 2)).double().mean().item() for batch in batches])
    return Evaluation(
        returns=np.stack([batch.returns.double().mean(dim=1).cpu().numpy() for batch in batches]),
        env_steps=np.concatenate([[0.0], np.cumsum(per_task[:-1])]),
        total_env_steps=sum(batch.env_steps for batch in batches),
        episodes_per_step=batches[0].reward.shape[1],
        successes=_successes(batches),
    )


def _successes(batches: list[Episodes]) -> NDArray[np.int64] | None:
    """See Evaluation.successes."""
    counts = [batch.success.sum(dim=1).cpu().numpy() for batch in batches if batch.success is not None]
    return np.stack(counts) if len(counts) == len(batches) else None
