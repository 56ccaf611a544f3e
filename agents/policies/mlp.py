"""Functional policies: `init(generator) -> P`, `apply(P, obs, memory) -> (ActionDistribution, memory)`."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.agents.policies.activations import ACTIVATIONS
from metarl.agents.policies.parameters import Parameters
from metarl.agents.policies.validation import check_values

LOG_STD = "log_std"
"""Name of a Gaussian policy's log standard deviation among its parameters."""

MIN_LOG_STD = math.log(1e-6)
"""Floor of the Gaussian's log standard deviation (original MAML code)."""


class ActionDistribution(Protocol):
    """A batch of distributions over actions, in closed form; *batch is (M, E, H), (M, N) or any other shape."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one action each: (*batch, A), or (*batch,) integers."""
        ...

    def mode(self) -> Tensor:
        """The most likely action: (*batch, A), or (*batch,) integers."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density summed over action dimensions, (*batch,)."""
        ...

    def entropy(self) -> Tensor:
        """Entropy in nats, (*batch,)."""
        ...

    def kl(self, other: Any) -> Tensor:
        """KL(self ‖ other) in nats, (*batch,), for another distribution of the same kind."""
        ...

    def tempered(self, temperature: float) -> Any:
        """The distribution with density ∝ p^(1/temperature): above 1 softer, below 1 sharper."""
        ...

    def fisher_product(self, tangent: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fisher information matrix of the parameters times a tangent, leaf by leaf as `parameters()`."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Named parameters, leaves (*batch, …)."""
        ...


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent Gaussians per action dimension. mean (*batch, A); log_std (…, A) with … broadcastable to *batch."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """See ActionDistribution.sample."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return torch.addcmul(self.mean, noise, self.log_std.exp())

    def mode(self) -> Tensor:
        """See ActionDistribution.mode."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """−½ Σ_a ((x−μ)/σ)² − Σ_a log σ − A/2 · log 2π."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        constant = 0.5 * self.mean.shape[-1] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - self.log_std.sum(-1) - constant

    def entropy(self) -> Tensor:
        """Σ_a log σ + A/2 · log 2πe."""
        per_dimension = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return per_dimension.expand(self.mean.shape).sum(-1)

    def kl(self, other: Any) -> Tensor:
        """Σ_a log σ₂/σ₁ + (σ₁² + (μ₁−μ₂)²) / 2σ₂² − ½."""
        precision = torch.exp(-2 * other.log_std)
        squares = torch.exp(2 * self.log_std) + (self.mean - other.mean).square()
        divergence: Tensor = (other.log_std - self.log_std + 0.5 * squares * precision - 0.5).sum(-1)
        return divergence

    def tempered(self, temperature: float) -> "DiagonalGaussian":
        """The same mean, the variance times the temperature."""
        return DiagonalGaussian(self.mean, self.log_std + 0.5 * math.log(temperature))

    def fisher_product(self, tangent: dict[str, Tensor]) -> dict[str, Tensor]:
        """The Fisher matrix of (μ, log σ) is diagonal: 1/σ² and 2."""
        return {
            "mean": tangent["mean"] * torch.exp(-2 * self.log_std),
            "log_std": 2 * tangent["log_std"],
        }

    def parameters(self) -> dict[str, Tensor]:
        """See ActionDistribution.parameters."""
        return {"mean": self.mean, "log_std": self.log_std.expand(self.mean.shape)}


@dataclass(frozen=True)
class Categorical:
    """Distribution over the integers 0 … n−1. logits (*batch, n), of any normalisation."""

    logits: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """See ActionDistribution.sample."""
        probs = self.logits.softmax(-1)
        flat = torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=generator)
        return flat.reshape(probs.shape[:-1])

    def mode(self) -> Tensor:
        """See ActionDistribution.mode."""
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """See ActionDistribution.log_prob."""
        return self.logits.log_softmax(-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """−Σ p log p."""
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, other: Any) -> Tensor:
        """Σ p (log p − log q)."""
        log_p = self.logits.log_softmax(-1)
        divergence: Tensor = (log_p.exp() * (log_p - other.logits.log_softmax(-1))).sum(-1)
        return divergence

    def tempered(self, temperature: float) -> "Categorical":
        """The logits over the temperature."""
        return Categorical(self.logits / temperature)

    def fisher_product(self, tangent: dict[str, Tensor]) -> dict[str, Tensor]:
        """The Fisher matrix of the logits is diag(p) − p pᵀ."""
        probs = self.logits.softmax(-1)
        weighted = probs * tangent["logits"]
        return {"logits": weighted - probs * weighted.sum(-1, keepdim=True)}

    def parameters(self) -> dict[str, Tensor]:
        """See ActionDistribution.parameters."""
        return {"logits": self.logits}


