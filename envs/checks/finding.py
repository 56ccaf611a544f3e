"""Finding: one thing that was seen of an environment, what it means, and what to do about it."""

from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "note", "fault"]
"""Whether all is well, a choice deserves a thought, or something will go wrong in training."""


MOST_DIGITS = 10
"""As many digits as numbers are written with; float32 has fewer."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen.

    Attributes:
        topic: what it is about, a word or two.
        level: see Level.
        text: what was seen, one line.
        advice: what it means and what to do about it, one line; "" where there is nothing to do.
        numbers: the same as plain data.
    """

    topic: str
    level: Level
    text: str
    advice: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


def interval(low: float, high: float, digits: int) -> str:
    """Two numbers as "[low, high]", with so many digits, or as many as show that they differ: "[1000000, 1000004]"."""
    for shown in range(digits, MOST_DIGITS):
        texts = f"{low:.{shown}g}", f"{high:.{shown}g}"
        if low == high or texts[0] != texts[1]:
            return f"[{texts[0]}, {texts[1]}]"
    return f"[{low!r}, {high!r}]"
