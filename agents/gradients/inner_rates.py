"""The rates of inner steps: given by the configuration, or meta-learned beside the policy's parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.agents.policies.distributions import LOG_STD
from metarl.agents.policies.parameters import Parameters

Rates = Mapping[str, Tensor | float]
"""Inner rates of the parameters that a step adapts; a tensor is a number, or shaped as the parameter of one task."""

InnerRateMode = Literal["fixed", "meta-sgd", "per-step", "meta-sgd-per-step"]

LEARNED_RATE = "inner_lr."
"""Prefix of the learned rates among the meta-parameters."""


@dataclass(frozen=True)
class RateSchedule:
    """Configured rates:  α_k = lr · decay^k, times log_std_factor for the policy's log standard deviation.

    Attributes:
        lr: rate of the first step.
        decay: factor from one step to the next.
        log_std_factor: factor for the log standard deviation.
    """

    lr: float
    decay: float
    log_std_factor: float

    def rate(self, name: str, step: int) -> float:
        """Rate of a parameter at step k, counted from 0."""
        factor = self.log_std_factor if name == LOG_STD else 1.0
        return factor * self.lr * self.decay**step


class InnerRates:
    """α_0 … α_{K−1} of MAML's inner steps, for the parameters that these adapt.

    Learned rates start at the configured ones and are stored among the meta-parameters, "inner_lr.<parameter>", with
    the step as leading dimension: 1 where all steps share them, K where each has its own. Steps beyond those
    trained take the last ones. Given rates shrink once more there, α_K, and then stay, as the MAML paper's: trained
    with one step of 0.1, it measures with 0.1, 0.05, 0.05.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", appendix A.2 (given rates beyond K); Li et al.
        2017, "Meta-SGD" (a rate for every single parameter); Antoniou et al. 2019, "How to Train Your MAML" (LSLR: a
        rate for every tensor and step).

    Args:
        schedule: the configured rates.
        mode: "fixed", or what has a rate of its own: every single parameter ("meta-sgd"), every tensor at every step
            ("per-step"), every single parameter at every step ("meta-sgd-per-step").
        adapted: names of the parameters that a step changes.
        num_steps: K.
    """

    def __init__(self, schedule: RateSchedule, mode: InnerRateMode, adapted: Sequence[str], num_steps: int) -> None:
        self._schedule = schedule
        self._adapted = tuple(adapted)
        self._learned = mode != "fixed"
        self._elementwise = mode in ("meta-sgd", "meta-sgd-per-step")
        self._num_steps = num_steps
        self._num_scheduled = 1 if mode == "meta-sgd" else num_steps

    def initial(self, parameters: Parameters) -> Parameters:
        """The rates to be learned, leaves (1 or K, …), for shared P; none if they are fixed."""
        if not self._learned:
            return {}

        rates = {}
        for name in self._adapted:
            leaf = parameters[name]
            shape = leaf.shape if self._elementwise else (1,) * leaf.ndim
            scheduled = [self._schedule.rate(name, step) for step in range(self._num_scheduled)]
            rates[LEARNED_RATE + name] = torch.stack([leaf.new_full(shape, rate) for rate in scheduled])
        return rates

    def at(self, meta: Parameters, step: int) -> Rates:
        """α_k."""
        if self._learned:
            return self.learned_at(meta, step)
        return {name: self._schedule.rate(name, min(step, self._num_steps)) for name in self._adapted}

    def learned_at(self, leaves: Parameters, step: int) -> Parameters:
        """What leaves named and shaped as the meta-parameters hold for the learned α_k, as views; none if fixed."""
        if not self._learned:
            return {}
        learned = {name: leaves[LEARNED_RATE + name] for name in self._adapted}
        return {name: leaf[min(step, len(leaf) - 1)] for name, leaf in learned.items()}

    def gradient(self, meta: Parameters, by_step: Sequence[Parameters]) -> Parameters:
        """Gradient by the learned rates, summed over tasks.

        Args:
            meta: the meta-parameters.
            by_step: gradients by α_0 … α_{K−1} of each task, leaves (M, …), shaped as the adapted parameters.

        Returns:
            by leaf, named and shaped as the learned rates.
        """
        gradient = {name: torch.zeros_like(rate) for name, rate in meta.items() if name.startswith(LEARNED_RATE)}
        for step, by_rate in enumerate(by_step):
            for name, total in self.learned_at(gradient, step).items():
                total += by_rate[name].sum(dim=0).sum_to_size(total.shape)  # a view: it lands in `gradient`
        return gradient


def without_rates(meta: Parameters) -> Parameters:
    """The policy's part of leaves named as the meta-parameters."""
    return {name: leaf for name, leaf in meta.items() if not name.startswith(LEARNED_RATE)}
