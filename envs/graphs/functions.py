"""Functions of tensors as CUDA graphs, each captured once for each shape of its arguments."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.envs.graphs.capture import Capture, first_line, is_capturing

Result = TypeVar("Result")

MAX_KEPT = 16
"""Graphs that are kept; the least recently used one is given up first."""

MAX_NUMBERS = 2**27
"""Numbers in the arguments at most: with larger ones the device works for so long that the host is not waited for."""


class FunctionGraphs:
    """Runs functions as graphs; what they return equals what they would return if called.

    A function may read tensors besides its arguments as long as these stay where they are, and is determined by the
    shapes of its arguments and by what is no tensor among them. One that cannot be captured is called as it is.

    Args:
        capture: how a function is captured.
        device: where the tensors lie.
        say: is told in a line what cannot be captured, and why.
    """

    def __init__(self, capture: Capture, device: torch.device, say: Callable[[str], None]) -> None:
        self._capture = capture
        self._device = device
        self._say = say
        self._kept: OrderedDict[Any, FunctionGraph] = OrderedDict()
        self._refused: set[str] = set()

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What `function(*arguments)` returns, in tensors of its own.

        Args:
            function: a method or function that draws nothing and does not wait for the device.
            arguments: trees of tensors (tuples, lists, dicts, registered dataclasses) and hashable values.
        """
        name = function.__qualname__
        leaves, structure = pytree.tree_flatten(arguments)
        if is_capturing() or name in self._refused or _numbers(leaves) > MAX_NUMBERS:
            return function(*arguments)

        key = (function, str(structure), *(_kind(leaf) for leaf in leaves))
        if key not in self._kept:
            try:
                self._kept[key] = FunctionGraph(function, arguments, self._capture, torch.Generator(self._device))
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self._refused.add(name)
                self._say(f"{name} is not captured as a CUDA graph: {first_line(error)}")
                return function(*arguments)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

        self._kept.move_to_end(key)
        result: Result = self._kept[key](*arguments)
        return result


class FunctionGraph:
    """One function captured on arguments of one shape, with the tensors that it reads and writes.

    Args:
        function: what is captured; draws from `generator` alone.
        arguments: trees of tensors and other values; any of the same structure and shapes may be given later.
        capture: how it is captured.
        generator: lies on the arguments' device.

    Raises:
        RuntimeError: the function cannot be captured.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], capture: Capture, generator: torch.Generator
    ) -> None:
        leaves, structure = pytree.tree_flatten(arguments)
        self._inputs = [_copy(leaf) for leaf in leaves]
        own = pytree.tree_unflatten(self._inputs, structure)
        outputs, self._structure = pytree.tree_flatten(function(*own))  # shows what it returns
        self._outputs = [_copy(leaf) for leaf in outputs]

        def repeated() -> None:
            write_leaves(pytree.tree_leaves(function(*own)), self._outputs)

        self._replay = capture(repeated, generator)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns, in tensors of its own."""
        write_leaves(pytree.tree_leaves(arguments), self._inputs)
        self._replay()
        return pytree.tree_unflatten([_own(leaf) for leaf in self._outputs], self._structure)


def write_leaves(sources: list[Any], targets: list[Any]) -> None:
    """Copy the numbers of every tensor into its counterpart, many at once; leaves that are no tensors stay."""
    pairs = [(source, target) for source, target in zip(sources, targets, strict=True) if isinstance(target, Tensor)]
    if pairs:
        with torch.no_grad():
            torch._foreach_copy_([target for _, target in pairs], [source for source, _ in pairs])


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf


def _own(leaf: Any) -> Any:
    """A copy of what is contiguous and has no graph of autograd's."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _numbers(leaves: list[Any]) -> int:
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))


def _kind(leaf: Any) -> Any:
    """What tells graphs apart: shape and type of a tensor, and every other value itself."""
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
