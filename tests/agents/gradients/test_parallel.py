"""Chunks of tasks: how they are cut, in which order results come, and means over all of them."""

import threading

import pytest
import torch

from metarl.agents.gradients.parallel import ChunkPool, task_slices


def test_chunks_hold_as_many_tasks_as_are_asked_for() -> None:
    assert task_slices(torch.zeros(5, 2, 3, 1), 2) == [slice(0, 2), slice(2, 4), slice(4, 6)]


def test_without_a_size_chunks_hold_so_many_steps_and_one_task_at_least() -> None:
    obs = torch.zeros(4, 2, 3, 1)
    assert task_slices(obs, 0, cpu_steps=12) == [slice(0, 2), slice(2, 4)]
    assert task_slices(obs, 0, cpu_steps=1) == [slice(i, i + 1) for i in range(4)]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_the_order_of_the_chunks(num_threads: int) -> None:
    later = threading.Event()

    def wait_for_the_second(chunk: int) -> int:
        if num_threads > 1 and chunk == 0:
            assert later.wait(10)
        if chunk == 1:
            later.set()
        return 10 * chunk

    assert ChunkPool(num_threads).map(wait_for_the_second, range(3)) == [0, 10, 20]


@pytest.mark.parametrize("task_chunk", [1, 2, 10])
def test_the_mean_weighs_tasks_and_not_chunks(task_chunk: int) -> None:
    obs = torch.tensor([1.0, 2.0, 6.0]).reshape(3, 1, 1, 1)
    mean = ChunkPool(1, task_chunk).mean(lambda tasks: obs[tasks].sum(dim=0).flatten(), obs)
    assert mean.tolist() == [3.0]
