"""Sums over the processes of a job, each of which has its share of the tasks; a job of one process is the rule.

`metarl.training.machine.distributed` starts and ends the job; learners only sum, and so take the same step in every
process.
"""

import torch.distributed as dist
from torch import Tensor


class ProcessLostError(RuntimeError):
    """Another process of the job is gone, or does not answer."""


def num_processes() -> int:
    """Processes of the job."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's tensor, the same bits in each of them; in place where there are several.

    Raises:
        ProcessLostError: not all of them took part.
    """
    if num_processes() > 1:
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise ProcessLostError("another process of the job was lost") from error
    return values


def mean_over_tasks(values: Tensor) -> Tensor:
    """Mean of (M, …) over the tasks of all processes, which have equally many each: (…)."""
    return sum_over_processes(values.sum(dim=0)) / (len(values) * num_processes())
