"""Training on two processes through torchrun: the run of one process, a lost process, and what a job refuses."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl.agents.gradients.processes import num_processes
from metarl.agents.learner import MetaBatch
from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.evaluation.adaptation import adapt_to_tasks
from metarl.run.build import build
from metarl.run.run_directory import RunDirectory
from metarl.training.curriculum import make_curriculum
from metarl.training.machine import distributed
from tests.helpers.workbench import ITERATIONS, RUN, same_tensors, tensors_of, train, train_arguments

PROCESSES = 2
FAMILY = "point-navigation/pearl"


class Perilous(TaskDistribution):
    """Point navigation that kills the second process of a job as it begins its third iteration, but only once."""

    def __init__(self) -> None:
        safe = make_distribution(FAMILY)
        super().__init__(safe.env, safe.train, safe.ood)
        self.name, self._iterations = safe.name, 0

    def sample(self, num_tasks: int, split: str = "train", generator: torch.Generator | None = None) -> Task:
        """As point navigation."""
        self._iterations += split == "train"
        if self._iterations == 3 and os.environ["RANK"] == "1" and not distributed.is_restart():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(num_tasks, split, generator)


@pytest.mark.parametrize(("cores", "expected"), [({0, 1, 2, 3}, 4), ({0}, 1)])
def test_cores_are_those_that_the_process_may_use(
    cores: set[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: cores)
    assert distributed.local_cores() == expected


def torchrun(place: Path, *flags: str, restarts: int = 0, env: str = FAMILY) -> subprocess.CompletedProcess[str]:
    """Train a tiny run on two processes; later flags win."""
    return launch(place, train_arguments(place, *flags, env=env), restarts)


def launch(place: Path, arguments: list[str], restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """A command of metarl on two processes, which draw no figures."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    command += [f"--max-restarts={restarts}", "-m", "tests.helpers.without_figures", *arguments]
    modules = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, cwd=place, env={**os.environ, "PYTHONPATH": modules}
    )


def train_alone_on_the_same_tasks(run: RunDirectory) -> dict[str, torch.Tensor]:
    """The run's training in one process that does what each process of the job did, one after the other."""
    config = run.config
    generator = torch.Generator().manual_seed(config.seed)
    distribution, learner = build(config, generator)
    curriculum = make_curriculum(config, learner)
    for iteration in range(config.iterations):
        draw = curriculum.draw(distribution, config.num_tasks, generator)
        state, shares = generator.get_state(), []
        for process in range(PROCESSES):
            generator.set_state(state)
            own, rollouts = distributed.shard(draw.tasks, generator, process, PROCESSES)
            shares.append(
                adapt_to_tasks(learner, distribution, own, learner.sampling.support, config.episodes, rollouts).batches
            )
        *support, query = (Episodes.concatenate(parts) for parts in zip(*shares, strict=True))
        learner.update(MetaBatch(support, query, iteration / config.iterations, importance=draw.importance))
        curriculum.learn(draw, query.returns.mean(dim=1))
    learned = {f"curriculum.{name}": value for name, value in curriculum.state_dict().items()}
    return learned | {f"learner.{name}": value for name, value in learner.state_dict().items()}


