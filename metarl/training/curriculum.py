"""The curriculum: the returns of training on each task decide which tasks are replayed.

This closes the loop from the results back to the task generator. It uses training tasks only, and only episodes that
training collects anyway: validation tasks choose the best checkpoint, so they must not influence training.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.learner import Learner
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import UserError
from metarl.evaluation.statistics import ranks
from metarl.run.config import HARD_FIRST, UNIFORM, TrainConfig

STALENESS_SHARE = 0.3
"""ρ: share of the replay that is given by the time since a task's last visit instead of its score."""

_TASK = "task."
"""Prefix of the names of task parameters in the buffer, which also holds numbers about the tasks."""


class Draw(NamedTuple):
    """The tasks of one meta-iteration.

    Attributes:
        tasks: M tasks, the new ones first.
        replayed: indices into the buffer of the R tasks that come last, (R,).
        importance: weight p/q of each task, (M,); None where all tasks weigh the same.
        metrics: numbers about the draw, for the log.
    """

    tasks: Task
    replayed: Tensor
    importance: Tensor | None
    metrics: dict[str, float]


class Curriculum(Protocol):
    """Draws training tasks and learns from the returns on them."""

    def draw(self, distribution: TaskDistribution, num_tasks: int, generator: torch.Generator) -> Draw:
        """M training tasks, on the generator's device."""
        ...

    def learn(self, draw: Draw, returns: Tensor) -> None:
        """Note the returns after adaptation, (M,), of the tasks of a draw."""
        ...

    def replay(self, num_tasks: int) -> tuple[Task, NDArray[np.float64]] | None:
        """The buffer's N tasks and the probability of each in the next replay, (N,); None where nothing is replayed."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything it has noted, as copies."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: it is not such a state; nothing is changed.
        """
        ...


