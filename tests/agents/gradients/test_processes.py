"""Learners on two processes that share out the tasks take the step of one process that has them all."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from metarl.agents.gradients.processes import ProcessLostError, mean_over_tasks, num_processes, sum_over_processes
from metarl.agents.learner import Learner, MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.multitask import Multitask, MultitaskConfig
from metarl.agents.reptile import Reptile, ReptileConfig
from metarl.envs.rollout import Episodes
from metarl.envs.spaces.precision import set_float_dtype
from tests.helpers.agent_builders import ACTION_SPACES, OBSERVATION_SPACE, TINY, random_meta_batch, seeded

PROCESSES = 2
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.1, 1.5, 3.0])
LEARNERS: dict[str, tuple[Any, Any]] = {
    "maml-trpo": (MAML, MAMLConfig(policy=TINY, adaptation_steps=2)),
    "promp": (MAML, MAMLConfig(policy=TINY, outer="ppo", inner_lr_mode="per-step")),
    "e-maml": (MAML, MAMLConfig(policy=TINY, exploration_credit=0.7)),
    "reptile": (Reptile, ReptileConfig(policy=TINY)),
    "multitask": (Multitask, MultitaskConfig(policy=TINY)),
}


def make(name: str) -> tuple[Learner, list[Episodes], Episodes]:
    """A learner and a meta-batch of 3 tasks for each process."""
    learner_class, config = LEARNERS[name]
    learner = learner_class(OBSERVATION_SPACE, ACTION_SPACES["gaussian"], config, seeded(0))
    shares = [random_meta_batch(learner, seeded(process + 1)) for process in range(PROCESSES)]
    support = [Episodes.concatenate(batches) for batches in zip(*(support for support, _ in shares), strict=True)]
    return learner, support, Episodes.concatenate([query for _, query in shares])


def join(process: int, place: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    set_float_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{place / 'meeting'}", rank=process, world_size=PROCESSES)


def update_share(process: int, place: Path) -> None:
    """One process: every learner's update on its own share of the tasks."""
    join(process, place)
    results = {}
    for name in LEARNERS:
        learner, support, query = make(name)
        own = slice(3 * process, 3 * process + 3)
        metrics = learner.update(
            MetaBatch([batch.tasks(own) for batch in support], query.tasks(own), importance=WEIGHTS[own])
        )
        results[name] = (learner.state_dict(), metrics)
    torch.save(results, place / f"results-{process}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process ended with."""
    place = tmp_path_factory.mktemp("job")
    start_processes(update_share, (place,), PROCESSES, start_method="forkserver")  # type: ignore[no-untyped-call]
    return [torch.load(place / f"results-{process}.pt") for process in range(PROCESSES)]


@pytest.mark.parametrize("name", LEARNERS)
def test_two_processes_take_the_step_of_one(name: str, results: list[dict[str, Any]], float64: None) -> None:
    learner, support, query = make(name)
    start = learner.state_dict()
    metrics = learner.update(MetaBatch(support, query, importance=WEIGHTS))
    state = learner.state_dict()
    assert any(not torch.equal(state[leaf], value) for leaf, value in start.items())
    for shared_state, shared_metrics in (result[name] for result in results):
        assert shared_metrics == pytest.approx(metrics, rel=1e-6)  # conjugate gradient magnifies rounding
        for leaf, value in state.items():
            torch.testing.assert_close(shared_state[leaf], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LEARNERS)
def test_all_processes_end_with_the_same_bits(name: str, results: list[dict[str, Any]]) -> None:
    (one, metrics), (other, other_metrics) = (result[name] for result in results)
    assert metrics == other_metrics
    assert all(torch.equal(one[leaf], other[leaf]) for leaf in one)


def wait_for_the_lost(process: int, place: Path) -> None:
    """The second process leaves without a word; the first one is told."""
    join(process, place)
    if process == 0:
        try:
            sum_over_processes(torch.zeros(1))
        except ProcessLostError as error:
            (place / "told").write_text(str(error))
    os._exit(0)  # at an orderly end, gloo's threads of a broken group abort the process now and then


@pytest.mark.slow
def test_a_lost_process_is_an_error_of_our_own(tmp_path: Path) -> None:
    start_processes(wait_for_the_lost, (tmp_path,), PROCESSES, start_method="forkserver")  # type: ignore[no-untyped-call]
    assert "another process of the job was lost" in (tmp_path / "told").read_text()


def test_alone_nothing_is_summed() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert num_processes() == 1
    assert sum_over_processes(values) is values
    assert torch.equal(mean_over_tasks(values), torch.tensor([2.0, 3.5]))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_share_of_the_tasks_alone_gives_another_step(name: str, results: list[dict[str, Any]], float64: None) -> None:
    """Otherwise processes that sum nothing would pass the tests above."""
    learner, support, query = make(name)
    own = slice(0, 3)
    learner.update(MetaBatch([batch.tasks(own) for batch in support], query.tasks(own), importance=WEIGHTS[own]))
    shared_state, _ = results[0][name]
    distances = [float((shared_state[leaf] - value).abs().max()) for leaf, value in learner.state_dict().items()]
    assert max(distances) > 1e-4