@pytest.mark.parametrize(
    "flags",
    [
        # Ten iterations of conjugate gradient would make much of the last bits of float32.
        pytest.param(("--outer", "trpo", "--cg-iterations", "2"), marks=pytest.mark.slow),
        pytest.param(("--outer", "ppo"), marks=pytest.mark.slow),
        ("--outer", "ppo", "--curriculum", "hard-first", "--curriculum-correction", "--num-tasks", "4"),
    ],
)
def test_a_job_trains_as_one_process_on_the_same_tasks(tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = torchrun(tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 3 iterations") == 1
    run = RunDirectory.open(str(tmp_path / RUN))
    tensors = tensors_of(tmp_path / RUN)
    for name, value in train_alone_on_the_same_tasks(run).items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-4, atol=1e-6)
    assert any(name.startswith("curriculum.") for name in tensors) == ("--curriculum" in flags)
    rows = run.read_metrics()
    assert [row["iteration"] for row in rows] == list(range(ITERATIONS + 1))
    assert sorted(path.suffix for path in (tmp_path / RUN).glob("events.out.tfevents*")) == [".0", ".test"]
    assert rows[-1]["env_steps"] == ITERATIONS * run.config.num_tasks * 2 * run.config.episodes * 20  # M, batches, E, H


@pytest.mark.parametrize(
    ("gpus", "local_rank", "device", "backend"),
    [(2, 1, "cuda:1", "nccl"), (1, 1, "cuda:0", "gloo"), (3, 1, "cuda:1", "nccl"), (0, 1, "cpu", "gloo")],
)
def test_processes_take_the_gpus_in_turn(
    gpus: int, local_rank: int, device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(distributed, "is_job", lambda: True)
    job = {"LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": 2, "RANK": local_rank, "WORLD_SIZE": 2}
    for name, value in job.items():
        monkeypatch.setenv(name, str(value))
    own = distributed.local_device("auto")
    assert own == (device if gpus else "auto")
    assert distributed.backend_for(torch.device(device)) == backend


@pytest.mark.slow
def test_a_lost_process_ends_the_job_with_a_checkpoint_from_which_torchrun_goes_on(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("undisturbed", "lost", "restarted")}
    for place in places.values():
        place.mkdir()
    assert torchrun(places["undisturbed"]).returncode == 0
    lost = torchrun(places["lost"], "--checkpoint-interval", "100", env="test_distributed:Perilous")
    assert lost.returncode != 0
    assert re.search(r"metarl \(process 0 of the job\): .*another process of the job was lost.*saved", lost.stderr)
    assert RunDirectory.open(str(places["lost"] / RUN)).checkpoints.iterations() == [2, 0]
    restarted = torchrun(places["restarted"], restarts=1, env="test_distributed:Perilous")
    assert restarted.returncode == 0, restarted.stderr
    assert "resuming at iteration 2" in restarted.stdout
    assert same_tensors(tensors_of(places["restarted"] / RUN), tensors_of(places["undisturbed"] / RUN))


@pytest.mark.slow
def test_a_job_goes_on_with_a_run_of_one_process_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    run = train(tmp_path)
    resume = ["train", "--resume", str(run), "--iterations", str(ITERATIONS + 1)]
    resumed = launch(tmp_path, resume)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming at iteration {ITERATIONS}" in resumed.stdout
    assert RunDirectory.open(str(run)).checkpoints.iterations()[0] == ITERATIONS + 1
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(b"damaged")
    refused = launch(tmp_path, resume)
    assert refused.returncode != 0
    complaints = [line for line in refused.stderr.splitlines() if line.startswith("metarl (process")]
    assert complaints  # of one process or of all: torchrun ends the others as soon as one has failed
    assert all("checkpoint" in line for line in complaints)


def test_what_a_job_cannot_do_is_said_before_a_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, "num_processes", lambda: 2)
    assert main(train_arguments(tmp_path, "--num-tasks", "3")) == 2
    assert "num_tasks must be a multiple of the 2 processes, got 3" in capsys.readouterr().err
    assert not (tmp_path / RUN).exists()


def test_shares_are_all_the_tasks_and_their_rollouts_differ() -> None:
    tasks = {"goal": torch.arange(8.0).reshape(4, 2)}
    shares = [distributed.shard(tasks, torch.Generator().manual_seed(3), process, 2) for process in range(2)]
    assert torch.equal(torch.cat([own["goal"] for own, _ in shares]), tasks["goal"])
    draws = [torch.rand(3, generator=generator) for _, generator in shares]
    assert not torch.equal(draws[0], draws[1])
    after = [torch.Generator().manual_seed(3) for _ in range(2)]
    for process, generator in enumerate(after):
        distributed.shard(tasks, generator, process, 2)
    assert torch.equal(after[0].get_state(), after[1].get_state())


def test_alone_the_tasks_and_the_generator_are_the_job_s_own() -> None:
    tasks, generator = {"goal": torch.zeros(3, 2)}, torch.Generator()
    assert distributed.shard(tasks, generator, 0, 1) == (tasks, generator)
    assert distributed.broadcast(lambda: 5) == 5
    assert num_processes() == 1
    assert not distributed.is_job()
