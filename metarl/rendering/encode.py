"""Images and videos as files: PNG, GIF and MP4, written atomically."""

import importlib.util
import io
import tempfile
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image

from metarl.envs.extras import how_to_install
from metarl.errors import UserError
from metarl.rendering.camera import Frame
from metarl.run.files import check_writable, write_atomically

VIDEOS = (".mp4", ".gif")
STILL = ".png"
COLOURS = 128
"""Of a GIF."""

NEARLY_WHITE = 248
HOLD = 1.5
"""Seconds for which a video stays on its last frame."""


def checked_output(out: str) -> Path:
    """Where an image or video is to be written, found out before the work.

    Raises:
        UserError: unknown kind of file, a place that cannot be written, or a missing package.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if suffix not in (*VIDEOS, STILL):
        raise UserError(f"--out must end in .mp4, .gif or .png, got {out!r}")

    if suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(f"an .mp4 needs the package imageio-ffmpeg: {how_to_install('render')}; a .gif needs nothing")
    check_writable(path)
    return path


def still_bytes(image: Frame) -> bytes:
    """An image as the content of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png", optimize=True)
    return content.getvalue()


def write_video(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write a GIF, which repeats for ever, or an MP4 (H.264).

    Args:
        path: its suffix says which.
        frames: of one size, even numbers of pixels.
        fps: frames per second.
    """
    encode = _gif if path.suffix.lower() == ".gif" else _mp4
    write_atomically(path, encode(frames, fps))


def _gif(frames: Sequence[Frame], fps: float) -> bytes:
    # One palette for all frames, so that what stands still is stored once.
    sample = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
    palette = Image.fromarray(sample).quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[(colours >= NEARLY_WHITE).all(axis=1)] = 255  # averages otherwise: greyish paper
    palette.putpalette(colours.flatten().tolist())
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)

    duration = max(round(100 / fps), 2) * 10  # ms; browsers slow down what is shorter
    durations = [duration] * len(others) + [duration + round(HOLD * 1000)]

    content = io.BytesIO()
    first.save(content, "gif", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    return content.getvalue()


def _mp4(frames: Sequence[Frame], fps: float) -> bytes:
    with tempfile.TemporaryDirectory() as place:  # ffmpeg writes to files only
        path = Path(place) / "video.mp4"
        options = {"fps": fps, "codec": "libx264", "macro_block_size": 2, "quality": 8}
        writer: Any = imageio.get_writer(path, "FFMPEG", "I", **options)
        with writer:
            for frame in chain(frames, repeat(frames[-1], round(HOLD * fps))):
                writer.append_data(frame)
        return path.read_bytes()
