"""Adaptation by plain policy-gradient or PPO steps from given parameters, batched over tasks."""

from dataclasses import dataclass
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.agents.gradients import objectives
from metarl.agents.gradients.adaptation_path import ObjectiveAt, gradient_step
from metarl.agents.gradients.objectives import Batch
from metarl.agents.gradients.parallel import ChunkPool, task_slices
from metarl.agents.learner import Adapted
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import LOG_STD, MLPPolicy, PolicyConfig
from metarl.agents.policies.optimizer import TrainedParameters
from metarl.agents.policies.parameters import Parameters, concatenate, expand_to_tasks, map_parameters, tasks_of
from metarl.agents.policies.validation import check_values
from metarl.envs.rollout import Episodes


@dataclass(frozen=True)
class AdaptationConfig:
    """How a policy is fine-tuned to a task; each step takes one batch of episodes.

    Attributes:
        adaptation_steps: K, adaptation steps on a new task.
        inner_lr: rate of the inner step, plain SGD on advantages normalised per task and step.
        inner_lr_decay: factor by which the rate shrinks from one adaptation step to the next.
        log_std_lr_factor: factor on the inner rate of the policy's log standard deviation.
        inner_objective: "policy-gradient": one gradient step on each batch; "ppo": inner_epochs steps on the clipped
            surrogate.
        inner_epochs: ppo: gradient steps on each batch.
        inner_clip: ppo: clip range ε of the likelihood ratio.
        gamma: discount γ.
        gae_lambda: λ of the advantages; 1 gives returns minus baseline.
    """

    adaptation_steps: int = 3
    inner_lr: float = 0.1
    inner_lr_decay: float = 1.0
    log_std_lr_factor: float = 1.0
    inner_objective: Literal["policy-gradient", "ppo"] = "policy-gradient"
    inner_epochs: int = 5
    inner_clip: float = 0.3
    gamma: float = 0.99
    gae_lambda: float = 1.0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(
            self,
            at_least_one=("adaptation_steps", "inner_epochs"),
            positive=("inner_lr", "inner_lr_decay", "log_std_lr_factor", "inner_clip"),
            probabilities=("gamma", "gae_lambda"),
        )


class PolicyGradientAdaptation:
    """Takes adaptation steps; keeps nothing between them.

        φ_{k+1} = φ_k + α_k ∇ J(φ_k; batch_k)    for each task

    with α_k = inner_lr · inner_lr_decay^k and J the policy gradient's or PPO's surrogate (the latter inner_epochs
    times on the same batch).

    Args:
        policy: the policy that collected the batches.
        config: hyper-parameters.
    """

    def __init__(self, policy: MLPPolicy, config: AdaptationConfig) -> None:
        self.policy = policy
        self.config = config

    def batch(self, episodes: Episodes) -> Batch:
        """Episodes made ready for `step`."""
        return Batch.of(self.policy, episodes, self.config.gamma, self.config.gae_lambda)

    def step(self, params: Parameters, batch: Batch, step: int) -> Parameters:
        """One adaptation step.

        Args:
            params: task-batched P, leaves (M, …).
            batch: M tasks × E episodes that P collected.
            step: k, adaptation steps taken before.

        Returns:
            task-batched P without a graph.
        """
        config, rates = self.config, {name: self._rate(name, step) for name in params}
        epochs = config.inner_epochs if config.inner_objective == "ppo" else 1
        for _ in range(epochs):
            params = gradient_step(params, ObjectiveAt(self.policy, params, batch, self._surrogate).gradient, rates)
        return params

    def _surrogate(self, batch: Batch, acting: ActionDistribution) -> Tensor:
        if self.config.inner_objective == "ppo":
            return objectives.clipped_surrogate(batch, acting, self.config.inner_clip)
        return objectives.likelihood_ratio(batch, acting)

    def _rate(self, name: str, step: int) -> float:
        factor = self.config.log_std_lr_factor if name == LOG_STD else 1.0
        return factor * self.config.inner_lr * self.config.inner_lr_decay**step


class FixedRateLearner:
    """What learners share whose policy adapts by `PolicyGradientAdaptation`: all of a MetaLearner but its update.

    Args:
        observation_space: Box (O,).
        action_space: Box (A,) or Discrete.
        policy: the policy network.
        adaptation: how it adapts.
        task_chunk: tasks that are handled at once; 0: see `metarl.agents.gradients.parallel.task_slices`.
        generator: draws the initial parameters; they lie on its device.
        num_threads: CPU threads that share the chunks; changes no result.
    """

    def __init__(
        self,
        observation_space: Box,
        action_space: Box | Discrete,
        policy: PolicyConfig,
        adaptation: AdaptationConfig,
        task_chunk: int,
        generator: torch.Generator,
        num_threads: int,
    ) -> None:
        self.policy = MLPPolicy(observation_space, action_space, policy)
        self.adaptation_steps = adaptation.adaptation_steps
        self._adaptation = PolicyGradientAdaptation(self.policy, adaptation)
        self._trained = TrainedParameters(self.policy.init(generator))
        self._task_chunk, self._pool = task_chunk, ChunkPool(num_threads)

    def begin(self, num_tasks: int) -> Adapted:
        """See MetaLearner.begin."""
        return Adapted(expand_to_tasks(map_parameters(torch.clone, self._trained.values), num_tasks), steps=0)

    def adapt(self, adapted: Adapted, episodes: Episodes) -> Adapted:
        """See MetaLearner.adapt."""
        batch = self._adaptation.batch(episodes)

        def of_chunk(tasks: slice) -> Parameters:
            return self._adaptation.step(tasks_of(adapted.params, tasks), batch.tasks(tasks), adapted.steps)

        parts = self._pool.map(of_chunk, task_slices(batch.obs, self._task_chunk))
        return Adapted(concatenate(parts), adapted.steps + 1)

    def state_dict(self) -> dict[str, Tensor]:
        """See MetaLearner.state_dict."""
        return self._trained.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See MetaLearner.load_state_dict."""
        self._trained.load_state_dict(state)
