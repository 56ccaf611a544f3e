"""The path θ_0 → θ_1 → … → θ_K of M tasks through their support batches, and its derivatives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.agents.gradients.forward_pass import ForwardPass, Outputs
from metarl.agents.gradients.objectives import Batch
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, concatenate, map_parameters, tasks_of

Objective = Callable[[Batch, ActionDistribution], Tensor]
"""An objective of each task, (M,), as in `metarl.agents.gradients.objectives`."""

Rates = Mapping[str, Tensor | float]
"""Inner rates of the parameters that a step adapts; a tensor is a number, or shaped as the parameter of one task."""


class ObjectiveAt:
    """An objective of each task at given parameters: gradient, and products with its second derivative.

    The network's derivatives are written out (`ForwardPass`); those of the objective by the few numbers that the
    network puts out for each step are autograd's, so that any objective will do.

    Attributes:
        network: the policy's network at the parameters.
        values: the objective of each task, (M,).
        gradient: of each task's objective by its parameters, leaves (M, …).

    Args:
        policy: the policy.
        params: task-batched P, leaves (M, …).
        batch: M tasks.
        objective: what is differentiated.
        second_order: whether `hessian_product` is to be called.
    """

    def __init__(
        self, policy: MLPPolicy, params: Parameters, batch: Batch, objective: Objective, second_order: bool = False
    ) -> None:
        self.network = ForwardPass(policy, params, batch.obs)
        self._outputs = as_leaves(self.network.outputs)
        with torch.enable_grad():
            values = objective(batch, policy.distribution(self._outputs))
            total = values.sum()  # each task gets its own gradient
            self._slopes = torch.autograd.grad(total, list(self._outputs.values()), create_graph=second_order)
        self.values = values.detach()
        slopes = {name: slope.detach() for name, slope in zip(self._outputs, self._slopes, strict=True)}
        if second_order:
            self.gradient, self._curvature = self.network.vjp_with_curvature(slopes)
        else:
            self.gradient = self.network.vjp(slopes)

    def hessian_product(self, vector: Parameters, cotangent: Outputs | None = None) -> Parameters:
        """H v, H the second derivative of each task's objective; H v + Jᵀ u where a cotangent u is given."""
        pushed, tangents = self.network.jvp(vector)
        along = torch.autograd.grad(
            self._slopes,
            list(self._outputs.values()),
            [pushed[name] for name in self._outputs],
            retain_graph=True,
            materialize_grads=True,
        )
        turned = dict(zip(self._outputs, along, strict=True))
        if cotangent is not None:
            turned = map_parameters(torch.add, turned, cotangent)
        return self.network.vjp_derivative(self._curvature, tangents, turned)


@dataclass(frozen=True)
class Trajectory:
    """Where a path leads: θ_0 … θ_K and ∇J_0 … ∇J_{K−1}, task-batched, leaves (M, …)."""

    points: list[Parameters]
    gradients: list[Parameters]

    def tasks(self, index: slice) -> "Trajectory":
        """Of some tasks, as views."""
        return Trajectory(
            [tasks_of(point, index) for point in self.points], [tasks_of(slope, index) for slope in self.gradients]
        )

    @staticmethod
    def concatenate(parts: Sequence["Trajectory"]) -> "Trajectory":
        """The tasks of several trajectories after each other."""
        return Trajectory(
            [concatenate(points) for points in zip(*(part.points for part in parts), strict=True)],
            [concatenate(slopes) for slopes in zip(*(part.gradients for part in parts), strict=True)],
        )


