"""Chunks of tasks side by side on the CPU's cores."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agents.objectives import Batch

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_TASK_CHUNK = 2
"""Measured best on CPUs, with one thread and with two; see the README's performance section."""


class ChunkPool:
    """Maps a function over chunks of tasks on several threads; torch lets go of the interpreter while it computes.

    One thread per chunk beats torch's own threads within each operation: operations on a chunk are too small to be
    split further, and a pool has no barrier at which all threads wait for the slowest after each of them. The
    results come in the order of the chunks, so sums over them do not depend on the number of threads.

    Args:
        num_threads: threads; 1 computes in the calling thread. On a GPU one thread is enough.
    """

    def __init__(self, num_threads: int) -> None:
        self._executor = ThreadPoolExecutor(num_threads) if num_threads > 1 else None

    def map(self, function: Callable[[Item], Result], chunks: Iterable[Item]) -> list[Result]:
        """Apply the function to every chunk, results in their order."""
        if self._executor is None:
            return [function(chunk) for chunk in chunks]
        return list(self._executor.map(function, chunks))


def task_chunks(batches: list[Batch], size: int) -> Iterator[list[Batch]]:
    """The same slices of tasks of several batches, as views.

    Args:
        batches: each of M tasks.
        size: tasks in a chunk; 0 takes CPU_TASK_CHUNK on a CPU and all on a GPU.
    """
    obs = batches[0].obs
    size = size or (CPU_TASK_CHUNK if obs.device.type == "cpu" else len(obs))
    for start in range(0, len(obs), size):
        yield [batch.tasks(slice(start, start + size)) for batch in batches]
