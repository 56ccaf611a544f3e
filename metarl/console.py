"""Lines on the console."""

from rich.console import Console


def say(console: Console, line: str) -> None:
    """Print a line as it is: no markup, no colours, never broken, so that a path in it can be copied."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)
