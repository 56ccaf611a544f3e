"""Memory of training: reused from step to step, and asked for before a run begins."""

import ctypes
import resource
import sys

import torch

from metarl.agents.gradients.processes import num_processes
from metarl.agents.learner import MetaLearner
from metarl.envs.task_distribution import TaskDistribution
from metarl.evaluation.memory import episode_bytes, parameter_bytes, require_memory
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


def check_memory(config: TrainConfig, distribution: TaskDistribution, learner: MetaLearner) -> None:
    """Find out that a meta-iteration, and the validation, fit into the memory that is free now.

    Raises:
        UserError: they do not; names the batch and what to lower.
    """
    batches = learner.support_batches + learner.collects_query
    episodes = iteration_bytes(config, distribution, learner) // num_processes()
    adapted = parameter_bytes(learner.policy.num_parameters, config.num_tasks) // num_processes()
    what = f"{_batch(config, distribution)} in {batches} batches"
    require_memory(episodes + adapted, what, "--num-tasks or --episodes", config.device)

    # All batches of an evaluation are kept, since they are what is measured.
    batches = learner.adaptation_steps + 1
    for name in ("eval_tasks", "test_tasks"):
        num_tasks = getattr(config, name)
        kept = episode_bytes(learner.policy, batches * num_tasks * config.episodes, distribution.horizon)
        flag = f"--{name.replace('_', '-')}"
        what = f"{name} {num_tasks} × episodes {config.episodes} × horizon {distribution.horizon} in {batches} batches"
        require_memory(kept, what, f"{flag} or --episodes", config.device)


def iteration_bytes(config: TrainConfig, distribution: TaskDistribution, learner: MetaLearner) -> int:
    """Bytes of all batches of a meta-iteration while they are collected."""
    batches = learner.support_batches + learner.collects_query
    return episode_bytes(learner.policy, batches * config.num_tasks * config.episodes, distribution.horizon)


def out_of_memory(config: TrainConfig, distribution: TaskDistribution) -> str:
    """The message where a meta-iteration did not fit after all."""
    knobs = "--num-tasks, --episodes or --task-chunk"
    return f"{_batch(config, distribution)} do not fit into the memory of {config.device}; lower {knobs}"


def _batch(config: TrainConfig, distribution: TaskDistribution) -> str:
    return f"num_tasks {config.num_tasks} × episodes {config.episodes} × horizon {distribution.horizon}"


def peak_memory_mb(device: torch.device) -> float:
    """Most memory that this process has held so far, MB: of a GPU torch's tensors, of a CPU everything."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
