"""What recurrent units have in common: parameters, the step of an actor, and the unrolling of whole trials."""

import math
from typing import Protocol

import torch
from torch import Tensor

from metarl.agents.policies.parameters import Parameters, Shapes
from metarl.envs.spaces.precision import float_dtype

State = tuple[Tensor, ...]
"""What a unit carries from step to step, (*batch, U) each; the first one is its output h."""


class Cell(Protocol):
    """A recurrent unit; its weights come as G blocks of U columns side by side, one for each gate.

    Attributes:
        name: what its parameters are called, and the flag that chooses it.
        num_gates: G.
        states: names of what it carries from step to step, its output first.
    """

    name: str
    num_gates: int
    states: tuple[str, ...]

    def step(self, inputs: Tensor, state: State, weight: Tensor, bias: Tensor) -> State:
        """One step.

        Args:
            inputs: what the inputs contribute to the gates, (*batch, G·U).
            state: (*batch, U) each.
            weight: from the memory to the gates, (U, G·U), or one for each task, (M, U, G·U).
            bias: (G·U,) or (M, G·U).
        """
        ...

    def unroll(self, inputs: Tensor, weight: Tensor, bias: Tensor, truncation: int) -> Tensor:
        """Outputs h (T, N, U) after each step, from zeros on.

        Args:
            inputs: what the inputs contribute to the gates, (T, N, G·U).
            weight: (U, G·U).
            bias: (G·U,).
            truncation: steps after which no gradient flows back through the memory; 0 = it flows through all.
        """
        ...

    def initial_bias(self, units: int, timescale: Tensor | None) -> Tensor:
        """Initial biases beside the memory's weights, (G·U,).

        Args:
            units: U.
            timescale: steps that each unit is to remember at first, (U,), at least 1; None: as is usual.
        """
        ...


def init_cell(
    cell: Cell,
    name: str,
    inputs: int,
    units: int,
    generator: torch.Generator,
    input_gain: float = 1.0,
    memory_steps: int = 0,
) -> Parameters:
    """Weights of the gates side by side: from the input Xavier-uniform, from the memory orthogonal.

    Args:
        cell: the unit.
        name: what its parameters' names begin with.
        inputs: I.
        units: U.
        generator: draws them.
        input_gain: factor on the weights from the input.
        memory_steps: the units remember between 1 and so many steps at first; 0 = as is usual. Source: Tallec &
            Ollivier 2018, "Can recurrent neural networks warp time?".
    """
    params = init_linear(f"{name}.input", inputs, cell.num_gates * units, generator)
    params[f"{name}.input.weight"].mul_(input_gain)
    recurrent = []
    for _ in range(cell.num_gates):
        normal = torch.randn((units, units), generator=generator, dtype=float_dtype(), device=generator.device)
        recurrent.append(torch.linalg.qr(normal)[0])

    timescale = None
    if memory_steps:
        uniform = torch.rand(units, generator=generator, dtype=float_dtype(), device=generator.device)
        timescale = 1 + (memory_steps - 1) * uniform
    bias = cell.initial_bias(units, timescale).to(generator.device, float_dtype())
    return params | {f"{name}.memory.weight": torch.cat(recurrent, dim=1), f"{name}.memory.bias": bias}


def cell_shapes(cell: Cell, name: str, inputs: int, units: int) -> Shapes:
    """Shapes of what `init_cell` makes."""
    gates = cell.num_gates * units
    memory = {f"{name}.memory.weight": (units, gates), f"{name}.memory.bias": (gates,)}
    return linear_shapes(f"{name}.input", inputs, gates) | memory


def step_cell(cell: Cell, name: str, params: Parameters, inputs: Tensor, state: State) -> State:
    """One step for inputs (*batch, I); with a task-batched P the first dimension of the batch is M."""
    gates = linear(inputs, params, f"{name}.input")
    return cell.step(gates, state, params[f"{name}.memory.weight"], params[f"{name}.memory.bias"])


def unroll_cell(cell: Cell, name: str, params: Parameters, inputs: Tensor, truncation: int) -> Tensor:
    """Outputs (N, T, U) after each step of inputs (N, T, I), from zeros on; P is shared."""
    # Time first, so that each step reads and writes one block of memory.
    gates = linear(inputs.transpose(0, 1), params, f"{name}.input")
    weight, bias = params[f"{name}.memory.weight"], params[f"{name}.memory.bias"]
    return cell.unroll(gates, weight, bias, truncation).transpose(0, 1)


def keeping(timescale: Tensor) -> Tensor:
    """Bias of a gate σ(b) = 1 − 1/τ, of which a memory of τ > 1 steps comes."""
    return (timescale - 1).clamp(min=1e-2).log()


def is_cut(time: int, truncation: int) -> bool:
    """Whether no gradient flows from step `time` to the one before it."""
    return time == 0 or (truncation > 0 and time % truncation == 0)


# ---------------------------------------------------------------------- linear layers


def linear_shapes(name: str, fan_in: int, fan_out: int) -> Shapes:
    """Shapes of what `init_linear` makes."""
    return {f"{name}.weight": (fan_in, fan_out), f"{name}.bias": (fan_out,)}


def init_linear(name: str, fan_in: int, fan_out: int, generator: torch.Generator) -> Parameters:
    """Xavier-uniform weights (in, out) and zero biases."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    uniform = torch.rand((fan_in, fan_out), generator=generator, dtype=float_dtype(), device=generator.device)
    bias = torch.zeros(fan_out, dtype=float_dtype(), device=generator.device)
    return {f"{name}.weight": bound * (2 * uniform - 1), f"{name}.bias": bias}


def linear(inputs: Tensor, params: Parameters, name: str) -> Tensor:
    """inputs (*batch, in) → (*batch, out); with a task-batched P the first dimension of the batch is M."""
    return affine(inputs, params[f"{name}.weight"], params[f"{name}.bias"])


def affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """inputs · weight + bias, for a weight (in, out), or one for each task, (M, in, out)."""
    if weight.ndim == 2:
        flat = torch.addmm(bias, inputs.reshape(-1, inputs.shape[-1]), weight)
    else:
        flat = torch.baddbmm(bias.unsqueeze(1), inputs.reshape(len(weight), -1, inputs.shape[-1]), weight)
    return flat.reshape(*inputs.shape[:-1], weight.shape[-1])
