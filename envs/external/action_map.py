"""From a policy's actions to an environment's: stretched to its bounds and clipped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box
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
        number = np.result_type(native.dtype, np.float32)
        native_low, native_high = native.low.astype(number), native.high.astype(number)
        bounded = np.isfinite(policy.low) & np.isfinite(policy.high)
        low = np.where(bounded, policy.low, native_low)
        high = np.where(bounded, policy.high, native_high)
        to_low = np.where(np.isfinite(native_low), native_low, low)
        to_high = np.where(np.isfinite(native_high), native_high, high)
        stretched = (low != to_low) | (high != to_high)
        wide, to_wide = (np.where(stretched, top - bottom, 1) for bottom, top in ((low, high), (to_low, to_high)))
        origin, base = np.where(stretched, low, 0), np.where(stretched, to_low, 0)
        return cls(*(part.astype(number) for part in (low, high, origin, base, to_wide / wide)))

    def __call__(self, action: NDArray[Any]) -> NDArray[Any]:
        """Actions of the policy (*batch, A) -> of the environment."""
        native: NDArray[Any] = self.base + (np.clip(action, self.low, self.high) - self.origin) * self.ratio
        return native
