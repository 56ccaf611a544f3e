"""What adaptation does to a policy's parameters: which of them move, and whether similar tasks move them alike."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.agents.learner import Adapted, Learner
from metarl.agents.policies.parameters import Parameters
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import FROZEN_SIZE, TaskDistribution
from metarl.envs.task_space import Task
from metarl.evaluation.adaptation import adaptation_loop, noting_path
from metarl.evaluation.statistics import ranks


@dataclass(frozen=True)
class Interpretation:
    """How L parameters of a policy moved in K ≥ 1 adaptation steps to M tasks.

    Attributes:
        parameters: their names, from the observation to the action.
        relative_change: ‖θ_k − θ_{k−1}‖ / ‖θ_0‖ of each step, parameter and task, (K, L, M), with θ_0 the meta-trained
            value; NaN where that is zero.
        share: ‖θ_K − θ_0‖² of each parameter divided by the sum over all parameters, (L, M); NaN where a task moved
            nothing.
        similarity: cosine between the directions θ_K − θ_0, all parameters in one vector, of each pair of tasks i < j,
            (M (M − 1) / 2,); NaN where one of them moved nothing.
        distance: distance between the tasks of each pair, as in `task_distances`, (M (M − 1) / 2,).
    """

    parameters: tuple[str, ...]
    relative_change: NDArray[np.float64]
    share: NDArray[np.float64]
    similarity: NDArray[np.float64]
    distance: NDArray[np.float64]

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's ρ between distance and similarity over the pairs of tasks.

        −1 says that the nearer two tasks are, the more alike they move the policy. None where it is not defined: fewer
        than three pairs, or all of them equal.
        """
        known = np.isfinite(self.similarity)
        similarity = self.similarity[known]
        distance = self.distance[known]

        if len(similarity) < 3 or np.ptp(similarity) == 0 or np.ptp(distance) == 0:
            return None
        return float(np.corrcoef(ranks(distance), ranks(similarity))[0, 1])

    def to_json(self) -> dict[str, Any]:
        """Plain data: means and standard deviations over tasks, None in place of NaN."""
        return {
            "parameters": list(self.parameters),
            "relative_change_mean": _nan_to_none(self.relative_change.mean(axis=2)),
            "relative_change_std": _nan_to_none(self.relative_change.std(axis=2)),
            "share_mean": _nan_to_none(_nanmean(self.share)),
            "similarity_mean": _nan_to_none(_nanmean(self.similarity)),
            "similarity_distance_rank_correlation": self.rank_correlation,
        }


def interpret(
    learner: Learner,
    distribution: TaskDistribution,
    tasks: Task,
    split: str,
    batches: list[Episodes],
    path: list[Parameters] | None = None,
) -> Interpretation | None:
    """Look at the adaptation that `batches` of `adaptation_episodes` come from; takes no environment step.

    Leaves the learner bit-identical.

    Where no parameter moves, as where adaptation is what the policy remembers, there is nothing to interpret: None.

    Args:
        learner: adapted to the tasks.
        distribution: what the tasks come from.
        tasks: M tasks.
        split: the split of the tasks; its ranges scale their distance.
        batches: K + 1 batches, K ≥ 1.
        path: task-batched parameters that sampled them, where they were kept; None repeats the adaptation.
    """
    path = path or adaptation_path(learner, batches)
    before = path[0]
    after = path[-1]
    if all(torch.equal(before[name], after[name]) for name in before):
        return None

    start = _norms(before)
    step_sizes = np.stack([_norms(new, old) for old, new in itertools.pairwise(path)])

    squared = _norms(after, before) ** 2
    directions = torch.cat([_rows(after[name] - before[name]) for name in before], dim=1)

    from scipy.spatial.distance import pdist  # slow to import

    # Divisions by zero are wanted: they give the values that are not a number where nothing moved.
    with np.errstate(invalid="ignore", divide="ignore"):
        return Interpretation(
            parameters=tuple(before),
            relative_change=np.where(start > 0, step_sizes / start, np.nan),
            share=squared / squared.sum(axis=0),
            similarity=1 - pdist(directions.cpu().numpy(), "cosine"),
            distance=task_distances(distribution, tasks, split),
        )


def adaptation_path(learner: Learner, batches: list[Episodes]) -> list[Parameters]:
    """Task-batched parameters after k = 0 … K adaptation steps on the first K of K + 1 batches."""
    path: list[Parameters] = []

    def replay(adapted: Adapted) -> Episodes:
        return batches[adapted.steps]

    adaptation_loop(learner, len(batches[0].reward), len(batches) - 1, noting_path(replay, path))
    return path


def task_distances(distribution: TaskDistribution, tasks: Task, split: str) -> NDArray[np.float64]:
    """Distance of each pair i < j of M tasks, 0 … 1: root mean square difference over the elements of the tasks.

    Each element is divided by its range: the largest minus the smallest value in the split's frozen list, and in the
    tasks themselves. (The training split has no list; as many tasks are drawn.) Elements that do not vary are left out.

    Args:
        distribution: what the tasks come from.
        tasks: M tasks.
        split: gives the ranges.

    Returns:
        Distances in the order of `scipy.spatial.distance.pdist`, (M (M − 1) / 2,).
    """
    from scipy.spatial.distance import pdist  # slow to import

    # The tasks themselves may lie outside what the split's list spans: they count for the range as well.
    drawn = _matrix(distribution.sample(FROZEN_SIZE, split, torch.Generator().manual_seed(0)))
    own = _matrix(tasks)
    extent = np.ptp(np.concatenate([drawn, own]), axis=0)

    varies = extent > 0
    scaled = own[:, varies] / extent[varies]
    num_elements = max(scaled.shape[1], 1)
    return np.asarray(pdist(scaled) / np.sqrt(num_elements))


def _matrix(tasks: Task) -> NDArray[np.float64]:
    """All elements of each task in a row, (M, n)."""
    return np.concatenate([_rows(value).cpu().numpy() for value in tasks.values()], axis=1)


def _rows(leaf: torch.Tensor) -> torch.Tensor:
    """(M, …) -> (M, n) in double precision."""
    return leaf.reshape(len(leaf), -1).double()


def _norms(parameters: Parameters, origin: Parameters | None = None) -> NDArray[np.float64]:
    """Euclidean norm of each parameter and task, or of its difference from `origin`, (L, M)."""
    norms = []
    for name, leaf in parameters.items():
        rows = _rows(leaf)
        if origin is not None:
            rows = rows - _rows(origin[name])
        norms.append(torch.linalg.vector_norm(rows, dim=1).cpu().numpy())

    return np.stack(norms)


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of the finite values; NaN where there is none, without numpy's warning."""
    finite = np.isfinite(values)
    total = np.where(finite, values, 0).sum(axis=-1)
    count = np.maximum(finite.sum(axis=-1), 1)
    return np.asarray(np.where(finite.any(axis=-1), total / count, np.nan))


def _nan_to_none(values: NDArray[np.float64] | np.float64) -> Any:
    """Nested lists with None in place of what is not finite: JSON has no NaN."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
