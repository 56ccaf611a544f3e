"""A device without numbers: operations on it have shapes and places only, as PyTorch's fake tensors have them.

What would fail on a GPU for reasons of place fails here: an operation on tensors of two devices. What would make the
host wait for the GPU, or move numbers to it, is counted.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
ANSWERS = {"_local_scalar_dense", "is_nonzero", "equal"}  # operations that give the host a number


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)


class PretendedGenerator(torch.Generator):
    """Says that it lies on the device; nobody draws from it."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The pretended one."""
        return torch.device(NAME, 0)


class Traffic(TorchDispatchMode):
    """Answers the host's questions, with True or 0.5, and counts what passes between host and device.

    Attributes:
        questions: how often the host asked for a number, by operation.
        moves: how often numbers went to the device, by operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.questions: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        name = func.overloadpacket.__name__
        if name in ANSWERS:
            self.questions[name] += 1
            return 0.5 if args[0].is_floating_point() else True
        result = func(*args, **(kwargs or {}))
        taken, given = (self._devices(values) for values in ((args, kwargs), result))
        if "cpu" in taken and NAME in given:
            self.moves[name] += 1
        return result

    @staticmethod
    def _devices(values: Any) -> set[str]:
        tensors = (value for value in pytree.tree_leaves(values) if isinstance(value, torch.Tensor))
        return {tensor.device.type for tensor in tensors if tensor.ndim > 0}


@contextlib.contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """Tensors of one's own making lie on the device where it is named; the others on the CPU, fake as well."""
    _register()
    traffic = Traffic()

    def placed(make: Any) -> Any:
        """A constructor from Python or NumPy values, which have no way to a device that exists in Python only."""

        def construct(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
            made: torch.Tensor = make(data, **options)
            if torch.device(device or "cpu").type != NAME:
                return made
            traffic.moves[make.__name__] += 1
            return torch.zeros(made.shape, dtype=made.dtype, device=device)

        return construct

    for constructor in (torch.tensor, torch.as_tensor):
        monkeypatch.setattr(torch, constructor.__name__, placed(constructor))
    with FakeTensorMode(), traffic:
        yield traffic
    monkeypatch.undo()
