"""Functions of tensors as CUDA graphs, each captured once for each shape of its arguments."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.envs.graphs.capture import Capture, first_line, is_capturing
from metarl.envs.graphs.fuse import CannotFuseError, Fused

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
        say: is told in a line what cannot be captured or fused, and why.
        fuse: whether a function's operations become a few kernels.
    """

    def __init__(self, capture: Capture, device: torch.device, say: Callable[[str], None], fuse: bool = False) -> None:
        self._capture = capture
        self._fuse = fuse
        self._device = device
        self._say = say
        self._kept: OrderedDict[Any, FunctionGraph] = OrderedDict()
        self._parts: dict[Any, Callable[..., Any]] = {}
        self._building: Literal["no", "parts", "whole"] = "no"  # a graph, and what of it is fused at once
        self._refused: set[str] = set()

    def run(self, function: Callable[..., Result], *arguments: Any, fuse: bool = True) -> Result:
        """What `function(*arguments)` returns, in tensors of its own.

        Called from a function that is being captured itself, it becomes a part of that one's graph.

        Args:
            function: a method or function that draws nothing and does not wait for the device.
            arguments: trees of tensors (tuples, lists, dicts, registered dataclasses) and hashable values.
            fuse: whether its operations may become a few kernels, where that is done at all; no where it is a long
                loop, whose compilation would take longer than it saves.
        """
        name = function.__qualname__
        leaves: list[Any] = []
        key = function, _kind(arguments, leaves)
        if self._building != "no" or is_capturing():
            return self._part(key, function, arguments, fuse)
        if name in self._refused or _numbers(leaves) > MAX_NUMBERS:
            return function(*arguments)

        if key not in self._kept:
            try:
                self._kept[key] = self._graph(function, arguments, fuse and self._fuse)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self._refused.add(name)
                self._say(f"{name} is not captured as a CUDA graph: {first_line(error)}")
                return function(*arguments)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

        self._kept.move_to_end(key)
        result: Result = self._kept[key].run(leaves)
        return result

    def _part(self, key: Any, function: Callable[..., Result], arguments: tuple[Any, ...], fuse: bool) -> Result:
        """What a function returns that is called by one which is being captured: fused, where that one is not."""
        if not fuse or self._building != "parts":
            return function(*arguments)

        if key not in self._parts and not is_capturing():  # its compilation cannot be captured
            self._building = "whole"
            try:
                self._parts[key] = Fused(function, arguments)
            except CannotFuseError as error:
                self._parts[key] = function
                self._say(f"{function.__qualname__} is not fused: {error}")
            finally:
                self._building = "parts"
        part: Callable[..., Result] = self._parts.get(key, function)
        return part(*arguments)

    def _graph(self, function: Callable[..., Any], arguments: tuple[Any, ...], fuse: bool) -> "FunctionGraph":
        """The function's graph, of plain operations where they cannot be fused."""
        generator = torch.Generator(self._device)
        self._building = "whole" if fuse or not self._fuse else "parts"
        try:
            return FunctionGraph(function, arguments, self._capture, generator, fuse)
        except CannotFuseError as error:
            self._say(f"{function.__qualname__} is not fused: {error}")
            return FunctionGraph(function, arguments, self._capture, generator)
        finally:
            self._building = "no"


class FunctionGraph:
    """One function captured on arguments of one shape, with the tensors that it reads and writes.

    Args:
        function: what is captured; draws from `generator` alone.
        arguments: trees of tensors and other values; any of the same structure and shapes may be given later.
        capture: how it is captured.
        generator: lies on the arguments' device.
        fuse: whether its operations become a few kernels first.

    Raises:
        RuntimeError: the function cannot be captured.
        CannotFuseError: it cannot be fused.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        capture: Capture,
        generator: torch.Generator,
        fuse: bool = False,
    ) -> None:
        leaves, structure = pytree.tree_flatten(arguments)
        self._inputs = [_copy(leaf) for leaf in leaves]
        own = pytree.tree_unflatten(self._inputs, structure)
        if fuse:
            function = Fused(function, own, generator)
        outputs, self._structure = pytree.tree_flatten(function(*own))  # shows what it returns
        self._outputs = [_copy(leaf) for leaf in outputs]

        def repeated() -> None:
            write_leaves(pytree.tree_leaves(function(*own)), self._outputs)

        self._replay = capture(repeated, generator)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns, in tensors of its own."""
        return self.run(pytree.tree_leaves(arguments))

    def run(self, leaves: list[Any]) -> Any:
        """What the function returns for arguments with these leaves."""
        write_leaves(leaves, self._inputs)
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


def _kind(tree: Any, leaves: list[Any]) -> Any:
    """What tells graphs apart: the structure of a tree, shape and type of each tensor, and every other value itself.

    Its leaves are appended in pytree's order; pytree, which would take ten times as long, takes apart new kinds alone.
    """
    if isinstance(tree, Tensor):
        leaves.append(tree)
        return tree.shape, tree.dtype
    if isinstance(tree, dict):
        return dict, tuple([(name, _kind(value, leaves)) for name, value in tree.items()])
    if isinstance(tree, (tuple, list)):
        return type(tree), tuple([_kind(item, leaves) for item in tree])
    if type(tree) in pytree.SUPPORTED_NODES:  # a registered dataclass, of which None is no leaf
        values = [getattr(tree, field.name) for field in fields(tree)]
        return type(tree), tuple([None if value is None else _kind(value, leaves) for value in values])
    leaves.append(tree)
    return tree
