"""A gated recurrent unit: one step, and whole sequences with their derivatives written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metarl.agents.policies.activations import tanh, tanh_
from metarl.agents.policies.memory.cell import State, affine, is_cut, keeping


class GRU:
    """Gated recurrent unit, with its gates in the order r, z, n.

        r, z = σ(x + h W + b),   n = tanh(x_n + r ∘ (h W_n + b_n)),   h ← (1 − z) ∘ n + z ∘ h

    Source: Cho et al. 2014; the reset after the product, as in torch.nn.GRU.
    """

    name = "gru"
    num_gates = 3
    states: tuple[str, ...] = ("hidden",)

    def step(self, inputs: Tensor, state: State, weight: Tensor, bias: Tensor) -> State:
        """See Cell.step."""
        (hidden,) = state
        units = hidden.shape[-1]
        own = affine(hidden, weight, bias)

        gates = (inputs[..., : 2 * units] + own[..., : 2 * units]).sigmoid_()
        reset, update = gates.chunk(2, dim=-1)
        candidate = torch.addcmul(inputs[..., 2 * units :], reset, own[..., 2 * units :])
        candidate = tanh(candidate) if torch.is_grad_enabled() else tanh_(candidate)
        return (torch.lerp(candidate, hidden, update),)

    def unroll(self, inputs: Tensor, weight: Tensor, bias: Tensor, truncation: int) -> Tensor:
        """See Cell.unroll."""
        hidden: Tensor = _Unroll.apply(inputs, weight, bias, truncation)  # type: ignore[no-untyped-call]
        return hidden

    def initial_bias(self, units: int, timescale: Tensor | None) -> Tensor:
        """See Cell.initial_bias: z = 1 − 1/τ where a unit is to remember τ steps; otherwise zeros."""
        bias = torch.zeros(3 * units)
        if timescale is not None:
            bias[units : 2 * units] = keeping(timescale)
        return bias


class _Unroll(torch.autograd.Function):
    """A GRU over (T, N, 3U) and its derivative.

    Autograd would keep a dozen small operations of each step, and multiply the weights' gradient step by step. Here
    one operation scales δh by what is known of all gates, and the weights' gradient is one product over all steps.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, truncation: int) -> Tensor:
        units = len(weight)
        steps, batch, width = inputs.shape
        gates = inputs[..., : 2 * units].clone()  # r and z, in place of what leads to them
        candidate = inputs[..., 2 * units :].clone()
        own = inputs.new_empty((steps, batch, width))
        hidden = inputs.new_zeros((steps + 1, batch, units))

        for time in range(steps):
            torch.addmm(bias, hidden[time], weight, out=own[time])
            gates[time].add_(own[time, :, : 2 * units]).sigmoid_()
            reset, update = gates[time, :, :units], gates[time, :, units:]
            tanh_(candidate[time].addcmul_(reset, own[time, :, 2 * units :]))
            torch.lerp(candidate[time], hidden[time], update, out=hidden[time + 1])

        ctx.truncation = truncation
        ctx.save_for_backward(weight, gates, candidate, own[..., 2 * units :], hidden)
        return hidden[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        weight, gates, candidate, own, hidden = ctx.saved_tensors
        units = len(weight)
        reset, update = gates[..., :units], gates[..., units:]

        # What δh is multiplied by to give the δ of each gate before its nonlinearity.
        before_tanh = (1 - update) * (1 - candidate.square())
        factor = gates.new_empty((*candidate.shape[:2], 3, units))
        factor[:, :, 0] = before_tanh * own * reset * (1 - reset)
        factor[:, :, 1] = (hidden[:-1] - candidate) * update * (1 - update)
        factor[:, :, 2] = before_tanh * reset

        delta = gradient.clone()  # δh, once what comes later has been added
        through_own = torch.empty_like(factor)  # δ of h W + b
        transposed = weight.T.contiguous()
        for time in reversed(range(len(delta))):
            torch.mul(delta[time].unsqueeze(1), factor[time], out=through_own[time])
            if not is_cut(time, ctx.truncation):
                delta[time - 1].addcmul_(delta[time], update[time])
                delta[time - 1].addmm_(through_own[time].flatten(1), transposed)

        flat = through_own.flatten(0, 1).flatten(1)
        of_weight = hidden[:-1].flatten(0, 1).T @ flat
        of_bias = flat.sum(dim=0)
        of_inputs = through_own.flatten(2)
        of_inputs[..., 2 * units :] = delta * before_tanh
        return of_inputs, of_weight, of_bias, None
