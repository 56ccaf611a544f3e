"""A CUDA graph for machines without a GPU: the operations of a function, run again without the function."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metarl.envs.graphs.capture import recording

WAITS_FOR_THE_DEVICE = {"_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "masked_select", "unique_dim"}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation on tensors with what it took and what it gave, and what is called between graphs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITS_FOR_THE_DEVICE:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
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
    with _Recorder() as recorder, recording(recorder):
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
