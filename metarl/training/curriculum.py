"""The curriculum: what training achieved on each task decides which tasks it meets again.

This is where the loop closes, from the results back to the task generator. Only tasks of the training split take part,
and only episodes that training collects anyway: validation tasks choose the best checkpoint and must not steer.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from metarl.agents.learner import MetaLearner
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import UserError
from metarl.run.config import HARD_FIRST, UNIFORM, TrainConfig

STALENESS_SHARE = 0.3
"""ρ: share of the replay that goes to tasks by the time since their last visit, whatever their score."""

_TASK = "task."  # prefix of task parameters in the buffer


class Draw(NamedTuple):
    """The tasks of one meta-iteration.

    Attributes:
        tasks: M tasks, fresh ones first.
        replayed: places in the buffer of the tasks that come last, (R,).
        importance: p/q of each task, (M,), where it is to be corrected for; else None.
        metrics: what TensorBoard shows of the draw.
    """

    tasks: Task
    replayed: Tensor
    importance: Tensor | None
    metrics: dict[str, float]


class Curriculum(Protocol):
    """Draws training tasks and learns from what became of them."""

    def draw(self, distribution: TaskDistribution, num_tasks: int, generator: torch.Generator) -> Draw:
        """M training tasks, on the generator's device."""
        ...

    def learn(self, draw: Draw, returns: Tensor) -> None:
        """Take note of the returns after adaptation, (M,), of the tasks of a draw."""
        ...

    def replay(self, num_tasks: int) -> tuple[Task, NDArray[np.float64]] | None:
        """The buffer's N tasks and the probability of each in the replay of the next draw, (N,); None without one."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that it knows, as copies."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        ...


class UniformTasks:
    """No curriculum: every task is a fresh draw from the training distribution."""

    def draw(self, distribution: TaskDistribution, num_tasks: int, generator: torch.Generator) -> Draw:
        """See Curriculum.draw."""
        return Draw(distribution.sample(num_tasks, "train", generator), torch.empty(0, dtype=torch.long), None, {})

    def learn(self, draw: Draw, returns: Tensor) -> None:
        """See Curriculum.learn; there is nothing to learn."""

    def replay(self, num_tasks: int) -> None:
        """See Curriculum.replay."""

    def state_dict(self) -> dict[str, Tensor]:
        """See Curriculum.state_dict."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See Curriculum.load_state_dict."""


