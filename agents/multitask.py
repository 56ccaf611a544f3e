"""Joint training over all tasks with PPO, fine-tuned on a new one: the baseline that is hard to beat."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from metarl.agents.fine_tuning import AdaptationConfig, FixedRateLearner
from metarl.agents.gradients.adaptation_path import ObjectiveAt
from metarl.agents.gradients.objectives import Batch, clipped_surrogate, mean_kl, mean_over_steps
from metarl.agents.gradients.processes import mean_over_tasks
from metarl.agents.learner import Agent, MetaBatch, Sampling
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import Parameters, check_finite, expand_to_tasks, flatten, unflatten_like
from metarl.agents.policies.validation import check_values


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
        task_chunk: tasks that are handled at once; 0 = as many as hold 4000 steps on a CPU and a million on a GPU.
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


class Multitask(FixedRateLearner[MultitaskConfig]):
    """Joint PPO over the task distribution.

        maximise over θ  mean over tasks of E[min(ρ A, clip(ρ, 1−ε, 1+ε) A)] + c · entropy

    The policy sees no task; advantages come from a baseline fitted per task, because values differ from task to
    task, and are normalised per task.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; as a baseline of meta-RL: Mandi et al.
        2022, "On the Effectiveness of Fine-tuning Versus Meta-reinforcement Learning".
    """

    def setup(self, initial: Parameters) -> Parameters:
        """See GradientLearner.setup; there is no adaptation in training."""
        meta = super().setup(initial)
        self.sampling = Sampling(self.config.adaptation.adaptation_steps, support=0, query=True)
        return meta

    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """See Learner.update; there are no support batches."""
        assert meta_batch.query is not None
        batch = self.pool.run(self.batch, meta_batch.query).weighted(meta_batch.importance)

        lr = self.annealed_lr(meta_batch.progress)
        value, gradient_norm = self.optimizer.ascend_epochs(
            lambda: self.value_and_gradient(batch), lr, self.config.outer_epochs
        )

        with torch.no_grad():
            distribution, _ = self.policy.apply(self.meta_parameters, batch.obs)
            kl = mean_over_tasks(mean_kl(self.policy, batch, distribution))
            entropy = mean_over_tasks(mean_over_steps(batch, distribution.entropy()))
        return {
            "surrogate": value,
            "gradient_norm": gradient_norm,
            "kl": float(kl),
            "entropy": float(entropy),
            "outer_lr": lr,
        }

    def value_and_gradient(self, batch: Batch) -> tuple[float, Parameters]:
        """The objective (mean over tasks) and its gradient by leaf.

        Raises:
            FloatingPointError: the gradient is not finite.
        """
        mean = self.pool.run(self._mean_value_and_gradient, batch)
        value, gradient = float(mean[0]), mean[1:]
        check_finite(gradient, "the gradient is")
        return value, unflatten_like(gradient, self.meta_parameters)

    def _mean_value_and_gradient(self, batch: Batch) -> Tensor:
        """Both, flat, (1 + n,)."""

        def sum_of_chunk(tasks: slice) -> Tensor:
            chunk = batch.tasks(tasks)
            params = expand_to_tasks(self.meta_parameters, len(chunk.obs))
            objective_at = ObjectiveAt(self.policy, params, chunk, self._objective)
            gradient = flatten(objective_at.gradient[name].sum(dim=0) for name in self.meta_parameters)
            return torch.cat([objective_at.values.sum().reshape(1), gradient])

        return self.pool.mean(sum_of_chunk, batch.obs)

    def _objective(self, batch: Batch, distribution: ActionDistribution) -> Tensor:
        """Of each task, times its importance, (M,)."""
        surrogate = clipped_surrogate(batch, distribution, self.config.clip)
        entropy = mean_over_steps(batch, distribution.entropy())
        return batch.importance * (surrogate + self.config.entropy_bonus * entropy)


AGENT = Agent("multitask", MultitaskConfig, Multitask)
