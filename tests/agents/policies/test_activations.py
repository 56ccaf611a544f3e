"""Activation functions against torch's own."""

import pytest
import torch

from metarl.agents.policies.activations import ACTIVATIONS, INPLACE_ACTIVATIONS, tanh


def test_tanh_equals_that_of_torch_from_end_to_end_of_the_numbers() -> None:
    x = torch.cat([torch.linspace(-20, 20, 100_001), torch.tensor([1e30, -1e30, torch.inf, -torch.inf, 0.0])])
    torch.testing.assert_close(tanh(x), torch.tanh(x.double()).float(), rtol=0, atol=2e-7)
    assert tanh(x)[-5:].tolist() == [1, -1, 1, -1, 0]
    assert tanh(torch.tensor(torch.nan)).isnan()


def test_the_slope_of_tanh_is_that_of_torch() -> None:
    x = torch.linspace(-10, 10, 10_001, requires_grad=True)
    (slope,) = torch.autograd.grad(tanh(x).sum(), x)
    torch.testing.assert_close(slope, 1 - torch.tanh(x.detach()).square(), rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_in_place_gives_the_same_bits(name: str) -> None:
    x = torch.linspace(-10, 10, 10_001)
    expected = ACTIVATIONS[name](x)
    assert x[0] == -10
    INPLACE_ACTIVATIONS[name](x)
    assert torch.equal(x, expected)
