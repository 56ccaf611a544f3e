"""Heads on top of a memory: multilayer perceptrons, with weights of their own or weights that a hypernetwork made."""

import torch
from torch import Tensor

from metarl.agents.policies.memory.cell import init_linear, linear
from metarl.agents.policies.parameters import Parameters


class Head:
    """A multilayer perceptron with tanh between its layers, from parameters by name or from generated numbers.

    Args:
        name: what its parameters' names begin with.
        sizes: of the layers, from its input to its output.
    """

    def __init__(self, name: str, sizes: tuple[int, ...]) -> None:
        self.name = name
        self.sizes = sizes

    def init(self, generator: torch.Generator, last_gain: float) -> Parameters:
        """Fresh parameters, the last layer's times a gain."""
        params: Parameters = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            params |= init_linear(f"{self.name}.layer{layer}", fan_in, fan_out, generator)
        params[f"{self.name}.layer{len(self.sizes) - 2}.weight"].mul_(last_gain)
        return params

    def apply(self, params: Parameters, inputs: Tensor) -> Tensor:
        """Outputs (*batch, outputs) for inputs (*batch, inputs)."""
        last = len(self.sizes) - 2
        for layer in range(last + 1):
            inputs = linear(inputs, params, f"{self.name}.layer{layer}")
            if layer < last:
                inputs = torch.tanh(inputs)
        return inputs

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
