"""Objectives of policy gradients, one number for each task, (M,), all to be maximised."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.agents.gradients.advantages import advantages_of
from metarl.agents.gradients.processes import mean_over_tasks, num_processes
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.log_prob import LogProb, Outputs, kl_vjp, log_prob_of
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


class StepObjective(ABC):
    """E[h(log π(a|o))]: the mean over steps of a function of each action's log-probability, with its derivatives."""

    @abstractmethod
    def value(self, batch: Batch, log_prob: Tensor) -> Tensor:
        """h of each step, (M, E, H)."""

    @abstractmethod
    def derivatives(self, batch: Batch, log_prob: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """h, h′ and h″ of each step, (M, E, H); None for an h″ that is 0. Where h bends, h″ is that of its sides."""

    def __call__(self, batch: Batch, distribution: ActionDistribution) -> Tensor:
        """The objective of each task, (M,)."""
        return mean_over_steps(batch, self.value(batch, distribution.log_prob(batch.action)))


@dataclass(frozen=True)
class ScoreFunction(StepObjective):
    """E[log π(a|o) · A]: the plain surrogate; its second derivative drops the credit to pre-update sampling.

    Source: Williams 1992, REINFORCE; the inner objective of Finn et al. 2017.
    """

    def value(self, batch: Batch, log_prob: Tensor) -> Tensor:
        """See StepObjective.value."""
        return log_prob * batch.advantage

    def derivatives(self, batch: Batch, log_prob: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See StepObjective.derivatives."""
        return self.value(batch, log_prob), batch.advantage, None


@dataclass(frozen=True)
class LikelihoodRatio(StepObjective):
    """E[π(a|o)/π_old(a|o) · A]: the low-variance curvature (LVC) surrogate when differentiated twice.

    The denominator is the policy that collected the batch, a constant; at the parameters of collection the value
    and both derivatives are those of π/stop_gradient(π).

    Source: Rothfuss et al. 2019, "ProMP", equation 4.
    """

    def value(self, batch: Batch, log_prob: Tensor) -> Tensor:
        """See StepObjective.value."""
        return torch.exp(log_prob - batch.old_log_prob) * batch.advantage

    def derivatives(self, batch: Batch, log_prob: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See StepObjective.derivatives: the exponential is its own derivative."""
        value = self.value(batch, log_prob)
        return value, value, value


@dataclass(frozen=True)
class ClippedSurrogate(StepObjective):
    """E[min(ρ A, clip(ρ, 1−ε, 1+ε) A)], ρ = π/π_old.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7.

    Attributes:
        clip: ε.
    """

    clip: float

    def value(self, batch: Batch, log_prob: Tensor) -> Tensor:
        """See StepObjective.value."""
        value, clipped = self._both_sides(batch, log_prob)
        return torch.minimum(value, clipped)

    def derivatives(self, batch: Batch, log_prob: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See StepObjective.derivatives: nothing moves where the clipped side counts."""
        value, clipped = self._both_sides(batch, log_prob)
        moves = torch.where(value > clipped, 0.0, value)  # so written that what is not a number stays so
        return torch.minimum(value, clipped), moves, moves

    def _both_sides(self, batch: Batch, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        ratio = torch.exp(log_prob - batch.old_log_prob)
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        return ratio * batch.advantage, clipped * batch.advantage


score_function = ScoreFunction()
likelihood_ratio = LikelihoodRatio()


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
    """See ClippedSurrogate."""
    return ClippedSurrogate(clip)(batch, distribution)


INNER_OBJECTIVES: dict[str, Objective] = {
    "lvc": likelihood_ratio,
    "dice": dice,
    "plain": score_function,
}
"""Surrogates with the same first derivative at the parameters of collection and different second ones."""


class ByOutputs(Protocol):
    """An objective of each task as a function of what the network puts out, with its derivatives.

    Attributes:
        values: the objective of each task, (M,).
        gradient: of each task's objective by the outputs.
    """

    values: Tensor
    gradient: Outputs

    def hvp(self, tangent: Outputs) -> Outputs:
        """The Hessian by the outputs times a change of them."""
        ...


def by_outputs(
    policy: MLPPolicy, batch: Batch, objective: Objective, outputs: Outputs, second_order: bool = False
) -> ByOutputs:
    """An objective's derivatives by the network's outputs: in closed form where it has one, or else by autograd.

    Args:
        policy: makes distributions of the outputs.
        batch: M tasks.
        objective: what is differentiated.
        outputs: where.
        second_order: whether `hvp` is to be called.
    """
    if isinstance(objective, StepObjective):
        return _StepsByOutputs(batch, objective, log_prob_of(policy.distribution(outputs), batch.action))
    return _AutogradByOutputs(policy, batch, objective, outputs, second_order)


class _StepsByOutputs:
    """See ByOutputs: with ℓ the log-probabilities, ∇ = h′ ∇ℓ, and ∇² = h″ ∇ℓ ∇ℓᵀ + h′ ∇²ℓ for each step."""

    def __init__(self, batch: Batch, objective: StepObjective, log_prob: LogProb) -> None:
        value, slope, curvature = objective.derivatives(batch, log_prob.value)
        self._log_prob = log_prob
        self._slope = batch.weight * slope
        self._curvature = self._slope if curvature is slope else None
        if curvature is not None and curvature is not slope:
            self._curvature = batch.weight * curvature

        self.values = mean_over_steps(batch, value)
        self.gradient = log_prob.vjp(self._slope)

    def hvp(self, tangent: Outputs) -> Outputs:
        """See ByOutputs.hvp."""
        if self._curvature is None:
            change = torch.zeros_like(self._slope)
        else:
            change = self._curvature * self._log_prob.jvp(tangent)
        return self._log_prob.vjp_along(self._slope, change, tangent)


class _AutogradByOutputs:
    """See ByOutputs: for any objective."""

    def __init__(
        self, policy: MLPPolicy, batch: Batch, objective: Objective, outputs: Outputs, second_order: bool
    ) -> None:
        self._outputs = as_leaves(outputs)
        with torch.enable_grad():
            values = objective(batch, policy.distribution(self._outputs))
            total = values.sum()  # each task gets its own gradient
            self._gradient = torch.autograd.grad(total, list(self._outputs.values()), create_graph=second_order)
        self.values = values.detach()
        self.gradient = {name: leaf.detach() for name, leaf in zip(self._outputs, self._gradient, strict=True)}

    def hvp(self, tangent: Outputs) -> Outputs:
        """See ByOutputs.hvp: differentiates the gradient, of which autograd has kept the graph."""
        products = torch.autograd.grad(
            self._gradient,
            list(self._outputs.values()),
            [tangent[name] for name in self._outputs],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(self._outputs, products, strict=True))


def as_leaves(outputs: Outputs) -> Outputs:
    """The same numbers, by which autograd can differentiate."""
    return map_parameters(lambda output: output.detach().requires_grad_(), outputs)


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
        support = pairs[:-1]  # empty where an unadapted policy is improved

        surrogates = [self.surrogate(*pairs[step]) for step in self._improved(len(support))]
        divergences: list[Tensor] = []
        credits: list[Tensor] = []
        if self.inner_kl_penalty > 0:
            divergences = [mean_kl(self.policy, batch, acting) for batch, acting in support]
        if self.exploration_credit > 0:
            credits = [self.surrogate(batch.credited(), acting) for batch, acting in support]
        return batches[-1].importance * self._total(surrogates, divergences, credits)

    def differentiate(
        self, path_outputs: Sequence[Outputs], batches: Sequence[Batch]
    ) -> tuple[Tensor, list[Outputs | None]]:
        """The objective of each task, (M,), and its gradient by the network's outputs on each batch.

        Args:
            path_outputs: what the network puts out after 0 … K adaptation steps, each on its batch.
            batches: K + 1 of them.

        Returns:
            the values, and the gradients; None where a batch has none.
        """
        if isinstance(self.surrogate, StepObjective):
            return self._differentiate_steps(self.surrogate, path_outputs, batches)

        outputs = [as_leaves(output) for output in path_outputs]
        with torch.enable_grad():
            values = self([self.policy.distribution(output) for output in outputs], batches)
            leaves = [leaf for output in outputs for leaf in output.values()]
            derivatives = iter(torch.autograd.grad(values.sum(), leaves, allow_unused=True))

        gradients: list[Outputs | None] = []
        for output in outputs:
            gradient = {name: next(derivatives) for name in output}
            unused = any(leaf is None for leaf in gradient.values())
            gradients.append(None if unused else gradient)
        return values.detach(), gradients

    def _differentiate_steps(
        self, surrogate: StepObjective, path_outputs: Sequence[Outputs], batches: Sequence[Batch]
    ) -> tuple[Tensor, list[Outputs | None]]:
        """See `differentiate`, in closed form."""
        num_support = len(batches) - 1
        improved = self._improved(num_support)
        importance = batches[-1].importance
        terms: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])

        gradients: list[Outputs | None] = []
        for step, (outputs, batch) in enumerate(zip(path_outputs, batches, strict=True)):
            weight = batch.weight * importance[:, None, None]
            acting = self.policy.distribution(outputs)
            parts: list[Outputs] = []

            of_step = [(batch, 1 / len(improved), terms[0])] if step in improved else []
            if step < num_support and self.exploration_credit > 0:
                of_step.append((batch.credited(), self.exploration_credit / num_support, terms[2]))
            if of_step:
                log_prob = log_prob_of(acting, batch.action)
            for credited, factor, values in of_step:
                value, slope, _ = surrogate.derivatives(credited, log_prob.value)
                values.append(mean_over_steps(credited, value))
                parts.append(log_prob.vjp(weight * slope * factor))

            if step < num_support and self.inner_kl_penalty > 0:
                terms[1].append(mean_kl(self.policy, batch, acting))
                old = self.policy.distribution(batch.behaviour)
                parts.append(kl_vjp(old, acting, weight * (-self.inner_kl_penalty / num_support)))

            gradients.append(functools.reduce(_added, parts) if parts else None)
        return importance * self._total(*terms), gradients

    def _improved(self, num_support: int) -> list[int]:
        """After which steps the policies' returns count."""
        first = 0 if self.before_adaptation else 1
        if self.every_step:
            return list(range(min(first, num_support), num_support + 1))
        return [0, num_support] if self.before_adaptation and num_support > 0 else [num_support]

    def _total(self, surrogates: Sequence[Tensor], divergences: Sequence[Tensor], credits: Sequence[Tensor]) -> Tensor:
        """The terms put together, (M,), without the importance."""
        total = _mean(surrogates)
        if divergences:
            total = total - self.inner_kl_penalty * _mean(divergences)
        if credits:
            total = total + self.exploration_credit * _mean(credits)
        return total


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


def _added(left: Outputs, right: Outputs) -> Outputs:
    return map_parameters(torch.add, left, right)
