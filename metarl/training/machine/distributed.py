"""Training in several processes, started by torchrun: who has which tasks, who writes, and how the job ends.

Every process holds the whole learner and takes every step. The tasks of a meta-batch are divided among the processes;
gradients, Fisher products and line-search terms are summed over them (`agents/gradients/processes.py`). Only the
first process writes the run.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from metarl.agents.gradients.processes import num_processes, sum_over_processes
from metarl.agents.teachers import TaughtConfig
from metarl.envs.cores import num_cores
from metarl.envs.task_space import Task, num_tasks_of, select_tasks
from metarl.errors import TrainingError, UserError
from metarl.run.config import TrainConfig


def is_job() -> bool:
    """Whether torchrun started this process as one of several."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def is_restart() -> bool:
    """Whether torchrun started the job again after a process was lost."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def rank() -> int:
    """This process's number in the job, 0 for the one that writes the run."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def local_device(device: str) -> str:
    """The device of this process. The processes of a machine take its GPUs in turn."""
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if not is_job() or on_cpu:
        return device
    return f"cuda:{int(os.environ['LOCAL_RANK']) % max(torch.cuda.device_count(), 1)}"


def backend_for(device: torch.device) -> str:
    """What sums over the processes: nccl, which wants a GPU for each process, or gloo."""
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
    return "nccl" if device.type == "cuda" and alone else "gloo"


def local_cores() -> int:
    """See `metarl.envs.cores.num_cores`."""
    return num_cores()


def check_job(config: TrainConfig) -> None:
    """Find out that a job can train this.

    Raises:
        UserError: the tasks cannot be divided equally, or the agent trains in one process only.
    """
    if num_processes() == 1:
        return
    if config.num_tasks % num_processes():
        raise UserError(f"num_tasks must be a multiple of the {num_processes()} processes, got {config.num_tasks}")
    if isinstance(config.learner, TaughtConfig):
        raise UserError(f"{config.agent} trains in one process, without torchrun: its teachers are made there")


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the job's process group while the block runs; does nothing without a job.

    Raises:
        TrainingError: the processes do not find each other.
    """
    if not is_job():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)

    try:
        store, number, count = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        # torchrun's store outlives a restart; without a prefix the new processes read addresses of the dead ones.
        own_store = dist.PrefixStore(f"restart-{_restarts()}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend_for(device), store=own_store, rank=number, world_size=count)
    except RuntimeError as error:
        raise TrainingError(f"the processes of the job do not find each other: {error}") from error

    try:
        yield
    finally:
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process of the job at once, with this exit code.

    A normal exit of Python now and then aborts the process, because threads of the process group still want the
    interpreter; that would fail a job whose work is done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def broadcast(make: Any) -> Any:
    """Call a function in the first process and return its result in every process.

    Args:
        make: the function; its result must be picklable.

    Raises:
        ValueError: it raised one; every process does.
    """
    if num_processes() == 1:
        return make()

    result = None
    refusal = None
    if rank() == 0:
        try:
            result = make()
        except ValueError as error:
            refusal = error

    # The refusal is sent like a result; otherwise the other processes would wait for ever.
    received = [result, refusal]
    dist.broadcast_object_list(received)
    result, refusal = received
    if refusal is not None:
        raise refusal
    return result


def shard(tasks: Task, generator: torch.Generator, index: int, processes: int) -> tuple[Task, torch.Generator]:
    """The tasks of one process and a random generator for its rollouts.

    Args:
        tasks: the M tasks of the meta-batch; the same in every process.
        generator: the job's, in the same state in every process before and after.
        index: number of the process.
        processes: how many there are; M is a multiple of it.
    """
    if processes == 1:
        return tasks, generator

    # Every process draws all seeds, so that the job's generator stays in the same state everywhere.
    seeds = torch.randint(2**62, (processes,), generator=generator, device=generator.device).tolist()
    own = torch.Generator(generator.device).manual_seed(seeds[index])
    return select_tasks(tasks, shard_slice(num_tasks_of(tasks), index, processes)), own


def shard_slice(num_tasks: int, index: int, processes: int) -> slice:
    """Which of the job's tasks belong to one process."""
    size = num_tasks // processes
    return slice(index * size, (index + 1) * size)


def local_shard(values: Tensor | None) -> Tensor | None:
    """The part of (M,) values, one for each of the job's tasks, that belongs to this process's tasks."""
    if values is None:
        return None
    return values[shard_slice(len(values), rank(), num_processes())]


def all_gather(own: Tensor) -> Tensor:
    """The values of all tasks in their order, (M,), from each process's values of its own tasks, (M / processes,).

    Raises:
        ProcessLostError: not all of them took part.
    """
    # Zeros everywhere but in the own part turn the sum over processes into a concatenation.
    everything = own.new_zeros(len(own) * num_processes())
    everything[shard_slice(len(everything), rank(), num_processes())] = own
    return sum_over_processes(everything)
