"""Distributions over actions in closed form: Gaussian for continuous actions, categorical for discrete ones.

Several discrete choices at once, as in MultiDiscrete and MultiBinary spaces, are a product of categoricals.

They know nothing of networks. A policy makes them of what its network puts out, `collect` samples from them and keeps
their parameters, and objectives are made of their log-probabilities, entropies and divergences.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

LOG_STD = "log_std"
"""Name of the log standard deviation among a Gaussian's parameters, and among those of a policy that has one."""

MIN_LOG_STD = math.log(1e-6)
"""Floor of a policy's log standard deviation, as in the original MAML code."""


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
        """F v: the Fisher information matrix of the parameters times a tangent v, leaf by leaf as `parameters()`.

        F = E[∇ log p ∇ log pᵀ], which is the Hessian of KL(self ‖ other) at other = self.
        """
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Named parameters, leaves (*batch, …)."""
        ...


@dataclass(frozen=True)
class DiagonalGaussian:
    """An independent Gaussian for each action dimension.

    Attributes:
        mean: μ, (*batch, A).
        log_std: log σ, (…, A) with … broadcastable to *batch.
    """

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
        # What the other puts out comes first: see GaussianLogProb.
        squares = (other.mean - self.mean).square() + torch.exp(2 * self.log_std)
        divergence: Tensor = (0.5 * squares * precision + (other.log_std - self.log_std) - 0.5).sum(-1)
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
    """A distribution over the integers 0 … n−1.

    Attributes:
        logits: log-probabilities up to a constant, (*batch, n).
    """

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
        """log p_a."""
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


IMPOSSIBLE = -1e30
"""Logit of an alternative that a choice does not have: its probability is 0, and 0 times its logarithm as well."""


@dataclass(frozen=True)
class CategoricalProduct:
    """A independent choices at once, choice a of the integers 0 … n_a − 1:  p(x) = Π_a p_a(x_a).

    Attributes:
        logits: log-probabilities of all choices one after another, each up to a constant, (*batch, Σ n_a).
        sizes: n_a of each choice, A of them.
    """

    logits: Tensor
    sizes: tuple[int, ...]

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one action each: (*batch, A) integers."""
        return self.each_choice().sample(generator)

    def mode(self) -> Tensor:
        """The most likely action: (*batch, A) integers."""
        return self.each_choice().mode()

    def log_prob(self, action: Tensor) -> Tensor:
        """Σ_a log p_a(x_a)."""
        return self.each_choice().log_prob(action).sum(-1)

    def entropy(self) -> Tensor:
        """The sum of the choices' entropies: they are independent."""
        return self.each_choice().entropy().sum(-1)

    def kl(self, other: Any) -> Tensor:
        """The sum of the choices' divergences."""
        return self.each_choice().kl(other.each_choice()).sum(-1)

    def tempered(self, temperature: float) -> "CategoricalProduct":
        """The logits over the temperature."""
        return CategoricalProduct(self.logits / temperature, self.sizes)

    def fisher_product(self, tangent: dict[str, Tensor]) -> dict[str, Tensor]:
        """The Fisher matrix has a block diag(p) − p pᵀ for each choice."""
        rows = {"logits": self.rows(tangent["logits"], 0.0)}
        return {"logits": self.flat(self.each_choice().fisher_product(rows)["logits"])}

    def parameters(self) -> dict[str, Tensor]:
        """See ActionDistribution.parameters."""
        return {"logits": self.logits}

    def each_choice(self) -> Categorical:
        """The choices as a batch of categoricals, logits (*batch, A, n)."""
        return Categorical(self.rows(self.logits, IMPOSSIBLE))

    def rows(self, flat: Tensor, missing: float) -> Tensor:
        """(*batch, Σ n_a) -> (*batch, A, n) with the largest n; `missing` fills the rows of fewer numbers."""
        largest = max(self.sizes)
        if min(self.sizes) == largest:
            return flat.reshape(*flat.shape[:-1], len(self.sizes), largest)

        # No table of indices, which would have to lie on the device.
        rows = [
            pad(row, (0, largest - row.shape[-1]), value=missing) for row in torch.split(flat, list(self.sizes), dim=-1)
        ]
        return torch.stack(rows, dim=-2)

    def flat(self, rows: Tensor) -> Tensor:
        """Inverse of `rows`."""
        if min(self.sizes) == max(self.sizes):
            return rows.flatten(-2)
        return torch.cat([rows[..., choice, :size] for choice, size in enumerate(self.sizes)], dim=-1)
