"""Arithmetic on policy parameters: P = dict[str, Tensor]."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
"""A policy's parameters P. Shared P has the policy's own shapes; task-batched P has leaves (M, …)."""

Shapes = dict[str, tuple[int, ...]]
"""Shape of each leaf of shared P."""


def map_parameters(function: Callable[..., Tensor], *parameters: Mapping[str, Tensor]) -> Parameters:
    """Apply a function leaf by leaf."""
    mapped = {}
    for name in parameters[0]:
        leaves = [part[name] for part in parameters]
        mapped[name] = function(*leaves)
    return mapped


def expand_to_tasks(parameters: Parameters, num_tasks: int) -> Parameters:
    """Shared P -> task-batched P with leaves (M, …), as views of the shared leaves."""
    return map_parameters(lambda leaf: leaf.expand(num_tasks, *leaf.shape), parameters)


def tasks_of(parameters: Parameters, tasks: slice) -> Parameters:
    """Some tasks of a task-batched P, as views."""
    return map_parameters(lambda leaf: leaf[tasks], parameters)


def concatenate(parts: Sequence[Parameters]) -> Parameters:
    """The tasks of several task-batched P after each other."""
    if len(parts) == 1:
        return parts[0]
    return map_parameters(lambda *leaves: torch.cat(leaves), *parts)


def flatten(leaves: Iterable[Tensor]) -> Tensor:
    """Concatenate leaves to one vector."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves])


def unflatten_like(vector: Tensor, like: Parameters) -> Parameters:
    """Inverse of `flatten` over the values of `like`."""
    parts = torch.split(vector, [leaf.numel() for leaf in like.values()])
    return {name: part.reshape(leaf.shape) for (name, leaf), part in zip(like.items(), parts, strict=True)}


def check_finite(vector: Tensor, what: str) -> None:
    """Raise where a vector holds a number that is not finite.

    Args:
        vector: the numbers.
        what: beginning of the message, "the gradient is" or the like.

    Raises:
        FloatingPointError: one of them is infinite or not a number.
    """
    if not bool(torch.isfinite(vector).all()):
        raise FloatingPointError(f"{what} not finite")


def shapes_of(parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of each leaf."""
    return {name: tuple(leaf.shape) for name, leaf in parameters.items()}