@dataclass(frozen=True)
class PolicyConfig:
    """The policy network.

    Attributes:
        hidden_sizes: units of each hidden layer.
        activation: activation between layers.
        init_log_std: initial log standard deviation of a Gaussian policy, in units of the action. It is a
            parameter: it does not depend on the state and is adapted and meta-learned like all the others.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    init_log_std: float = -0.5

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(self)
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, got {self.hidden_sizes}")


class MLPPolicy:
    """A multilayer perceptron with a Gaussian (Box) or categorical (Discrete) head.

    Works with shared P, whose weights are (in, out), and with task-batched P, (M, in, out): then one batched
    matrix product per layer serves all tasks.

    Args:
        observation_space: Box of shape (O,).
        action_space: Box of shape (A,), or Discrete.
        config: the network.

    Raises:
        ValueError: the action space is neither.
    """

    def __init__(
        self, observation_space: Box, action_space: Box | Discrete, config: PolicyConfig | None = None
    ) -> None:
        self.config = config or PolicyConfig()
        self.gaussian = isinstance(action_space, Box)
        if len(observation_space.shape) != 1:
            raise ValueError(f"a policy needs vector observations, got shape {observation_space.shape}")
        if isinstance(action_space, Box) and len(action_space.shape) == 1:
            outputs = action_space.shape[0]
        elif isinstance(action_space, Discrete) and action_space.start == 0:
            outputs = int(action_space.n)
        else:
            raise ValueError(f"a policy needs a Box (A,) or Discrete action space, got {action_space}")
        self.sizes = (observation_space.shape[0], *self.config.hidden_sizes, outputs)
        self._activation = ACTIVATIONS[self.config.activation]

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the parameters of the last layer, a Gaussian's log standard deviation included."""
        last = f"layer{len(self.sizes) - 2}"
        return (f"{last}.weight", f"{last}.bias", *((LOG_STD,) if self.gaussian else ()))

    def init(self, generator: torch.Generator) -> Parameters:
        """Fresh shared P: Xavier-uniform weights, zero biases, on the generator's device."""
        parameters = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            bound = math.sqrt(6 / (fan_in + fan_out))
            uniform = torch.rand((fan_in, fan_out), generator=generator, device=generator.device)
            parameters[f"layer{layer}.weight"] = bound * (2 * uniform - 1)
            parameters[f"layer{layer}.bias"] = torch.zeros(fan_out, device=generator.device)
        if self.gaussian:
            parameters[LOG_STD] = torch.full((self.sizes[-1],), self.config.init_log_std, device=generator.device)
        return parameters

    def apply(
        self, params: Parameters, obs: Tensor, memory: None = None
    ) -> tuple[DiagonalGaussian | Categorical, None]:
        """Distribution over actions.

        Args:
            params: shared P, or task-batched P with leaves (M, …).
            obs: (*batch, O); with a task-batched P the first dimension is M.
            memory: an MLP has none.
        """
        task_batched = params["layer0.bias"].ndim == 2
        batch = obs.shape[:-1]
        x = obs.reshape(batch[0], -1, obs.shape[-1]) if task_batched else obs.reshape(-1, obs.shape[-1])
        last = len(self.sizes) - 2
        for layer in range(last + 1):
            weight, bias = params[f"layer{layer}.weight"], params[f"layer{layer}.bias"]
            x = torch.baddbmm(bias.unsqueeze(1), x, weight) if task_batched else torch.addmm(bias, x, weight)
            if layer < last:
                x = self._activation(x)
        output = x.reshape(*batch, self.sizes[-1])
        if not self.gaussian:
            return Categorical(output), None
        log_std = params[LOG_STD].clamp(min=MIN_LOG_STD)
        if task_batched:
            log_std = log_std.reshape(batch[0], *(1,) * (len(batch) - 1), self.sizes[-1])
        return DiagonalGaussian(output, log_std), None

    def distribution(self, parameters: dict[str, Tensor]) -> DiagonalGaussian | Categorical:
        """Inverse of `ActionDistribution.parameters()`, for the distributions stored in Episodes."""
        return DiagonalGaussian(**parameters) if self.gaussian else Categorical(**parameters)
