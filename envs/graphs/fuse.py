"""Functions of tensors as a few fused kernels, by PyTorch's compiler.

Many operations on few numbers take a GPU longer to begin than to do. Fused, they read their inputs once, write their
results once, and keep what lies between in registers. The numbers are those of the plain operations to rounding.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metarl.envs.graphs.capture import first_line, recording

OPTIONS: dict[str, Any] = {"deterministic": True}
"""Of Inductor: no choice by stopwatch, so that the same machine computes the same numbers each time."""


THIN = 8
"""Terms, rows or columns up to which a product of matrices is fused with what is around it: the compiler makes a sum of
it. A library multiplies matrices that are larger in all three."""

FEW_NUMBERS = 2**23
"""Numbers in a matrix that has many terms up to which that pays, as measured on an H200."""


MANY_TERMS = 1024
"""Terms from which a product of small matrices is made in parts, which are then added: a library would leave most of a
GPU idle."""

TERMS_OF_PART = 256
"""Terms of such a part at most."""


def _thin_product(left: Tensor, right: Tensor) -> Any:
    """left @ right as what can be fused, or is faster; NotImplemented where a library's product is best."""
    terms = left.shape[-1]
    thin = min(left.shape[-2], right.shape[-1]) <= THIN and max(left.numel(), right.numel()) <= FEW_NUMBERS
    if terms <= THIN or thin:
        return (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(dim=-2)
    if left.ndim == 3 and terms >= MANY_TERMS and max(left.shape[-2], right.shape[-1]) <= TERMS_OF_PART:
        return _product_in_parts(left, right)
    return NotImplemented


def _product_in_parts(left: Tensor, right: Tensor) -> Any:
    """left @ right of (B, m, K) and (B, K, n), as the sum of products of parts of the K terms."""
    batch, terms = len(left), left.shape[-1]
    parts = next(parts for parts in range(-(-terms // TERMS_OF_PART), terms + 1) if terms % parts == 0)
    if terms // parts <= THIN:
        return NotImplemented
    lefts = left.reshape(batch, -1, parts, terms // parts).movedim(2, 1).flatten(0, 1)
    rights = right.reshape(batch * parts, terms // parts, -1)
    products = torch.bmm(lefts, rights)
    return products.reshape(batch, parts, *products.shape[1:]).sum(dim=1)


def _thin_product_added(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta · added + alpha · left @ right, likewise; the library would first copy an added bias to every row."""
    product = _thin_product(left, right)
    if product is NotImplemented:
        if added.shape[-2:] == (left.shape[-2], right.shape[-1]):
            return NotImplemented
        product = left @ right
    return beta * added + alpha * product


def _product_added_(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """The same in place."""
    product = _thin_product(left, right)
    return product if product is NotImplemented else added.mul_(beta).add_(product, alpha=alpha)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.mm.default: _thin_product,
    torch.ops.aten.bmm.default: _thin_product,
    torch.ops.aten.addmm.default: _thin_product_added,
    torch.ops.aten.baddbmm.default: _thin_product_added,
    torch.ops.aten.baddbmm_.default: _product_added_,
}
"""Operation → what is traced in its place."""


_TENSOR = object()
"""Stands for a tensor among what a function returns."""


class CannotFuseError(RuntimeError):
    """A function cannot be traced or compiled; the message says why."""


class Fused:
    """A function of tensors, traced on arguments of one shape and compiled; it builds no graph of autograd's.

    It may read tensors besides its arguments as long as these stay where they are. What it draws is drawn before its
    kernels run, one operation after the other as the function would: the same numbers for the same seed.

    Args:
        function: what is fused.
        arguments: trees of tensors and other values; any of the same structure, shapes and other values may be given
            later.
        generator: what the function draws from; None where it draws nothing.

    Raises:
        CannotFuseError: the function cannot be traced or compiled.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], generator: torch.Generator | None = None
    ) -> None:
        self._generator = generator
        leaves, structure = pytree.tree_flatten(arguments)
        tensors = [tensor.clone() for tensor in _tensors(leaves)]  # none that repeats its numbers without having them
        self._strides = [tensor.stride() for tensor in tensors]

        def flat(random: _Random, tensors: list[Tensor]) -> list[Tensor]:
            """The function with nothing but tensors going in and out."""
            given = iter(tensors)
            merged = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            with random, recording(_OneGraph()), torch.enable_grad():
                result = function(*pytree.tree_unflatten(merged, structure))
            results, self._structure = pytree.tree_flatten(result)
            self._others = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in results]
            return _tensors(results)

        random = _Random()
        try:
            flat(random, tensors)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what PyTorch's compiler warns of is its own
                self._compiled = _compile(flat, random.drawn, tensors)
        except Exception as error:  # tracing and compiling fail in many ways, none of which is documented
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise CannotFuseError(first_line(error)) from error
        self._draws = random.draws

    @torch.no_grad()
    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        noise = [draw(self._generator) for draw in self._draws]
        given = _tensors(pytree.tree_leaves(arguments))
        tensors = [_laid_out(tensor, strides) for tensor, strides in zip(given, self._strides, strict=True)]
        made = iter(self._compiled(*noise, *tensors))
        leaves = [next(made) if leaf is _TENSOR else leaf for leaf in self._others]
        return pytree.tree_unflatten(leaves, self._structure)


def _compile(
    flat: Callable[["_Random", list[Tensor]], list[Tensor]],
    noise: list[Tensor],
    tensors: list[Tensor],
) -> Callable[..., list[Tensor]]:
    """Trace what happens below autograd, which has done its work then, and compile it."""
    from torch.fx.experimental.proxy_tensor import make_fx  # with the compiler: seconds of imports

    def traced(*given: Tensor) -> list[Tensor]:
        return flat(_Random(list(given[: len(noise)])), list(given[len(noise) :]))

    return _kernels(make_fx(traced, DECOMPOSITIONS)(*noise, *tensors), [*noise, *tensors])


def _kernels(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., list[Tensor]]:
    """What computes a graph of operations, in as few kernels as the compiler finds."""
    with torch.no_grad():
        compiled: Callable[..., list[Tensor]] = torch._inductor.compile(graph, inputs, options=OPTIONS)
    return compiled


def _laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The tensor with these strides, which its kernels are compiled for: itself, or a copy."""
    if tensor.stride() == strides:
        return tensor
    copy = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]


class _OneGraph:
    """A Recording that cannot be interrupted."""

    def interrupt(self, launch: Callable[[], None]) -> None:
        """See Recording.interrupt."""
        raise RuntimeError("it calls another library between two operations")


@dataclass(frozen=True)
class _Draw:
    """One operation that draws random numbers, of plain values alone."""

    operation: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, generator: torch.Generator | None) -> Tensor:
        """Draw once more."""
        return self.operation(*self.args, **self.kwargs | {"generator": generator})


class _Random(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what draws random numbers; or, given what was drawn, hands that out instead.

    Attributes:
        draws: what drew.
        drawn: what that gave.
    """

    def __init__(self, noise: list[Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[_Draw] = []
        self.drawn: list[Tensor] = []
        self._noise = noise

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            return func(*args, **kwargs)
        if func is torch.ops.aten.multinomial.default and args[1] == 1:
            return self._choose(args[0], kwargs)
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
            raise RuntimeError(f"{func} draws from numbers that are computed")
        return self._draw(_Draw(func, args, kwargs))

    def _draw(self, draw: _Draw) -> Tensor:
        if self._noise is not None:
            return self._noise.pop(0)
        self.draws.append(draw)
        self.drawn.append(draw(draw.kwargs["generator"]))
        return self.drawn[-1]

    def _choose(self, weights: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """What `torch.multinomial` does for one number: the first of several exponential clocks that rings."""
        shape = {"size": tuple(weights.shape), "dtype": weights.dtype, "device": weights.device}
        clocks = self._draw(_Draw(_exponential, (), kwargs | shape))
        return (weights / clocks).argmax(dim=-1, keepdim=True)


def _exponential(size: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: Any) -> Tensor:
    return torch.empty(size, dtype=dtype, device=device).exponential_(generator=generator)
