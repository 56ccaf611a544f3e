"""Gymnasium's spaces as JSON and back."""

import math
import warnings
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray


def space_to_json(space: Space[Any]) -> dict[str, Any]:
    """A space as plain data; a bound that is the same for all elements is one number, an infinite one is null.

    Raises:
        ValueError: a kind of space that has no such form.
    """
    match space:
        case Box():
            return {
                "kind": "Box",
                "low": _bound_to_json(space.low),
                "high": _bound_to_json(space.high),
                "shape": list(space.shape),
                "dtype": str(space.dtype),
            }
        case Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        case MultiDiscrete():
            return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
        case MultiBinary():
            return {"kind": "MultiBinary", "n": np.asarray(space.n).tolist()}
        case Dict():
            # The order of the keys is that of the flattened numbers, and Gymnasium sorts the keys of a mapping.
            parts = {str(name): space_to_json(part) for name, part in space.spaces.items()}
            return {"kind": "Dict", "order": list(space.spaces), "spaces": parts}
        case Tuple():
            return {"kind": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}

    raise ValueError(f"space {space} cannot be written as JSON")


_MOST_NUMBERS = 10_000_000
"""Of one space, more than the pixels of a screen in colour: a file must not make this process fill its memory."""


def space_from_json(data: Any) -> Space[Any]:
    """Inverse of `space_to_json`.

    Raises:
        ValueError: not such data, or a space of more than 10 million numbers.
    """
    try:
        _require_size(data)
        # What Gymnasium warns of is either refused below or does not matter.
        with warnings.catch_warnings(action="ignore"):
            return _space_from_json(data)
    except RecursionError:
        raise ValueError("not a space: nested too deep") from None


def _require_size(data: Any) -> None:
    """Refuse a space that is too large, before any part of it is made.

    Raises:
        ValueError: names the part.
    """
    if not isinstance(data, dict):
        return
    parts = data.get("spaces", ())
    if isinstance(parts, dict):
        parts = list(parts.values())
    if isinstance(parts, list):
        for part in parts:
            _require_size(part)

    numbers = data.get("shape") if data.get("kind") == "Box" else [data.get("n")]
    if data.get("kind") == "MultiDiscrete" and isinstance(data.get("nvec"), list):
        numbers = [sum(count for count in data["nvec"] if isinstance(count, int))]
    sizes = [number for number in numbers if isinstance(number, int)] if isinstance(numbers, list) else []
    if any(size < 0 for size in sizes) or math.prod(sizes) > _MOST_NUMBERS:
        raise ValueError(f"not a space: {data.get('kind')!r:.40} of the size {sizes!r:.80}")


def _space_from_json(data: Any) -> Space[Any]:
    """A space of a size that was checked."""
    try:
        match data["kind"]:
            case "Box":
                shape = tuple(data["shape"])
                dtype = np.dtype(data["dtype"])
                low = _bound_from_json(data["low"], -np.inf, shape, dtype)
                high = _bound_from_json(data["high"], np.inf, shape, dtype)
                return Box(low, high, shape, dtype.type)
            case "Discrete":
                return Discrete(data["n"], start=data["start"])
            case "MultiDiscrete":
                return MultiDiscrete(data["nvec"], start=data["start"])
            case "MultiBinary":
                return MultiBinary(data["n"])
            case "Dict":
                parts = {name: _space_from_json(part) for name, part in data["spaces"].items()}
                if "order" not in data:  # files of earlier versions: sorted
                    return Dict(parts)
                return Dict([(name, parts[str(name)]) for name in data["order"]])
            case "Tuple":
                return Tuple([_space_from_json(part) for part in data["spaces"]])
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError) as error:
        raise ValueError(f"not a space: {data!r:.200} ({type(error).__name__}: {error})") from None

    raise ValueError(f"not a space: {data!r:.200}")


def _bound_to_json(bound: NDArray[Any]) -> Any:
    """One number where all elements are the same, else a flat list of them."""
    if bound.size and bool(np.all(bound == bound.flat[0])):
        return _number_or_none(bound.flat[0].item())
    return [_number_or_none(value) for value in bound.reshape(-1).tolist()]


def _number_or_none(value: float) -> float | None:
    """JSON has no infinity."""
    return value if np.isfinite(value) else None


def _bound_from_json(data: Any, infinity: float, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A bound (*shape); `infinity`, of either sign, is what null stands for."""
    numbers = data if isinstance(data, list) else [data]
    values = np.array([infinity if value is None else value for value in numbers], dtype)
    return np.broadcast_to(values.reshape(shape if len(values) > 1 else ()), shape)
