"""Joint training over all tasks with PPO, fine-tuned on a new one: the baseline that is hard to beat."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.agents.fine_tuning import AdaptationConfig, FixedRateLearner
from metarl.agents.gradients import objectives
from metarl.agents.gradients.adaptation_path import ObjectiveAt
from metarl.agents.gradients.objectives import Batch, mean_over_steps
from metarl.agents.gradients.parallel import task_slices
from metarl.agents.gradients.processes import mean_over_tasks, num_processes, sum_over_processes
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import Parameters, expand_to_tasks, flatten, unflatten_like
from metarl.agents.policies.validation import check_values
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task


@dataclass(frozen=True)
class MultitaskConfig:
    """Multitask: PPO trained jointly over the tasks without knowing which; fine-tuned on a new task.

    Attributes:
        policy: the policy network.
        adaptation: fine-tuning on a new task; training does none.
        outer_lr: Adam's rate.
        annealing: "linear": Adam's rate falls linearly to 0 at the end of training; "none".
        outer_epochs: gradient steps on each batch.
        clip: clip range ε of the likelihood ratio.
        entropy_bonus: weight of the policy's entropy.
        task_chunk: tasks that are handled at once; 0: as many as hold 4,000 steps on a CPU and a million on a GPU.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    outer_lr: float = 3e-3
    annealing: Literal["linear", "none"] = "linear"
    outer_epochs: int = 5
    clip: float = 0.2
    entropy_bonus: float = 0.0
    task_chunk: int = 0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(
            self,
            at_least_one=("outer_epochs",),
            positive=("outer_lr", "clip"),
            not_negative=("entropy_bonus", "task_chunk"),
        )


class Multitask(FixedRateLearner):
    """Joint PPO over the task distribution.

        maximise over θ  mean over tasks of E[min(ρ A, clip(ρ, 1−ε, 1+ε) A)] + c · entropy

    The policy sees no task; advantages come from a baseline fitted per task, because values differ from task to
    task, and are normalised per task.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; as a baseline of meta-RL: Mandi et al.
        2022, "On the Effectiveness of Fine-tuning Versus Meta-reinforcement Learning".

    Args:
        observation_space: Box (O,).
        action_space: Box (A,) or Discrete.
        config: hyper-parameters.
        generator: draws the initial parameters; they lie on its device.
        num_threads: CPU threads that share the chunks of an update; changes no result.
    """

    support_batches = 0
    collects_query = True

    def __init__(
        self,
        observation_space: Box,
        action_space: Box | Discrete,
        config: MultitaskConfig,
        generator: torch.Generator,
        num_threads: int = 1,
    ) -> None:
        spaces = observation_space, action_space
        super().__init__(*spaces, config.policy, config.adaptation, config.task_chunk, generator, num_threads)
        self.config = config

    def meta_update(
        self,
        support: list[Episodes],
        query: Episodes | None,
        progress: float = 0.0,
        tasks: Task | None = None,
        importance: Tensor | None = None,
    ) -> dict[str, float]:
        """See MetaLearner.meta_update; there are no support batches."""
        assert query is not None
        batch = self._adaptation.batch(query).weighted(importance)
        lr = self.config.outer_lr * (1 - progress if self.config.annealing == "linear" else 1.0)
        before, first = self.state_dict(), (0.0, 0.0)
        for epoch in range(self.config.outer_epochs):
            value, gradient = self.value_and_gradient(batch)
            flat = flatten(gradient.values())
            if not bool(torch.isfinite(flat).all()):
                self.load_state_dict(before)
                raise FloatingPointError("the gradient is not finite")
            if epoch == 0:
                first = value, float(flat.norm())
            self._trained.ascend(gradient, lr)
        with torch.no_grad():
            acting, _ = self.policy.apply(self._trained.values, batch.obs)
            kl = mean_over_steps(batch, self.policy.distribution(batch.behaviour).kl(acting))
            entropy = mean_over_steps(batch, acting.entropy())
        return {
            "surrogate": first[0],
            "gradient_norm": first[1],
            "kl": float(mean_over_tasks(kl)),
            "entropy": float(mean_over_tasks(entropy)),
            "outer_lr": lr,
        }

    def value_and_gradient(self, batch: Batch) -> tuple[float, Parameters]:
        """The objective (mean over tasks) and its gradient by leaf, summed over chunks of tasks."""
        num_tasks = len(batch.obs) * num_processes()

        def of_chunk(tasks: slice) -> Tensor:
            part = batch.tasks(tasks)
            at = ObjectiveAt(self.policy, expand_to_tasks(self._trained.values, len(part.obs)), part, self._objective)
            gradient = flatten(at.gradient[name].sum(dim=0) for name in self._trained.values)
            return torch.cat([at.values.sum().reshape(1), gradient])

        chunks = task_slices(batch.obs, self._task_chunk)
        sums = sum_over_processes(torch.stack(self._pool.map(of_chunk, chunks)).sum(dim=0))
        mean = sums / num_tasks
        return float(mean[0]), unflatten_like(mean[1:], self._trained.values)

    def _objective(self, batch: Batch, acting: ActionDistribution) -> Tensor:
        """Of each task, times its importance, (M,)."""
        surrogate = objectives.clipped_surrogate(batch, acting, self.config.clip)
        return batch.importance * (surrogate + self.config.entropy_bonus * mean_over_steps(batch, acting.entropy()))
