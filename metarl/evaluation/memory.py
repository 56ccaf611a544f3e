"""Memory is asked before it is taken: one estimate of what episodes and parameters need, and what is free.

An allocator that fails does so late, with a message that names no flag, or the system ends the process without one.
"""

import math
import sys
from pathlib import Path

import torch
from gymnasium.spaces import Discrete, MultiDiscrete

from metarl.envs.spaces.action_map import PolicySpace
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import UserError

FLOAT = 4
"""Bytes of a number of single precision."""

COPIES_OF_EPISODES = 2
"""Once step by step, and once put together."""

COPIES_OF_PARAMETERS = 5
"""The parameters, a gradient, the two moments of Adam, and the copy that a failed update goes back to."""


def require_memory(needed: int, what: str, lower: str, device: torch.device | str = "cpu") -> None:
    """Find out that something fits into the memory that is free now.

    Args:
        needed: bytes.
        what: what needs them, in words, with the values of its flags.
        lower: the flags to lower.
        device: where.

    Raises:
        UserError: it does not fit; names what needs the memory and what to lower.
    """
    device = torch.device(device)
    available = available_bytes(device)
    if available is not None and needed > available:
        raise UserError(
            f"{what} need about {_amount(needed)}, and {_amount(available)} are free on {device}; lower {lower}"
        )


def require_memory_of_evaluation(
    distribution: TaskDistribution,
    num_tasks: int,
    episodes: int,
    steps: int,
    lower: str,
    device: torch.device | str = "cpu",
    name: str = "num_tasks",
    besides: int = 0,
) -> None:
    """Find out that the episodes after k = 0 … K adaptation steps, which are all kept, fit into the memory.

    Args:
        distribution: what the tasks come from.
        num_tasks: M.
        episodes: E.
        steps: K.
        lower: see `require_memory`.
        device: where.
        name: the flag that says how many tasks.
        besides: bytes of what else is kept.

    Raises:
        UserError: they do not fit.
    """
    batches = steps + 1
    needed = episode_bytes(distribution, batches * num_tasks * episodes) + besides
    what = f"{name} {num_tasks} × episodes {episodes} × horizon {distribution.horizon} in {batches} batches"
    require_memory(needed, what, lower, device)


def episode_bytes(distribution: TaskDistribution, num_episodes: int) -> int:
    """Bytes of episodes while they are collected.

    Args:
        distribution: says how large observations and actions are, and how long the episodes.
        num_episodes: tasks × episodes, of all batches that are kept at a time.
    """
    obs_size = math.prod(distribution.observation_space.shape)
    output_size = num_outputs(distribution.action_space)
    # Of each step: observation; action, mean, log std; reward, mask, advantage, weight, log-probability.
    numbers = obs_size + 3 * output_size + 5
    return COPIES_OF_EPISODES * FLOAT * numbers * num_episodes * distribution.horizon


def num_outputs(action_space: PolicySpace) -> int:
    """Numbers that a policy puts out for an action."""
    if isinstance(action_space, Discrete):
        return int(action_space.n)
    if isinstance(action_space, MultiDiscrete):
        return int(action_space.nvec.sum())
    return int(action_space.shape[0])


def parameter_bytes(num_parameters: int, num_tasks: int) -> int:
    """Bytes of a learner that trains so many numbers, and of their copies that are adapted to M tasks."""
    return FLOAT * num_parameters * (COPIES_OF_PARAMETERS + num_tasks)


def environment_bytes(distribution: TaskDistribution, num_envs: int) -> int:
    """Bytes of environments that are stepped side by side: tasks, states, observations and actions."""
    obs_size = math.prod(distribution.observation_space.shape)
    actions = distribution.action_space
    action_size = 1 if isinstance(actions, Discrete) else math.prod(actions.shape or (1,))
    task_size = sum(math.prod(range_.shape) for range_ in distribution.train.values())
    # A state is about as large as what is observed of it; a step makes the next one beside it.
    return 2 * FLOAT * num_envs * (2 * obs_size + action_size + task_size + 3)


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device, or of the container that this process runs in; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None

    in_container = _free_in_container()
    return free if in_container is None else min(free, in_container)


def _free_in_container() -> int | None:
    """What the limit of a container leaves; None without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        # What only caches files is given up when it is needed.
        rows = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(limit - used + int(rows.get("inactive_file", 0)), 0)
    except (OSError, ValueError):  # no such limit, or "max"
        return None


def _amount(count: int) -> str:
    """Bytes in words: '1.2 GB'; a number without end is more than any machine has."""
    if count > sys.float_info.max:
        return "more memory than any machine has"
    return f"{count / 1e9:,.1f} GB"
