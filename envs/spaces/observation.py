"""The space of the vectors that a policy takes, for what an environment observes."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.spaces.utils import flatten_space
from torch import Tensor

LEAST_PIXELS = 36
"""Height and width below which a Box of bytes counts as a table of codes (MiniGrid's 7 × 7) and not as an image."""


class FlatImage(Box):
    """The pixels of an image as a vector (O,), 0 … 255; knows the image that they are of.

    Args:
        image: shape of the image, (height, width, channels) or (channels, height, width): the smallest is the channels.
    """

    def __init__(self, image: tuple[int, ...]) -> None:
        super().__init__(0.0, 255.0, (int(np.prod(image)),), np.float32)
        self.image = image

    @property
    def channels_first(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        first, second, third = self.image
        return (first, second, third) if self._is_channels_first else (third, first, second)

    def as_channels_first(self, pixels: Tensor) -> Tensor:
        """Vectors (…, O) as images (…, channels, height, width)."""
        images = pixels.reshape(*pixels.shape[:-1], *self.image)
        return images if self._is_channels_first else images.movedim(-1, -3)

    @property
    def _is_channels_first(self) -> bool:
        return self.image[0] < self.image[2]


def is_image(native: Space[Any]) -> bool:
    """Whether observations are images: bytes with height, width and channels."""
    if not (isinstance(native, Box) and native.dtype == np.uint8 and len(native.shape) == 3):
        return False
    _, height, width = FlatImage(native.shape).channels_first
    return min(height, width) >= LEAST_PIXELS


def vector_space(native: Space[Any], env_id: str) -> Box:
    """Space of the flattened observations, float32.

    Raises:
        ValueError: they cannot be flattened to a vector.
    """
    if is_image(native):
        assert native.shape is not None
        return FlatImage(native.shape)
    try:
        flat = flatten_space(native)
    except NotImplementedError:
        flat = None
    if not isinstance(flat, Box):
        raise ValueError(f"{env_id}: observations {native} cannot be flattened to a vector")
    return Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
