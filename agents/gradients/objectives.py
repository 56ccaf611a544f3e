"""Objectives of policy gradients, one number for each task, (M,), all to be maximised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.agents.gradients.advantages import advantages_of
from metarl.agents.gradients.processes import mean_over_tasks, num_processes
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
            advantage=advantages_of(as_seen_by(policy, episodes), gamma, gae_lambda, normalized),
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

    def credited(self) -> Self:
        """The batch with each task's credit as the advantage of all its actions."""
        return replace(self, advantage=self.credit[:, None, None])

    def first_episodes(self, fraction: float) -> Self:
        """The first share of each task's episodes, one at least, weighted so that Σ weight = 1 per task again."""
        count = max(1, round(fraction * self.weight.shape[1]))
        part = self._each_tensor(lambda tensor: tensor[:, :count] if tensor.ndim > 1 else tensor)
        return replace(part, weight=part.weight / part.weight.sum(dim=(1, 2), keepdim=True))

    def _each_tensor(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The batch with a function applied to each of its tensors."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            changed[field.name] = map_parameters(function, value) if isinstance(value, dict) else function(value)
        return replace(self, **changed)


pytree.register_dataclass(Batch)  # so that functions of batches can be captured


def as_seen_by(policy: MLPPolicy, episodes: Episodes) -> Episodes:
    """Episodes with what the baseline sees in place of the observations: normalised ones, a few numbers of images."""
    seen = policy.observations.summary(episodes.obs)
    return episodes if seen is episodes.obs else replace(episodes, obs=seen)


Objective = Callable[[Batch, ActionDistribution], Tensor]
"""An objective of each task, (M,), given a batch and what the policy does in its states."""


def mean_over_steps(batch: Batch, values: Tensor) -> Tensor:
    """Mean of (M, E, H) over the steps really taken, per task: (M,)."""
    return (batch.weight * values).sum(dim=(1, 2))


def mean_kl(policy: MLPPolicy, batch: Batch, distribution: ActionDistribution) -> Tensor:
    """E[KL(π_old(·|o) ‖ π(·|o))] in nats, per task: (M,); π_old is the policy that collected the batch."""
    return mean_over_steps(batch, policy.distribution(batch.behaviour).kl(distribution))


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
    ratio = torch.exp(distribution.log_prob(batch.action) - batch.old_log_prob)
    return mean_over_steps(batch, ratio * batch.advantage)


def dice(batch: Batch, distribution: ActionDistribution) -> Tensor:
    """E[Σ_t (□_{≤t} − □_{<t}) · A_t] with □ the product of likelihood ratios up to a step: unbiased to any order.

    Source: Foerster et al. 2018, "DiCE"; in its advantage form Farquhar et al. 2019, "Loaded DiCE", equation 13
        with λ = 1. Unbiased for given advantages; the baseline, their normalisation and the weight 1/steps, which
        all surrogates here share so that one inner rate serves them, add a little bias of their own.
    """
    log_ratio = (distribution.log_prob(batch.action) - batch.old_log_prob) * (batch.weight > 0)
    up_to = log_ratio.cumsum(dim=-1)
    before = up_to - log_ratio
    return mean_over_steps(batch, (torch.exp(up_to) - torch.exp(before)) * batch.advantage)


def clipped_surrogate(batch: Batch, distribution: ActionDistribution, clip: float) -> Tensor:
    """E[min(ρ A, clip(ρ, 1−ε, 1+ε) A)], ρ = π/π_old.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7.
    """
    ratio = torch.exp(distribution.log_prob(batch.action) - batch.old_log_prob)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return mean_over_steps(batch, torch.minimum(ratio * batch.advantage, clipped * batch.advantage))


INNER_OBJECTIVES: dict[str, Objective] = {
    "lvc": likelihood_ratio,
    "dice": dice,
    "plain": score_function,
}
"""Surrogates with the same first derivative at the parameters of collection and different second ones."""


@dataclass(frozen=True)
class OuterObjective:
    """What MAML improves, of each task, given its policies π_0 … π_K after 0 … K adaptation steps.

        w · (S(π_K; query) − η · mean_{k<K} KL(π_old,k ‖ π_k) + c · mean_{k<K} S(π_k; support_k with credit))

    w is the task's importance. With `every_step` S(π_K; query) becomes the mean over k = 1 … K of S(π_k; batch_k), the
    support batches serving as queries of the step before them; with `before_adaptation` as well, over k = 0 … K.

    Source: Rothfuss et al. 2019, "ProMP", section 6 (KL); Stadie et al. 2018, "Some Considerations on Learning to
        Explore via Meta-RL" (credit); Antoniou et al. 2019, "How to Train Your MAML" (multi-step loss).

    Attributes:
        policy: makes distributions of the parameters that a batch keeps.
        surrogate: S.
        every_step: whether the policies after all the steps count, or only the last.
        before_adaptation: whether the policy before any step counts too: what is lost while adapting.
        inner_kl_penalty: η.
        exploration_credit: c.
    """

    policy: MLPPolicy
    surrogate: Objective
    every_step: bool = False
    before_adaptation: bool = False
    inner_kl_penalty: float = 0.0
    exploration_credit: float = 0.0

    def __call__(self, policies: Sequence[ActionDistribution], batches: Sequence[Batch]) -> Tensor:
        """The objective of each task, (M,); both sequences have K + 1 items."""
        pairs = list(zip(batches, policies, strict=True))
        improved = pairs[1:] if self.every_step else pairs[-1:]
        if self.before_adaptation and len(pairs) > 1:
            improved = [pairs[0], *improved]
        total = _mean([self.surrogate(batch, acting) for batch, acting in improved])

        support = pairs[:-1]  # empty where an unadapted policy is improved
        if support and self.inner_kl_penalty > 0:
            divergences = [mean_kl(self.policy, batch, acting) for batch, acting in support]
            total = total - self.inner_kl_penalty * _mean(divergences)
        if support and self.exploration_credit > 0:
            credits = [self.surrogate(batch.credited(), acting) for batch, acting in support]
            total = total + self.exploration_credit * _mean(credits)

        return batches[-1].importance * total


def exploration_credit(query: Episodes) -> Tensor:
    """What each task's support batches earned for the return after adaptation, (M,).

        (R − mean of the other tasks' R) / standard deviation of R over tasks

    The other tasks' mean is a baseline that does not depend on the task's own samples.

    Source: Stadie et al. 2018 (E-MAML). Deviation: standardised, so that it has the scale of normalised advantages.
    """
    returns = query.returns.mean(dim=1)
    mean = mean_over_tasks(returns)

    num_tasks = len(returns) * num_processes()
    others = (num_tasks * mean - returns) / max(num_tasks - 1, 1)
    std = mean_over_tasks((returns - mean).square()).sqrt()

    return (returns - others) / (std + 1e-8)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(dim=0)