class UniformTasks:
    """No curriculum: every task is sampled anew from the training distribution."""

    def draw(self, distribution: TaskDistribution, num_tasks: int, generator: torch.Generator) -> Draw:
        """See Curriculum.draw."""
        tasks = distribution.sample(num_tasks, "train", generator)
        nothing_replayed = torch.empty(0, dtype=torch.long)
        return Draw(tasks, nothing_replayed, importance=None, metrics={})

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
    """Prioritised replay of the N newest tasks, plus new ones.

        P = (1 − ρ) P_score + ρ P_stale,    P_score ∝ 1 / rank of the score,    P_stale ∝ iterations since the visit

    R tasks are replayed, each with inclusion probability π ∝ P, π ≤ 1, Σ π = R, so that no task stands twice in a
    meta-batch (systematic sampling, Madow 1949). The other tasks are new and replace the oldest ones of the buffer,
    whatever their score. The buffer is therefore itself a sample of the training distribution. With the weights p/q,
    1 for new tasks and R/(N π) for replayed ones, the expected mean over the meta-batch is that of the training
    distribution (Horvitz & Thompson 1952), as far as a sample of N tasks represents it.

    A task with a higher score is replayed more often. The score is one of:

    * "hard-first": minus the return after adaptation. Ranks need no normalisation, but a hard task and an impossible
      one look the same. It prefers the worst tasks, as the CVaR objective of Greenberg et al. 2023 does.
    * "learning-progress": the absolute change of the return after adaptation since the last visit. It is high where
      the learner improves or forgets, low on solved and on impossible tasks alike. The gain of adaptation would be a
      worse score: it says how much there is to adapt to, not whether that is still being learned, and stays high for
      the farthest goals. A task seen once has the mean score of the others. Noise counts as progress.

    Source: Jiang, Grefenstette & Rocktäschel 2021, "Prioritized Level Replay" (ranks, staleness); Schaul et al. 2016,
        "Prioritized Experience Replay" (p/q); Graves et al. 2017, "Automated Curriculum Learning for Neural Networks",
        and Portelas et al. 2020, "Teacher algorithms for curriculum learning of Deep RL in continuously parameterized
        environments" (absolute learning progress); Greenberg et al. 2023, "Train Hard, Fight Easy: Robust
        Meta-reinforcement Learning". Deviations: tasks come from a distribution, not from a fixed list; many are drawn
        at a time, so 1/rank is not sharpened to its tenth power; the buffer drops its oldest task, not its lowest
        score.

    Args:
        score: "hard-first" or "learning-progress".
        capacity: N, the most tasks that the buffer holds.
        fresh: share of new tasks in each meta-batch; at least one task is new.
        corrected: whether draws carry the weights p/q.
    """

    def __init__(self, score: str, capacity: int, fresh: float, corrected: bool) -> None:
        self._score = score
        self._capacity = capacity
        self._fresh = fresh
        self._corrected = corrected
        self._buffer: dict[str, Tensor] = {}  # leaves (N, …), the oldest task first

    def __len__(self) -> int:
        return len(self._buffer["return"]) if self._buffer else 0

    def draw(self, distribution: TaskDistribution, num_tasks: int, generator: torch.Generator) -> Draw:
        """See Curriculum.draw."""
        device = generator.device
        inclusion = self._inclusion(num_tasks)
        num_replayed = round(inclusion.sum())
        num_fresh = num_tasks - num_replayed

        tasks = distribution.sample(num_fresh, "train", generator)
        replayed = torch.empty(0, dtype=torch.long)
        importance = torch.ones(num_tasks, device=device, dtype=float_dtype())
        metrics = {"buffer_size": float(len(self)), "share_replayed": num_replayed / num_tasks}

        # Replayed tasks come after the new ones; p/q of each corrects for how likely it was to be chosen.
        if num_replayed > 0:
            offset = torch.rand(1, generator=generator, device=device, dtype=torch.float64).item()
            chosen = systematic_sample(inclusion, offset)
            replayed = torch.from_numpy(chosen)
            again = {name: self._buffer[_TASK + name][replayed].to(device) for name in tasks}
            tasks = {name: torch.cat([fresh, again[name]]) for name, fresh in tasks.items()}

            ratio = num_replayed / (len(self) * inclusion[chosen])
            importance[num_fresh:] = torch.from_numpy(ratio).to(importance)
            metrics["effective_sample_size"] = num_replayed**2 / float(np.square(inclusion).sum())

        return Draw(tasks, replayed, importance if self._corrected else None, metrics)

    def learn(self, draw: Draw, returns: Tensor) -> None:
        """See Curriculum.learn."""
        returns = returns.detach().double().cpu()
        num_fresh = len(returns) - len(draw.replayed)
        buffer = self.state_dict()

        # Replayed tasks: their new return, how far it moved, and that they were visited now.
        if buffer:
            again = returns[num_fresh:]
            buffer["progress"][draw.replayed] = (again - buffer["return"][draw.replayed]).abs()
            buffer["return"][draw.replayed] = again
            buffer["visits"][draw.replayed] += 1
            buffer["age"] += 1
            buffer["age"][draw.replayed] = 1

        # New tasks come to the end of the buffer and replace the oldest ones.
        new = {
            "return": returns[:num_fresh],
            "progress": torch.zeros(num_fresh, dtype=torch.double),
            "visits": torch.ones(num_fresh, dtype=torch.long),
            "age": torch.ones(num_fresh, dtype=torch.long),
        }
        for name, value in draw.tasks.items():
            new[_TASK + name] = value[:num_fresh].cpu()
        if buffer:
            new = {name: torch.cat([buffer[name], value]) for name, value in new.items()}
        self._buffer = {name: value[-self._capacity :].clone() for name, value in new.items()}

    def replay(self, num_tasks: int) -> tuple[Task, NDArray[np.float64]] | None:
        """See Curriculum.replay."""
        inclusion = self._inclusion(num_tasks)
        if not inclusion.any():
            return None
        tasks = {name.removeprefix(_TASK): leaf for name, leaf in self._buffer.items() if name.startswith(_TASK)}
        return tasks, inclusion / inclusion.sum()

    def state_dict(self) -> dict[str, Tensor]:
        """See Curriculum.state_dict."""
        return {name: value.clone() for name, value in self._buffer.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See Curriculum.load_state_dict."""
        if state:
            _check_state(state)
        self._buffer = {name: value.clone() for name, value in state.items()}

    def _inclusion(self, num_tasks: int) -> NDArray[np.float64]:
        """π of each task of the buffer in the next draw of M, (N,). At most half of the buffer is replayed at once."""
        num_fresh = max(1, round(self._fresh * num_tasks))
        num_replayed = min(num_tasks - num_fresh, len(self) // 2)
        return inclusion_probabilities(self._priorities(), num_replayed)

    def _priorities(self) -> NDArray[np.float64]:
        """P of each task of the buffer, (N,)."""
        if not self._buffer:
            return np.zeros(0)

        by_score = 1 / ranks(-self._scores())
        age = self._buffer["age"].double().numpy()
        mixture = (1 - STALENESS_SHARE) * by_score / by_score.sum() + STALENESS_SHARE * age / age.sum()
        return np.asarray(mixture)

    def _scores(self) -> NDArray[np.float64]:
        """Score of each task of the buffer, (N,)."""
        if self._score == HARD_FIRST:
            return np.asarray(-self._buffer["return"].numpy())

        progress = self._buffer["progress"].numpy()
        visited_again = self._buffer["visits"].numpy() > 1
        mean = progress[visited_again].mean() if visited_again.any() else 0.0
        return np.asarray(np.where(visited_again, progress, mean))


_NOTED = {"return": torch.double, "progress": torch.double, "visits": torch.long, "age": torch.long}
"""What is noted of each task of the buffer, (N,) each."""


def _check_state(state: dict[str, Tensor]) -> None:
    """Refuse what no curriculum has noted.

    Raises:
        ValueError: names the tensor.
    """
    missing = sorted(_NOTED.keys() - state.keys())
    if missing:
        raise ValueError(f"{missing[0]} is missing")

    for name, value in state.items():
        if name not in _NOTED and not name.startswith(_TASK):
            raise ValueError(f"{name} is unknown")
        if name in _NOTED and (value.ndim != 1 or value.dtype != _NOTED[name]):
            raise ValueError(f"{name} must be a list of {_NOTED[name]}, got {tuple(value.shape)} {value.dtype}")
        if value.ndim == 0 or len(value) != len(state["return"]):
            raise ValueError(f"{name} must hold one value for each of {len(state['return'])} tasks")
    if bool((state["age"] < 1).any()) or bool((state["visits"] < 1).any()):
        raise ValueError("age and visits must be at least 1")


def inclusion_probabilities(priorities: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Inclusion probabilities π ∝ priorities, π ≤ 1, Σ π = size.

    Where a proportional π would exceed 1 the task is certain, and the others share the rest in proportion.

    Args:
        priorities: positive, (N,).
        size: tasks to choose, 0 … N.

    Returns:
        π, (N,).
    """
    certain = np.zeros(len(priorities), dtype=bool)
    while True:  # each round makes at least one more task certain
        open_priorities = np.where(certain, 0.0, priorities)
        total = max(open_priorities.sum(), np.finfo(float).tiny)
        inclusion = np.where(certain, 1.0, (size - certain.sum()) * open_priorities / total)

        if not (inclusion > 1).any():
            return inclusion
        certain |= inclusion >= 1


def systematic_sample(inclusion: NDArray[np.float64], offset: float) -> NDArray[np.int64]:
    """Choose R = Σ π distinct indices, each with its inclusion probability.

    The intervals of length π are laid end to end on [0, R); index i is chosen where one of the points offset + 0, 1,
    … R − 1 falls into its interval.

    Source: Madow 1949, "On the theory of systematic sampling, II".

    Args:
        inclusion: π ≤ 1 with an integer sum, (N,).
        offset: uniform in [0, 1).

    Returns:
        the chosen indices, (R,).
    """
    ends = inclusion.cumsum()
    size = round(ends[-1])
    return np.asarray(np.searchsorted(ends[:-1], offset + np.arange(size), side="right"))


def make_curriculum(config: TrainConfig, learner: Learner) -> Curriculum:
    """The curriculum of a configuration.

    Raises:
        UserError: the learner collects no episodes, so there are no returns to learn from.
    """
    if config.curriculum == UNIFORM:
        return UniformTasks()
    if not learner.sampling.batches:
        raise UserError(f"curriculum {config.curriculum} needs returns, but {config.agent} collects no episodes here")
    return PrioritizedTasks(
        config.curriculum, config.curriculum_buffer, config.curriculum_fresh, config.curriculum_correction
    )
