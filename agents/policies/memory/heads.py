"""Heads on top of a memory: multilayer perceptrons, with weights of their own or weights that a hypernetwork made."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metarl.agents.policies.activations import tanh
from metarl.agents.policies.memory.cell import init_linear, linear, linear_shapes
from metarl.agents.policies.parameters import Parameters, Shapes


class Head:
    """A multilayer perceptron with tanh between its layers, from parameters by name or from generated numbers.

    Args:
        name: what its parameters' names begin with.
        sizes: of the layers, from its input to its output.
    """

    def __init__(self, name: str, sizes: tuple[int, ...]) -> None:
        self.name = name
        self.sizes = sizes

    @property
    def shapes(self) -> Shapes:
        """Shapes of what `init` makes."""
        shapes: Shapes = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            shapes |= linear_shapes(f"{self.name}.layer{layer}", fan_in, fan_out)
        return shapes

    def init(self, generator: torch.Generator, last_gain: float) -> Parameters:
        """Fresh parameters, the last layer's times a gain."""
        params: Parameters = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            params |= init_linear(f"{self.name}.layer{layer}", fan_in, fan_out, generator)
        params[f"{self.name}.layer{len(self.sizes) - 2}.weight"].mul_(last_gain)
        return params

    def apply(self, params: Parameters, inputs: Tensor) -> Tensor:
        """Outputs (*batch, outputs) for inputs (*batch, inputs)."""
        outputs = linear(inputs, params, f"{self.name}.layer0")
        return outputs if len(self.sizes) == 2 else self.after_first(params, tanh(outputs))

    def after_first(self, params: Parameters, hidden: Tensor) -> Tensor:
        """Outputs (*batch, outputs) for what the first hidden layer puts out."""
        last = len(self.sizes) - 2
        for layer in range(1, last + 1):
            hidden = linear(hidden, params, f"{self.name}.layer{layer}")
            if layer < last:
                hidden = tanh(hidden)
        return hidden

    def apply_generated(self, generated: Tensor, inputs: Tensor) -> Tensor:
        """The same with weights of its own for each input, generated (*batch, weights and biases in their order)."""
        start = 0
        last = len(self.sizes) - 2
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            numbers = generated[..., start : start + fan_in * fan_out]
            weight = numbers.reshape(*numbers.shape[:-1], fan_in, fan_out)
            start += fan_in * fan_out
            bias = generated[..., start : start + fan_out]
            start += fan_out

            inputs = (inputs.unsqueeze(-2) @ weight).squeeze(-2) + bias
            if layer < last:
                inputs = torch.tanh(inputs)
        return inputs


def behind_hypernetwork(name: str, head: Parameters, embedding_size: int) -> Parameters:
    """A linear layer that puts out a head's initial parameters, whatever goes in."""
    bias = torch.cat([leaf.reshape(-1) for leaf in head.values()])
    weight = bias.new_zeros((embedding_size, len(bias)))
    return {f"{name}.hypernetwork.weight": weight, f"{name}.hypernetwork.bias": bias}


def hypernetwork_shapes(name: str, head: Shapes, embedding_size: int) -> Shapes:
    """Shapes of what `behind_hypernetwork` makes."""
    numbers = sum(math.prod(shape) for shape in head.values())
    return linear_shapes(f"{name}.hypernetwork", embedding_size, numbers)


BLOCK = 1000
"""Steps whose hidden units are computed at once, so that they stay near the core."""


def hidden_of_columns(recalled: Tensor, common: Tensor, own: Tensor, of_common: Tensor, of_which: Tensor) -> Tensor:
    """tanh of a layer over [what is recalled of a column, what all have in common, which column], (L, A, H).

    One function for autograd, differentiated once.

    Args:
        recalled: (L, A, V).
        common: (L, C).
        own: weights of what is recalled, (V, H).
        of_common: weights of what is common, (C, H).
        of_which: weights of each column, and the bias, (A, H).
    """
    hidden: Tensor = _HiddenOfColumns.apply(recalled, common, own, of_common, of_which)  # type: ignore[no-untyped-call]
    return hidden


class _HiddenOfColumns(torch.autograd.Function):
    """See `hidden_of_columns`; what is common is multiplied once for all columns."""

    @staticmethod
    def forward(ctx: Any, recalled: Tensor, common: Tensor, own: Tensor, of_common: Tensor, of_which: Tensor) -> Tensor:
        length, columns, units = *recalled.shape[:2], own.shape[1]
        hidden = recalled.new_empty((length, columns, units))
        # tanh(x) = 2 σ(2x) − 1.
        own2, of_common2, of_which2 = 2 * own, 2 * of_common, 2 * of_which
        minus_one = recalled.new_full((), -1.0)

        for start in range(0, length, BLOCK):
            block = slice(start, start + BLOCK)
            here = hidden[block]
            torch.add((common[block] @ of_common2).unsqueeze(1), of_which2, out=here)
            here.view(-1, units).addmm_(recalled[block].reshape(-1, recalled.shape[-1]), own2).sigmoid_()
            torch.add(minus_one, here, alpha=2, out=here)

        ctx.save_for_backward(recalled, common, own, of_common, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        recalled, common, own, of_common, hidden = ctx.saved_tensors
        before = torch.ops.aten.tanh_backward(gradient.contiguous(), hidden)
        of_all = before.sum(dim=1)
        flat = before.flatten(0, 1)
        of_own = recalled.reshape(-1, recalled.shape[-1]).T @ flat
        of_recalled = (flat @ own.T).view(recalled.shape)
        return of_recalled, of_all @ of_common.T, of_own, common.T @ of_all, before.sum(dim=0)
