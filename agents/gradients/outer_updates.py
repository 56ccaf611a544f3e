"""How MAML improves its meta-parameters on one batch: a trust-region step, or epochs of Adam on a clipped surrogate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metarl.agents.gradients.adaptation_path import Trajectory
from metarl.agents.gradients.meta_objective import MetaObjective
from metarl.agents.gradients.objectives import Batch
from metarl.agents.gradients.trust_region import TrustRegionConfig, line_search, natural_step
from metarl.agents.policies.optimizer import AdamState, MetaOptimizer
from metarl.agents.policies.parameters import Parameters, flatten, unflatten_like


class OuterUpdate(Protocol):
    """Improves the meta-parameters that an optimizer holds, on support batches and query; returns metrics.

    `progress` is the share of the training that is done, 0 … 1.

    Raises:
        FloatingPointError: a gradient is not finite; the optimizer is as it was.
    """

    def __call__(  # noqa: D102
        self, optimizer: MetaOptimizer, batches: Sequence[Batch], progress: float = 0.0
    ) -> dict[str, float]: ...


@dataclass(frozen=True)
class TrustRegionUpdate:
    """MAML-TRPO: one natural-gradient step within a bound on the mean KL of the adapted policies.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3.

    Attributes:
        objective: what is improved.
        config: bounds and iterations.
        fisher_fraction: share of each task's episodes on which Fisher products are estimated.
        fisher_memory: megabytes, see `MetaObjective.fisher_product`.
    """

    objective: MetaObjective
    config: TrustRegionConfig
    fisher_fraction: float
    fisher_memory: float

    def __call__(self, optimizer: MetaOptimizer, batches: Sequence[Batch], progress: float = 0.0) -> dict[str, float]:
        """See OuterUpdate."""
        meta = optimizer.parameters
        value, gradient, trajectory = self.objective.value_and_gradient(meta, batches)
        flat_gradient = flatten(gradient.values())

        def evaluate(candidate: Tensor) -> tuple[float, float]:
            candidate_value, kl = self.objective.value_and_kl(unflatten_like(candidate, meta), batches)
            return candidate_value - value, kl

        full_step, curvature = self.objective.pool.run(
            self._natural_step, meta, list(batches), trajectory, flat_gradient, fuse=False
        )
        step = line_search(flatten(meta.values()), full_step, curvature, evaluate, self.config)
        if step.accepted:
            optimizer.assign(unflatten_like(step.parameters, meta))

        return {
            "surrogate": value,
            "surrogate_improvement": step.improvement,
            "kl": step.kl,
            "gradient_norm": float(flat_gradient.norm()),
            "line_search_trials": float(step.trials),
            "step_accepted": float(step.accepted),
        }

    def _natural_step(
        self, meta: Parameters, batches: Sequence[Batch], trajectory: Trajectory, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `natural_step`, with the Fisher matrix of the adapted policies."""
        fisher_product = self.objective.fisher_product(
            meta, batches, trajectory, self.fisher_fraction, self.fisher_memory
        )
        return natural_step(gradient, fisher_product, self.config)


@dataclass(frozen=True)
class ProximalUpdate:
    """ProMP: epochs of Adam on the clipped surrogate of one batch.

    Source: Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search", algorithm 1.

    Attributes:
        objective: what is improved.
        lr: Adam's rate.
        lr_decay: factor by which the rate shrinks from one update to the next.
        epochs: steps of Adam on each batch.
        lr_final: share of the rate that is left at the end of the training, reached geometrically with progress.
    """

    objective: MetaObjective
    lr: float
    lr_decay: float
    epochs: int
    lr_final: float = 1.0

    def __call__(self, optimizer: MetaOptimizer, batches: Sequence[Batch], progress: float = 0.0) -> dict[str, float]:
        """See OuterUpdate."""
        updates_before = optimizer.adam_steps // self.epochs
        lr = self.lr * self.lr_decay**updates_before * self.lr_final**progress
        if self.objective.pool.graphs is None:
            first_value, first_norm = self._step_by_step(optimizer, batches, lr)
        else:
            first_value, first_norm = self._at_once(optimizer, batches, lr)
        last_value, kl = self.objective.value_and_kl(optimizer.parameters, batches)

        return {
            "surrogate": first_value,
            "surrogate_improvement": last_value - first_value,
            "kl": kl,
            "gradient_norm": first_norm,
        }

    def _step_by_step(self, optimizer: MetaOptimizer, batches: Sequence[Batch], lr: float) -> tuple[float, float]:
        """The epochs one after the other; returns J and the norm of its gradient before the first."""

        def value_and_gradient() -> tuple[float, Parameters]:
            value, gradient, _ = self.objective.value_and_gradient(optimizer.parameters, batches)
            return value, gradient

        return optimizer.ascend_epochs(value_and_gradient, lr, self.epochs)

    def _at_once(self, optimizer: MetaOptimizer, batches: Sequence[Batch], lr: float) -> tuple[float, float]:
        """The same as one graph, so that the host asks once."""
        state = optimizer.adam_state()
        rate = torch.full((), lr, device=batches[-1].obs.device)
        after, noted = self.objective.pool.run(self._epochs, state, list(batches), rate, fuse=False)

        values, norms, finite = noted.tolist()
        if not all(finite):
            raise FloatingPointError("the meta-gradient is not finite")
        optimizer.take(after)
        return values[0], norms[0]

    def _epochs(self, state: AdamState, batches: Sequence[Batch], lr: Tensor) -> tuple[AdamState, Tensor]:
        """The state after all epochs; of each, J, the norm of its gradient, and whether that is finite, (3, epochs)."""
        noted = []
        for _ in range(self.epochs):
            total, _ = self.objective.pool.run(self.objective.differentiate, state.parameters, list(batches))
            value, gradient = total[0], total[1:]
            noted.append(torch.stack([value, gradient.norm(), torch.isfinite(gradient).all().to(value)]))
            state = state.ascended(unflatten_like(gradient, state.parameters), lr)
        return state, torch.stack(noted, dim=1)
