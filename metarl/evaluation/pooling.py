"""Evaluations of several seeds of one agent on the same tasks, as one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.intervals import share_interval


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
        shares = self.shares_by_seed
        if self.exhaustive:
            shares = shares.mean(axis=-1, keepdims=True)
        return np.stack([share_interval(of_step).ends for of_step in np.moveaxis(shares, 1, 0)])

    @property
    def _by_seed(self) -> NDArray[np.float64]:
        return self.by_seed

    def _errors_of_sum(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """None of their own: that seeds differ shows already what other episodes would change."""
        return np.zeros((self.num_seeds, self.by_seed.shape[-1]))

    def to_json(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {**super().to_json(), "num_seeds": self.num_seeds, "returns_by_seed": self.by_seed.tolist()}


def rollout_seed(seed: int, index: int, exhaustive: bool) -> int:
    """Seed of the episodes of one run of a pool.

    Where the tasks are a sample, all runs meet them with the same random numbers: what is common to them counts as a
    property of the tasks. Where the tasks are all that there are, nothing but the spread of the runs tells what other
    episodes would change, so that each needs episodes of its own.

    Args:
        seed: of the first run's.
        index: the run's place in its pool, from 0.
        exhaustive: whether the tasks are all that there are.
    """
    return seed + index if exhaustive else seed


def pool(evaluations: Sequence[Evaluation]) -> PooledEvaluation:
    """One evaluation of the seeds of one agent.

    Args:
        evaluations: of each seed, on the same tasks, with as many steps and episodes; of the references, those of
            the first are taken.

    Raises:
        ValueError: they differ in their number of tasks, steps or episodes.
    """
    shapes = {(evaluation.returns.shape, evaluation.episodes_per_step, evaluation.pooled) for evaluation in evaluations}
    if len(shapes) != 1:
        raise ValueError("seeds can be pooled only where each has as many tasks, adaptation steps and episodes")

    counts = [evaluation.successes for evaluation in evaluations if evaluation.successes is not None]
    shares = None
    if len(counts) == len(evaluations):
        shares = np.stack(counts) / evaluations[0].episodes_per_step

    by_seed = np.stack([evaluation.returns for evaluation in evaluations])
    return PooledEvaluation(
        returns=by_seed.mean(axis=0),
        env_steps=np.mean([evaluation.env_steps for evaluation in evaluations], axis=0),
        total_env_steps=sum(evaluation.total_env_steps for evaluation in evaluations),
        episodes_per_step=evaluations[0].episodes_per_step,
        successes=np.sum(counts, axis=0) if shares is not None else None,
        exhaustive=evaluations[0].exhaustive,
        pooled=evaluations[0].pooled,
        references=evaluations[0].references,
        by_seed=by_seed,
        shares_by_seed=shares,
    )
