"""Lines on the console, and commands in them."""

import shlex

from rich.console import Console


def say(console: Console, line: str) -> None:
    """Print a line as it is, without markup or colours and never wrapped, so that paths in it can be copied."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def shell_command(*words: object) -> str:
    """A command to be copied into a shell: its words quoted where they need it, so that any name runs as it is."""
    return shlex.join(str(word) for word in words)
