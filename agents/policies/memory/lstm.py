"""Long short-term memory: one step, and whole sequences with their derivatives written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metarl.agents.policies.activations import tanh, tanh_
from metarl.agents.policies.memory.cell import State, affine, is_cut, keeping


class LSTM:
    """Long short-term memory, with its gates in the order i, f, g, o.

        i, f, o = σ(x + h W + b),   g = tanh(x_g + h W_g + b_g),   c ← f ∘ c + i ∘ g,   h ← o ∘ tanh(c)

    Source: Hochreiter & Schmidhuber 1997; forget gates that begin open (a bias of 1) as Jozefowicz et al. 2015.
    """

    name = "lstm"
    num_gates = 4
    states: tuple[str, ...] = ("hidden", "cell")

    def step(self, inputs: Tensor, state: State, weight: Tensor, bias: Tensor) -> State:
        """See Cell.step."""
        hidden, cell = state
        own = inputs + affine(hidden, weight, bias)

        enter, keep, new, leave = own.chunk(4, dim=-1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * tanh(new)
        return torch.sigmoid(leave) * tanh(cell), cell

    def unroll(self, inputs: Tensor, weight: Tensor, bias: Tensor, truncation: int) -> Tensor:
        """See Cell.unroll."""
        hidden: Tensor = _Unroll.apply(inputs, weight, bias, truncation)  # type: ignore[no-untyped-call]
        return hidden

    def initial_bias(self, units: int, timescale: Tensor | None) -> Tensor:
        """See Cell.initial_bias: f = 1 − 1/τ and i = 1/τ where a unit is to remember τ steps."""
        bias = torch.zeros(4 * units)
        keep = torch.ones(units) if timescale is None else keeping(timescale)
        bias[units : 2 * units] = keep
        if timescale is not None:
            bias[:units] = -keep
        return bias


class _Unroll(torch.autograd.Function):
    """An LSTM over (T, N, 4U) and its derivative; see the GRU's for why it is written out."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, truncation: int) -> Tensor:
        units = len(weight)
        steps, batch, _ = inputs.shape
        gates = inputs + bias
        cell = inputs.new_zeros((steps + 1, batch, units))
        squashed = inputs.new_empty((steps, batch, units))  # tanh(c)
        hidden = inputs.new_zeros((steps + 1, batch, units))

        for time in range(steps):
            gates[time].addmm_(hidden[time], weight)
            enter, keep, new, leave = gates[time].chunk(4, dim=-1)
            gates[time, :, : 2 * units].sigmoid_()
            tanh_(new)
            leave.sigmoid_()
            torch.mul(keep, cell[time], out=cell[time + 1]).addcmul_(enter, new)
            tanh_(squashed[time].copy_(cell[time + 1]))
            torch.mul(leave, squashed[time], out=hidden[time + 1])

        ctx.truncation = truncation
        ctx.save_for_backward(weight, gates, cell, squashed, hidden)
        return hidden[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        weight, gates, cell, squashed, hidden = ctx.saved_tensors
        units = len(weight)
        enter, keep, new, leave = gates.chunk(4, dim=-1)

        # What δc, or δh for the output gate, is multiplied by to give the δ of each gate before its nonlinearity.
        of_cell = gates.new_empty((*squashed.shape[:2], 3, units))
        of_cell[:, :, 0] = new * enter * (1 - enter)
        of_cell[:, :, 1] = cell[:-1] * keep * (1 - keep)
        of_cell[:, :, 2] = enter * (1 - new.square())
        of_leave = squashed * leave * (1 - leave)
        to_cell = leave * (1 - squashed.square())

        delta = gradient.clone()  # δh, once what comes later has been added
        delta_cell = torch.zeros_like(delta)
        before = gates.new_empty((*squashed.shape[:2], 4, units))  # δ of the gates before their nonlinearities
        transposed = weight.T.contiguous()
        for time in reversed(range(len(delta))):
            delta_cell[time].addcmul_(delta[time], to_cell[time])
            torch.mul(delta_cell[time].unsqueeze(1), of_cell[time], out=before[time, :, :3])
            torch.mul(delta[time], of_leave[time], out=before[time, :, 3])
            if not is_cut(time, ctx.truncation):
                torch.mul(delta_cell[time], keep[time], out=delta_cell[time - 1])
                delta[time - 1].addmm_(before[time].flatten(1), transposed)

        flat = before.flatten(0, 1).flatten(1)
        of_weight = hidden[:-1].flatten(0, 1).T @ flat
        return before.flatten(2), of_weight, flat.sum(dim=0), None
