"""A policy's network on one batch, and its derivatives with respect to the parameters, written out layer by layer.

Autograd would give the same numbers. Written out, every product needs only what it uses, nothing is recorded, a
linearisation is made once and serves any number of products, and activations of a small batch stay in cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.agents.policies.activations import INPLACE_ACTIVATIONS
from metarl.agents.policies.distributions import LOG_STD, MIN_LOG_STD
from metarl.agents.policies.log_prob import Outputs
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, map_parameters


@dataclass(frozen=True)
class Tangents:
    """What `ForwardPass.jvp` along v computes on its way; `ForwardPass.hvp` needs it.

    Attributes:
        vector: v.
        activations: derivative along v of each hidden layer's activations, (M, units, N).
    """

    vector: Parameters
    activations: list[Tensor]


@dataclass(frozen=True)
class BackwardPass:
    """What `ForwardPass.backward` of u computes on its way; `ForwardPass.hvp` needs it.

    Attributes:
        deltas: derivative of u · outputs by each layer's weighted sums z, (M, units, N).
        curvatures: of each hidden layer, the derivative of u · outputs by its activations f(z), times tanh(z). As
            f″/f′ is −2 tanh(z), −2 of it is how the layer's delta changes with its activations; None where f″ is 0.
    """

    deltas: list[Tensor]
    curvatures: list[Tensor | None]


class ForwardPass:
    """The network N at parameters θ of M tasks, with products of its Jacobian J = ∂N/∂θ.

    For each layer, with x the layer's inputs, z its weighted sums and f the activation:

        forward:   z = W x + b,    next x = f(z)
        jvp:       ż = Ẇ x + ḃ + W ẋ,    next ẋ = f′(z) ż
        vjp:       ∂W = δ xᵀ,    ∂b = δ,    previous δ = Wᵀ δ · f′(z)
        hvp:       the derivative of the vjp's lines along a direction

    Holds 2 · hidden units numbers for every observation: f(z) and, once it is asked for, f′(z). No method builds a
    graph.

    Source: Pearlmutter 1994, "Fast Exact Multiplication by the Hessian" (the R operator).

    Attributes:
        outputs: N(θ).

    Args:
        policy: the network.
        params: task-batched P, leaves (M, …).
        obs: (M, E, H, O); below, N = E · H.
    """

    def __init__(self, policy: MLPPolicy, params: Parameters, obs: Tensor) -> None:
        assert policy.written_out and policy.config.activation in ("tanh", "relu")  # these have derivatives here
        self._activation = INPLACE_ACTIVATIONS[policy.config.activation]
        self._curved = policy.config.activation == "tanh"

        self._batch_shape = obs.shape[:-1]
        self._names = [(f"layer{layer}.weight", f"layer{layer}.bias") for layer in range(len(policy.sizes) - 1)]
        self._weights = [params[weight].mT for weight, _ in self._names]  # (M, out, in)
        # Of each layer: the observations, then the hidden activations.
        self._inputs = [self._as_rows(policy.observations(obs))]

        with torch.no_grad():
            last_sums = self._as_columns(self._forward(params))
            self.outputs: Outputs = {"mean": last_sums} if policy.gaussian else {"logits": last_sums}
            self._output = next(iter(self.outputs))  # the one that the last layer gives

            if policy.gaussian:
                log_std = params[LOG_STD]
                self._log_std_derivative = (log_std >= MIN_LOG_STD).to(log_std.dtype)
                self.outputs[LOG_STD] = log_std.clamp(min=MIN_LOG_STD)[:, None, None]

    def _forward(self, params: Parameters) -> Tensor:
        """The last layer's sums, (M, outputs, N); keeps each layer's inputs."""
        last = len(self._names) - 1
        for layer, (_, bias) in enumerate(self._names):
            weight, offset = self._weights[layer], params[bias].unsqueeze(-1)
            if layer == last:
                return torch.baddbmm(offset, weight, self._inputs[-1])

            # A factor on the weights is one on the sums, and there are fewer of them.
            factor = self._activation.factor(weight)
            if factor != 1:
                weight, offset = weight * factor, offset * factor
            sums = torch.baddbmm(offset, weight, self._inputs[-1])
            self._inputs.append(self._activation.of_multiple_(sums))
        raise AssertionError("a network has a last layer")

    def _through_activation(self, values: Tensor, layer: int, out: Tensor | None = None) -> Tensor:
        """f′(z) · values of a hidden layer, from f(z): 1 − tanh², or 1 where relu lets through.

        In one operation, so that f′(z) is nowhere kept.
        """
        activations = self._inputs[layer + 1]
        operation = torch.ops.aten.tanh_backward if self._curved else torch.ops.aten.threshold_backward
        threshold = () if self._curved else (0,)

        if out is None:
            result: Tensor = operation(values, activations, *threshold)
        else:
            result = operation.grad_input(values, activations, *threshold, grad_input=out)
        return result

    @staticmethod
    def _as_rows(values: Tensor) -> Tensor:
        """(M, E, H, n) -> (M, n, N), a row for each unit: the products with few in- or outputs are fast that way."""
        return values.movedim(-1, 1).flatten(2).contiguous()

    def _as_columns(self, values: Tensor) -> Tensor:
        """Inverse of `_as_rows`, as a view."""
        return values.reshape(*values.shape[:2], *self._batch_shape[1:]).movedim(1, -1)

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
                    sums.baddbmm_(self._weights[layer], tangents.activations[-1])
                if layer < len(self._names) - 1:
                    tangents.activations.append(self._through_activation(sums, layer, out=sums))

            tangent = {self._output: self._as_columns(sums)}
            if LOG_STD in vector:
                tangent[LOG_STD] = (vector[LOG_STD] * self._log_std_derivative)[:, None, None]
        return tangent, tangents

    def vjp(self, cotangent: Outputs) -> Parameters:
        """Jᵀ u: the gradient of u · outputs, for each task.

        Args:
            cotangent: u, shaped as the outputs.
        """
        return self._vjp(cotangent, None)

    def backward(self, cotangent: Outputs) -> tuple[Parameters, BackwardPass]:
        """Jᵀ u, and what `hvp` needs of the way there."""
        backward_pass = BackwardPass([], [])
        return self._vjp(cotangent, backward_pass), backward_pass

    def _vjp(self, cotangent: Outputs, kept: BackwardPass | None) -> Parameters:
        gradient: Parameters = {}
        with torch.no_grad():
            delta = self._as_rows(cotangent[self._output])
            for layer in reversed(range(len(self._names))):
                weight, bias = self._names[layer]
                gradient[weight] = torch.bmm(delta, self._inputs[layer].mT).mT
                gradient[bias] = delta.sum(dim=-1)
                if kept is not None:
                    kept.deltas.insert(0, delta)
                if layer == 0:
                    break

                by_activations = torch.bmm(self._weights[layer].mT, delta)
                if kept is None:
                    delta = self._through_activation(by_activations, layer - 1, out=by_activations)
                else:
                    delta = self._through_activation(by_activations, layer - 1)
                    curvature = by_activations.mul_(self._inputs[layer]) if self._curved else None
                    kept.curvatures.insert(0, curvature)

            self._vjp_log_std(cotangent, gradient)
        return gradient

    def hvp(self, backward_pass: BackwardPass, tangents: Tangents, cotangent: Outputs) -> Parameters:
        """d/dε of J(θ + ε v)ᵀ (u + ε u̇) at ε = 0, for each task.

        With u = ∇L and u̇ = ∇²L J v of a function L of the outputs, this is the Hessian of L(N(θ)) times v.

        Args:
            backward_pass: from `backward(u)`.
            tangents: from `jvp(v)`.
            cotangent: u̇, shaped as the outputs.
        """
        gradient: Parameters = {}
        with torch.no_grad():
            delta = self._as_rows(cotangent[self._output])  # here: the change of the backward pass's deltas
            for layer in reversed(range(len(self._names))):
                weight, bias = self._names[layer]
                by_weight = torch.bmm(delta, self._inputs[layer].mT)
                gradient[weight] = by_weight.mT
                gradient[bias] = delta.sum(dim=-1)
                if layer == 0:
                    break

                tangent = tangents.activations[layer - 1]
                by_weight.baddbmm_(backward_pass.deltas[layer], tangent.mT)

                # The change of Wᵀ δ · f′(z): of δ, of W, and of f′.
                delta = torch.bmm(self._weights[layer].mT, delta)
                delta.baddbmm_(tangents.vector[weight], backward_pass.deltas[layer])
                self._through_activation(delta, layer - 1, out=delta)
                curvature = backward_pass.curvatures[layer - 1]
                if curvature is not None:
                    delta.addcmul_(curvature, tangent, value=-2)

            self._vjp_log_std(cotangent, gradient)
        return gradient

    def _vjp_log_std(self, cotangent: Outputs, gradient: Parameters) -> None:
        if LOG_STD in cotangent:
            gradient[LOG_STD] = cotangent[LOG_STD][:, 0, 0] * self._log_std_derivative


class AutogradPass:
    """Any policy's network at parameters θ of M tasks, with first derivatives by autograd.

    Attributes:
        outputs: N(θ).

    Args:
        policy: the network.
        params: task-batched P, leaves (M, …).
        obs: (M, E, H, O).
    """

    def __init__(self, policy: MLPPolicy, params: Parameters, obs: Tensor) -> None:
        self._params = map_parameters(lambda leaf: leaf.detach().requires_grad_(), params)
        with torch.enable_grad():
            distribution, _ = policy.apply(self._params, obs)
            self._outputs = distribution.parameters()
        self.outputs: Outputs = map_parameters(torch.Tensor.detach, self._outputs)

    def vjp(self, cotangent: Outputs) -> Parameters:
        """Jᵀ u: the gradient of u · outputs, for each task.

        Args:
            cotangent: u, shaped as the outputs.
        """
        gradients = torch.autograd.grad(
            list(self._outputs.values()),
            list(self._params.values()),
            [cotangent[name] for name in self._outputs],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(self._params, gradients, strict=True))


def network_at(policy: MLPPolicy, params: Parameters, obs: Tensor) -> ForwardPass | AutogradPass:
    """The network at parameters of M tasks: with derivatives that are written out where there are such."""
    return ForwardPass(policy, params, obs) if policy.written_out else AutogradPass(policy, params, obs)
