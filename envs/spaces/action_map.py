"""Between a policy's actions and an environment's own: one map for every environment, in numpy and in torch.

A policy acts in a few kinds of spaces only (`policy_action_space`):

    Box of any shape and bounds        Box [−1, 1] (A,)
    Discrete from any start            Discrete from 0
    MultiDiscrete and MultiBinary      MultiDiscrete (A,) from 0: one choice for each element

The window of a Box's element, which [−1, 1] is stretched to, is its bounds; where there is none, the scale s decides:

    low, high        →  [low, high]
    low, no high     →  [low, low + 2 s]
    no low, high     →  [high − 2 s, high]
    neither          →  [−s, s]

As far as the space reaches. An element of whole numbers gives each number in its window an equal share of [−1, 1], and
none outside it.
"""

import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from numpy.typing import NDArray
from torch import Tensor, nn

PolicySpace = Box | Discrete | MultiDiscrete
"""What a policy acts in."""

DEFAULT_SCALE = 1.0

OWN_UNITS = 0.0
"""In place of a scale: an old policy, which acts in the units of a torch environment, without stretching."""

LARGEST_SCALE = 1e37
"""A window of twice as much has a width and ends that float32 holds."""

LARGEST_FLOAT = float(np.finfo(np.float32).max)
LARGEST_INTEGER = 2**31 - 1
"""A bound as large as this, in magnitude, is a way to write that there is none."""

FEW_NUMBERS = 100
"""A window of so few floating-point numbers is coarser than anyone means it to be."""

NOT_A_NUMBER = "is not a number (NaN)"


def policy_action_space(native: Space[Any]) -> PolicySpace:
    """The space that a policy acts in, for an environment's own: see above.

    Raises:
        ValueError: no policy here acts in such a space.
    """
    match native:
        case Box() if native.low.size == 0:
            raise ValueError(f"actions {native} hold no number: a policy needs at least one")
        case Box() if native.dtype.kind in "fiu":
            as_it_is = is_unit_box(native) and native.dtype == np.float32
            return native if as_it_is else Box(-1.0, 1.0, (native.low.size,), np.float32)
        case Discrete():
            return native if native.start == 0 else Discrete(int(native.n))
        case MultiDiscrete():
            return MultiDiscrete(native.nvec.reshape(-1))
        case MultiBinary():
            return MultiDiscrete(np.full(int(np.prod(native.shape)), 2))

    raise ValueError(f"actions must be a Box of numbers, Discrete, MultiDiscrete or MultiBinary, got {native}")


def is_unit_box(space: Space[Any]) -> bool:
    """Whether it is a Box (A,) of floats with the bounds −1 and 1: what a policy acts in, as it is."""
    if not (isinstance(space, Box) and len(space.shape) == 1 and space.dtype.kind == "f"):
        return False
    return bool(np.all(space.low == -1) and np.all(space.high == 1))


