"""Recurrent units: torch's own, with the same weights, in value and derivative."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.agents.policies.memory.cell import Cell, init_cell
from metarl.agents.policies.memory.gru import GRU
from metarl.agents.policies.memory.lstm import LSTM
from tests.helpers.agent_builders import seeded

CELLS: dict[str, tuple[Cell, Any]] = {"gru": (GRU(), torch.nn.GRU), "lstm": (LSTM(), torch.nn.LSTM)}
STEPS, BATCH, UNITS = 7, 5, 4


def drawn(cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    """What comes from the inputs, (T, N, G·U), and the memory's weights and biases, in double precision."""
    width = cell.num_gates * UNITS
    shapes = ((STEPS, BATCH, width), (UNITS, width), (width,))
    return tuple(torch.randn(shape, generator=seeded(3), dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def of_torch(name: str, weight: Tensor, bias: Tensor) -> Any:
    """Torch's module, whose inputs are those of the gates themselves."""
    width = len(bias)
    module = CELLS[name][1](width, UNITS).double()
    module.weight_ih_l0.data = torch.eye(width, dtype=torch.float64)
    module.bias_ih_l0.data.zero_()
    module.weight_hh_l0.data = weight.T.clone()
    module.bias_hh_l0.data = bias.clone()
    return module


@pytest.mark.parametrize("name", CELLS)
def test_values_and_derivatives_are_those_of_torch(name: str) -> None:
    cell, _ = CELLS[name]
    inputs, weight, bias = drawn(cell)
    module = of_torch(name, weight, bias)
    expected = module(inputs.requires_grad_())[0]
    factor = torch.randn(expected.shape, generator=seeded(4), dtype=torch.float64)
    reference = torch.autograd.grad((factor * expected).sum(), [inputs, module.weight_hh_l0, module.bias_hh_l0])

    leaves = [leaf.detach().requires_grad_() for leaf in (inputs, weight, bias)]
    ours = cell.unroll(leaves[0], leaves[1], leaves[2], truncation=0)
    torch.testing.assert_close(ours, expected)
    gradient = torch.autograd.grad((factor * ours).sum(), leaves)
    for own, other in zip(gradient, (reference[0], reference[1].T, reference[2]), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("name", CELLS)
def test_a_truncated_derivative_is_that_of_steps_between_which_the_memory_is_detached(name: str) -> None:
    cell, _ = CELLS[name]
    leaves = [leaf.requires_grad_() for leaf in drawn(cell)]
    state = tuple(torch.zeros(BATCH, UNITS, dtype=torch.float64) for _ in cell.states)
    outputs = []
    for time in range(STEPS):
        if time % 3 == 0:
            state = tuple(leaf.detach() for leaf in state)
        state = cell.step(leaves[0][time], state, leaves[1], leaves[2])
        outputs.append(state[0])
    expected = torch.stack(outputs)
    reference = torch.autograd.grad(expected.square().sum(), leaves)

    ours = cell.unroll(leaves[0], leaves[1], leaves[2], truncation=3)
    torch.testing.assert_close(ours, expected)
    for own, other in zip(torch.autograd.grad(ours.square().sum(), leaves), reference, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("name", CELLS)
def test_units_remember_as_long_as_they_are_told_at_first(name: str) -> None:
    """With nothing coming in, what is remembered falls by a factor of about 1 − 1/τ a step."""
    cell, _ = CELLS[name]
    params = init_cell(cell, "x", 2, 200, seeded(0), memory_steps=50)
    bias, nothing = params["x.memory.bias"], torch.zeros(200, cell.num_gates * 200)
    state = tuple(torch.full((1, 200), 1e-3) for _ in cell.states)
    kept = cell.step(torch.zeros(1, len(bias)), state, nothing, bias)[-1] / 1e-3
    timescale = 1 / (1 - kept.clamp(max=0.9999))
    assert 1 <= float(timescale.min()) < 3
    assert 45 < float(timescale.max()) < 51
    assert 20 < float(timescale.mean()) < 31
