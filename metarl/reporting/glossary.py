"""What the metrics of a run mean: the table of metarl/training/README.md, which is part of the package."""

import re
from pathlib import Path

_PAGE = Path(__file__).parents[1] / "training" / "README.md"


def glossary() -> dict[str, str]:
    """Metric → what it is, in the order of the page."""
    section = _PAGE.read_text(encoding="utf-8").partition("## What is logged\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([^`]+)` \| (.+?) \|$", section)
    return {tag: meaning.replace("`", "") for tag, meaning in rows if not tag.endswith("/")}
