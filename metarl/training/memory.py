"""Memory: reuse freed memory from step to step, and find out before a run begins that its episodes do not fit."""

import ctypes
import resource
import sys
from pathlib import Path

import torch
from gymnasium.spaces import Discrete, MultiDiscrete

from metarl.agents.gradients.processes import num_processes
from metarl.agents.learner import Learner
from metarl.envs.spaces.action_map import PolicySpace
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import UserError
from metarl.run.config import TrainConfig

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""Parameters of glibc's mallopt: above so many bytes, freed memory is handed back to the system."""

_NEVER = 2**30


def keep_freed_memory() -> None:
    """Let the process keep the memory that torch frees, so that the next tensor finds it ready.

    glibc hands freed megabytes back to the system at once. Getting them again costs as much as computing on them, and
    the threads of one process wait for each other meanwhile: Fisher products on two threads took as long as on one.
    Where the C library has no such setting, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(parameter, _NEVER)


def check_memory(config: TrainConfig, distribution: TaskDistribution, learner: Learner) -> None:
    """Find out that the episodes of a meta-iteration fit into the memory that is free now.

    Raises:
        UserError: they do not; names the batch and what to lower.
    """
    batches = learner.sampling.batches
    needed = episode_bytes(config, distribution, learner) * batches // num_processes()
    available = available_bytes(torch.device(config.device))
    if available is not None and needed > available:
        raise UserError(
            f"{_batch(config, distribution)} in {batches} batches need about {needed / 1e9:,.1f} GB, and "
            f"{available / 1e9:,.1f} GB are free on {config.device}; lower --num-tasks or --episodes"
        )


def out_of_memory(config: TrainConfig, distribution: TaskDistribution) -> str:
    """The message where a meta-iteration did not fit after all."""
    knobs = "--num-tasks, --episodes or --task-chunk"
    return f"{_batch(config, distribution)} do not fit into the memory of {config.device}; lower {knobs}"


def _batch(config: TrainConfig, distribution: TaskDistribution) -> str:
    return f"num_tasks {config.num_tasks} × episodes {config.episodes} × horizon {distribution.horizon}"


def episode_bytes(config: TrainConfig, distribution: TaskDistribution, learner: Learner) -> int:
    """Bytes of one batch of all tasks while it is collected."""
    obs_size = distribution.observation_space.shape[0]
    output_size = _num_outputs(distribution.action_space)
    # Of each step: observation; action, mean, log std; reward, mask, advantage, weight, log-probability.
    numbers = obs_size + 3 * output_size + 5

    steps = config.num_tasks * config.episodes * distribution.horizon
    bytes_of_float32 = 4
    copies = 2  # once step by step, and once put together
    return copies * bytes_of_float32 * numbers * steps


def _num_outputs(action_space: PolicySpace) -> int:
    """Numbers that a policy puts out for an action."""
    if isinstance(action_space, Discrete):
        return int(action_space.n)
    if isinstance(action_space, MultiDiscrete):
        return int(action_space.nvec.sum())
    return int(action_space.shape[0])


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device, None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def peak_memory_mb(device: torch.device) -> float:
    """Most memory that this process has held so far, MB: of a GPU torch's tensors, of a CPU everything."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
