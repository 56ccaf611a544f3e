"""A policy's network on one batch, and its derivatives with respect to the parameters, written out layer by layer.

Autograd would give the same numbers. Written out, every product needs only what it uses, nothing is recorded, a
linearisation is made once and serves any number of products, and activations of a small batch stay in cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.agents.policies.activations import INPLACE_ACTIVATIONS
from metarl.agents.policies.mlp import LOG_STD, MIN_LOG_STD, MLPPolicy
from metarl.agents.policies.parameters import Parameters

Outputs = dict[str, Tensor]
"""What a distribution over actions is made of: mean (M, E, H, A) and log_std (M, 1, 1, A), or logits (M, E, H, n)."""


@dataclass(frozen=True)
class Tangents:
    """What a push-forward of v leaves for second derivatives.

    Attributes:
        vector: v.
        units: derivative along v of each hidden layer's activations, (M, units, N).
    """

    vector: Parameters
    units: list[Tensor]


@dataclass(frozen=True)
class Curvature:
    """What a pull-back of u leaves for second derivatives.

    Attributes:
        deltas: derivative of u · outputs by each layer's weighted sums, (M, units, N).
        bends: change of each hidden layer's delta with its own activations: the derivative of u · outputs by these
            times tanh'' / tanh' = −2 tanh; None where it is 0.
    """

    deltas: list[Tensor]
    bends: list[Tensor | None]


class ForwardPass:
    """The network N at parameters θ of M tasks: N(θ), with J = ∂N/∂θ also J v, Jᵀ u and the derivative of Jᵀ u.

    Holds 2 · hidden units numbers for every observation. No method builds a graph.

    Source: Pearlmutter 1994, "Fast Exact Multiplication by the Hessian" (the R operator).

    Attributes:
        outputs: N(θ).

    Args:
        policy: the network.
        params: task-batched P, leaves (M, …).
        obs: (M, E, H, O).
    """

    def __init__(self, policy: MLPPolicy, params: Parameters, obs: Tensor) -> None:
        self._batch_shape = obs.shape[:-1]
        self._names = [(f"layer{layer}.weight", f"layer{layer}.bias") for layer in range(len(policy.sizes) - 1)]
        self._weights = [params[weight].mT for weight, _ in self._names]  # (M, out, in)
        assert policy.config.activation in ("tanh", "relu")  # each has its derivatives here
        self._curved = policy.config.activation == "tanh"
        activate_ = INPLACE_ACTIVATIONS[policy.config.activation]
        self._inputs = [self._as_rows(obs)]  # of each layer: the observations, then the hidden activations
        self._slopes = []  # of each hidden layer: derivative of the activations by the sums
        with torch.no_grad():
            for layer, (_, bias) in enumerate(self._names):
                sums = torch.baddbmm(params[bias].unsqueeze(-1), self._weights[layer], self._inputs[-1])
                if layer < len(self._names) - 1:
                    units = activate_(sums)
                    self._inputs.append(units)
                    self._slopes.append(units.square().neg_().add_(1) if self._curved else (units > 0).to(units.dtype))
            if policy.gaussian:
                log_std = params[LOG_STD]
                self._log_std_slope = (log_std >= MIN_LOG_STD).to(log_std.dtype)
                log_std = log_std.clamp(min=MIN_LOG_STD)[:, None, None]
                self.outputs: Outputs = {"mean": self._as_columns(sums), LOG_STD: log_std}
            else:
                self.outputs = {"logits": self._as_columns(sums)}
        self._output = next(iter(self.outputs))  # the one that the last layer gives

    @staticmethod
    def _as_rows(values: Tensor) -> Tensor:
        """(M, E, H, n) -> (M, n, N), a row for each unit: the products with few in- or outputs are fast that way."""
        return values.flatten(1, 2).mT.contiguous()

    def _as_columns(self, values: Tensor) -> Tensor:
        """Inverse of `_as_rows`."""
        return values.mT.reshape(*self._batch_shape, -1)

    def jvp(self, vector: Parameters) -> tuple[Outputs, Tangents]:
        """J v: the outputs' derivative along v.

        Args:
            vector: v, task-batched as θ.
        """
        tangents = Tangents(vector, [])
        with torch.no_grad():
            for layer, (weight, bias) in enumerate(self._names):
                sums = torch.baddbmm(vector[bias].unsqueeze(-1), vector[weight].mT, self._inputs[layer])
                if layer > 0:
                    sums.baddbmm_(self._weights[layer], tangents.units[-1])
                if layer < len(self._slopes):
                    tangents.units.append(sums.mul_(self._slopes[layer]))
            pushed = {self._output: self._as_columns(sums)}
            if LOG_STD in vector:
                pushed[LOG_STD] = (vector[LOG_STD] * self._log_std_slope)[:, None, None]
        return pushed, tangents

    def vjp(self, cotangent: Outputs) -> Parameters:
        """Jᵀ u: the gradient of u · outputs, for each task.

        Args:
            cotangent: u, shaped as the outputs.
        """
        return self._vjp(cotangent, None)

    def vjp_with_curvature(self, cotangent: Outputs) -> tuple[Parameters, Curvature]:
        """Jᵀ u, and what its derivative needs."""
        curvature = Curvature([], [])
        return self._vjp(cotangent, curvature), curvature

    def _vjp(self, cotangent: Outputs, curvature: Curvature | None) -> Parameters:
        gradient: Parameters = {}
        with torch.no_grad():
            delta = self._as_rows(cotangent[self._output])
            for layer in reversed(range(len(self._names))):
                weight, bias = self._names[layer]
                gradient[weight] = torch.bmm(delta, self._inputs[layer].mT).mT
                gradient[bias] = delta.sum(dim=-1)
                if curvature is not None:
                    curvature.deltas.insert(0, delta)
                if layer > 0:
                    by_units, slopes = torch.bmm(self._weights[layer].mT, delta), self._slopes[layer - 1]
                    if curvature is None:
                        delta = by_units.mul_(slopes)
                    else:
                        delta = by_units * slopes
                        bend = by_units.mul_(self._inputs[layer]).mul_(-2) if self._curved else None
                        curvature.bends.insert(0, bend)
            self._vjp_log_std(cotangent, gradient)
        return gradient

    def vjp_derivative(self, curvature: Curvature, tangents: Tangents, cotangent: Outputs) -> Parameters:
        """d/dε of J(θ + ε v)ᵀ (u + ε u̇) at ε = 0, for each task.

        Args:
            curvature: from `vjp_with_curvature(u)`.
            tangents: from `jvp(v)`.
            cotangent: u̇, shaped as the outputs.
        """
        gradient: Parameters = {}
        with torch.no_grad():
            delta = self._as_rows(cotangent[self._output])
            for layer in reversed(range(len(self._names))):
                weight, bias = self._names[layer]
                by_weight = torch.bmm(delta, self._inputs[layer].mT)
                gradient[bias] = delta.sum(dim=-1)
                if layer > 0:
                    units = tangents.units[layer - 1]
                    by_weight.baddbmm_(curvature.deltas[layer], units.mT)
                    delta = torch.bmm(self._weights[layer].mT, delta)
                    delta.baddbmm_(tangents.vector[weight], curvature.deltas[layer]).mul_(self._slopes[layer - 1])
                    bend = curvature.bends[layer - 1]
                    if bend is not None:
                        delta.addcmul_(bend, units)
                gradient[weight] = by_weight.mT
            self._vjp_log_std(cotangent, gradient)
        return gradient

    def _vjp_log_std(self, cotangent: Outputs, gradient: Parameters) -> None:
        if LOG_STD in cotangent:
            gradient[LOG_STD] = cotangent[LOG_STD][:, 0, 0] * self._log_std_slope