class PrioritizedTasks:
    """Prioritised replay over the N newest fresh tasks, plus fresh ones.

        P = (1 − ρ) P_score + ρ P_stale,    P_score ∝ 1 / rank of the score,    P_stale ∝ iterations since the visit

    R tasks are replayed with π ∝ P but π ≤ 1, Σ π = R: none is drawn twice into a meta-batch (systematic sampling,
    Madow 1949). The other tasks are drawn fresh and push the oldest out of the buffer, whatever their score. So the
    buffer is itself a sample of the training distribution, and the weights p/q, 1 for fresh tasks and R/(N π) for
    replayed ones, make the expected mean over the meta-batch that of the training distribution (Horvitz & Thompson
    1952), as far as a sample of N tasks can stand for it.

    The score, the higher the more often:

    * "hard-first": minus the return after adaptation. Ranks need no normalisation; a hard task and a hopeless one look
      the same. It pursues the worst tasks, as the CVaR objective of Greenberg et al. 2023 does.
    * "learning-progress": the absolute change of the return after adaptation since the visit before: high where the
      learner improves or forgets, low on solved and on hopeless tasks alike. The gain of adaptation, the other
      candidate, says how much there is to adapt to, not whether that is still being learned: it would stay high for
      the farthest goals for ever. A task seen once has the mean score of the others. Noise counts as progress.

    Source: Jiang, Grefenstette & Rocktäschel 2021, "Prioritized Level Replay" (ranks, staleness); Schaul et al. 2016,
        "Prioritized Experience Replay" (p/q); Graves et al. 2017, "Automated Curriculum Learning for Neural Networks",
        and Portelas et al. 2020, "Teacher algorithms for curriculum learning of Deep RL in continuously parameterized
        environments" (absolute learning progress); Greenberg et al. 2023, "Train Hard, Fight Easy: Robust
        Meta-reinforcement Learning". Deviations: tasks come from a distribution, not from a fixed list; many are drawn
        at a time, so 1/rank is not sharpened to its tenth power; the buffer drops its oldest task, not its lowest
        score.

    Args:
        score: which of them.
        capacity: N, tasks that the buffer holds at most.
        fresh: share of each meta-batch that is drawn fresh, one task at least.
        corrected: whether draws carry p/q.
    """

    def __init__(self, score: str, capacity: int, fresh: float, corrected: bool) -> None:
        self._score, self._capacity, self._fresh, self._corrected = score, capacity, fresh, corrected
        self._buffer: dict[str, Tensor] = {}  # leaves (N, …), the oldest first

    def __len__(self) -> int:
        return len(self._buffer["return"]) if self._buffer else 0

    def draw(self, distribution: TaskDistribution, num_tasks: int, generator: torch.Generator) -> Draw:
        """See Curriculum.draw."""
        inclusion = self._inclusion(num_tasks)
        num_replayed = round(inclusion.sum())
        num_fresh = num_tasks - num_replayed
        tasks, device = distribution.sample(num_fresh, "train", generator), generator.device
        metrics = {"curriculum/buffer_size": float(len(self)), "curriculum/share_replayed": num_replayed / num_tasks}
        importance = torch.ones(num_tasks, device=device)
        replayed = torch.empty(0, dtype=torch.long)
        if num_replayed > 0:
            offset = torch.rand(1, generator=generator, device=device, dtype=torch.float64).item()
            chosen = systematic_sample(inclusion, offset)
            replayed = torch.from_numpy(chosen)
            tasks = {n: torch.cat([v, self._buffer[_TASK + n][replayed].to(device)]) for n, v in tasks.items()}
            ratio = num_replayed / (len(self) * inclusion[chosen])
            importance[num_fresh:] = torch.from_numpy(ratio).to(importance)
            metrics["curriculum/effective_sample_size"] = num_replayed**2 / float(np.square(inclusion).sum())
        return Draw(tasks, replayed, importance if self._corrected else None, metrics)

    def learn(self, draw: Draw, returns: Tensor) -> None:
        """See Curriculum.learn."""
        returns = returns.detach().double().cpu()
        num_fresh = len(returns) - len(draw.replayed)
        again = returns[num_fresh:]
        buffer = self.state_dict()
        if buffer:
            buffer["progress"][draw.replayed] = (again - buffer["return"][draw.replayed]).abs()
            buffer["return"][draw.replayed] = again
            buffer["visits"][draw.replayed] += 1
            buffer["age"] += 1
            buffer["age"][draw.replayed] = 1
        count = torch.ones(num_fresh, dtype=torch.long)
        new = {"return": returns[:num_fresh], "progress": torch.zeros(num_fresh, dtype=torch.double)}
        new |= {"visits": count, "age": count} | {_TASK + n: v[:num_fresh].cpu() for n, v in draw.tasks.items()}
        both = {name: torch.cat([buffer[name], value]) if buffer else value for name, value in new.items()}
        self._buffer = {name: value[-self._capacity :].clone() for name, value in both.items()}

    def replay(self, num_tasks: int) -> tuple[Task, NDArray[np.float64]] | None:
        """See Curriculum.replay."""
        inclusion = self._inclusion(num_tasks)
        if not inclusion.any():
            return None
        tasks = {n.removeprefix(_TASK): v for n, v in self._buffer.items() if n.startswith(_TASK)}
        return tasks, inclusion / inclusion.sum()

    def state_dict(self) -> dict[str, Tensor]:
        """See Curriculum.state_dict."""
        return {name: value.clone() for name, value in self._buffer.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See Curriculum.load_state_dict."""
        self._buffer = {name: value.clone() for name, value in state.items()}

    def _inclusion(self, num_tasks: int) -> NDArray[np.float64]:
        """π of each task of the buffer in the next draw of M; half of the buffer is replayed at a time at most."""
        fresh = max(1, round(self._fresh * num_tasks))
        return inclusion_probabilities(self._priorities(), min(num_tasks - fresh, len(self) // 2))

    def _priorities(self) -> NDArray[np.float64]:
        """P of each task of the buffer."""
        if not self._buffer:
            return np.zeros(0)
        by_score, age = 1 / rankdata(-self._scores()), self._buffer["age"].double().numpy()
        mixture = (1 - STALENESS_SHARE) * by_score / by_score.sum() + STALENESS_SHARE * age / age.sum()
        return np.asarray(mixture)

    def _scores(self) -> NDArray[np.float64]:
        if self._score == HARD_FIRST:
            return np.asarray(-self._buffer["return"].numpy())
        progress, known = self._buffer["progress"].numpy(), self._buffer["visits"].numpy() > 1
        return np.asarray(np.where(known, progress, progress[known].mean() if known.any() else 0.0))


def inclusion_probabilities(priorities: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """π ∝ priorities but at most 1, with Σ π = size: those above are certain, the others share what is left.

    Args:
        priorities: positive, (N,).
        size: 0 … N.
    """
    certain = np.zeros(len(priorities), dtype=bool)
    while True:
        left = np.where(certain, 0.0, priorities)
        inclusion = np.where(certain, 1.0, (size - certain.sum()) * left / max(left.sum(), np.finfo(float).tiny))
        if not (inclusion > 1).any():
            return inclusion
        certain |= inclusion >= 1


def systematic_sample(inclusion: NDArray[np.float64], offset: float) -> NDArray[np.int64]:
    """Distinct places, each with its probability: those in whose share of [0, Σ π) a point offset + 0, 1, 2 … falls.

    Args:
        inclusion: π ≤ 1 with a whole sum, (N,).
        offset: uniform in [0, 1).
    """
    ends = inclusion.cumsum()
    size = round(ends[-1])
    return np.asarray(np.searchsorted(ends[:-1], offset + np.arange(size), side="right"))


def make_curriculum(config: TrainConfig, learner: MetaLearner) -> Curriculum:
    """The curriculum of a configuration.

    Raises:
        UserError: the learner collects no episodes that one could learn from.
    """
    if config.curriculum == UNIFORM:
        return UniformTasks()
    if not (learner.support_batches or learner.collects_query):
        raise UserError(f"curriculum {config.curriculum} needs returns, but {config.agent} collects no episodes here")
    return PrioritizedTasks(
        config.curriculum, config.curriculum_buffer, config.curriculum_fresh, config.curriculum_correction
    )
