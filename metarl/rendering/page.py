"""A page of images and captions, drawn pixel by pixel so that small text stays sharp in videos."""

import functools
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.rendering.camera import Frame

TEXT, MUTED, BORDER = "#222222", "#767676", "#c8c8c8"
MARGIN, GAP = 18, 14
"""Pixels around the page, and between images."""


class Page:
    """White paper of a fixed size in pixels; (0, 0) is the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        even = (width + width % 2, height + height % 2)  # H.264 takes no other
        self._image = Image.new("RGB", even, "white")
        self._draw = ImageDraw.Draw(self._image)

    def copy(self) -> "Page":
        """The same page, to draw on."""
        other = object.__new__(Page)
        other._image = self._image.copy()
        other._draw = ImageDraw.Draw(other._image)
        return other

    def text(
        self,
        left: float,
        top: float,
        text: str,
        size: int = 13,
        colour: str = TEXT,
        bold: bool = False,
        anchor: Literal["la", "ma", "ra"] = "la",
        width: float | None = None,
        outlined: bool = False,
    ) -> None:
        """One line of text.

        Args:
            left: pixels from the left edge to the anchor.
            top: pixels from the upper edge.
            text: the line.
            size: height of the letters in pixels.
            colour: of the letters.
            bold: whether they are bold.
            anchor: which end of the line stands at `left`: "la" its left one, "ma" its middle, "ra" its right one.
            width: pixels beyond which it is cut with …; None: never.
            outlined: whether a white outline makes it legible on every image.
        """
        font = _font(size, bold)

        if width is not None and font.getlength(text) > width:
            while text and font.getlength(f"{text}…") > width:
                text = text[:-1]
            text = f"{text.rstrip(' ,·')}…"

        outline = 2 if outlined else 0
        self._draw.text(
            (left, top), text, fill=colour, font=font, anchor=anchor, stroke_width=outline, stroke_fill="white"
        )

    def image(self, left: int, top: int, image: Frame, faded: bool = False) -> None:
        """An image with a thin border; a faded one is half white."""
        height, width = image.shape[:2]
        shown = (image // 2 + 127).astype(np.uint8) if faded else image
        self._draw.rectangle((left - 1, top - 1, left + width, top + height), outline=BORDER)
        self._image.paste(Image.fromarray(shown), (left, top))

    def array(self) -> Frame:
        """The page as an image."""
        return np.asarray(self._image)


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along: it has the minus sign and the letters of the field."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
