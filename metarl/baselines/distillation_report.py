"""What a distilled student keeps of its teachers: parameters, divergence, and return before and after adaptation."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch

from metarl.agents.learner import Learner
from metarl.agents.policies.parameters import Parameters
from metarl.agents.teachers import Teachers
from metarl.baselines.references import reference_episodes
from metarl.baselines.teachers import (
    SpecialisedTeachers,
    adapted_teachers,
    is_expert,
    load_teachers,
    teacher_run,
    teaching_of,
)
from metarl.console import format_number
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
        env_steps: environment steps that the comparison took besides the student's evaluation: of the teachers, of the
            random policy and the oracle, and of the student on its teachers' own tasks; 0 in reports that did not count
            them.
    """

    name: ClassVar[str] = "distillation"

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
    env_steps: int = 0

    @property
    def kept(self) -> list[float] | None:
        """Share of the teacher's score that the student has after k = 0 … K steps; None where there is none to keep."""
        if self.teacher_score <= 0:
            return None
        return [score / self.teacher_score for score in self.student_score]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"kept": self.kept}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "DistillationReport":
        """Inverse of `to_json`; reports written before a field existed have its default.

        Raises:
            TypeError: a field is missing.
        """
        names = [field.name for field in fields(cls)]
        return cls(**{name: data[name] for name in names if name in data})

    def lines(self) -> list[str]:
        """The report in sentences, one a line."""
        which = "of its teachers' own tasks" if self.own_tasks else "of these tasks"
        share = self.student_parameters / self.teacher_parameters
        sizes = (
            f"student of {self.teacher} on {self.num_tasks} {which}: {self.student_parameters:,} parameters, "
            f"{share:.0%} of the teacher's {self.teacher_parameters:,}"
        )

        teacher = format_number(self.teacher_score, ".3f")
        if self.kept:
            before, after = (format_number(self.kept[k], ".1%") for k in (0, -1))
            student = format_number(self.student_score[-1], ".3f")
            kept = (
                f"keeps {after} of the adapted teacher's normalised score after adaptation ({student} of {teacher}), "
                f"{before} before"
            )
        else:
            kept = f"the adapted teacher is no better than random (normalised score {teacher})"
        divergence = f"KL to the teacher {self.divergence[0]:.2f} → {self.divergence[-1]:.2f} nats a step"

        lines = [sizes, f"{kept}; {divergence}"]
        if self.env_steps:
            lines.append(f"the comparison took {self.env_steps:,} more environment steps")
        return lines


def distillation_report(
    run: RunDirectory,
    learner: Learner,
    distribution: TaskDistribution,
    tasks: Task,
    batches: list[Episodes],
    generator: torch.Generator,
) -> DistillationReport:
    """Compare a student with its teachers.

    Teachers that are a run are adapted to the student's tasks, and the student's episodes there are compared with
    theirs. Experts exist for the tasks of the training only: the student is evaluated on those as well.

    Args:
        run: the student's run.
        learner: the student.
        distribution: what the tasks come from.
        tasks: M tasks.
        batches: the student's episodes on them after k = 0 … K adaptation steps, (M, E, …).
        generator: drives the rollouts.

    Raises:
        UserError: the teachers cannot be read.
    """
    episodes = batches[0].reward.shape[1]
    teacher = teaching_of(run.config).teacher
    own_tasks = is_expert(teacher)

    if own_tasks:
        # The evaluation's episodes are of other tasks: the student is sampled again, on those of its experts.
        theirs = _experts(run, distribution, num_tasks_of(tasks), episodes, generator)
        tasks = theirs.teachers.tasks
        ours = adaptation_episodes(learner, distribution, tasks, len(batches) - 1, episodes, generator)
    else:
        theirs = adapted_teachers(teacher_run(run.config), tasks, episodes, generator)
        ours = batches
    references = reference_episodes(distribution, tasks, episodes, generator)

    report = _compare(learner, teacher, theirs, ours, references)
    # The evaluation has counted the student's own batches on its tasks already.
    env_steps = theirs.env_steps + sum(reference.env_steps for reference in references.values())
    if own_tasks:
        env_steps += sum(batch.env_steps for batch in ours)
    return replace(report, env_steps=env_steps)


def _compare(
    learner: Learner,
    teacher: str,
    theirs: SpecialisedTeachers,
    ours: list[Episodes],
    references: dict[str, Episodes],
) -> DistillationReport:
    """Put the student's episodes beside those of its teachers on the same M tasks.

    Args:
        learner: the student.
        teacher: the run or the algorithm that its teachers come from.
        theirs: the teachers with their episodes.
        ours: the student's episodes after k = 0 … K adaptation steps.
        references: those of the random policy, and of the oracle where the family has one.
    """
    of_random = _task_returns(references["random"])
    # Without an oracle the teachers are the best that is known of a task.
    of_best = _task_returns(references.get("oracle", theirs.episodes))

    return DistillationReport(
        teacher=teacher,
        own_tasks=is_expert(teacher),
        num_tasks=num_tasks_of(theirs.teachers.tasks),
        teacher_parameters=_num_parameters(theirs.teachers.params),
        student_parameters=_num_parameters(learner.begin(1).params),
        teacher_return=float(_task_returns(theirs.episodes).mean()),
        student_return=[float(_task_returns(batch).mean()) for batch in ours],
        teacher_score=_mean_score(theirs.episodes, of_random, of_best),
        student_score=[_mean_score(batch, of_random, of_best) for batch in ours],
        divergence=[_divergence(learner, theirs.teachers, batch) for batch in ours],
    )


def _experts(
    run: RunDirectory, distribution: TaskDistribution, num_tasks: int, episodes: int, generator: torch.Generator
) -> SpecialisedTeachers:
    """The first of a run's experts, at most num_tasks, and what they do on their own tasks; their training is over."""
    experts = load_teachers(run, distribution)
    first = slice(num_tasks)
    tasks = select_tasks(experts.tasks, first)
    teachers = Teachers(experts.policy, select_tasks(experts.params, first), tasks)

    theirs = collect(distribution.bind(tasks, episodes), teachers.policy, teachers.params, generator)
    return SpecialisedTeachers(teachers, theirs, theirs.env_steps)


def _num_parameters(params: Parameters) -> int:
    """Number of parameters of one policy, of task-batched P."""
    return sum(leaf[0].numel() for leaf in params.values())


def _task_returns(episodes: Episodes) -> np.ndarray:
    """Mean return of each task, (M,)."""
    return np.asarray(episodes.returns.double().mean(dim=1).cpu().numpy())


def _mean_score(episodes: Episodes, of_random: np.ndarray, of_best: np.ndarray) -> float:
    """Mean normalised score over tasks: 0 is the return of the random policy, (M,), 1 that of the best one, (M,)."""
    return float(normalized(_task_returns(episodes), of_random, of_best).mean())


def _divergence(learner: Learner, teachers: Teachers, batch: Episodes) -> float:
    """Mean KL(student ‖ teacher) over the steps of a student's batch; teacher i is that of task i."""
    all_teachers = torch.arange(len(batch.obs), device=batch.obs.device)
    student = learner.policy.distribution(batch.behaviour)
    kl = student.kl(teachers.act(all_teachers, batch.obs))
    return float((kl * batch.mask).sum() / batch.mask.sum())
