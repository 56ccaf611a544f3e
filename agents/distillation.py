"""Distillation: a smaller student learns to become, by its own adaptation, what teachers are for their tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.agents.gradients.advantages import advantages_of
from metarl.agents.gradients.objectives import Batch, Objective, as_seen_by, clipped_surrogate, mean_over_steps
from metarl.agents.learner import Agent, Evaluated, Lab, MetaBatch, Sampling, Section
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.parameters import Parameters
from metarl.agents.policies.validation import check_values
from metarl.agents.teachers import TaughtConfig, Teachers, Teaching
from metarl.envs.rollout import Episodes


@dataclass(frozen=True)
class DistillationConfig(MAMLConfig, TaughtConfig):
    """Distillation: a smaller student learns from teachers specialised on training tasks, and adapts like MAML.

    The remaining fields are MAML's: the student's network, its adaptation and the optimizer of its meta-parameters.

    Attributes:
        teacher: a trained run, whose adapted policies are the teachers; or "ppo", "a2c": experts trained by
            Stable-Baselines3 on each of the tasks.
        num_teachers: N, training tasks with a teacher each; the student meets no others.
        expert_env_steps: environment steps that each expert of Stable-Baselines3 is trained for.
        match: "adapted": the student after its adaptation steps becomes the task's teacher; "initial": the student
            before any becomes the teachers' mixture, and is fine-tuned as the inner flags say.
        states: "student": it learns on states it came to itself; "teacher": on those that the teachers came to.
        divergence: "student-teacher": KL(student ‖ teacher), which picks what the teacher surely does;
            "teacher-student": KL(teacher ‖ student), which covers all that it does.
        temperature: softens the teachers: density ∝ p^(1/temperature).
        future_credit: weight of the credit that an action gets for the divergence later in its episode; 1 makes it the
            gradient of the expected sum; 0 = none. Only on the student's own states.
    """

    teacher: str = ""
    num_teachers: int = 100
    expert_env_steps: int = 20_000
    match: Literal["adapted", "initial"] = "adapted"
    states: Literal["student", "teacher"] = "student"
    divergence: Literal["student-teacher", "teacher-student"] = "student-teacher"
    temperature: float = 1.0
    future_credit: float = 1.0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        super().__post_init__()
        check_values(
            self,
            at_least_one=("num_teachers", "expert_env_steps"),
            positive=("temperature",),
            not_negative=("future_credit",),
        )
        if self.match == "initial" and self.objective_steps != "last":
            raise ValueError("match 'initial' has no adapted policies: objective_steps must be 'last'")
        if self.states == "teacher" and (self.outer == "trpo" or self.objective_steps != "last"):
            raise ValueError("states 'teacher' need outer 'ppo' and objective_steps 'last'")

    @property
    def teaching(self) -> Teaching:
        """See TaughtConfig.teaching."""
        return Teaching(self.teacher, self.num_teachers, self.expert_env_steps, keep_episodes=self.states == "teacher")

    def taught_by(self, teacher: str, at_most: int) -> Self:
        """See TaughtConfig.taught_by."""
        return replace(self, teacher=teacher, num_teachers=min(self.num_teachers, at_most))


@dataclass(frozen=True)
class DistillationBatch(Batch):
    """A batch with what the teachers do in it.

    Attributes:
        teacher: parameters of the teachers' softened distributions, leaves (M, E, H, …).
        future: advantage of each action in the sum of later divergences, lower being better, (M, E, H).
    """

    teacher: dict[str, Tensor]
    future: Tensor


pytree.register_dataclass(DistillationBatch)  # so that functions of it can be captured


class Distillation(MAML):
    """Distillation of N specialised teachers into one student that adapts.

        minimise over θ  mean over tasks of E_φ[Σ_t KL(π_φ(·|o_t) ‖ π_teacher(·|o_t))],   φ = θ adapted to the task

    with the adaptation, which sees rewards and no teacher, differentiated as in MAML. The states depend on the
    student: the gradient has a part for the divergence in each state and one for actions that lead to states of less
    divergence (`future_credit`), without which it is no gradient of anything.

    Source: Rusu et al. 2016, "Policy Distillation" (KL, temperature); Czarnecki et al. 2019, "Distilling Policy
        Distillation", section 4 (states of the student, expected-entropy-regularised loss). Deviation: there one
        teacher of one task; here the student's adapted policies are matched, so that it keeps the ability to adapt.

    Attributes:
        teachers: whom it learns from; only a meta-update needs them.
    """

    config: DistillationConfig

    def setup(self, initial: Parameters) -> Parameters:
        """See GradientLearner.setup."""
        meta = super().setup(initial)
        self.teachers: Teachers | None = None
        steps = self.config.adaptation_steps
        support = steps if self.config.match == "adapted" else 0
        self.sampling = Sampling(steps, support, query=self.config.states == "student")
        return meta

    # ------------------------------------------------------------------ teachers

    def prepare(self, lab: Lab) -> int:
        """See Learner.prepare: take the teachers, and train on their tasks alone; what they cost counts as training."""
        self.teachers, env_steps = lab.teachers()
        lab.train_on(self.teachers.tasks)
        return env_steps

    def summary(self, evaluated: Evaluated) -> Section | None:
        """See Learner.summary: what the student keeps of its teachers."""
        return evaluated.comparison_with_teachers(self)

    # ------------------------------------------------------------------ update

    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """See Learner.update; the tasks are those of teachers.

        Raises:
            ValueError: a task has no teacher.
        """
        assert self.teachers is not None and meta_batch.tasks is not None
        teachers = self.teachers.index(meta_batch.tasks)
        batches = self.distillation_batches(meta_batch.support, meta_batch.query, teachers)
        return self._divergences(batches) | self.improve(batches, meta_batch.importance, meta_batch.progress)

    def distillation_batches(self, support: list[Episodes], query: Episodes | None, teachers: Tensor) -> list[Batch]:
        """Support batches and query with what the teachers (M,) do in them.

        Where there is no query, the teachers' own episodes take its place.
        """
        assert self.teachers is not None
        last = self.teachers.episodes_of(teachers) if query is None else query
        return [self._distillation_batch(episodes, teachers) for episodes in (*support, last)]

    def _distillation_batch(self, episodes: Episodes, teachers: Tensor) -> DistillationBatch:
        assert self.teachers is not None
        teacher = self.teachers.act(teachers, episodes.obs).tempered(self.config.temperature)

        plain = self.batch(episodes)
        values = {field.name: getattr(plain, field.name) for field in fields(Batch)}
        nothing = torch.zeros_like(episodes.reward)
        batch = DistillationBatch(**values, teacher=teacher.parameters(), future=nothing)

        if self.config.states == "teacher" or self.config.future_credit == 0:
            return batch
        return replace(batch, future=self._future_divergence(batch, episodes))

    def _future_divergence(self, batch: DistillationBatch, episodes: Episodes) -> Tensor:
        """Advantage of each action in the sum of later divergences, (M, E, H).

        The divergence takes the reward's place, shifted by one step: an action cannot help that of the state in which
        it is taken.
        """
        divergence = self._divergence(batch, self.policy.distribution(batch.behaviour)) * episodes.mask
        later = torch.cat([divergence[..., 1:], torch.zeros_like(divergence[..., :1])], dim=-1)
        costs = replace(as_seen_by(self.policy, episodes), reward=later)
        return advantages_of(costs, self.config.gamma, self.config.gae_lambda, normalized=False)

    # ------------------------------------------------------------------ objective

    def surrogate(self) -> Objective:
        """See MAML.surrogate."""
        return self._nearness

    def _nearness(self, batch: Batch, distribution: ActionDistribution) -> Tensor:
        """Minus the divergence of each task, in this batch's states and those that its actions lead to, (M,)."""
        assert isinstance(batch, DistillationBatch)
        total = -mean_over_steps(batch, self._divergence(batch, distribution))

        if self.config.future_credit > 0 and self.config.states == "student":
            future = replace(batch, advantage=-self.config.future_credit * batch.future)
            total = total + clipped_surrogate(future, distribution, self.config.clip)
        return total

    def _divergence(self, batch: Batch, student: ActionDistribution) -> Tensor:
        """KL between student and teacher in each state, (M, E, H)."""
        assert isinstance(batch, DistillationBatch)
        teacher = self.policy.distribution(batch.teacher)
        if self.config.divergence == "student-teacher":
            return student.kl(teacher)
        return teacher.kl(student)

    def _divergences(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Mean divergence after 0 … K adaptation steps, as metrics."""
        metrics = {}
        with torch.no_grad():
            policies = self.objective.policies(self.meta_parameters, batches)
            for step, (batch, student) in enumerate(zip(batches, policies, strict=True)):
                divergence = mean_over_steps(batch, self._divergence(batch, student)).mean()
                metrics[f"divergence_k{step}"] = float(divergence)
        return metrics


AGENT = Agent("distill", DistillationConfig, Distillation)
