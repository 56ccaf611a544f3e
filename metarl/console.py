"""Lines on the console."""

from rich.console import Console


def say(console: Console, line: str) -> None:
    """Print a line as it is, without markup, emoji or colours and never wrapped, so that paths in it can be copied."""
    console.print(line, highlight=False, soft_wrap=True, markup=False, emoji=False)
