"""The floating-point type of what a policy and an environment compute with: float32, whatever torch's default is.

Users set `torch.set_default_dtype` for code of their own; no number of this project follows it.
"""

import torch

_dtype = torch.float32


def float_dtype() -> torch.dtype:
    """The type of parameters, tasks, observations and rewards."""
    return _dtype


def set_float_dtype(dtype: torch.dtype) -> None:
    """Compute in another type from now on: tests compare equations to many digits in float64."""
    global _dtype
    _dtype = dtype
