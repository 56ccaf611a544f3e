"""Arithmetic on policy parameters."""

import pytest
import torch

from metarl.agents.gradients.objectives import as_leaves
from metarl.agents.policies.parameters import expand_to_tasks, flatten, map_parameters, unflatten_like

PARAMETERS = {"weight": torch.arange(6.0).reshape(2, 3), "scale": torch.tensor(7.0), "bias": torch.tensor([8.0, 9.0])}


def test_flatten_concatenates_leaves_in_order() -> None:
    assert flatten(PARAMETERS.values()).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_unflatten_inverts_flatten() -> None:
    restored = unflatten_like(flatten(PARAMETERS.values()), PARAMETERS)
    assert list(restored) == list(PARAMETERS)
    for name, leaf in PARAMETERS.items():
        assert restored[name].shape == leaf.shape
        assert torch.equal(restored[name], leaf)


def test_unflatten_rejects_a_vector_of_another_length() -> None:
    with pytest.raises(RuntimeError):
        unflatten_like(torch.zeros(8), PARAMETERS)


def test_flatten_passes_gradients_to_each_leaf() -> None:
    leaves = as_leaves(PARAMETERS)
    (flatten(leaves.values()) * torch.arange(9.0)).sum().backward()  # type: ignore[no-untyped-call]
    gradient = leaves["bias"].grad
    assert gradient is not None
    assert gradient.tolist() == [7, 8]


def test_expand_to_tasks_repeats_leaves_without_copying() -> None:
    expanded = expand_to_tasks(PARAMETERS, 4)
    for name, leaf in PARAMETERS.items():
        assert expanded[name].shape == (4, *leaf.shape)
        assert all(torch.equal(row, leaf) for row in expanded[name])
        assert expanded[name].data_ptr() == leaf.data_ptr()


def test_expand_to_tasks_sums_gradients_over_tasks() -> None:
    leaves = as_leaves(PARAMETERS)
    weights = torch.tensor([1.0, 2.0, 3.0])
    (expand_to_tasks(leaves, 3)["scale"] * weights).sum().backward()  # type: ignore[no-untyped-call]
    gradient = leaves["scale"].grad
    assert gradient is not None
    assert float(gradient) == 6


def test_map_parameters_goes_leaf_by_leaf_by_name() -> None:
    reordered = dict(reversed(PARAMETERS.items()))
    doubled = map_parameters(torch.add, PARAMETERS, reordered)
    assert list(doubled) == list(PARAMETERS)
    assert all(torch.equal(doubled[name], 2 * leaf) for name, leaf in PARAMETERS.items())
