"""The path θ_0 → θ_1 → … → θ_K of M tasks through their support batches, and its derivatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from metarl.agents.gradients.forward_pass import ForwardPass, network_at
from metarl.agents.gradients.inner_rates import Rates
from metarl.agents.gradients.objectives import Batch, Objective, by_outputs
from metarl.agents.policies.log_prob import Outputs
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, concatenate, tasks_of


class ObjectiveAt:
    """An objective of each task at given parameters: its gradient, and products with its Hessian.

    The network's derivatives are written out (`ForwardPass`), and so are those of the usual objectives by the few
    numbers that the network puts out for each step (`by_outputs`).

    Attributes:
        network: the policy's network at the parameters.
        values: the objective of each task, (M,).
        gradient: of each task's objective by its parameters, leaves (M, …).

    Args:
        policy: the policy.
        params: task-batched P, leaves (M, …).
        batch: M tasks.
        objective: what is differentiated.
        second_order: whether `hvp` is to be called.
    """

    def __init__(
        self, policy: MLPPolicy, params: Parameters, batch: Batch, objective: Objective, second_order: bool = False
    ) -> None:
        self.network = network_at(policy, params, batch.obs)

        self._by_outputs = by_outputs(policy, batch, objective, self.network.outputs, second_order)
        self.values = self._by_outputs.values
        if second_order:
            assert isinstance(self.network, ForwardPass)
            self.gradient, self._backward_pass = self.network.backward(self._by_outputs.gradient)
        else:
            self.gradient = self.network.vjp(self._by_outputs.gradient)

    def hvp(self, vector: Parameters, cotangent: Outputs | None = None) -> Parameters:
        """Hessian-vector product H v of each task's objective; H v + Jᵀ u where a cotangent u is given.

        With N the network and L the objective as a function of its outputs:  H v = Jᵀ (∇²L J v) + (∂ Jᵀ/∂θ · v) ∇L.
        """
        assert isinstance(self.network, ForwardPass)
        tangent, tangents = self.network.jvp(vector)

        change = self._by_outputs.hvp(tangent)  # ∇²L J v

        # Jᵀ is linear in what it is applied to: one product serves both.
        if cotangent is not None:
            change = _sums(change, cotangent)
        return self.network.hvp(self._backward_pass, tangents, change)


@dataclass(frozen=True)
class Trajectory:
    """Where a path leads, task-batched, leaves (M, …).

    Attributes:
        points: θ_0 … θ_K.
        gradients: ∇J_0 … ∇J_{K−1}.
    """

    points: list[Parameters]
    gradients: list[Parameters]

    def tasks(self, index: slice) -> "Trajectory":
        """The trajectory of some tasks, as views."""
        points = [tasks_of(point, index) for point in self.points]
        gradients = [tasks_of(gradient, index) for gradient in self.gradients]
        return Trajectory(points, gradients)

    @staticmethod
    def concatenate(parts: Sequence["Trajectory"]) -> "Trajectory":
        """The tasks of several trajectories after each other."""
        points = zip(*(part.points for part in parts), strict=True)
        gradients = zip(*(part.gradients for part in parts), strict=True)
        return Trajectory([concatenate(point) for point in points], [concatenate(gradient) for gradient in gradients])


pytree.register_dataclass(Trajectory)  # so that functions of it can be captured


class AdaptationPath:
    """θ_{k+1} = θ_k + α_k ∇J_k(θ_k), k = 0 … K−1, for each of M tasks; then the network at θ_K on one more batch.

    With H_k the Hessian of J_k, a change of θ_k changes θ_{k+1} by 1 + α_k H_k, and a change of α_k by ∇J_k: `jvp`
    takes changes along the path, `vjp` takes gradients back against it.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 2.2; the gradient through it is written out.

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
        trajectory: of a path through larger batches of which these are samples: it is kept to, and only H_k and the
            network on the last batch are estimated. None computes it.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        start: Parameters,
        rates: Sequence[Rates],
        batches: Sequence[Batch],
        objective: Objective,
        second_order: bool = False,
        trajectory: Trajectory | None = None,
    ) -> None:
        self._rates = rates
        self._second_order = second_order
        self.trajectory = trajectory or Trajectory([start], [])
        points, gradients = self.trajectory.points, self.trajectory.gradients

        self._objectives: list[ObjectiveAt] = []
        for step, batch in enumerate(batches[:-1]):
            objective_at = ObjectiveAt(policy, points[step], batch, objective, second_order)
            self._objectives.append(objective_at)
            if trajectory is None:
                gradients.append(objective_at.gradient)
                points.append(gradient_step(points[step], objective_at.gradient, rates[step]))

        self._last = ForwardPass(policy, points[-1], batches[-1].obs)
        self.outputs = [*(objective_at.network.outputs for objective_at in self._objectives), self._last.outputs]

    def jvp(self, start: Parameters, rates: Sequence[Parameters]) -> Outputs:
        """Derivative of the last outputs along a change of θ_0 and of the rates.

            v_{k+1} = v_k + α_k H_k v_k + α̇_k ∇J_k

        Args:
            start: v_0, change of θ_0, task-batched.
            rates: α̇_k, change of each step's rates, shaped as these; a rate that has none stays as it is.
        """
        vector = start
        for step, objective_at in enumerate(self._objectives):
            gradient = self.trajectory.gradients[step]
            change = {name: gradient[name] * rate_change for name, rate_change in rates[step].items()}
            if self._second_order:
                product = objective_at.hvp(vector)
                for name, rate in self._rates[step].items():
                    change[name] = change.get(name, 0.0) + rate * product[name]

            vector = vector | {name: vector[name] + leaf for name, leaf in change.items()}

        tangent, _ = self._last.jvp(vector)
        return tangent

    def vjp(self, cotangents: Sequence[Outputs | None]) -> tuple[Parameters, list[Parameters]]:
        """Gradients of Σ_k u_k · outputs_k by θ_0 and by each step's rates, for each task.

            g_K = J_Kᵀ u_K,    g_k = g_{k+1} + H_k α_k g_{k+1} + J_kᵀ u_k,    by α_k: ∇J_k g_{k+1}

        Args:
            cotangents: u_0 … u_K; None counts as 0.

        Returns:
            by θ_0, leaves (M, …); by α_0 … α_{K−1}, leaves (M, …) for the parameters that each step adapts.
        """
        *supports, last = cotangents
        assert last is not None
        gradient = self._last.vjp(last)

        by_rates: list[Parameters] = []
        for step in reversed(range(len(self._objectives))):
            objective_at = self._objectives[step]
            cotangent = supports[step]
            rates = self._rates[step]
            step_gradient = self.trajectory.gradients[step]
            by_rates.insert(0, _products(step_gradient, {name: gradient[name] for name in rates}))

            if self._second_order:
                change = objective_at.hvp(_scaled(gradient, rates), cotangent)
                gradient = _sums(gradient, change)
            elif cotangent is not None:
                gradient = _sums(gradient, objective_at.network.vjp(cotangent))
        return gradient, by_rates


def gradient_step(params: Parameters, gradient: Parameters, rates: Rates) -> Parameters:
    """θ + α ∇J for the parameters that have a rate."""
    return params | _sums({name: params[name] for name in rates}, _products(gradient, rates))


def _scaled(gradient: Parameters, rates: Rates) -> Parameters:
    """α g; 0 for the parameters that have no rate, since the step leaves them as they are."""
    scaled = _products(gradient, rates)
    for name, leaf in gradient.items():
        if name not in rates:
            scaled[name] = torch.zeros_like(leaf)
    return scaled


def _products(left: Parameters, right: Rates) -> Parameters:
    """Leaf by leaf, for those that the second one has; one call, since the leaves are many and small."""
    leaves = [left[name] for name in right]
    factors: list[Any] = list(right.values())  # all of them tensors, or all numbers
    return dict(zip(right, torch._foreach_mul(leaves, factors), strict=True))


def _sums(left: Parameters, right: Parameters) -> Parameters:
    """Likewise, for the leaves of the first one."""
    others = [right[name] for name in left]
    return dict(zip(left, torch._foreach_add(list(left.values()), others), strict=True))
