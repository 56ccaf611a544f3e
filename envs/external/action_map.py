"""Between a policy's arrays and an environment's own spaces: actions are scaled and clipped, observations flattened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.spaces.utils import flatten
from numpy.typing import NDArray


@dataclass(frozen=True)
class ActionMap:
    """An affine map of clipped actions, element by element.

        native = base + (clip(a, low, high) − origin) · ratio

    Attributes:
        low: lower bounds of the policy's action, (A,); −inf where it has none.
        high: upper bounds, (A,).
        origin: the policy's action that becomes `base`, (A,).
        base: in the environment's units, (A,).
        ratio: the environment's units in one of the policy's, (A,).
    """

    low: NDArray[Any]
    high: NDArray[Any]
    origin: NDArray[Any]
    base: NDArray[Any]
    ratio: NDArray[Any]

    @classmethod
    def between(cls, policy: Box, native: Box) -> "ActionMap":
        """The map that takes the bounds of one Box (A,) to those of another.

        Where the environment has no bound, the policy's stands for it; where the policy has none, its actions are the
        environment's own, clipped.
        """
        dtype = np.result_type(native.dtype, np.float32)
        native_low = native.low.astype(dtype)
        native_high = native.high.astype(dtype)

        # From the interval [low, high] …
        bounded = np.isfinite(policy.low) & np.isfinite(policy.high)
        low = np.where(bounded, policy.low, native_low)
        high = np.where(bounded, policy.high, native_high)

        # … to this one.
        to_low = np.where(np.isfinite(native_low), native_low, low)
        to_high = np.where(np.isfinite(native_high), native_high, high)

        # Equal intervals, which may be infinite, need no scaling: origin and base 0, ratio 1.
        scaled = (low != to_low) | (high != to_high)
        origin = np.where(scaled, low, 0)
        base = np.where(scaled, to_low, 0)
        width = np.where(scaled, high - low, 1)
        to_width = np.where(scaled, to_high - to_low, 1)

        return cls(
            low=low.astype(dtype),
            high=high.astype(dtype),
            origin=origin.astype(dtype),
            base=base.astype(dtype),
            ratio=(to_width / width).astype(dtype),
        )

    def __call__(self, action: NDArray[Any]) -> NDArray[Any]:
        """Actions of the policy (*batch, A) -> of the environment."""
        native: NDArray[Any] = self.base + (np.clip(action, self.low, self.high) - self.origin) * self.ratio
        return native


def native_actions(policy: Box | Discrete, native: Space[Any]) -> Callable[[NDArray[Any]], Any]:
    """The function from a policy's action to the environment's own: an int, or an array of its dtype."""
    if not (isinstance(policy, Box) and isinstance(native, Box)):
        return int

    action_map = ActionMap.between(policy, native)
    return lambda action: action_map(action).astype(native.dtype)


def flatten_observation(native: Space[Any], obs: Any) -> NDArray[np.float32]:
    """An observation of the environment's own space as a float32 vector (O,)."""
    return np.asarray(flatten(native, obs), np.float32)
