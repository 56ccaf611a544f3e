"""Per-task objectives of policy gradients, all to be maximised, all (M,)."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from metarl.agents.gradients.advantages import advantages_of
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import map_parameters
from metarl.envs.rollout import Episodes


@dataclass(frozen=True)
class Batch:
    """Episodes made ready for optimisation: everything that does not depend on the parameters, computed once.

    Attributes:
        obs: (M, E, H, O).
        action: (M, E, H, A) or (M, E, H).
        advantage: (M, E, H), zero where masked.
        weight: (M, E, H), 1 / (steps really taken in the task), zero where masked: Σ weight = 1 per task.
        old_log_prob: log-probability of each action under the policy that took it, (M, E, H).
        behaviour: parameters of that policy's distributions, leaves (M, E, H, …).
        credit: what each task's batch is credited with for the return after adaptation, (M,); 0 without.
        importance: weight of each task in the outer objective, (M,); 1 without.
    """

    obs: Tensor
    action: Tensor
    advantage: Tensor
    weight: Tensor
    old_log_prob: Tensor
    behaviour: dict[str, Tensor]
    credit: Tensor
    importance: Tensor

    @classmethod
    def of(
        cls, policy: MLPPolicy, episodes: Episodes, gamma: float, gae_lambda: float, normalized: bool = True
    ) -> "Batch":
        """Fit the baseline, compute advantages, and evaluate the behaviour policy."""
        return cls(
            obs=episodes.obs,
            action=episodes.action,
            advantage=advantages_of(episodes, gamma, gae_lambda, normalized),
            weight=episodes.mask / episodes.mask.sum(dim=(1, 2), keepdim=True),
            old_log_prob=policy.distribution(episodes.behaviour).log_prob(episodes.action),
            behaviour=episodes.behaviour,
            credit=episodes.reward.new_zeros(len(episodes.reward)),
            importance=episodes.reward.new_ones(len(episodes.reward)),
        )

    def tasks(self, index: slice) -> Self:
        """The batch of a slice of tasks, as views."""
        return self._each_tensor(lambda tensor: tensor[index])

    def weighted(self, importance: Tensor | None) -> Self:
        """The batch with these weights of the tasks, (M,); as it is without."""
        return self if importance is None else replace(self, importance=importance.to(self.importance))

    def first_episodes(self, fraction: float) -> Self:
        """The first share of each task's episodes, one at least, weighted so that Σ weight = 1 per task again."""
        count = max(1, round(fraction * self.weight.shape[1]))
        part = self._each_tensor(lambda tensor: tensor[:, :count] if tensor.ndim > 1 else tensor)
        return replace(part, weight=part.weight / part.weight.sum(dim=(1, 2), keepdim=True))

    def _each_tensor(self, function: Callable[[Tensor], Tensor]) -> Self:
        def mapped(value: Any) -> Any:
            return map_parameters(function, value) if isinstance(value, dict) else function(value)

        return replace(self, **{f.name: mapped(getattr(self, f.name)) for f in fields(self)})


def mean_over_steps(batch: Batch, values: Tensor) -> Tensor:
    """Mean of (M, E, H) over the steps really taken, per task: (M,)."""
    return (batch.weight * values).sum(dim=(1, 2))


def score_function(batch: Batch, distribution: ActionDistribution) -> Tensor:
    """E[log π(a|o) · A]: the plain surrogate; its second derivative drops the credit to pre-update sampling.

    Source: Williams 1992, REINFORCE; the inner objective of Finn et al. 2017.
    """
    return mean_over_steps(batch, distribution.log_prob(batch.action) * batch.advantage)


def likelihood_ratio(batch: Batch, distribution: ActionDistribution) -> Tensor:
    """E[π(a|o)/π_old(a|o) · A]: the low-variance curvature (LVC) surrogate when differentiated twice.

    The denominator is the policy that collected the batch, a constant; at the parameters of collection the value
    and both derivatives are those of π/stop_gradient(π).

    Source: Rothfuss et al. 2019, "ProMP", equation 4.
    """
    return mean_over_steps(batch, torch.exp(distribution.log_prob(batch.action) - batch.old_log_prob) * batch.advantage)


def dice(batch: Batch, distribution: ActionDistribution) -> Tensor:
    """E[Σ_t (□_{≤t} − □_{<t}) · A_t] with □ the product of likelihood ratios up to a step: unbiased to any order.

    Source: Foerster et al. 2018, "DiCE"; in its advantage form Farquhar et al. 2019, "Loaded DiCE", equation 13
        with λ = 1. Unbiased for given advantages; the baseline, their normalisation and the weight 1/steps, which
        all surrogates here share so that one inner rate serves them, add a little bias of their own.
    """
    log_ratio = (distribution.log_prob(batch.action) - batch.old_log_prob) * (batch.weight > 0)
    up_to = log_ratio.cumsum(dim=-1)
    return mean_over_steps(batch, (torch.exp(up_to) - torch.exp(up_to - log_ratio)) * batch.advantage)


def clipped_surrogate(batch: Batch, distribution: ActionDistribution, clip: float) -> Tensor:
    """E[min(ρ A, clip(ρ, 1−ε, 1+ε) A)], ρ = π/π_old.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7.
    """
    ratio = torch.exp(distribution.log_prob(batch.action) - batch.old_log_prob)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return mean_over_steps(batch, torch.minimum(ratio * batch.advantage, clipped * batch.advantage))


INNER_OBJECTIVES: dict[str, Callable[[Batch, ActionDistribution], Tensor]] = {
    "lvc": likelihood_ratio,
    "dice": dice,
    "plain": score_function,
}
"""Surrogates with the same first derivative at the parameters of collection and different second ones."""
