"""Small runs, what they leave behind, and processes killed at a chosen moment: shared by the tests of the workbench."""

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from metarl.cli.main import main
from metarl.envs.families.navigation import PointNavigation, pearl
from metarl.envs.rollout import BatchedEnv, Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, Uniform
from metarl.run.checkpoint import read_checkpoint, write_checkpoint
from tests.helpers.without_figures import empty_figures

ENV = "point-navigation/pearl"
ITERATIONS = 3
EPISODES = 3
TEST_TASKS = 3
TINY_OF_ANY_AGENT = (
    f"--iterations {ITERATIONS} --num-tasks 2 --episodes {EPISODES} --eval-tasks 2 --test-tasks {TEST_TASKS} "
    "--eval-interval 1 --checkpoint-interval 1 --adaptation-steps 1 --hidden-sizes 8 --num-threads 1 "
    "--normalize-obs off"
).split()
TINY_OF_RL2 = " ".join(TINY_OF_ANY_AGENT).replace("--adaptation-steps 1", "--trial-episodes 2").split()
TINY = [*TINY_OF_ANY_AGENT, "--outer", "ppo"]
LAYOUT = "custom_scalars__config__"
"""TensorBoard's tag of the layout of its charts."""

RUN = "run"
"""Name of the runs that `train` makes."""


# ---------------------------------------------------------------------- runs


def train_arguments(run_dir: Path, *flags: str, env: str = ENV, agent: str = "maml") -> list[str]:
    """Command line of a tiny run; later flags win over earlier ones."""
    tiny = {"maml": TINY, "rl2": TINY_OF_RL2}.get(agent, TINY_OF_ANY_AGENT)
    return ["train", agent, env, *tiny, "--name", RUN, "--run-dir", str(run_dir), *flags]


def train(run_dir: Path, *flags: str, env: str = ENV, agent: str = "maml") -> Path:
    """Train a tiny run in this process; returns its directory."""
    assert main(train_arguments(run_dir, *flags, env=env, agent=agent)) == 0
    return run_dir / RUN


# ---------------------------------------------------------------------- what runs leave behind


def files_under(path: Path) -> dict[str, bytes]:
    """Every file below a directory with its content; directories as names that end in a slash."""
    return {
        f"{found.relative_to(path)}{'/' * found.is_dir()}": b"" if found.is_dir() else found.read_bytes()
        for found in sorted(path.rglob("*"))
    }


def checkpoint_file(run: Path, iteration: int) -> Path:
    return run / "checkpoints" / f"iteration-{iteration:07d}.safetensors"


def tensors_of(run: Path, iteration: int = ITERATIONS) -> dict[str, Tensor]:
    """The learner's state and the random generator's after an iteration."""
    return read_checkpoint(checkpoint_file(run, iteration)).tensors


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether the same names hold bit-identical tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics_of(run: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl without the times, which no two runs share."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not _is_time(name)} for row in rows]


def _is_time(name: str) -> bool:
    return name == "seconds" or name.startswith("time/")


def events_of(run: Path) -> EventAccumulator:
    """What TensorBoard shows of a run."""
    everything = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(run), size_guidance=everything, purge_orphaned_data=True).Reload()


def curves_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The visible (environment steps, value) points of each TensorBoard curve, times left out."""
    events = events_of(run)
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not _is_time(tag)
    }


def shown_of(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Everything that TensorBoard shows of a run, the layout of its charts included, times left out."""
    events = events_of(run)
    shown: dict[str, list[tuple[int, Any]]] = dict(curves_of(run))
    for tag in events.Tags()["images"]:
        shown[tag] = [(image.step, image.encoded_image_string) for image in events.Images(tag)]
    for tag in events.Tags()["tensors"]:
        shown[tag] = [(one.step, one.tensor_proto.SerializeToString()) for one in events.Tensors(tag)]
    return shown


def layouts_of(run: Path) -> int:
    """How often a run's files of events hold the layout of its charts."""
    every = (event for path in sorted(run.glob("events.*")) for event in EventFileLoader(str(path)).Load())
    return sum(value.tag == LAYOUT for event in every for value in event.summary.value)


