"""Training on several processes, started by torchrun: who has which tasks, who writes, and how the job ends.

Every process holds the whole learner and takes every step; the tasks of a meta-batch are divided among them and
gradients, Fisher products and line-search terms summed (`agents/gradients/processes.py`). The first process alone
writes the run.
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
    """This process's number in the job; 0 writes the run."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def local_device(device: str) -> str:
    """The device that this process of a job uses: of the GPUs of its machine, one each."""
    if not is_job() or device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return device
    return f"cuda:{os.environ['LOCAL_RANK']}"


def local_cores() -> int:
    """See `metarl.envs.cores.num_cores`."""
    return num_cores()


def check_job(config: TrainConfig) -> None:
    """Whether a job can train this.

    Raises:
        UserError: tasks that cannot be shared out equally, or an agent that trains in one process only.
    """
    if num_processes() == 1:
        return
    if config.num_tasks % num_processes():
        raise UserError(f"num_tasks must be a multiple of the {num_processes()} processes, got {config.num_tasks}")
    if config.agent == "distill":
        raise UserError("distill trains in one process, without torchrun: its teachers are made there")


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Be one process of the job while it lasts; does nothing in a job of one.

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
        life = dist.PrefixStore(f"restart-{_restarts()}", store)  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=life, rank=number, world_size=count)
    except RuntimeError as error:
        raise TrainingError(f"the processes of the job do not find each other: {error}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process of the job at once, with this exit code.

    At Python's own end, threads of the process group that still want the interpreter abort the process now and then,
    and with it a job whose work is done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def broadcast(make: Any) -> Any:
    """What the first process makes, in every process; where it refuses, with a ValueError, all of them do.

    Args:
        make: called in the first process only; its result must be picklable.
    """
    if num_processes() == 1:
        return make()
    result: list[Any] = [None, None]
    if rank() == 0:
        try:
            result[0] = make()
        except ValueError as error:
            result[1] = error
    dist.broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]


def shard(tasks: Task, generator: torch.Generator, index: int, processes: int) -> tuple[Task, torch.Generator]:
    """The tasks of one process and a generator for its rollouts.

    Args:
        tasks: the tasks of the meta-batch, M; the same in every process.
        generator: the job's, in the same state in every process before and after.
        index: which process.
        processes: how many there are; M is a multiple of it.
    """
    if processes == 1:
        return tasks, generator
    seeds = torch.randint(2**62, (processes,), generator=generator, device=generator.device).tolist()
    own = torch.Generator(generator.device).manual_seed(seeds[index])
    return select_tasks(tasks, shard_slice(num_tasks_of(tasks), index, processes)), own


def shard_slice(num_tasks: int, index: int, processes: int) -> slice:
    """Which of the job's tasks are those of one process."""
    size = num_tasks // processes
    return slice(index * size, (index + 1) * size)


def local_shard(of_all: Tensor | None) -> Tensor | None:
    """Of a number for each of the job's tasks, (M,), those of this process's tasks."""
    return None if of_all is None else of_all[shard_slice(len(of_all), rank(), num_processes())]


def all_gather(own: Tensor) -> Tensor:
    """What every process has of each of its tasks, (M / processes,), of all tasks in their order, (M,).

    Raises:
        ProcessLostError: not all of them took part.
    """
    everything = own.new_zeros(len(own) * num_processes())
    everything[shard_slice(len(everything), rank(), num_processes())] = own
    return sum_over_processes(everything)
