"""Chunks of tasks side by side on the CPU's cores, and means over all the tasks."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from metarl.agents.gradients.processes import num_processes, sum_over_processes
from metarl.envs.graphs.capture import is_capturing
from metarl.envs.graphs.functions import FunctionGraphs

CHUNK_NUMBERS = 2**27
"""Numbers in the observations of a chunk at most: long observations make chunks of fewer steps."""

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_CHUNK_STEPS = 4000
"""Environment steps in a chunk; measured best on CPUs, see metarl/benchmarks/README.md."""

GPU_CHUNK_STEPS = 1_000_000
"""Environment steps in a chunk on a GPU, so that memory does not grow with the tasks; chosen, not measured."""


class ChunkPool:
    """Maps a function over chunks of tasks on several threads; torch lets go of the interpreter while it computes.

    One thread per chunk beats torch's own threads within each operation: operations on a chunk are too small to be
    split further, and a pool has no barrier at which all threads wait for the slowest after each of them. The
    results come in the order of the chunks, so sums over them do not depend on the number of threads.

    Attributes:
        graphs: runs whole functions as CUDA graphs; None where they are called as they are.

    Args:
        num_threads: threads; 1 computes in the calling thread. On a GPU one thread is enough.
        task_chunk: tasks in a chunk; 0 = see `task_slices`.
    """

    def __init__(self, num_threads: int, task_chunk: int = 0) -> None:
        self.graphs: FunctionGraphs | None = None
        self._executor = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        self._task_chunk = task_chunk

    def chunks(self, obs: Tensor) -> list[slice]:
        """The tasks of a batch with observations (M, E, H, O) in chunks."""
        return task_slices(obs, self._task_chunk)

    def map(self, function: Callable[[Item], Result], chunks: Iterable[Item]) -> list[Result]:
        """Apply the function to every chunk, results in their order."""
        if self._executor is None or is_capturing():
            return [function(chunk) for chunk in chunks]
        return list(self._executor.map(function, chunks))

    def run(self, function: Callable[..., Result], *arguments: Any, fuse: bool = True) -> Result:
        """What `function(*arguments)` returns; as a CUDA graph where there are such, see FunctionGraphs.run.

        Processes that sum over their tasks call it as it is.
        """
        if self.graphs is None or num_processes() > 1:
            return function(*arguments)
        return self.graphs.run(function, *arguments, fuse=fuse)

    def mean(self, sum_of_chunk: Callable[[slice], Tensor], obs: Tensor) -> Tensor:
        """Mean over the tasks of all processes.

        Args:
            sum_of_chunk: a chunk of tasks -> the sum over them.
            obs: observations of all this process's tasks, (M, E, H, O).
        """
        sums = torch.stack(self.map(sum_of_chunk, self.chunks(obs)))
        return sum_over_processes(sums.sum(dim=0)) / (len(obs) * num_processes())


def task_slices(obs: Tensor, size: int, cpu_steps: int = CPU_CHUNK_STEPS) -> list[slice]:
    """The tasks of a batch in chunks.

    Args:
        obs: the batch's observations, (M, E, H, O).
        size: tasks in a chunk; 0 = as many as hold `cpu_steps` steps, on a GPU GPU_CHUNK_STEPS.
        cpu_steps: steps of a chunk on a CPU.
    """
    if size == 0:
        chunk_steps = GPU_CHUNK_STEPS if obs.is_cuda else cpu_steps
        size = tasks_of_chunk(math.prod(obs.shape[1:-1]), obs.shape[-1], chunk_steps)
    return [slice(start, start + size) for start in range(0, len(obs), size)]


def tasks_of_chunk(steps_per_task: int, obs_size: int, chunk_steps: int) -> int:
    """Tasks that are handled at once, at least one.

    Args:
        steps_per_task: E·H.
        obs_size: O; long observations make chunks of fewer tasks.
        chunk_steps: steps of a chunk at most.
    """
    chunk_steps = min(chunk_steps, CHUNK_NUMBERS // max(obs_size, 1))
    return max(1, chunk_steps // steps_per_task)
