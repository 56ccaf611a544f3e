"""What all tests share: double precision on demand, how many processes, and the order of the files."""

import multiprocessing
import signal
from collections.abc import Iterator

import pytest
import torch

from metarl.envs.cores import num_cores
from metarl.envs.spaces.precision import set_float_dtype

torch.set_num_threads(1)  # tensors this small gain nothing from more, and test processes would fight over the cores

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` would hand on that it is ignored

# Processes that tests start are copies of one that has imported these, which takes seconds.
multiprocessing.set_forkserver_preload(
    ["metarl.cli.train", "torch._dynamo", "tests.helpers.workbench", "tests.helpers.without_figures"]
)


@pytest.fixture
def float64() -> Iterator[None]:
    """Computes in double precision, so that equations can be compared to many digits."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    set_float_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)
    set_float_dtype(torch.float32)


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` is: half as many again as there are cores, for many a test waits for processes that it began."""
    cores = num_cores()
    return cores + cores // 2


LONGEST = ["comparer", "external_training", "readme", "cli", "families", "meta_policy", "curriculum", "every_family"]
"""Files that take a minute or so: begun first, so that none is left to one process while others have nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; xdist gives them out in this order."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)
