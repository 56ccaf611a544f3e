"""The model evaluator: how fast and how well does a learner adapt to tasks it never saw?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.envs.rollout import Episodes
from metarl.evaluation import all_tasks
from metarl.evaluation.all_tasks import Noise
from metarl.evaluation.intervals import CONFIDENCE, mean_interval, share_interval

TASKS_LISTED = 10
"""Where there are so many tasks at most, each is told by itself."""


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
        errors: standard error of each task's mean over its episodes, (K+1, M); None: unknown.
        exhaustive: whether these are all the tasks that there are, and no sample of more: their intervals then speak of
            other episodes on the same tasks.
        pooled: True: all E episodes of a step inform the next policy. False: they are E separate trials of the task,
            each of K+1 episodes, and a task costs what one trial takes.
    """

    returns: NDArray[np.float64]
    env_steps: NDArray[np.float64]
    total_env_steps: int
    episodes_per_step: int
    successes: NDArray[np.int64] | None = None
    errors: NDArray[np.float64] | None = None
    exhaustive: bool = False
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
        """95% interval of each mean, (K+1, 2): bootstrap over tasks, or over episodes where it is exhaustive."""
        if self.exhaustive and self.errors is not None:
            return np.stack([self._over_episodes(*row) for row in zip(self.returns, self.errors, strict=True)])
        return np.stack([mean_interval(row).ends for row in self.returns])

    def _over_episodes(self, returns: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """95% interval of the mean of M tasks that are all there are, given the standard error of each, (2,)."""
        return all_tasks.mean_estimate(returns[None], Noise(errors[None], self.episodes_per_step)).ends

    @property
    def gains(self) -> NDArray[np.float64]:
        """Return after the last step minus return before the first, of each task, (M,)."""
        return np.asarray(self.returns[-1] - self.returns[0])

    @property
    def gain_ci95(self) -> NDArray[np.float64]:
        """95% interval of the mean gain, (2,), over what `return_ci95` speaks of."""
        if self.exhaustive and self.errors is not None:
            return self._over_episodes(self.gains, np.hypot(self.errors[0], self.errors[-1]))
        return mean_interval(self.gains).ends

    def lost(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return lost while adapting on each task, (M,): what a policy that knows it gets more meanwhile.

        The area between the reference and the curve: n Σ_{k<K} (reference − return after k steps), with the n episodes
        that inform a step: all E of a task, or one of each trial where trials are separate.

        Args:
            reference: return of the policy that knows the task, (M,).
        """
        return np.asarray(self.episodes_informing * (reference - self.returns[:-1]).sum(axis=0))

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
            data["trial_return_ci95"] = mean_interval(trials).ends.tolist()

        if self.success_rate is not None and self.success_ci95 is not None:
            data["success_rate"] = self.success_rate.tolist()
            data["success_ci95"] = self.success_ci95.tolist()

        return data


def summarize(batches: list[Episodes], exhaustive: bool = False, pooled: bool = True) -> Evaluation:
    """The adaptation curves that the batches of `adaptation_episodes` show.

    Args:
        batches: of M tasks × E episodes, after k = 0 … K adaptation steps.
        exhaustive: see Evaluation.
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
        errors=np.stack([standard_errors(batch) for batch in batches]),
        exhaustive=exhaustive,
        pooled=pooled,
    )


def standard_errors(batch: Episodes) -> NDArray[np.float64]:
    """Standard error of each task's mean over E episodes, (M,); of a single one nothing is known: 0."""
    returns = batch.returns.double().cpu().numpy()
    num_episodes = returns.shape[1]
    if num_episodes == 1:
        return np.zeros(len(returns))
    return np.asarray(returns.std(axis=1, ddof=1) / np.sqrt(num_episodes))


def _successes(batches: list[Episodes]) -> NDArray[np.int64] | None:
    """Number of each task's episodes that succeeded in each batch, (K+1, M); None where one of them does not say."""
    counts = [batch.success.sum(dim=1).cpu().numpy() for batch in batches if batch.success is not None]
    return np.stack(counts) if len(counts) == len(batches) else None
