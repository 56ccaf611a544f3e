"""Arguments that the adapters share, with their checks: distribution, task, render mode, options of reset."""

import copy
from collections.abc import Mapping
from typing import Any

from gymnasium.spaces import Space

from metarl.envs.registry import make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task

SAMPLE = "sample"
"""In place of a task: sample a new training task at the start of every episode."""

TaskChoice = Mapping[str, Any] | str | None
"""A task as a mapping of parameter names to numbers, SAMPLE, or None for the family's default task."""


def as_distribution(distribution: TaskDistribution | str) -> TaskDistribution:
    """The distribution, or the one of that name."""
    return make_distribution(distribution) if isinstance(distribution, str) else distribution


def own_spaces(distribution: TaskDistribution) -> tuple[Space[Any], Space[Any]]:
    """Copies of the environment's own spaces: `action_space.seed()` of one must not reseed another's samples."""
    return copy.deepcopy(distribution.observation_space), copy.deepcopy(distribution.env.native_action_space)


def at_least_one(field: str, value: int) -> int:
    """The value; a ValueError that names the field where it is below 1."""
    if value < 1:
        raise ValueError(f"{field} must be at least 1, got {value}")
    return value


def parse_choice(distribution: TaskDistribution, choice: TaskChoice) -> Task | None:
    """The chosen task, leaves (1, …); None for SAMPLE.

    Raises:
        ValueError: malformed or out-of-range task.
    """
    if choice is None:
        return distribution.default_task()
    if isinstance(choice, str) and choice == SAMPLE:
        return None
    return parse_mapping(distribution, choice)


def parse_mapping(distribution: TaskDistribution, task: Any) -> Task:
    """The task of a mapping of parameter names to numbers, leaves (1, …).

    Raises:
        ValueError: no mapping; malformed or out-of-range task.
    """
    if not isinstance(task, Mapping):
        raise ValueError(f"task must be None, {SAMPLE!r} or a mapping of {sorted(distribution.train)}, got {task!r}")
    return distribution.parse_task(task)


def render_metadata(env: TaskEnv, metadata: dict[str, Any]) -> dict[str, Any]:
    """The class's metadata with the family's frame rate, and no render mode where the family cannot render."""
    modes = metadata["render_modes"] if env.can_render else []
    return {**metadata, "render_modes": modes, "render_fps": env.render_fps}


def check_render_mode(render_mode: str | None, metadata: dict[str, Any], distribution: TaskDistribution) -> str | None:
    """The render mode; a ValueError where the metadata do not offer it."""
    offered = metadata["render_modes"]
    if render_mode is not None and render_mode not in offered:
        allowed = ", ".join(repr(mode) for mode in (None, *offered))
        raise ValueError(f"render_mode {render_mode!r} is not offered by {distribution.name}; allowed: {allowed}")
    return render_mode


def check_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """Options of `reset`; a ValueError where there are others than "task"."""
    options = options or {}
    unknown = [key for key in options if key != "task"]
    if unknown:
        raise ValueError(f"unknown reset options {unknown}; allowed: 'task'")
    return options
