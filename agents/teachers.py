"""What an agent that learns from teachers asks for, and the teachers that the workbench makes for it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, map_parameters
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task, num_tasks_of


@dataclass(frozen=True)
class Teaching:
    """Which teachers a configuration asks for.

    Attributes:
        teacher: a trained run, whose adapted policies they are, or an algorithm of Stable-Baselines3; "" where none is
            named.
        num_teachers: N, training tasks with a teacher each.
        expert_env_steps: environment steps that each expert of Stable-Baselines3 is trained for.
        keep_episodes: whether what they do on their tasks is kept with them.
    """

    teacher: str
    num_teachers: int
    expert_env_steps: int
    keep_episodes: bool


class TaughtConfig(ABC):
    """The configuration of an agent that learns from teachers, which are made before its training begins."""

    @property
    @abstractmethod
    def teaching(self) -> Teaching:
        """The teachers that it asks for."""

    @abstractmethod
    def taught_by(self, teacher: str, at_most: int) -> Self:
        """The same configuration with this run as teacher, and with at most so many teachers."""


@dataclass(frozen=True)
class Teachers:
    """Policies specialised on N tasks.

    Attributes:
        policy: their architecture.
        params: task-batched P, leaves (N, …).
        tasks: what each is specialised on, leaves (N, …).
        episodes: what each of them does on its task, N tasks; None where that is not needed.
    """

    policy: MLPPolicy
    params: Parameters
    tasks: Task
    episodes: Episodes | None = None

    def index(self, tasks: Task) -> Tensor:
        """Number of the teacher of each of M tasks, (M,).

        Raises:
            ValueError: one has none.
        """
        pairs = (num_tasks_of(tasks), num_tasks_of(self.tasks))
        match = torch.ones(pairs, dtype=torch.bool, device=next(iter(tasks.values())).device)
        for name, value in tasks.items():
            same = value[:, None] == self.tasks[name][None]  # (M, N, …)
            match &= same.reshape(*pairs, -1).all(dim=2)

        if not bool(match.any(dim=1).all()):
            raise ValueError("a task has no teacher: distillation trains on the tasks that teachers were made for")
        return match.int().argmax(dim=1)

    def act(self, index: Tensor, obs: Tensor) -> ActionDistribution:
        """What teachers (M,) do in obs (M, E, H, O)."""
        params = map_parameters(lambda leaf: leaf[index], self.params)
        with torch.no_grad():
            distribution, _ = self.policy.apply(params, obs)
        return distribution

    def episodes_of(self, index: Tensor) -> Episodes:
        """Episodes of teachers (M,)."""
        assert self.episodes is not None
        return self.episodes.tasks(index)
