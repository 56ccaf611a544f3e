"""The model evaluator: how fast and how well does a learner adapt to tasks it never saw?"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.console import counted
from metarl.envs.rollout import Episodes
from metarl.evaluation.all_tasks import Noise
from metarl.evaluation.intervals import CONFIDENCE, Estimate, share_interval
from metarl.evaluation.statistics import mean_estimate

TASKS_LISTED = 10
"""Where there are so many tasks at most, each is told by itself."""

FEW_TASKS = 20
"""Of fewer sampled tasks, those that are seldom lost are likely to be missed."""

NOT_HELD_OUT = "not held out: training drew these tasks, and checkpoints were chosen on them"
"""What stands below the returns on a family whose few tasks are the same in all splits."""


def describe_tasks(num_tasks: int, split: str, held_out: bool, asked: int) -> str:
    """What the tasks of an evaluation are, in words: "20 test tasks", and why they are fewer than were asked for.

    Args:
        num_tasks: M.
        split: where they come from.
        held_out: whether training never draws them; if it does, they are all the tasks that there are.
        asked: how many were asked for.
    """
    if not held_out:
        return f"{counted(num_tasks, 'distinct task')}, not held out"
    tasks = counted(num_tasks, f"{split} task")
    return tasks if num_tasks >= asked else f"{tasks}, all of the frozen list"


def cautions(num_tasks: int, num_seeds: Iterable[int], exhaustive: bool) -> list[str]:
    """How often the intervals of means hold them where it is less often than 95%, a line each; by simulation.

    Args:
        num_tasks: M.
        num_seeds: S of each agent.
        exhaustive: whether the tasks are all that there are: none is missed then, and seeds are one sample.
    """
    if exhaustive:
        return []

    lines = []
    if num_tasks < FEW_TASKS:
        lines.append(
            f"{counted(num_tasks, 'task')}, fewer than {FEW_TASKS}: where an agent fails by far on one in ten or "
            "twenty, the interval of a mean holds it in 25 to 85% of the cases, not in 95%"
        )
    if 2 in num_seeds:
        lines.append(
            "two seeds: where seeds differ as much as tasks do, the interval of a mean holds it in 86 to 93% of the "
            "cases, not in 95%"
        )
    return lines


@dataclass(frozen=True)
class Evaluation:
    """Adaptation curves of M tasks over k = 0 … K adaptation steps.

    Attributes:
        returns: mean undiscounted return of each task's E episodes after k steps, (K+1, M).
        env_steps: environment steps a task had cost before its policy of step k was ready, mean over tasks, (K+1,).
        total_env_steps: environment steps of the whole evaluation, all tasks, the last batch included.
        episodes_per_step: E.
        successes: number of each task's E episodes that succeeded after k steps, at any time in the episode, (K+1, M);
            None where the environment does not say.
        by_episode: return of each episode, (K+1, M, E); None: unknown.
        exhaustive: whether these are all the tasks that there are, and no sample of more: their intervals then speak of
            other episodes on the same tasks.
        pooled: True: all E episodes of a step inform the next policy. False: they are E separate trials of the task,
            each of K+1 episodes, and a task costs what one trial takes.
        references: "random", and "oracle", the policy that knows the task → return on each task, (M,); empty where the
            family has no oracle.
        optimum: most that episode 1, 2, … of a trial can earn on these tasks, (K + 1,); () where that is not known.
    """

    returns: NDArray[np.float64]
    env_steps: NDArray[np.float64]
    total_env_steps: int
    episodes_per_step: int
    successes: NDArray[np.int64] | None = None
    by_episode: NDArray[np.float64] | None = None
    exhaustive: bool = False
    pooled: bool = True
    references: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    optimum: tuple[float, ...] = ()

    @property
    def episodes_informing(self) -> int:
        """Episodes of a step that inform the next policy: E, or 1 where the E episodes are separate trials."""
        return self.episodes_per_step if self.pooled else 1

    @property
    def score(self) -> float:
        """What a checkpoint is chosen by: the return after the last step, or a separate trial's mean over episodes."""
        return float(self.return_mean[-1] if self.pooled else self.return_mean.mean())

    @property
    def success_rate(self) -> NDArray[np.float64] | None:
        """Share of all episodes that succeeded, (K+1,)."""
        return None if self.successes is None else np.asarray(self.successes.mean(axis=1) / self.episodes_per_step)

    @property
    def success_ci95(self) -> NDArray[np.float64] | None:
        """95% interval over tasks of each share, (K+1, 2); see `share_interval`."""
        if self.successes is None:
            return None

        if self.exhaustive:
            from scipy import stats  # slow to import, and seldom needed

            trials = self.successes.shape[1] * self.episodes_per_step
            tests = [stats.binomtest(int(row.sum()), trials) for row in self.successes]
            return np.array([test.proportion_ci(CONFIDENCE, method="wilson") for test in tests])

        return np.stack([share_interval(row / self.episodes_per_step).ends for row in self.successes])

    @property
    def return_mean(self) -> NDArray[np.float64]:
        """Mean over tasks, (K+1,)."""
        return np.asarray(self.returns.mean(axis=1))

    @property
    def return_ci95(self) -> NDArray[np.float64]:
        """95% interval of each mean, (K+1, 2): over tasks, or over episodes where it is exhaustive."""
        return np.stack([self._estimate(weights).ends for weights in np.eye(len(self.returns))])

    @property
    def gains(self) -> NDArray[np.float64]:
        """Return after the last step minus return before the first, of each task, (M,)."""
        return np.asarray(self.returns[-1] - self.returns[0])

    @cached_property
    def gain(self) -> Estimate:
        """Mean of the gains, with its interval."""
        last, first = np.eye(len(self.returns))[[-1, 0]]
        return self._estimate(last - first)

    @cached_property
    def trial_return(self) -> Estimate | None:
        """Return of a whole trial of K+1 episodes; None where the episodes of a step inform one policy."""
        return None if self.pooled else self._estimate(np.ones(len(self.returns)))

    @cached_property
    def normalized_score(self) -> Estimate | None:
        """Score after the last step, task by task: 0 = random, 1 = oracle; None without both or if they are equal."""
        if not {"random", "oracle"} <= self.references.keys():
            return None
        random, oracle = self.references["random"], self.references["oracle"]
        if np.any(random == oracle):
            return None
        last = np.eye(len(self.returns))[-1]
        return self._estimate(last, offset=-random, scale=1 / (oracle - random))

    @cached_property
    def return_lost(self) -> Estimate | None:
        """Return lost while adapting to a task: what the oracle gets more meanwhile; None without one, or if K = 0.

        The area between the oracle and the curve: n Σ_{k<K} (oracle − return after k steps), with the n episodes that
        inform a step: all E of a task, or one of each trial where trials are separate.
        """
        steps = len(self.returns) - 1
        if "oracle" not in self.references or steps == 0:
            return None
        weights = np.full(steps + 1, -float(self.episodes_informing))
        weights[-1] = 0
        return self._estimate(weights, offset=self.episodes_informing * steps * self.references["oracle"])

    @property
    def errors(self) -> NDArray[np.float64] | None:
        """Standard error of each task's mean over its episodes, (K+1, M); None: unknown."""
        return None if self.by_episode is None else _standard_errors(self.by_episode)

    @property
    def _by_seed(self) -> NDArray[np.float64]:
        """Returns of each seed, (S, K+1, M); here of one."""
        return self.returns[None]

    def _estimate(
        self,
        weights: NDArray[np.float64],
        offset: NDArray[np.float64] | float = 0.0,
        scale: NDArray[np.float64] | float = 1.0,
    ) -> Estimate:
        """Mean over seeds and tasks of scale · (offset + Σ_k weight_k · return after k steps), with its interval.

        Args:
            weights: (K+1,).
            offset: (M,).
            scale: (M,).
        """
        values = scale * (offset + np.tensordot(weights, np.moveaxis(self._by_seed, 1, 0), axes=1))  # (S, M)
        errors = self._errors_of_sum(weights)
        if not self.exhaustive or errors is None:
            return mean_estimate(values)
        return mean_estimate(values, Noise(errors, self.episodes_per_step).scaled(scale))

    def _errors_of_sum(self, weights: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Standard error of Σ_k weight_k · return after k steps, by seed and task, (S, M); None: unknown."""
        if self.by_episode is None:
            return None
        if not self.pooled:  # an episode goes on with the trial of that before, so that they vary together
            return _standard_errors(np.tensordot(weights, self.by_episode, axes=1))[None]
        variances = np.square(_standard_errors(self.by_episode))
        return np.asarray(np.sqrt(np.square(weights) @ variances))[None]

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
            "gain_mean": self.gain.value,
            "gain_ci95": self.gain.ends.tolist(),
            "total_env_steps": self.total_env_steps,
        }

        trial = self.trial_return
        if trial is not None:
            data["pooled"] = False
            data["trials_per_task"] = self.episodes_per_step
            data["trial_return_mean"] = trial.value
            data["trial_return_ci95"] = trial.ends.tolist()

        if self.success_rate is not None and self.success_ci95 is not None:
            data["success_rate"] = self.success_rate.tolist()
            data["success_ci95"] = self.success_ci95.tolist()

        if self.references:
            data["references"] = {name: returns.tolist() for name, returns in self.references.items()}
        if self.optimum:
            data["optimum"] = list(self.optimum)
        if self.normalized_score is not None:
            data["score"] = asdict(self.normalized_score)
        if self.return_lost is not None:
            data["return_lost"] = asdict(self.return_lost)
        return data

    def lines(self) -> list[str]:
        """What the references say of it, for people: score, and what adapting costs."""
        lines = []
        if self.normalized_score is not None:
            lines.append(f"score after adaptation: {self.normalized_score.text('.3f')} (0 = random, 1 = oracle)")
        if self.return_lost is not None:
            episodes = (len(self.returns) - 1) * self.episodes_informing
            what = f"return lost while adapting, against the oracle, in all {counted(episodes, 'episode')}"
            lines.append(f"{what}: {self.return_lost.text('.1f')}")
        return lines


def summarize(
    batches: list[Episodes],
    exhaustive: bool = False,
    pooled: bool = True,
    references: dict[str, NDArray[np.float64]] | None = None,
    optimum: tuple[float, ...] = (),
) -> Evaluation:
    """The adaptation curves that the batches of `adaptation_episodes` show.

    Args:
        batches: of M tasks × E episodes, after k = 0 … K adaptation steps.
        exhaustive: see Evaluation.
        pooled: whether all E episodes inform the next policy, or are separate trials (`Sampling.pooled`).
        references: see Evaluation.
        optimum: see Evaluation.
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
        by_episode=np.stack([batch.returns.double().cpu().numpy() for batch in batches]),
        exhaustive=exhaustive,
        pooled=pooled,
        references=references or {},
        optimum=optimum,
    )


def standard_errors(batch: Episodes) -> NDArray[np.float64]:
    """Standard error of each task's mean over E episodes, (M,); of a single one nothing is known: 0."""
    return _standard_errors(batch.returns.double().cpu().numpy())


def _standard_errors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of the mean over the last axis; of a single value nothing is known: 0."""
    count = values.shape[-1]
    if count == 1:
        return np.zeros(values.shape[:-1])
    return np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(count))


def _successes(batches: list[Episodes]) -> NDArray[np.int64] | None:
    """Number of each task's episodes that succeeded in each batch, (K+1, M); None where one of them does not say."""
    counts = [batch.success.sum(dim=1).cpu().numpy() for batch in batches if batch.success is not None]
    return np.stack(counts) if len(counts) == len(batches) else None
