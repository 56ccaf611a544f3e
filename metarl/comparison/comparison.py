"""What a comparison found: the curves of its agents and the figures that follow from them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from metarl.evaluation.all_tasks import Noise
from metarl.evaluation.evaluation import describe_tasks
from metarl.evaluation.intervals import Estimate
from metarl.evaluation.statistics import (
    Curve,
    Floats,
    cvar_10,
    difference,
    iqm_estimate,
    lost_return,
    mean_estimate,
    normalized,
    probability_of_improvement,
    steps_to_reach,
)

RANDOM = "random"
ORACLE = "oracle"
OPTIMUM = "Bayes optimum"

EQUAL_BUDGETS = 0.1
"""Agents whose training differed by no more than this share of the larger had equal budgets."""

Verdict = Literal["better", "worse", "not distinguishable", "none"]


@dataclass(frozen=True)
class Summary:
    """One agent in figures.

    Attributes:
        curve: what it was measured from.
        before: return on a task before any step on it.
        equal: return after as many steps on the task as the subject needed to adapt.
        equal_iqm: interquartile mean of the same returns.
        score: the same returns normalised, 0 = random, 1 = oracle; None where the two are not both compared.
        final: return at the end of its own curve.
        final_worst: the same for the worst tenth of the tasks; None for fewer than 20 tasks.
        lost: return lost while adapting, for each episode on the way to the steps of `equal`; None without an oracle.
    """

    curve: Curve
    before: Estimate
    equal: Estimate
    equal_iqm: Estimate
    score: Estimate | None
    final: Estimate
    final_worst: Estimate | None
    lost: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the curve's returns."""
        figures = {name: value for name, value in asdict(self).items() if name != "curve"}
        return {"agent": self.curve.label, "training_env_steps": self.curve.training_env_steps, **figures}


@dataclass(frozen=True)
class PairwiseComparison:
    """Two agents after equally many steps on the same tasks.

    Attributes:
        ours: label of one agent.
        theirs: label of the other.
        difference: mean return of ours minus theirs.
        probability: that ours has the higher return on a random task.
        verdict: what the interval of the difference says of the two learners; "none" where it cannot say anything.
        no_verdict_because: why there is none; "" where there is one.
    """

    ours: str
    theirs: str
    difference: Estimate
    probability: Estimate
    verdict: Verdict
    no_verdict_because: str


@dataclass(frozen=True)
class SampleEfficiency:
    """How many steps a baseline needs on a new task for the return that a meta-learner has after k adaptation steps.

    Attributes:
        meta_learner: label.
        adaptation_step: k.
        env_steps: steps on the task that the meta-learner needed.
        target: its mean return there.
        baseline: label.
        needed: steps that the baseline needs; inf: not within its budget.
    """

    meta_learner: str
    adaptation_step: int
    env_steps: float
    target: float
    baseline: str
    needed: Estimate

    @property
    def ratio(self) -> float:
        """Steps of the baseline per step of the meta-learner."""
        return self.needed.value / self.env_steps

    def payback(self, invested: int) -> Estimate | None:
        """Tasks after which the meta-learner's steps before them are won back; its interval is that of the steps.

        Args:
            invested: environment steps that the meta-learner spent before it met the tasks, beyond those of the
                baseline.

        Returns:
            None where nothing is won back: the baseline was trained for as long, or may need as few steps on a task.
        """
        if invested <= 0 or self.needed.low <= self.env_steps:
            return None

        # The more steps the baseline may need, the fewer tasks.
        needed = (self.needed.value, self.needed.high, self.needed.low)
        value, few, many = (invested / (steps - self.env_steps) for steps in needed)
        return Estimate(value, few, many)


