"""The floating-point type of what a policy and an environment compute with: float32, whatever torch's default is.

Users set `torch.set_default_dtype`, a default device or a grad mode for code of their own; no number of this project
follows them.
"""

import contextlib
from collections.abc import Iterator

import torch

_dtype = torch.float32


def float_dtype() -> torch.dtype:
    """The type of parameters, tasks, observations and rewards."""
    return _dtype


def set_float_dtype(dtype: torch.dtype) -> None:
    """Compute in another type from now on: tests compare equations to many digits in float64."""
    global _dtype
    _dtype = dtype


@contextlib.contextmanager
def own_torch_settings() -> Iterator[None]:
    """Type, device and grad mode that this project's code is written for; afterwards the user's own are back.

    Every command and every function of the Python API computes inside of it, each as `with` or as a decorator.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        # Leaving inference mode turns gradients on; the grad mode is a setting of its own where there was none.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())

        # A device mode costs time at each call of torch, so that there is none where none is needed.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))

        torch.set_default_dtype(float_dtype())
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
