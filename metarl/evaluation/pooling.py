"""Evaluations of several seeds of one agent on the same tasks, as one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.intervals import mean_interval, share_interval


@dataclass(frozen=True)
class PooledEvaluation(Evaluation):
    """S seeds on the same M tasks; its intervals speak of other seeds and of other tasks.

    Its returns are means over seeds, its counts of successes are sums. Where the tasks are all there are, its intervals
    speak of other seeds only.

    Attributes:
        by_seed: return of each seed after k steps, (S, K+1, M).
        shares_by_seed: share of each seed's episodes that succeeded, (S, K+1, M); None where this is not known.
    """

    by_seed: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 0)))
    shares_by_seed: NDArray[np.float64] | None = None

    @property
    def num_seeds(self) -> int:
        """S."""
        return len(self.by_seed)

    @property
    def success_rate(self) -> NDArray[np.float64] | None:
        """Mean over seeds and tasks, (K+1,)."""
        return None if self.shares_by_seed is None else np.asarray(self.shares_by_seed.mean(axis=(0, 2)))

    @property
    def success_ci95(self) -> NDArray[np.float64] | None:
        """95% interval over seeds and tasks of each share, (K+1, 2)."""
        if self.shares_by_seed is None:
            return None
        points = range(len(self.returns))
        return np.stack([share_interval(self._sampled(self.shares_by_seed[:, point])).ends for point in points])

    @property
    def return_ci95(self) -> NDArray[np.float64]:
        """95% interval over seeds and tasks of each mean, (K+1, 2)."""
        points = range(len(self.returns))
        return np.stack([mean_interval(self._sampled(self.by_seed[:, point])).ends for point in points])

    @property
    def gain_ci95(self) -> NDArray[np.float64]:
        """95% interval over seeds and tasks of the mean gain, (2,)."""
        return mean_interval(self._sampled(self.by_seed[:, -1] - self.by_seed[:, 0])).ends

    def _sampled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (S, M) by what was sampled: (S, 1) where the tasks were not."""
        return np.asarray(values.mean(axis=1, keepdims=True)) if self.exhaustive else values

    def to_json(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {**super().to_json(), "num_seeds": self.num_seeds, "returns_by_seed": self.by_seed.tolist()}


def pool(evaluations: Sequence[Evaluation]) -> PooledEvaluation:
    """One evaluation of the seeds of one agent.

    Args:
        evaluations: of each seed, on the same tasks, with as many steps and episodes.

    Raises:
        ValueError: they differ in their number of tasks, steps or episodes.
    """
    shapes = {(one.returns.shape, one.episodes_per_step, one.pooled) for one in evaluations}
    if len(shapes) != 1:
        raise ValueError("seeds can be pooled only where each has as many tasks, adaptation steps and episodes")

    counts = [one.successes for one in evaluations if one.successes is not None]
    shares = None
    if len(counts) == len(evaluations):
        shares = np.stack(counts) / evaluations[0].episodes_per_step

    by_seed = np.stack([one.returns for one in evaluations])
    return PooledEvaluation(
        returns=by_seed.mean(axis=0),
        env_steps=np.mean([one.env_steps for one in evaluations], axis=0),
        total_env_steps=sum(one.total_env_steps for one in evaluations),
        episodes_per_step=evaluations[0].episodes_per_step,
        successes=np.sum(counts, axis=0) if shares is not None else None,
        exhaustive=evaluations[0].exhaustive,
        pooled=evaluations[0].pooled,
        by_seed=by_seed,
        shares_by_seed=shares,
    )
