"""A Capture runs a function of tensors once more and gives what repeats its work on the device.

A CUDA graph repeats recorded operations on the very tensors they were recorded with: whoever captures a function owns
the tensors that it reads and writes.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

Capture = Callable[[Callable[[], None], torch.Generator], Callable[[], None]]
"""Runs a function a few times and returns what repeats its work on the device, without the function's Python.

The function reads and writes tensors that stay where they are; the generator lies on their device and is the one that
it draws from, if it draws at all.
"""


class Recording(Protocol):
    """A capture under way."""

    def interrupt(self, launch: Callable[[], None]) -> None:
        """Put a call between what was recorded so far and what follows."""
        ...


_under_way: list[Recording] = []
"""The capture under way, if there is one; captures are not nested."""


@contextlib.contextmanager
def recording(capture: Recording) -> Iterator[None]:
    """Let `between_graphs` know of a capture as long as the block lasts."""
    _under_way.append(capture)
    try:
        yield
    finally:
        _under_way.pop()


def is_capturing() -> bool:
    """Whether a function is being captured."""
    return bool(_under_way)


def between_graphs(launch: Callable[[], None]) -> None:
    """Call something that works on the device but fits into no graph of torch's, such as a graph of another library.

    Where a function is being captured, the call becomes a step of its own between two graphs.
    """
    if _under_way:
        _under_way[-1].interrupt(launch)
    else:
        launch()


def first_line(error: Exception) -> str:
    """What an error says, in a line; errors of PyTorch's say more below it, or nothing at all."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cuda_graph(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """A Capture on a GPU, by `torch.cuda.CUDAGraph`: one graph, or several with the calls between them.

    Raises:
        RuntimeError: the function waits for the device, or does something else that a graph cannot hold.
    """
    with torch.cuda.device(generator.device):
        _warm_up(function)
        graphs = _CudaGraphs(generator)
        with recording(graphs), graphs:
            function()
    return graphs.replay


def _warm_up(function: Callable[[], None]) -> None:
    """Call it once, so that libraries allocate what they keep; PyTorch asks for another stream than the default one."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)


class _CudaGraphs:
    """One capture: graphs that share their memory, since they run one after the other, and calls between them."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._memory = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._open: Any = None
        self._launches: list[Callable[[], None]] = []

    def replay(self) -> None:
        for launch in self._launches:
            launch()

    def interrupt(self, launch: Callable[[], None]) -> None:
        """See Recording.interrupt."""
        self._end_graph()
        self._launches.append(launch)
        self._begin_graph()

    def __enter__(self) -> None:
        self._begin_graph()

    def __exit__(self, *error: Any) -> None:
        self._end_graph(*error)

    def _begin_graph(self) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        self._open = torch.cuda.graph(graph, pool=self._memory, stream=self._stream)
        self._open.__enter__()
        self._launches.append(graph.replay)

    def _end_graph(self, *error: Any) -> None:
        self._open.__exit__(*(error or (None, None, None)))