def missing_bounds(native: Space[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which elements of a Box, flattened to (A,), have no lower and no upper bound; none of other spaces'."""
    if not isinstance(native, Box):
        return np.zeros(0, bool), np.zeros(0, bool)

    largest = _largest_bound(native.dtype)
    low = native.low.reshape(-1).astype(np.float64)
    high = native.high.reshape(-1).astype(np.float64)
    no_low = low <= -largest
    no_high = high >= largest

    # A width that no float32 holds is none either.
    with np.errstate(over="ignore"):
        too_wide = (high - low > LARGEST_FLOAT) & ~no_low & ~no_high
    return no_low | too_wide, no_high | too_wide


def _largest_bound(dtype: np.dtype[Any]) -> float:
    """A bound as large as this, in magnitude, is none."""
    if dtype.kind == "f":
        return min(LARGEST_FLOAT, float(np.finfo(dtype).max))
    return float(LARGEST_INTEGER)


@dataclass(frozen=True)
class ActionMap:
    """From a policy's actions to an environment's own.

    Of a Box, element by element, an affine map of clipped actions that never leaves the space:

        native = clip(base + (clip(a, low, high) − origin) · ratio, native_low, native_high)

    rounded down where the space is of whole numbers. Of the other spaces:  native = a + start.

    Attributes:
        policy: the policy's space.
        native: the environment's.
        numbers: of a Box: low, high, origin, base, ratio, native_low and native_high, each (A,).
        scale: s of the windows without bounds.
        is_limited: whether only the middle of the windows is played, see `limited`.
    """

    policy: PolicySpace
    native: Space[Any]
    numbers: dict[str, NDArray[Any]]
    scale: float = DEFAULT_SCALE
    is_limited: bool = False

    @classmethod
    def of(cls, native: Space[Any], scale: float = DEFAULT_SCALE) -> "ActionMap":
        """The map of an environment's own space; with OWN_UNITS, a Box (A,) is its own policy's space.

        Raises:
            ValueError: no policy here acts in such a space.
        """
        policy = policy_action_space(native)
        if scale == OWN_UNITS and isinstance(native, Box) and len(native.shape) == 1:
            policy = native
        return cls.between(policy, native, scale)

    @classmethod
    def between(cls, policy: PolicySpace, native: Space[Any], scale: float = DEFAULT_SCALE) -> "ActionMap":
        """The map from the space that a policy was trained in to that of an environment.

        Where the policy's Box has no bounds, its actions are the environment's own, clipped.

        Args:
            policy: the policy's space.
            native: the environment's.
            scale: s of the windows without bounds, in the environment's units.

        Raises:
            ValueError: they do not go together.
        """
        needed = policy_action_space(native)
        boxes = isinstance(policy, Box) and isinstance(needed, Box)
        if policy.shape != needed.shape or not (boxes or policy == needed):
            raise ValueError(f"a policy that acts in {policy} cannot act in {native}")
        if isinstance(policy, Box) and isinstance(native, Box):
            return cls(policy, native, _affine_map(policy, native, scale), scale)
        return cls(policy, native, {}, scale)

    def limited(self, share: float) -> "ActionMap":
        """The same map, clipped to the middle part of the window of each element, which is what a policy plays.

            middle ± share · (high − low) / 2

        Args:
            share: of the window, above 0 and at most 1; 1 is the map itself.

        Raises:
            ValueError: the share is out of range, or the actions are no Box, or have no finite window.
        """
        if not 0 < share <= 1:
            raise ValueError(f"action_limit must be above 0 and at most 1, got {share}")
        if share == 1:
            return self
        if not (isinstance(self.policy, Box) and isinstance(self.native, Box)):
            raise ValueError(f"action_limit needs actions with finite bounds, got {self.native}")

        low, high = _window(self.policy, self.native, self.scale)
        if _is_endless(self.policy, self.native, self.scale, low, high):
            raise ValueError(f"action_limit needs actions with finite bounds, got {self.native}")

        lowest, highest = _middle(low, high, share, self.whole)
        dtype = self.numbers["low"].dtype
        lowest = _rounded_inwards(lowest.astype(self.dtype), dtype, np.inf)
        highest = _rounded_inwards(highest.astype(self.dtype), dtype, -np.inf)
        within = {
            "native_low": np.maximum(self.numbers["native_low"], lowest),
            "native_high": np.minimum(self.numbers["native_high"], highest),
        }
        return replace(self, numbers=self.numbers | within, is_limited=True)

    @property
    def is_identity(self) -> bool:
        """Whether a policy's action is the environment's own as it is; clipping is left to the environment."""
        if self.is_limited:
            return False
        if isinstance(self.native, Box):
            return is_unit_box(self.native) or self.policy == self.native
        return isinstance(self.native, Discrete | MultiDiscrete) and bool(self.policy == self.native)

    def same_as(self, other: "ActionMap") -> bool:
        """Whether both make the same of each action."""
        same = [np.array_equal(values, other.numbers[name]) for name, values in self.numbers.items()]
        return self.native == other.native and self.policy == other.policy and all(same)

    def __call__(self, action: NDArray[Any]) -> NDArray[Any]:
        """Actions of the policy (*batch, A), or (*batch,) integers -> (*batch, …) of the environment's dtype.

        Raises:
            ValueError: an action is not a number.
        """
        batch = action.shape[: action.ndim - len(self.policy.shape or ())]
        shape = (*batch, *(self.native.shape or ()))
        if not isinstance(self.native, Box):
            mapped = action.reshape(shape) + getattr(self.native, "start", 0)
            return np.asarray(mapped, self.dtype)

        if np.isnan(action).any():
            raise ValueError(f"the policy's action {action} {NOT_A_NUMBER}")
        of = self.numbers
        clipped = np.clip(action, of["low"], of["high"])
        mapped = of["base"] + (clipped - of["origin"]) * of["ratio"]
        if self.whole:
            mapped = np.floor(mapped)
        inside: NDArray[Any] = np.clip(mapped, of["native_low"], of["native_high"])
        return inside.reshape(shape).astype(self.dtype)

    def one(self, action: NDArray[Any]) -> Any:
        """One action of the policy, (A,) or an integer -> what the environment's `step` takes: of Discrete an int."""
        mapped = self(np.asarray(action))
        return int(mapped) if isinstance(self.native, Discrete) else mapped

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the environment's actions."""
        return np.dtype(self.native.dtype)

    @property
    def whole(self) -> bool:
        """Whether the environment's space is a Box of whole numbers."""
        return isinstance(self.native, Box) and self.dtype.kind in "iu"


def missing_bounds_warning(native: Space[Any], scale: float) -> str | None:
    """What is assumed of the elements of a Box that have no bounds; None where all have, or nothing is assumed."""
    no_low, no_high = missing_bounds(native)
    which = np.flatnonzero(no_low | no_high).tolist()
    if not which or scale == OWN_UNITS or not isinstance(native, Box):
        return None

    windows = {
        "bound to bound + 2 s": ~no_low & no_high,
        "bound − 2 s to bound": no_low & ~no_high,
        "−s to s": no_low & no_high,
    }
    spans = " or ".join(text for text, elements in windows.items() if elements.any())
    if native.dtype.kind in "iu":
        spans = f"the whole numbers of {spans}"
    return (
        f"actions {native} have no bounds in element {', '.join(map(str, which[:10]))}: "
        f"a policy's [−1, 1] spans {spans} there, with s = {scale:g}; set s by --action-scale"
        f"{_few_actions(native, scale, which)}"
    )


def _few_actions(native: Box, scale: float, which: list[int]) -> str:
    """Says in which of these elements of a Box the window holds hardly any number."""
    low, high = _window(Box(-1.0, 1.0, (native.low.size,)), native, scale)
    if native.dtype.kind in "iu":
        numbers = "whole numbers"
        counts = high - low + 1
        few = counts < 2
    else:
        # A policy acts in float32 at most.
        dtype = np.promote_types(native.dtype, np.float16) if native.dtype.itemsize < 4 else np.dtype(np.float32)
        numbers = f"numbers of {dtype}"
        farthest = np.maximum(np.abs(low), np.abs(high)).astype(dtype)
        counts = np.floor((high - low) / np.spacing(farthest)) + 1
        few = counts < FEW_NUMBERS

    for index in which:
        if few[index]:
            return f" (larger: in element {index} this window holds only {counts[index]:g} of the {numbers})"
    return ""


class TensorActionMap(nn.Module):
    """An ActionMap on tensors, float32; it agrees with numpy's to the bit where that is float32 as well.

    A module, so that it is exported with a policy and its numbers move to a device. A step waits for no device.

    Args:
        action_map: the map.
        dtype: of the environment's actions; None: integers as in its space, other numbers float32.
    """

    low: Tensor
    high: Tensor
    origin: Tensor
    base: Tensor
    ratio: Tensor
    native_low: Tensor
    native_high: Tensor
    start: Tensor

    def __init__(self, action_map: ActionMap, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        native = action_map.native
        self._shape = tuple(native.shape or ())
        self._policy_rank = len(action_map.policy.shape or ())
        self._is_box = isinstance(native, Box)
        self._whole = action_map.whole
        self._dtype = dtype or (torch.float32 if action_map.dtype.kind == "f" else torch_dtype(native.dtype))

        for name, values in action_map.numbers.items():
            self.register_buffer(name, torch.as_tensor(_as_float32(name, values)))
        if not self._is_box:
            self.register_buffer("start", torch.as_tensor(np.asarray(getattr(native, "start", 0), np.int64)))

    def forward(self, action: Tensor) -> Tensor:
        """Actions of the policy (*batch, A), or (*batch,) integers -> (*batch, …) of the environment."""
        batch = action.shape[: action.ndim - self._policy_rank]
        if not self._is_box:
            return (action.reshape((*batch, *self._shape)) + self.start).to(self._dtype)

        clipped = action.clamp(self.low, self.high)
        mapped = self.base + (clipped - self.origin) * self.ratio
        if self._whole:
            mapped = mapped.floor()
        return mapped.clamp(self.native_low, self.native_high).reshape((*batch, *self._shape)).to(self._dtype)

    def inverse(self, action: Tensor) -> Tensor:
        """Actions of the environment -> of the policy; of a whole number, the middle of its share."""
        batch = action.shape[: action.ndim - len(self._shape)]
        if not self._is_box:
            flat = action.to(torch.int64) - self.start
            return flat.reshape((*batch, *([-1] if self._policy_rank else [])))

        flat = action.reshape((*batch, -1)).to(torch.float32)
        if self._whole:
            flat = flat + 0.5
        fixed = self.ratio == 0
        return self.origin + torch.where(fixed, 0, (flat - self.base) / torch.where(fixed, 1, self.ratio))


def torch_dtype(dtype: Any) -> torch.dtype:
    """The torch dtype of a numpy one; int64 for the integers that torch hardly computes with."""
    known = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16}
    integers = {"int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "uint8": torch.uint8}
    return (known | integers).get(np.dtype(dtype).name, torch.int64)


def _affine_map(policy: Box, native: Box, scale: float) -> dict[str, NDArray[Any]]:
    """The numbers of an ActionMap, each (A,): float64 where the environment's are, else float32."""
    dtype = np.result_type(native.dtype, np.float32) if native.dtype.kind == "f" else np.dtype(np.float32)
    native_low = _rounded_inwards(native.low.reshape(-1), dtype, np.inf)
    native_high = _rounded_inwards(native.high.reshape(-1), dtype, -np.inf)

    # From the interval [low, high] …
    bounded = _has_bounds(policy)
    low = np.where(bounded, policy.low, native_low)
    high = np.where(bounded, policy.high, native_high)

    # … to this one.
    to_low, to_high = _window(policy, native, scale)
    to_low = np.where(bounded, to_low, low)
    to_high = np.where(bounded, to_high, high)

    # A whole number n has the share [n, n + 1) of the window.
    if native.dtype.kind in "iu":
        # The end of the last share is no number of the window. (Old policies were clipped to the space alone.)
        if scale != OWN_UNITS:
            native_low = np.where(bounded, np.maximum(native_low, _rounded_inwards(to_low, dtype, np.inf)), native_low)
            top = _rounded_inwards(to_high, dtype, -np.inf)
            native_high = np.where(bounded, np.minimum(native_high, top), native_high)
        to_high = np.where(bounded, to_high + 1, high)

    # Equal intervals, which may be infinite, need no scaling: origin and base 0, ratio 1.
    scaled = (low != to_low) | (high != to_high)
    with np.errstate(over="ignore"):
        width = np.where(scaled, high - low, 1)
        to_width = np.where(scaled, to_high - to_low, 1)
    numbers = {
        "low": low,
        "high": high,
        "origin": np.where(scaled, low, 0),
        "base": np.where(scaled, to_low, 0),
        "ratio": to_width / width,
        "native_low": native_low,
        "native_high": native_high,
    }
    return {name: values.astype(dtype) for name, values in numbers.items()}


def _window(policy: Box, native: Box, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the policy's bounds become, in the environment's units, each (A,); whole numbers where these are.

    Where the policy has no bounds, those of the environment.
    """
    low = native.low.reshape(-1).astype(np.float64)
    high = native.high.reshape(-1).astype(np.float64)
    no_low, no_high = missing_bounds(native)

    # Before there was a scale, the policy's bounds stood for missing ones; they may lie outside the space.
    if scale == OWN_UNITS:
        to_low = np.where(no_low, np.minimum(policy.low, np.where(no_high, np.inf, high)), low)
        to_high = np.where(no_high, np.maximum(policy.high, np.where(no_low, -np.inf, low)), high)
    else:
        to_low = np.where(no_low, np.where(no_high, -scale, high - 2 * scale), low)
        to_high = np.where(no_high, np.where(no_low, scale, low + 2 * scale), high)
        to_low = np.maximum(to_low, low)
        to_high = np.minimum(to_high, high)

    if native.dtype.kind in "iu":
        to_low = np.ceil(to_low)
        to_high = np.floor(to_high)
    bounded = _has_bounds(policy)
    return np.where(bounded, to_low, low), np.where(bounded, to_high, high)


def _has_bounds(policy: Box) -> NDArray[np.bool_]:
    """Which elements of a policy's Box are bounded, (A,)."""
    bounded: NDArray[np.bool_] = np.isfinite(policy.low) & np.isfinite(policy.high)
    return bounded


def _is_endless(policy: Box, native: Box, scale: float, low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
    """Whether a window [low, high] has no middle: an old policy acts in an environment without bounds."""
    largest = _largest_bound(native.dtype)
    endless = (low <= -largest) | (high >= largest)
    if scale != OWN_UNITS:
        endless &= ~_has_bounds(policy)
    return bool(endless.any())


def _middle(
    low: NDArray[np.float64], high: NDArray[np.float64], share: float, whole: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle part of an interval, each (A,); of whole numbers at least one."""
    middle = (low + high) / 2
    half = share * (high - low) / 2
    lowest = middle - half
    highest = middle + half
    if whole:
        lowest = np.minimum(np.ceil(lowest), np.floor(middle))
        highest = np.maximum(np.floor(highest), lowest)
    return lowest, highest


def _rounded_inwards(bound: NDArray[Any], dtype: np.dtype[Any], inwards: float) -> NDArray[Any]:
    """A bound in another dtype, the next number inside the space where that has no such number."""
    with np.errstate(over="ignore"):
        rounded = bound.astype(dtype)

    # Compared as Python's numbers, which are exact.
    outside_of = operator.lt if inwards > 0 else operator.gt
    outside = np.array(list(map(outside_of, rounded.tolist(), bound.tolist())), bool)
    return np.where(outside, np.nextafter(rounded, np.asarray(inwards, dtype)), rounded)


def _as_float32(name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of an ActionMap as float32; bounds stay inside the space."""
    if name == "native_low":
        return _rounded_inwards(values, np.dtype(np.float32), np.inf)
    if name == "native_high":
        return _rounded_inwards(values, np.dtype(np.float32), -np.inf)
    return values.astype(np.float32)