class AdaptationPath:
    """θ_{k+1} = θ_k + α_k ∇J_k(θ_k), k = 0 … K−1, for each of M tasks; then the network at θ_K on one more batch.

    With H_k the second derivative of J_k, a change of θ_k changes θ_{k+1} by 1 + α_k H_k, and a change of α_k by
    ∇J_k: `jvp` takes changes along the path, `vjp` takes gradients back against it.

    Attributes:
        trajectory: its points and gradients.
        outputs: what the network puts out at θ_k on batch k, k = 0 … K.

    Args:
        policy: the policy.
        start: θ_0, task-batched.
        rates: α_0 … α_{K−1}.
        batches: the K support batches and the one after them.
        objective: J, of each task.
        second_order: whether `jvp` and `vjp` see H_k; if not it counts as 0.
        known: the trajectory of a path through larger batches of which these are samples: it is kept to, and only
            H_k and the network on the last batch are estimated.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        start: Parameters,
        rates: Sequence[Rates],
        batches: Sequence[Batch],
        objective: Objective,
        second_order: bool = False,
        known: Trajectory | None = None,
    ) -> None:
        self._rates, self._second_order = rates, second_order
        self.trajectory = known or Trajectory([start], [])
        points, gradients = self.trajectory.points, self.trajectory.gradients
        self._steps: list[ObjectiveAt] = []
        for step, batch in enumerate(batches[:-1]):
            self._steps.append(ObjectiveAt(policy, points[step], batch, objective, second_order))
            if known is None:
                gradients.append(self._steps[-1].gradient)
                points.append(gradient_step(points[step], gradients[step], rates[step]))
        self._last = ForwardPass(policy, points[-1], batches[-1].obs)
        self.outputs = [*(step.network.outputs for step in self._steps), self._last.outputs]

    def jvp(self, start: Parameters, rates: Sequence[Parameters]) -> Outputs:
        """Derivative of the last outputs along a change of θ_0 and of the rates.

        Args:
            start: change of θ_0, task-batched.
            rates: change of each step's rates, shaped as these; a rate that has none stays as it is.
        """
        vector = start
        for step, at in enumerate(self._steps):
            gradient = self.trajectory.gradients[step]
            changed = {name: gradient[name] * change for name, change in rates[step].items()}
            if self._second_order:
                bent = at.hessian_product(vector)
                for name, rate in self._rates[step].items():
                    changed[name] = changed.get(name, 0.0) + rate * bent[name]
            vector = vector | {name: vector[name] + change for name, change in changed.items()}
        pushed, _ = self._last.jvp(vector)
        return pushed

    def vjp(self, cotangents: Sequence[Outputs | None]) -> tuple[Parameters, list[Parameters]]:
        """Gradients of Σ_k u_k · outputs_k by θ_0 and by each step's rates, for each task.

        Args:
            cotangents: u_0 … u_K; None counts as 0.

        Returns:
            by θ_0, leaves (M, …); by α_0 … α_{K−1}, leaves (M, …) for the parameters that each step adapts.
        """
        *supports, last = cotangents
        assert last is not None
        gradient = self._last.vjp(last)
        by_rates: list[Parameters] = []
        for step in reversed(range(len(self._steps))):
            at, cotangent, rates = self._steps[step], supports[step], self._rates[step]
            slopes = self.trajectory.gradients[step]
            by_rates.insert(0, {name: slopes[name] * gradient[name] for name in rates})
            if self._second_order:
                scaled = {
                    name: leaf * rates[name] if name in rates else torch.zeros_like(leaf)
                    for name, leaf in gradient.items()
                }
                gradient = map_parameters(torch.add, gradient, at.hessian_product(scaled, cotangent))
            elif cotangent is not None:
                gradient = map_parameters(torch.add, gradient, at.network.vjp(cotangent))
        return gradient, by_rates


def gradient_step(params: Parameters, gradient: Parameters, rates: Rates) -> Parameters:
    """θ + α ∇J for the parameters that have a rate."""
    return params | {name: params[name] + rate * gradient[name] for name, rate in rates.items()}


def as_leaves(outputs: Outputs) -> Outputs:
    """The same numbers, by which autograd can differentiate."""
    return map_parameters(lambda output: output.detach().requires_grad_(), outputs)
