"""Memory: keep what is freed for the next step, and say before a run begins what will not fit."""

import ctypes
import resource
import sys
from pathlib import Path

import torch

from metarl.agents.gradients.processes import num_processes
from metarl.agents.learner import MetaLearner
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import UserError
from metarl.run.config import TrainConfig

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**30


def keep_freed_memory() -> None:
    """Let the process keep the memory that torch frees, so that the next tensor need not fetch its pages anew.

    glibc hands freed megabytes back to the system at once. Fetching them again costs as much as computing on them,
    and threads of one process wait for each other meanwhile: Fisher products on two threads took as long as on one.
    Where the C library has no such setting, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(parameter, _NEVER)


def check_memory(config: TrainConfig, distribution: TaskDistribution, learner: MetaLearner) -> None:
    """Whether the episodes of a meta-iteration fit into the memory that is free now.

    Raises:
        UserError: they do not; names the batch and what to lower.
    """
    batches = learner.support_batches + learner.collects_query
    needed = episode_bytes(config, distribution, learner) * batches // num_processes()
    available = available_bytes(torch.device(config.device))
    if available is not None and needed > available:
        raise UserError(
            f"{_batch(config, distribution)} in {batches} batches need about {needed / 1e9:,.1f} GB, and "
            f"{available / 1e9:,.1f} GB are free on {config.device}; lower --num-tasks or --episodes"
        )


def out_of_memory(config: TrainConfig, distribution: TaskDistribution) -> str:
    """What to say where a meta-iteration did not fit after all."""
    knobs = "--num-tasks, --episodes or --task-chunk"
    return f"{_batch(config, distribution)} do not fit into the memory of {config.device}; lower {knobs}"


def _batch(config: TrainConfig, distribution: TaskDistribution) -> str:
    return f"num_tasks {config.num_tasks} × episodes {config.episodes} × horizon {distribution.horizon}"


def episode_bytes(config: TrainConfig, distribution: TaskDistribution, learner: MetaLearner) -> int:
    """Bytes of one batch of all tasks while it is collected: float32, once step by step and once put together."""
    observations, outputs = learner.policy.sizes[0], learner.policy.sizes[-1]
    numbers = observations + 3 * outputs + 5  # action, mean, log std; reward, mask, advantage, weight, log-probability
    return 2 * 4 * numbers * config.num_tasks * config.episodes * distribution.horizon


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
    """Most memory that this process has held so far, MB: on a GPU torch's tensors, on a CPU everything."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
