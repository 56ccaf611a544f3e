"""A CUDA graph for machines without a GPU: the operations of a function, run again without the function."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metarl.envs.graphs.capture import recording

WAITS_FOR_THE_DEVICE = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
"""Operations that need a number on the host: what they return, or how large it is."""

BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that count what a mask selects, where one is given for an index."""

MOVES_TO_THE_HOST = ("tolist", "numpy", "cpu")
"""Methods of tensors that are no operation on a CPU, and wait for a GPU."""

MOVES_TO_THE_DEVICE = ("tensor", "as_tensor", "from_numpy")
"""Functions that take what the host has computed."""

REFUSED = "operation not permitted when stream is capturing"


def _waits(name: str, args: Any) -> bool:
    """Whether a GPU's operation makes the host wait."""
    if name in BY_INDEX:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return name in WAITS_FOR_THE_DEVICE


def _refusing(name: str, allowed: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """What raises in place of a function; or calls one, where it is given a tensor that is there already."""

    def refused(*args: Any, **kwargs: Any) -> Any:
        if allowed is not None and isinstance(args[0], torch.Tensor):
            return allowed(*args, **kwargs)
        raise RuntimeError(f"{REFUSED}: {name}")

    return refused


@contextlib.contextmanager
def _nothing_moves() -> Iterator[None]:
    """What is called in here cannot move numbers between the host and the device."""
    with contextlib.ExitStack() as patches:
        for name in MOVES_TO_THE_HOST:
            patches.enter_context(mock.patch.object(torch.Tensor, name, _refusing(name)))
        for name in MOVES_TO_THE_DEVICE:
            allowed = torch.as_tensor if name == "as_tensor" else None
            patches.enter_context(mock.patch.object(torch, name, _refusing(name, allowed)))
        yield


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation on tensors with what it took and what it gave, and what is called between graphs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _waits(func.overloadpacket.__name__, args):
            raise RuntimeError(f"{REFUSED}: {func}")
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, pytree.tree_leaves(result)))
        return result

    def interrupt(self, launch: Callable[[], None]) -> None:
        """See Recording.interrupt."""
        self.operations.append((launch, (), {}, [None]))


def recorded(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """A Capture whose replay runs the recorded operations on the same tensors; Python variables are as they were.

    What an operation made is kept by its identity: a replay puts the new result wherever the recorded one went.
    """
    function()
    with _Recorder() as recorder, recording(recorder), _nothing_moves():
        function()

    def replay() -> None:
        made: dict[int, torch.Tensor] = {}

        def current(value: Any) -> Any:
            return made.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for func, args, kwargs, results in recorder.operations:
            arguments = pytree.tree_map(current, (args, kwargs))
            for old, new in zip(results, pytree.tree_leaves(func(*arguments[0], **arguments[1])), strict=True):
                if isinstance(old, torch.Tensor):
                    made[id(old)] = new

    return replay


def again(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """A Capture that calls the function again: for what is compiled, whose operations cannot be recorded."""
    return function