def final_evaluation_of(run: Path) -> dict[str, Any]:
    """The evaluation that training ends with, without the place it lies in."""
    report = json.loads((run / "evaluation-test.json").read_text())
    assert isinstance(report, dict)
    return {name: value for name, value in report.items() if name != "run"}


def complaint(captured: pytest.CaptureFixture[str]) -> str:
    """Standard error, which must be exactly one line of ours."""
    text = captured.readouterr().err
    assert text.startswith("metarl: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text


def forget_config(run: Path) -> None:
    """Make a run one of an earlier version, whose checkpoints did not record what it was trained with."""
    for path in (run / "checkpoints").iterdir():
        write_checkpoint(path, dataclasses.replace(read_checkpoint(path), config=""))


def constant_episodes(reward: Tensor, mask: Tensor) -> Episodes:
    """Episodes (M, E, H) with given rewards and mask, and nothing to see or do."""
    nothing = torch.zeros(*mask.shape, 1)
    return Episodes(
        obs=nothing,
        action=nothing,
        reward=reward * mask,
        mask=mask,
        terminated=mask[..., -1] == 0,
        last_obs=nothing[:, :, 0],
        behaviour={},
    )


# ---------------------------------------------------------------------- families of tasks, for --env


def early_ending() -> TaskDistribution:
    """Goals so large that some episodes end early."""
    return TaskDistribution(PointNavigation(horizon=20, goal_tolerance=0.3), {"goal": Uniform(-0.5, 0.5, shape=(2,))})


class Failing(TaskDistribution):
    """Rewards of the second task are not a number in the n-th batch of tasks that is bound to an environment."""

    def __init__(self, failing_batch: int) -> None:
        healthy = pearl()
        super().__init__(healthy.env, healthy.train)
        self._batches_left = failing_batch

    def bind(self, tasks: Task, num_episodes: int) -> BatchedEnv:
        """See TaskDistribution.bind."""
        self._batches_left -= 1
        if self._batches_left == 0:
            tasks["goal"][1] = torch.nan
        return super().bind(tasks, num_episodes)


def failing_in_first_validation() -> TaskDistribution:
    """Fails before the first iteration."""
    return Failing(1)


def failing_in_second_iteration() -> TaskDistribution:
    """Fails in the fifth batch: validation, iteration 1, validation come before."""
    return Failing(4)


# ---------------------------------------------------------------------- processes that are killed


@dataclass(frozen=True)
class Moment:
    """A moment in a run: before, or right after, the n-th call of a function.

    Attributes:
        function: dotted name.
        call: n, from 1.
        after: whether that call is done first.
    """

    function: str
    call: int
    after: bool = False

    def signal_then(self, number: int) -> None:
        """Have this process send itself a signal at that moment."""
        owner_name, _, name = self.function.rpartition(".")
        owner = pkgutil.resolve_name(owner_name)
        original, calls = getattr(owner, name), itertools.count(1)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            due = next(calls) == self.call
            if due and not self.after:
                os.kill(os.getpid(), number)
            result = original(*arguments, **options)
            if due and self.after:
                os.kill(os.getpid(), number)
            return result

        setattr(owner, name, wrapped)


_PROCESSES = multiprocessing.get_context("forkserver")


def run_with_signal(arguments: list[str], moment: Moment, number: int, output: Path) -> int | None:
    """Run a command in a process of its own that gets a signal at a moment; returns its exit code, −n for signal n.

    Args:
        arguments: command line.
        moment: when.
        number: which signal.
        output: file for what the command prints.
    """
    process = _PROCESSES.Process(target=_run_in_child, args=(arguments, moment, number, output))
    process.start()
    process.join()
    return process.exitcode


def _run_in_child(arguments: list[str], moment: Moment, number: int, output: Path) -> None:
    empty_figures(setattr)
    moment.signal_then(number)
    with _printing_to(output):
        code = main(arguments)
    sys.exit(code)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    with path.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield
