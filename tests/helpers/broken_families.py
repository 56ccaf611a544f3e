"""Families that cannot be built, in a module of its own: workers import it and nothing else of the tests."""

import os

from metarl.envs.task_distribution import TaskDistribution


def dying() -> TaskDistribution:
    """A family that ends the process which builds it."""
    os._exit(9)


def failing() -> TaskDistribution:
    """A family that cannot be built."""
    raise LookupError("no such arm\nand more")
