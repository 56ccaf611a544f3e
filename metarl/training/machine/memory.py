"""Memory of training: reused from step to step, and asked for before a run begins."""

import ctypes
import dataclasses
import resource
import sys

import torch

from metarl.agents.gradients.advantages import BASELINE_CHUNK_STEPS
from metarl.agents.gradients.parallel import CPU_CHUNK_STEPS, GPU_CHUNK_STEPS, tasks_of_chunk
from metarl.agents.gradients.processes import num_processes
from metarl.agents.learner import Learner
from metarl.agents.policies.cnn import CNNPolicy
from metarl.agents.policies.observations import GRID
from metarl.envs.spaces.observation import FlatImage
from metarl.envs.task_distribution import TaskDistribution
from metarl.evaluation.memory import (
    COPIES_OF_EPISODES,
    FLOAT,
    episode_bytes,
    require_memory,
    require_memory_of_evaluation,
)
from metarl.run.config import TrainConfig

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""Parameters of glibc's mallopt: above so many bytes, freed memory is handed back to the system."""

_NEVER = 2**30

GRAPH_COPIES = 4
"""Copies of the batches that CUDA graphs own: a rollout's records and its episodes, what updates take and what they
give."""

DOUBLE = 2 * FLOAT
"""Bytes of a number of double precision."""

TRIAL_COPIES = 3
"""Copies of the batches where they are parts of trials: as they were sampled, one after the other, and a minibatch."""

FIRST_CONVOLUTION = 75_000_000
"""Bytes that the first convolution and its derivative leave in a process: code and buffers of PyTorch's libraries."""

ARRAYS_OF_UNITS = 6
"""Arrays of a network's units that an adaptation step and its derivatives hold at once: values, derivatives, tangents,
deltas, and what the next of them is made from."""


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
    """Find out that a meta-iteration, and the evaluations, fit into the memory that is free now.

    Raises:
        UserError: they do not; names the batch and what to lower.
    """
    batches = learner.sampling.batches
    needed = iteration_bytes(config, distribution, learner)
    require_memory(
        needed, f"{_batch(config, distribution)} in {batches} batches", "--num-tasks or --episodes", config.device
    )

    for name in ("eval_tasks", "test_tasks"):
        lower = f"--{name.replace('_', '-')} or --episodes"
        num_tasks = getattr(config, name)
        steps = learner.adaptation_steps
        require_memory_of_evaluation(distribution, num_tasks, config.episodes, steps, lower, config.device, name)


def out_of_memory(config: TrainConfig, distribution: TaskDistribution) -> str:
    """The message where a meta-iteration did not fit after all."""
    knobs = "--num-tasks, --episodes or --task-chunk"
    return f"{_batch(config, distribution)} do not fit into the memory of {config.device}; lower {knobs}"


def _batch(config: TrainConfig, distribution: TaskDistribution) -> str:
    return f"num_tasks {config.num_tasks} × episodes {config.episodes} × horizon {distribution.horizon}"


def iteration_bytes(config: TrainConfig, distribution: TaskDistribution, learner: Learner) -> int:
    """Bytes of everything that a meta-iteration holds at once in this process.

    The batches, all of them, with what is computed of each step; the copy that is made while one of them is collected;
    the adapted parameters; and what is held for some tasks at a time: the baseline's features, the network's
    activations, and what the learner's update keeps beside its batches.
    """
    num_tasks = max(1, config.num_tasks // num_processes())
    own = dataclasses.replace(config, num_tasks=num_tasks)
    batches = learner.sampling.batches
    steps = num_tasks * config.episodes * distribution.horizon
    one_batch = episode_bytes(distribution, num_tasks * config.episodes) // COPIES_OF_EPISODES

    size = distribution.observation_space.shape[0]
    derived = 3  # advantage, weight, log-probability
    if learner.policy.observations.active:
        derived += size  # what the baseline sees
    kept = batches * (one_batch + FLOAT * derived * steps)

    parameters = FLOAT * sum(leaf.numel() for leaf in learner.begin(1).params.values())
    policies = num_tasks * parameters * (batches + 1)

    at_a_time = max(_baseline_bytes(own, distribution), _network_bytes(own, distribution, learner))
    if not learner.sampling.pooled:
        kept *= TRIAL_COPIES
    if isinstance(learner.policy, CNNPolicy):
        at_a_time += FIRST_CONVOLUTION
    graphs = GRAPH_COPIES * kept if config.device.startswith("cuda") and config.cuda_graphs != "off" else 0
    of_update = learner.kept_bytes(num_tasks, config.episodes, distribution.horizon)
    return kept + one_batch + policies + at_a_time + graphs + of_update


def _baseline_bytes(config: TrainConfig, distribution: TaskDistribution) -> int:
    """Bytes of fitting the baseline to a chunk of tasks."""
    observed = distribution.observation_space
    size = observed.channels_first[0] * GRID**2 if isinstance(observed, FlatImage) else observed.shape[0]
    per_task = config.episodes * distribution.horizon
    tasks = _tasks_at_once(config, per_task, size, BASELINE_CHUNK_STEPS)

    features = 2 * size + 3
    held = per_task * features * (FLOAT + 2 * DOUBLE)  # as they are, and centred, in double precision
    matrix = 2 * DOUBLE * min(features, per_task) ** 2
    return tasks * (held + matrix)


def _network_bytes(config: TrainConfig, distribution: TaskDistribution, learner: Learner) -> int:
    """Bytes of the network's inputs, activations and derivatives on the chunks that are handled at once."""
    size = distribution.observation_space.shape[0]
    per_task = config.episodes * distribution.horizon
    if not learner.sampling.pooled:
        per_task *= learner.sampling.batches  # what learns in its memory is unrolled over whole trials
    tasks = getattr(config.learner, "task_chunk", 0) or _tasks_at_once(config, per_task, size, CPU_CHUNK_STEPS)
    tasks = min(tasks * max(config.num_threads, 1), config.num_tasks)
    return tasks * per_task * FLOAT * (size + ARRAYS_OF_UNITS * sum(getattr(learner.policy, "sizes", ())))


def _tasks_at_once(config: TrainConfig, per_task: int, size: int, cpu_steps: int) -> int:
    """Tasks in a chunk: see `tasks_of_chunk`."""
    chunk_steps = GPU_CHUNK_STEPS if config.device.startswith("cuda") else cpu_steps
    return min(tasks_of_chunk(per_task, size, chunk_steps), config.num_tasks)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory that this process has held so far, MB: of a GPU torch's tensors, of a CPU everything."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
