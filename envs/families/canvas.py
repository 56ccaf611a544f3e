"""Drawing in world coordinates, for the pictures of the families."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rendered = tuple[Any, NDArray[np.uint8]]
"""What `TaskEnv.render_image` returns: the state of the renderer, and the picture (height, width, 3)."""

Point = tuple[float, float]


class Canvas:
    """A white square picture of the part of the plane around `centre`; y points up.

    Args:
        half_width: half the side of the part shown, in world units.
        centre: its middle, in world units.
        size: side in pixels.
    """

    def __init__(self, half_width: float, centre: Point = (0.0, 0.0), size: int = 256) -> None:
        self._scale = size / (2 * half_width)  # pixels per world unit
        self._centre = centre
        self._size = size
        self._image = Image.new("RGB", (size, size), "white")
        self._draw = ImageDraw.Draw(self._image)

    def pixel(self, point: Point) -> Point:
        """Where a point lies in the picture; rows of pixels count downwards."""
        x, y = point
        centre_x, centre_y = self._centre
        return self._size / 2 + (x - centre_x) * self._scale, self._size / 2 - (y - centre_y) * self._scale

    def line(self, points: Iterable[Point], colour: str, width: int = 2) -> None:
        """A line through points; the width in pixels."""
        self._draw.line([self.pixel(point) for point in points], fill=colour, width=width, joint="curve")

    def polygon(self, points: Iterable[Point], fill: str | None, outline: str | None = None) -> None:
        """A closed figure."""
        self._draw.polygon([self.pixel(point) for point in points], fill=fill, outline=outline)

    def rectangle(self, centre: Point, half_width: float, half_height: float, fill: str) -> None:
        """A rectangle along the axes, in world units."""
        x, y = centre
        corners = [
            (x - half_width, y - half_height),
            (x + half_width, y - half_height),
            (x + half_width, y + half_height),
            (x - half_width, y + half_height),
        ]
        self.polygon(corners, fill)

    def disc(self, centre: Point, radius: float, colour: str) -> None:
        """A disc; the radius in pixels."""
        x, y = self.pixel(centre)
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def cross(self, centre: Point, radius: float, colour: str) -> None:
        """An upright cross turned by 45°; the radius in pixels."""
        x, y = self.pixel(centre)
        for sign in (-1, 1):
            self._draw.line((x - radius, y - sign * radius, x + radius, y + sign * radius), fill=colour, width=2)

    def image(self) -> NDArray[np.uint8]:
        """The picture, (size, size, 3)."""
        return np.array(self._image)
