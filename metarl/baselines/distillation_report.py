"""What a distilled student keeps of its teachers: parameters, divergence, and return before and after adaptation."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from metarl.agents.distillation import Distillation, Teachers
from metarl.baselines.references import reference_episodes
from metarl.baselines.teachers import is_expert, load_teachers, specialised, teacher_run
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of, select_tasks
from metarl.evaluation.adaptation import adaptation_episodes
from metarl.evaluation.statistics import normalized
from metarl.run.run_directory import RunDirectory


@dataclass(frozen=True)
class DistillationReport:
    """A student beside teachers specialised on the same M tasks.

    Attributes:
        teacher: the run or the algorithm that the teachers come from.
        own_tasks: the tasks are those that the student was trained with, because experts exist for no others.
        num_tasks: M.
        teacher_parameters: parameters of the teacher's policy.
        student_parameters: parameters of the student's.
        teacher_return: mean return of the specialised teachers.
        student_return: mean return of the student after k = 0 … K adaptation steps.
        teacher_score: mean normalised score of the teachers: 0 = random, 1 = oracle, or the teachers themselves where
            the family has no oracle.
        student_score: the same of the student after k = 0 … K steps.
        divergence: KL(student ‖ teacher) in nats, mean over the steps of the student after k = 0 … K steps.
    """

    teacher: str
    own_tasks: bool
    num_tasks: int
    teacher_parameters: int
    student_parameters: int
    teacher_return: float
    student_return: list[float]
    teacher_score: float
    student_score: list[float]
    divergence: list[float]

    @property
    def kept(self) -> list[float] | None:
        """Share of the teacher's score that the student has after k = 0 … K steps; None where there is none to keep."""
        return [score / self.teacher_score for score in self.student_score] if self.teacher_score > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"kept": self.kept}

    def lines(self) -> list[str]:
        """What it says, for people."""
        which = "of its teachers' own tasks" if self.own_tasks else "of these tasks"
        share = self.student_parameters / self.teacher_parameters
        kept = (
            f"keeps {self.kept[-1]:.1%} of the adapted teacher's normalised score after adaptation "
            f"({self.student_score[-1]:.3f} of {self.teacher_score:.3f}), {self.kept[0]:.1%} before"
            if self.kept
            else f"the adapted teacher is no better than random (normalised score {self.teacher_score:.3f})"
        )
        return [
            f"student of {self.teacher} on {self.num_tasks} {which}: {self.student_parameters:,} parameters, "
            f"{share:.0%} of the teacher's {self.teacher_parameters:,}",
            f"{kept}; KL to the teacher {self.divergence[0]:.2f} → {self.divergence[-1]:.2f} nats a step",
        ]


def distillation_report(
    run: RunDirectory,
    learner: Distillation,
    distribution: TaskDistribution,
    tasks: Task,
    episodes: int,
    generator: torch.Generator,
) -> DistillationReport:
    """Compare a student with its teachers.

    Args:
        run: the student's run.
        learner: the student.
        distribution: what the tasks come from.
        tasks: M tasks, on which a teacher that is a run is specialised; experts have their own.
        episodes: E per task and adaptation step.
        generator: drives the rollouts.

    Raises:
        UserError: the teachers cannot be read.
    """
    own_tasks = is_expert(learner.config.teacher)
    if own_tasks:
        teachers = load_teachers(run, distribution)
        first = slice(num_tasks_of(tasks))
        tasks = select_tasks(teachers.tasks, first)
        teachers = Teachers(teachers.policy, select_tasks(teachers.params, first), tasks)
        theirs = collect(distribution.bind(tasks, episodes), teachers.policy, teachers.params, generator)
    else:
        special = specialised(teacher_run(run.config), tasks, episodes, generator)
        teachers, theirs = special.teachers, special.episodes
    ours = adaptation_episodes(learner, distribution, tasks, learner.adaptation_steps, episodes, generator)
    references = reference_episodes(distribution, tasks, episodes, generator)
    zero, one = _task_returns(references["random"]), _task_returns(references.get("oracle", theirs))

    def score(batch: Episodes) -> float:
        return float(normalized(_task_returns(batch), zero, one).mean())

    return DistillationReport(
        teacher=learner.config.teacher,
        own_tasks=own_tasks,
        num_tasks=num_tasks_of(tasks),
        teacher_parameters=sum(leaf[0].numel() for leaf in teachers.params.values()),
        student_parameters=sum(leaf[0].numel() for leaf in learner.begin(1).params.values()),
        teacher_return=float(_task_returns(theirs).mean()),
        student_return=[float(_task_returns(batch).mean()) for batch in ours],
        teacher_score=score(theirs),
        student_score=[score(batch) for batch in ours],
        divergence=[_divergence(learner, teachers, batch) for batch in ours],
    )


def _task_returns(episodes: Episodes) -> np.ndarray:
    return np.asarray(episodes.returns.double().mean(dim=1).cpu().numpy())


def _divergence(learner: Distillation, teachers: Teachers, batch: Episodes) -> float:
    """Mean KL(student ‖ teacher) over the steps of a student's batch; teacher i is that of task i."""
    everyone = torch.arange(len(batch.obs), device=batch.obs.device)
    kl = learner.policy.distribution(batch.behaviour).kl(teachers.act(everyone, batch.obs))
    return float((kl * batch.mask).sum() / batch.mask.sum())
