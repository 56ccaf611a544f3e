"""The stand-in for a CUDA graph refuses what a CUDA graph cannot hold."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.captured_steps import recorded

VALUES = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
MASK = VALUES > 1
COUNTS = torch.tensor([1, 2])


def set_masked() -> None:
    VALUES.clone()[MASK] = 1


def set_by_mask() -> None:
    VALUES.clone()[MASK] = torch.zeros(2)


WAITING: dict[str, Callable[[], Any]] = {
    "mask": lambda: VALUES[MASK],
    "mask of rows": lambda: VALUES[COUNTS > 1],
    "set where masked": set_masked,
    "set by mask": set_by_mask,
    "masked_select": lambda: VALUES.masked_select(MASK),
    "nonzero": lambda: VALUES.nonzero(),
    "where": lambda: torch.where(MASK),
    "item": lambda: VALUES.sum().item(),
    "float": lambda: float(VALUES.sum()),
    "bool": lambda: bool(MASK.all()),
    "if": lambda: 1 if VALUES.sum() > 0 else 0,
    "equal": lambda: torch.equal(VALUES, VALUES),
    "allclose": lambda: torch.allclose(VALUES, VALUES),
    "unique": lambda: VALUES.unique(),  # type: ignore[no-untyped-call]
    "unique of rows": lambda: VALUES.unique(dim=0),  # type: ignore[no-untyped-call]
    "unique_consecutive": lambda: VALUES.flatten().unique_consecutive(),  # type: ignore[no-untyped-call]
    "repeat_interleave": lambda: VALUES.repeat_interleave(COUNTS, dim=0),
    "bincount": lambda: COUNTS.bincount(),
    "cholesky": lambda: torch.linalg.cholesky(VALUES),
    "solve": lambda: torch.linalg.solve(VALUES, VALUES),
    "inverse": lambda: torch.linalg.inv(VALUES),
    "tolist": lambda: VALUES.tolist(),
    "numpy": lambda: VALUES.numpy(),
    "array": lambda: np.asarray(VALUES),
    "cpu": lambda: VALUES.cpu(),
    "tensor": lambda: torch.tensor([1.0, 2.0]),
    "as_tensor": lambda: torch.as_tensor([1.0, 2.0]),
    "from_numpy": lambda: torch.from_numpy(np.ones(2)),
}
"""What makes the host wait for a GPU, or moves numbers between the two."""

STAYING: dict[str, Callable[[], Any]] = {
    "index": lambda: VALUES[COUNTS - 1],
    "where of values": lambda: torch.where(MASK, VALUES, 0.0),
    "masked_fill": lambda: VALUES.masked_fill(MASK, 1.0),
    "repeat_interleave by a number": lambda: VALUES.repeat_interleave(2, dim=0),
    "cholesky_ex": lambda: torch.linalg.cholesky_ex(VALUES),
    "as_tensor of a tensor": lambda: torch.as_tensor(VALUES, dtype=torch.float64),
    "full": lambda: torch.full((2,), 3.0),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_for_the_device_cannot_be_captured(name: str) -> None:
    def once_warm() -> None:
        WAITING[name]()

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        recorded(once_warm, torch.Generator())
    once_warm()  # as before, outside of a capture


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_on_the_device_can_be_captured(name: str) -> None:
    def step() -> None:
        STAYING[name]()

    recorded(step, torch.Generator())()
