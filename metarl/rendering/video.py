"""Videos and strips of frames: tasks below each other, the policy after each adaptation step side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from metarl.rendering.camera import Clip, Frame
from metarl.rendering.page import GAP, MARGIN, MUTED, Page

TITLE_HEIGHT, LABEL_HEIGHT, CAPTION_HEIGHT = 34, 26, 56
STRIP_LENGTH = 6
"""Images of one episode in a strip."""

PAGE_WIDTH = 1000
LARGEST, SMALLEST = 240, 150
"""Pixels of an image's longer side."""


@dataclass(frozen=True)
class Scene:
    """One task after k adaptation steps.

    Attributes:
        caption: says how much experience of the task there was.
        value: the return.
        note: a third, smaller line.
        clip: one episode.
    """

    caption: str
    value: str
    note: str
    clip: Clip


@dataclass(frozen=True)
class Row:
    """One task.

    Attributes:
        label: says which task.
        scenes: before and after each adaptation step, k = 0 … K.
    """

    label: str
    scenes: list[Scene]

    @property
    def clips(self) -> list[Clip]:
        """The episodes of the scenes."""
        return [scene.clip for scene in self.scenes]


def image_size(columns: int) -> int:
    """Longer side of each of so many images side by side, in pixels."""
    return min(max((PAGE_WIDTH - 2 * MARGIN + GAP) // columns - GAP, SMALLEST), LARGEST)


class Video(Sequence[Frame]):
    """The episodes of all scenes at once; one that has ended stays, faded, until the last one has.

    Frames are drawn when they are asked for.

    Args:
        title: of the page.
        rows: tasks; all clips have images of one size.
        horizon: H.
        stride: environment steps from one frame to the next.
    """

    def __init__(self, title: str, rows: list[Row], horizon: int, stride: int) -> None:
        self._horizon = horizon
        self._stride = stride
        self._clips = [row.clips for row in rows]
        self._height, self._width = _size_of(rows)

        columns = len(self._clips[0])
        inner_width = columns * (self._width + GAP) - GAP
        self._right = MARGIN + inner_width
        self._page = Page(2 * MARGIN + inner_width, self._top(len(rows)))
        self._draw_captions(title, rows, inner_width)

    def __len__(self) -> int:
        return max(len(clip.frames) for row in self._clips for clip in row)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        places = range(len(self))[index]
        return self._frame(places) if isinstance(places, int) else [self._frame(place) for place in places]

    def _draw_captions(self, title: str, rows: list[Row], inner_width: int) -> None:
        """Everything that is the same in all frames."""
        self._page.text(MARGIN, MARGIN, title, 16, bold=True, width=inner_width - 120)  # beside it stands the step
        for number, row in enumerate(rows):
            top = self._top(number)
            self._page.text(MARGIN, top, row.label, 13, MUTED, width=inner_width)
            for column, scene in enumerate(row.scenes):
                left = self._left(column)
                self._page.text(left, top + LABEL_HEIGHT, scene.caption, 13, width=self._width)
                self._page.text(left, top + LABEL_HEIGHT + 17, scene.value, 13, bold=True, width=self._width)
                self._page.text(left, top + LABEL_HEIGHT + 36, scene.note, 11, MUTED, width=self._width)

    def _frame(self, index: int) -> Frame:
        # Captions were drawn once; a frame adds the images.
        page = self._page.copy()
        step = max(min(index * self._stride, clip.steps) for row in self._clips for clip in row)
        page.text(self._right, MARGIN + 2, f"step {step} of {self._horizon}", 13, MUTED, anchor="ra")

        for number, row in enumerate(self._clips):
            top = self._top(number) + LABEL_HEIGHT + CAPTION_HEIGHT
            for column, clip in enumerate(row):
                self._draw_clip(page, clip, index, self._left(column), top)
        return page.array()

    def _draw_clip(self, page: Page, clip: Clip, index: int, left: int, top: int) -> None:
        # The last state of an episode stays until all the others have ended.
        last = len(clip.frames) - 1
        page.image(left, top, clip.frames[min(index, last)], faded=index > last)

        if index >= last and clip.ending:
            bottom = top + self._height - 20
            page.text(left + self._width / 2, bottom, outcome(clip), 12, bold=True, anchor="ma", outlined=True)

    def _top(self, row: int) -> int:
        return MARGIN + TITLE_HEIGHT + row * (LABEL_HEIGHT + CAPTION_HEIGHT + self._height + GAP)

    def _left(self, column: int) -> int:
        return MARGIN + column * (self._width + GAP)


def outcome(clip: Clip) -> str:
    """How an episode ended, and when; "" where nothing is known."""
    return f"{clip.ending} after {clip.steps} step{'s' * (clip.steps != 1)}" if clip.ending else ""


def strip(title: str, rows: list[Row], stride: int) -> Frame:
    """A still: for each task a line of images through the episode before and after each adaptation step.

    Args:
        title: of the page.
        rows: tasks.
        stride: environment steps from one frame of a clip to the next.
    """
    height, width = _size_of(rows)
    scene_height = height + 40 + GAP
    row_height = LABEL_HEIGHT + len(rows[0].scenes) * scene_height
    inner_width = STRIP_LENGTH * (width + GAP) - GAP

    page = Page(2 * MARGIN + inner_width, MARGIN + TITLE_HEIGHT + len(rows) * row_height)
    page.text(MARGIN, MARGIN, title, 16, bold=True, width=inner_width)
    for number, row in enumerate(rows):
        top = MARGIN + TITLE_HEIGHT + number * row_height
        page.text(MARGIN, top, row.label, 13, MUTED, width=inner_width)
        for k, scene in enumerate(row.scenes):
            _draw_strip(page, scene, top + LABEL_HEIGHT + k * scene_height, inner_width, stride)
    return page.array()


def _draw_strip(page: Page, scene: Scene, top: int, inner_width: int, stride: int) -> None:
    """One episode as a line of images, with its caption above and their steps below."""
    page.text(MARGIN, top, f"{scene.caption}   {scene.value}", 13, bold=True)
    note = ", ".join(filter(None, (scene.note, outcome(scene.clip))))
    page.text(MARGIN + inner_width, top + 1, note, 11, MUTED, anchor="ra")

    frames = scene.clip.frames
    height, width, _ = frames[0].shape
    for place, index in enumerate(_spread(len(frames))):
        left = MARGIN + place * (width + GAP)
        page.image(left, top + 21, frames[index])
        step = min(index * stride, scene.clip.steps)
        page.text(left + width / 2, top + 23 + height, f"step {step}", 10, MUTED, anchor="ma")


def _size_of(rows: list[Row]) -> tuple[int, int]:
    """Height and width of the images."""
    height, width, _ = rows[0].scenes[0].clip.frames[0].shape
    return height, width


def _spread(count: int) -> list[int]:
    """Indices of at most STRIP_LENGTH of so many frames, the first and the last among them, evenly spread."""
    shown = min(count, STRIP_LENGTH)
    return [math.floor(place * (count - 1) / max(shown - 1, 1) + 0.5) for place in range(shown)]
