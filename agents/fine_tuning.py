"""Adaptation by plain policy-gradient or PPO steps from given parameters, batched over tasks."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from metarl.agents.gradients.adaptation_path import ObjectiveAt, gradient_step
from metarl.agents.gradients.inner_rates import RateSchedule
from metarl.agents.gradients.objectives import Batch, ClippedSurrogate, Objective, likelihood_ratio
from metarl.agents.learner import GradientLearner, GradientLearnerConfig
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters
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
        rates: "given": those above. "chosen": when training ends, the rate of each adaptation step is chosen on
            validation tasks, 1/16, 1/4, 1/2, 1 or 2 times the given one; training itself takes the given ones.
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
    rates: Literal["given", "chosen"] = "given"

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
        self._schedule = RateSchedule(config.inner_lr, config.inner_lr_decay, config.log_std_lr_factor)

    def batch(self, episodes: Episodes) -> Batch:
        """Episodes made ready for `step`."""
        return Batch.of(self.policy, episodes, self.config.gamma, self.config.gae_lambda)

    def step(self, params: Parameters, batch: Batch, step: int, factor: float = 1.0) -> Parameters:
        """See GradientLearner.adaptation_step; the factor is that on the given rates."""
        rates = {name: factor * self._schedule.rate(name, step) for name in params}
        epochs = self.config.inner_epochs if self.config.inner_objective == "ppo" else 1

        for _ in range(epochs):
            gradient = ObjectiveAt(self.policy, params, batch, self._objective).gradient
            params = gradient_step(params, gradient, rates)
        return params

    @property
    def _objective(self) -> Objective:
        return ClippedSurrogate(self.config.inner_clip) if self.config.inner_objective == "ppo" else likelihood_ratio


class FixedRateLearnerConfig(GradientLearnerConfig, Protocol):
    """What the configuration of a FixedRateLearner holds besides.

    Attributes:
        adaptation: how it adapts.
        outer_lr: outer rate at the beginning of training.
        annealing: "linear": the outer rate falls linearly to 0 at the end of training; "none".
    """

    @property
    def adaptation(self) -> AdaptationConfig: ...  # noqa: D102

    @property
    def outer_lr(self) -> float: ...  # noqa: D102

    @property
    def annealing(self) -> Literal["linear", "none"]: ...  # noqa: D102


FixedRateConfig = TypeVar("FixedRateConfig", bound=FixedRateLearnerConfig)


class FixedRateLearner(GradientLearner[FixedRateConfig]):
    """A learner whose policy adapts by `PolicyGradientAdaptation`, with rates that are not learned.

    Attributes:
        adaptation: takes the adaptation steps.
    """

    def setup(self, initial: Parameters) -> Parameters:
        """See GradientLearner.setup."""
        self.adaptation = PolicyGradientAdaptation(self.policy, self.config.adaptation)
        if self.config.adaptation.rates == "chosen":
            self.rate_factors = ()
        return initial

    def batch(self, episodes: Episodes) -> Batch:
        """See GradientLearner.batch."""
        return self.adaptation.batch(episodes)

    def adaptation_step(self, params: Parameters, batch: Batch, step: int) -> Parameters:
        """See GradientLearner.adaptation_step."""
        return self.adaptation.step(params, batch, step, self._rate_factor(step))

    def _rate_factor(self, step: int) -> float:
        """What the given rate of step k is multiplied by."""
        if not self.rate_factors:
            return 1.0
        return self.rate_factors[min(step, len(self.rate_factors) - 1)]

    def annealed_lr(self, progress: float) -> float:
        """The outer rate when a share of the training is done, 0 … 1."""
        if self.config.annealing == "linear":
            return self.config.outer_lr * (1 - progress)
        return self.config.outer_lr
