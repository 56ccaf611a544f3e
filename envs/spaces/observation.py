"""An environment's observations as the vectors that a policy takes."""

from typing import Any

import numpy as np
from gymnasium.spaces import Space
from gymnasium.spaces.utils import flatten
from numpy.typing import NDArray


def flatten_observation(native: Space[Any], obs: Any) -> NDArray[np.float32]:
    """An observation of the environment's own space as a float32 vector (O,)."""
    return np.asarray(flatten(native, obs), np.float32)
