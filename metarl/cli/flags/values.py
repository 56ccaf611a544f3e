"""Values of flags that are more than a number or a word."""

import re
from collections.abc import Iterable

from metarl.cli.flags.before_parsing import leading_words
from metarl.errors import UserError
from metarl.run.config import DEFAULT_AGENT, DEFAULT_ENV, MAX_SEED

MOST_SEEDS = 100
"""Of one command."""


def parse_seeds(text: str) -> list[int]:
    """The seeds of "0-4" or "1,5,7-9", in this order.

    Raises:
        UserError: it is no such list.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part)
        if found is None:
            raise UserError(f"seeds must be such as 0-4 or 1,5,7, got {text!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last <= MAX_SEED or last - first >= MOST_SEEDS:
            raise UserError(f"seeds must ascend, be at most {MAX_SEED}, and {MOST_SEEDS} at once, got {text!r}")
        seeds += range(first, last + 1)

    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must differ from each other, got {text!r}")
    return seeds


def parse_options(items: Iterable[str]) -> dict[str, str]:
    """Option → text of the values of --set.

    Raises:
        UserError: one is not such as "env.horizon=50", or an option is given twice.
    """
    options: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        option = name.removeprefix("env.")
        if option == name or not (option and equals and value):
            raise UserError(f"--set takes an option of the environment, such as env.horizon=50, got {item!r}")
        if option in options:
            raise UserError(f"--set gives {name} twice")
        options[option] = value
    return options


def leading_agent_and_env(arguments: list[str]) -> tuple[str, str]:
    """AGENT and ENV where they stand before the flags, else their defaults."""
    leading = leading_words(arguments[:2])
    agent = leading[0] if leading else DEFAULT_AGENT
    env = leading[1] if len(leading) > 1 else DEFAULT_ENV
    return agent, env
