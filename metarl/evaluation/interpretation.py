"""What adaptation does to a policy's parameters: which of them move, and whether similar tasks move them alike."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import pdist

from metarl.agents.learner import MetaLearner
from metarl.agents.policies.parameters import Parameters
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import FROZEN_SIZE, TaskDistribution
from metarl.envs.task_space import Task


@dataclass(frozen=True)
class Interpretation:
    """How L parameters of a policy moved in K ≥ 1 adaptation steps to M tasks.

    Attributes:
        parameters: their names, from the observation to the action.
        relative_change: ‖θ_k − θ_{k−1}‖ / ‖θ_0‖ of each step, parameter and task, (K, L, M), with θ_0 the meta-trained
            value; not a number where that is zero.
        share: ‖θ_K − θ_0‖² of each parameter as a share of all parameters' sum, (L, M); not a number where a task
            moved nothing.
        similarity: cosine between the directions θ_K − θ_0, all parameters in one vector, of each pair of tasks i < j,
            (M (M − 1) / 2,); not a number where one of them moved nothing.
        distance: root mean square difference of the pair's task parameters, each scaled to its range: 0 … 1.
    """

    parameters: tuple[str, ...]
    relative_change: NDArray[np.float64]
    share: NDArray[np.float64]
    similarity: NDArray[np.float64]
    distance: NDArray[np.float64]

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's ρ of distance and similarity over pairs; −1: the nearer two tasks, the more alike they move it.

        None where it is not defined: fewer than three pairs, or all of them equal.
        """
        known = np.isfinite(self.similarity)
        similarity, distance = self.similarity[known], self.distance[known]
        if len(similarity) < 3 or np.ptp(similarity) == 0 or np.ptp(distance) == 0:
            return None
        return float(stats.spearmanr(distance, similarity).statistic)

    def to_json(self) -> dict[str, Any]:
        """Plain data: means and standard deviations over tasks, None where there is none."""
        return {
            "parameters": list(self.parameters),
            "relative_change_mean": _plain(self.relative_change.mean(axis=2)),
            "relative_change_std": _plain(self.relative_change.std(axis=2)),
            "share_mean": _plain(_mean_of_known(self.share)),
            "similarity_mean": _plain(_mean_of_known(self.similarity)),
            "similarity_distance_rank_correlation": self.rank_correlation,
        }


def interpret(
    learner: MetaLearner, distribution: TaskDistribution, tasks: Task, split: str, batches: list[Episodes]
) -> Interpretation:
    """Repeat the adaptation that `batches` of `adaptation_episodes` come from; takes no environment step.

    Leaves the learner bit-identical.

    Args:
        learner: adapted to the tasks.
        distribution: what the tasks come from.
        tasks: M tasks.
        split: theirs; its ranges scale their distance.
        batches: K + 1 batches, K ≥ 1.
    """
    path = adaptation_path(learner, batches)
    before, after = path[0], path[-1]
    steps = [_norms(new, old) for old, new in itertools.pairwise(path)]
    squared = _norms(after, before) ** 2
    directions = torch.cat([_rows(after[name] - before[name]) for name in before], dim=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Interpretation(
            parameters=tuple(before),
            relative_change=np.where(_norms(before) > 0, np.stack(steps) / _norms(before), np.nan),
            share=squared / squared.sum(axis=0),
            similarity=1 - pdist(directions.cpu().numpy(), "cosine"),
            distance=task_distances(distribution, tasks, split),
        )


def adaptation_path(learner: MetaLearner, batches: list[Episodes]) -> list[Parameters]:
    """Task-batched parameters after k = 0 … K adaptation steps on the first K of K + 1 batches."""
    adapted = learner.begin(len(batches[0].reward))
    path = [adapted.params]
    for batch in batches[:-1]:
        adapted = learner.adapt(adapted, batch)
        path.append(adapted.params)
    return path


def task_distances(distribution: TaskDistribution, tasks: Task, split: str) -> NDArray[np.float64]:
    """Distance of each pair i < j of M tasks, 0 … 1: root mean square over the elements of their parameters.

    Each element is divided by its range, the largest minus the smallest value in the split's frozen list (of the
    training split: in as many draws). Elements that do not vary are left out.
    """
    drawn = _matrix(distribution.sample(FROZEN_SIZE, split, torch.Generator().manual_seed(0)))
    everything = np.concatenate([drawn, _matrix(tasks)])
    extent = np.ptp(everything, axis=0)
    varies = extent > 0
    scaled = _matrix(tasks)[:, varies] / extent[varies]
    return np.asarray(pdist(scaled) / np.sqrt(max(scaled.shape[1], 1)))


def _matrix(tasks: Task) -> NDArray[np.float64]:
    """All elements of each task in a row, (M, n)."""
    return np.concatenate([_rows(value).cpu().numpy() for value in tasks.values()], axis=1)


def _rows(leaf: torch.Tensor) -> torch.Tensor:
    """(M, …) -> (M, n) in double precision."""
    return leaf.reshape(len(leaf), -1).double()


def _norms(parameters: Parameters, origin: Parameters | None = None) -> NDArray[np.float64]:
    """Euclidean norm of each parameter, or of its difference from `origin`, of each task, (L, M)."""
    moved = [_rows(leaf) - (_rows(origin[name]) if origin else 0) for name, leaf in parameters.items()]
    return np.stack([torch.linalg.vector_norm(rows, dim=1).cpu().numpy() for rows in moved])


def _mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is a number; not a number where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.asarray(np.where(known.any(axis=-1), total / np.maximum(known.sum(axis=-1), 1), np.nan))


def _plain(values: NDArray[np.float64] | np.float64) -> Any:
    """Nested lists with None for what is not a number."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