@dataclass(frozen=True)
class Comparison:
    """Agents on the same M held-out tasks.

    Attributes:
        env: their environment.
        split: the split of the tasks.
        num_tasks: M.
        budget: environment steps that a baseline could spend on each task.
        curves: one for each agent; the first one is the subject, which the others are compared with.
        metadata: whatever else belongs into a report.
        held_out: whether training never draws these tasks.
        exhaustive: whether they are all that there are, and no sample of more.
        task_names: each of a few tasks in words, where each is told by itself; else ().
        notes: sentences on what is not the same for all agents.
        optimum: most that episode 1, 2, … of a trial can earn on these tasks, one for each point of the subject; ()
            where that is not known.
        horizon: H, environment steps of an episode.
        num_asked: tasks that were asked for; a frozen list may hold fewer.
    """

    env: str
    split: str
    num_tasks: int
    budget: int
    curves: Sequence[Curve]
    metadata: dict[str, Any] = field(default_factory=dict)
    held_out: bool = True
    exhaustive: bool = False
    task_names: Sequence[str] = ()
    notes: Sequence[str] = ()
    optimum: Sequence[float] = ()
    horizon: int = 0
    num_asked: int = 0

    @property
    def which_tasks(self) -> str:
        """What the tasks are: "20 test tasks", or how few there are and that training has met them."""
        return describe_tasks(self.num_tasks, self.split, self.held_out, self.num_asked)

    @property
    def intervals_over(self) -> str:
        """What would be others: tasks, or where they are all that there are episodes; seeds where there are several."""
        others = "episodes on these tasks" if self.exhaustive else "tasks"
        if all(curve.num_seeds == 1 for curve in self.curves):
            return others
        return f"seeds, of one seed {others}" if self.exhaustive else "tasks and seeds"

    @property
    def subject(self) -> Curve:
        """The agent of the run that was named first."""
        return self.curves[0]

    @property
    def equal_env_steps(self) -> float:
        """Steps on a new task that the subject needed to adapt: where all are compared."""
        return float(self.subject.env_steps[-1])

    @cached_property
    def summaries(self) -> list[Summary]:
        """Figures of each agent."""
        return [self._summary(curve) for curve in self.curves]

    def _summary(self, curve: Curve) -> Summary:
        equal = curve.at(self.equal_env_steps)
        noise = curve.noise_at(self.equal_env_steps)

        return Summary(
            curve=curve,
            before=mean_estimate(curve.returns[:, 0], curve.noise_of(0)),
            equal=mean_estimate(equal, noise),
            equal_iqm=iqm_estimate(equal, noise),
            score=self._score(equal, noise),
            final=mean_estimate(curve.final, curve.noise_of(-1)),
            final_worst=None if self.exhaustive else cvar_10(curve.final),
            lost=self._lost(curve),
        )

    def _lost(self, curve: Curve) -> Estimate | None:
        """What adapting costs against the oracle; None without one, and for what does not adapt."""
        oracle = next((other for other in self.curves if other.label == ORACLE), None)
        if oracle is None or len(curve.env_steps) == 1 or self.equal_env_steps == 0:
            return None
        return lost_return(curve, oracle.final.mean(axis=0), self.equal_env_steps)

    @cached_property
    def pairwise_comparisons(self) -> list[PairwiseComparison]:
        """The subject beside each other agent that learns, after equally many steps on the tasks."""
        ours = self.subject.at(self.equal_env_steps)
        noise = self.subject.noise_at(self.equal_env_steps)

        pairs = []
        for other in self.curves[1:]:
            if other.kind == "reference":
                continue

            theirs = other.at(self.equal_env_steps)
            gap = difference(ours, theirs, noise, other.noise_at(self.equal_env_steps))
            reason = self._no_verdict_because(other)
            pair = PairwiseComparison(
                ours=self.subject.label,
                theirs=other.label,
                difference=gap,
                probability=probability_of_improvement(ours, theirs, self.exhaustive),
                verdict="none" if reason else _verdict(gap),
                no_verdict_because=reason,
            )
            pairs.append(pair)
        return pairs

    def _no_verdict_because(self, other: Curve) -> str:
        """Why nothing can be said of the subject and another learner; "" where something can.

        An agent that learns each task from scratch had no training before by design, and each of its tasks has a seed
        of its own, so that one seed is enough there, unless there are no other tasks.
        """
        mine, theirs = self.subject.training_env_steps, other.training_env_steps
        trained_before = other.kind == "meta-learner" or theirs > 0
        if trained_before and abs(mine - theirs) > EQUAL_BUDGETS * max(mine, theirs):
            return f"their training differs, {mine:,} and {theirs:,} steps"

        trained = [self.subject, other] if trained_before or self.exhaustive else [self.subject]
        single = [curve.label for curve in trained if curve.num_seeds == 1]
        covers = "episodes on these tasks" if self.exhaustive else "tasks"
        if single:
            return f"one seed of {' and of '.join(single)}, so the interval covers {covers} only"
        return ""

    @cached_property
    def sample_efficiencies(self) -> list[SampleEfficiency]:
        """Each meta-learner, after each of its adaptation steps, beside each baseline."""
        meta_learners = [curve for curve in self.curves if curve.kind == "meta-learner"]
        baselines = [curve for curve in self.curves if curve.kind == "baseline"]
        return [
            _sample_efficiency(meta_learner, baseline, step)
            for meta_learner in meta_learners
            for baseline in baselines
            for step in range(1, len(meta_learner.env_steps))
        ]

    def scores(self, returns: Floats) -> Floats | None:
        """Normalised scores of (S, M) returns; None without both references, or where they are equal on a task."""
        references = self._references()
        return None if references is None else normalized(returns, *references)

    def _score(self, returns: Floats, noise: Noise | None) -> Estimate | None:
        """The mean score of (S, M) returns with its interval; None where there are no scores."""
        references = self._references()
        scores = self.scores(returns)
        if references is None or scores is None:
            return None
        random, oracle = references
        return mean_estimate(scores, None if noise is None else noise.scaled(1 / (oracle - random)))

    def _references(self) -> tuple[Floats, Floats] | None:
        """Returns of random and oracle on each task, (M,) each; None without both, or where they are equal on one."""
        # Both references act once: their final returns, (M,), are the same for every seed of the others.
        references = {curve.label: curve.final.mean(axis=0) for curve in self.curves if curve.label in (RANDOM, ORACLE)}
        if len(references) < 2 or np.any(references[RANDOM] == references[ORACLE]):
            return None
        return references[RANDOM], references[ORACLE]

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite are None."""
        data = {
            "env": self.env,
            "split": self.split,
            "num_tasks": self.num_tasks,
            "held_out": self.held_out,
            "intervals_over": self.intervals_over,
            "budget": self.budget,
            "evaluation_env_steps": sum(curve.evaluation_env_steps for curve in self.curves),
            "notes": list(self.notes),
            **({"optimum": list(self.optimum)} if self.optimum else {}),
            **self.metadata,
            "equal_env_steps": self.equal_env_steps,
            "agents": [summary.to_json() for summary in self.summaries],
            "pairwise_comparisons": [asdict(pair) for pair in self.pairwise_comparisons],
            "sample_efficiencies": [asdict(efficiency) for efficiency in self.sample_efficiencies],
            "curves": [curve.to_json() for curve in self.curves],
        }
        return _finite(data)  # type: ignore[no-any-return]


def _verdict(gap: Estimate) -> Verdict:
    """Only an interval without 0 is a difference."""
    if gap.low > 0:
        return "better"
    if gap.high < 0:
        return "worse"
    return "not distinguishable"


def _sample_efficiency(meta_learner: Curve, baseline: Curve, step: int) -> SampleEfficiency:
    return SampleEfficiency(
        meta_learner=meta_learner.label,
        adaptation_step=step,
        env_steps=float(meta_learner.env_steps[step]),
        target=float(meta_learner.mean[step]),
        baseline=baseline.label,
        needed=steps_to_reach(baseline, meta_learner.returns[:, step], meta_learner.noise_of(step)),
    )


def _finite(data: Any) -> Any:
    """The same data with None for numbers that JSON has no word for."""
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not np.isfinite(data):
        return None
    return data
