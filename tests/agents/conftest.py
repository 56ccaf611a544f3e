"""Fixtures of the learners' tests."""

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # tensors this small gain nothing from more, and test processes would fight over the cores


@pytest.fixture
def float64() -> Iterator[None]:
    """Computes in double precision, so that equations can be compared to many digits."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)
