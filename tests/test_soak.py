"""Killed, stopped and out of space at random moments, every command ends as if nothing had happened.

Slow. The moments are drawn from METARL_SOAK_SEED (0), and there are METARL_SOAK (100) of them; a moment that made
something differ is found again by its number, which the message names. With `pytest -s`, each trial prints a line.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file

from metarl.cli.main import main
from metarl.errors import EXIT_INTERRUPTED, EXIT_TRAINING_FAILED
from metarl.run.checkpoint import read_checkpoint
from tests.helpers.workbench import (
    ENV,
    RUN,
    Moment,
    files_under,
    final_evaluation_of,
    layouts_of,
    metrics_of,
    run_with_signal,
    same_tensors,
    shown_of,
    train_arguments,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
pytest_plugins = ["tests.helpers.run_fixtures"]

TRIALS = int(os.environ.get("METARL_SOAK", "100"))
SEED = int(os.environ.get("METARL_SOAK_SEED", "0"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

FILE_OPERATIONS = (
    "os.open",
    "os.fsync",
    "os.fdopen",
    "pathlib.Path.replace",
    "pathlib.Path.rename",
    "pathlib.Path.unlink",
    "pathlib.Path.mkdir",
)
WORK = (
    "metarl.envs.task_distribution.TaskDistribution.bind",
    "metarl.envs.task_distribution.TaskDistribution.sample",
    "metarl.envs.rollout.Episodes.concatenate",
    "metarl.run.checkpoint.write_checkpoint",
    "json.dumps",
)

EXTERNAL = "env_id: CartPole-v1\nhorizon: 10\nnum_workers: 2\ntask: {gravity: {uniform: [8, 12]}}\n"
EXTERNAL += "set_task: tests.test_soak:set_gravity\n"

Result = dict[str, Any]


def set_gravity(env: Any, task: Any) -> None:
    """For the external environment."""
    env.unwrapped.gravity = float(task["gravity"])


class Job(NamedTuple):
    """A command that is interrupted.

    Attributes:
        start: its command line.
        go_on: the command line after it was interrupted, given whether there is something to go on with.
        result: everything that must not differ.
    """

    start: list[str]
    go_on: Callable[[], list[str]]
    result: Callable[[], Result]


# ---------------------------------------------------------------------- the commands


def training(agent: str, *flags: str, env: str = ENV) -> Job:
    run = Path("work") / RUN
    start = train_arguments(Path("work"), "--run-dir", "work", *flags, env=env, agent=agent)
    if env.endswith(".yaml"):
        start = [*start[:2], "--env-file", env, *start[3:]]

    def go_on() -> list[str]:
        return ["train", "--resume", str(run)] if run.exists() else start

    def result() -> Result:
        checkpoints = {path.name: read_checkpoint(path) for path in (run / "checkpoints").iterdir()}
        return {
            "tensors": {name: one.tensors for name, one in checkpoints.items()},
            "iterations": {name: one.progress.iteration for name, one in checkpoints.items()},
            "env_steps": {name: one.progress.env_steps for name, one in checkpoints.items()},
            "metrics": metrics_of(run),
            "shown": shown_of(run),
            "layouts": layouts_of(run),
            "evaluation": final_evaluation_of(run),
        }

    return Job(start, go_on, result)


def comparison() -> Job:
    flags = "--num-tasks 2 --budget 200 --episodes 2 --num-threads 2 --baselines ppo reptile distill random --quick"
    start = ["compare", RUN, *flags.split(), "--out", "work/comparison"]

    def result() -> Result:
        data = json.loads(Path("work/comparison/comparison.json").read_text())
        return {name: value for name, value in data.items() if name != "seconds"}

    return Job(start, lambda: start, result)


def live_adaptation() -> Job:
    out = Path("work/arm")
    start = ["adapt", RUN, "--env", "tests.test_soak:make_arm", "--episodes", "3", "--steps", "2", "--measure-episodes"]
    start += ["1", "--no-onnx", "--out", str(out)]

    def go_on() -> list[str]:
        left = Path("work/arm.unfinished")
        if (left / "episode-0001.safetensors").exists():
            return [*start, "--resume"]
        shutil.rmtree(left, ignore_errors=True)
        return start

    def result() -> Result:
        card = json.loads((out / "policy.json").read_text())
        return {"tensors": {"policy": load_file(out / "policy.safetensors")}, "card": card["adaptation"]}

    return Job(start, go_on, result)


def adaptation() -> Job:
    out = Path("work/policy")
    start = ["adapt", RUN, "--task", "goal=0.6,0.8", "--episodes", "3", "--steps", "2", "--no-onnx", "--out", str(out)]

    def result() -> Result:
        card = json.loads((out / "policy.json").read_text())
        return {"tensors": {"policy": load_file(out / "policy.safetensors")}, "card": card["adaptation"]}

    return Job(start, lambda: start, result)


def make_arm() -> Any:
    """A live environment with the spaces of ENV."""
    import gymnasium

    return gymnasium.make("metarl/PointNavigationPearl-v0", task={"goal": [0.6, 0.8]})


WHOLE_OR_ABSENT: dict[str, Callable[[], Job]] = {"adapt to a task": adaptation}
"""Commands that write nothing before they end."""

JOBS: dict[str, Callable[[], Job]] = {
    "maml": lambda: training("maml"),
    "maml trpo": lambda: training("maml", "--outer", "trpo", "--adaptation-steps", "2"),
    "reptile": lambda: training("reptile"),
    "multitask": lambda: training("multitask"),
    "rl2": lambda: training("rl2"),
    "curriculum": lambda: training("maml", "--curriculum", "learning-progress", "--curriculum-buffer", "4"),
    "external": lambda: training("maml", env="external.yaml"),
    "distill": lambda: training("distill", "--teacher", str(Path("runs") / RUN), "--num-teachers", "2"),
    "start from": lambda: training("maml", "--start-from", str(Path("runs") / RUN), "--iterations", "3"),
    "compare": comparison,
    "adapt": live_adaptation,
}


@pytest.fixture
def place(workplace: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None) -> Path:
    """A place to work in, whose modules the commands find."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    Path("external.yaml").write_text(EXTERNAL)
    return workplace


_REFERENCES: dict[str, Result] = {}


def reference(name: str) -> Result:
    """The result of a command that nothing interrupts."""
    if name not in _REFERENCES:
        job = begin(name)
        assert main(job.start) == 0
        _REFERENCES[name] = job.result()
    return _REFERENCES[name]


def begin(name: str) -> Job:
    """A job whose place is empty."""
    shutil.rmtree("work", ignore_errors=True)
    Path("work").mkdir()
    return (JOBS | WHOLE_OR_ABSENT)[name]()


def assert_same(found: Result, wanted: Result, where: str) -> None:
    assert found.keys() == wanted.keys(), where
    for name, value in wanted.items():
        if name == "tensors":
            assert found[name].keys() == value.keys(), where
            different = [one for one in value if not same_tensors(found[name][one], value[one])]
            assert not different, f"{where}: {different}"
        else:
            assert found[name] == value, f"{where}: {name}"


def next_second() -> None:
    """TensorBoard orders files of events by seconds."""
    time.sleep(1 - time.time() % 1)


# ---------------------------------------------------------------------- killed and stopped


def random_moment(draw: random.Random) -> Moment:
    function = draw.choice((*FILE_OPERATIONS, *WORK))
    return Moment(function, draw.choice((1, 2, 3, 5, 8, 13, 21, 34)), after=draw.random() < 0.5)


def finish(job: Job, name: str, where: str) -> None:
    """Go on until the end, and compare."""
    next_second()
    is_done = name.startswith("adapt") and (Path("work/arm").exists() or Path("work/policy").exists())
    if not is_done:  # else killed after the last thing it does
        assert main(job.go_on()) == 0, where
    assert_same(job.result(), reference(name), where)


def test_killed_at_any_moment_and_resumed_nothing_differs(place: Path) -> None:
    """Some are killed twice."""
    killed = 0
    for number in range(TRIALS):
        draw = random.Random(f"kill {SEED} {number}")
        name = list(JOBS)[number % len(JOBS)]
        reference(name)
        job = begin(name)
        arguments = job.start
        for _ in range(draw.choice((1, 1, 2))):
            moment = random_moment(draw)
            where = f"trial {number} of seed {SEED}: {name}, {moment}"
            code = run_with_signal(arguments, moment, signal.SIGKILL, place / "output")
            assert code in (0, -signal.SIGKILL), f"{where}: {(place / 'output').read_text()}"
            killed += code == -signal.SIGKILL
            print(f"{where}: {'done before' if code == 0 else 'killed'}")
            if code == 0 or (name == "adapt" and Path("work/arm").exists()):
                break
            next_second()
            arguments = job.go_on()
        finish(job, name, where)
        print(f"trial {number} identical; killed {killed} times so far")
    assert killed > TRIALS / 3, "most trials end before their moment: the test shows little"


def test_stopped_by_a_signal_at_any_moment_and_resumed_nothing_differs(place: Path) -> None:
    """A third as many."""
    stopped = 0
    for number in range(max(1, TRIALS * 3 // 10)):
        draw = random.Random(f"signal {SEED} {number}")
        name = draw.choice(list(JOBS))
        reference(name)
        job = begin(name)
        moment, which = random_moment(draw), draw.choice(SIGNALS)
        where = f"trial {number} of seed {SEED}: {name}, {which.name}, {moment}"
        code = run_with_signal(job.start, moment, which, place / "output")
        said = (place / "output").read_text()
        assert code in (0, EXIT_INTERRUPTED), f"{where}: {said}"
        assert "Traceback" not in said, f"{where}: {said}"
        stopped += code == EXIT_INTERRUPTED
        if code != 0:
            finish(job, name, where)
        print(f"{where}: {'done before' if code == 0 else 'stopped, and identical after'}")
    assert stopped > 0


# ---------------------------------------------------------------------- a full disk


def limited(size: int) -> Callable[[], None]:
    """No file of the process may be larger, in bytes: writing more fails, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


WITHOUT_FIGURES = """
import sys
from metarl.cli.main import main
from tests.helpers.without_figures import empty_figures
empty_figures(setattr)
sys.exit(main())
"""
"""The program, with the same figures as in this process, since they are compared."""


def run_limited(arguments: list[str], limit: Callable[[], None] | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_FIGURES, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)


@pytest.mark.parametrize("name", ["maml", "curriculum", "distill"])
def test_no_room_for_a_file_loses_nothing_before_it(name: str, place: Path) -> None:
    """Limits from nothing to the largest file of a run."""
    _REFERENCES.pop(name, None)  # made again in this place, for the sizes of its files
    wanted = reference(name)
    largest = max(map(len, files_under(Path("work")).values()))
    for number in range(max(2, TRIALS // 20)):
        size = random.Random(f"disk {SEED} {name} {number}").choice(
            (0, 100, 1000, largest // 4, largest // 2, largest - 1)
        )
        job = begin(name)
        done = run_limited(job.start, limited(size))
        where = f"{name}, files of at most {size} bytes: {done.stderr}"
        assert done.returncode in (0, EXIT_TRAINING_FAILED, 2), where
        assert "Traceback" not in done.stderr, where
        assert done.returncode == 0 or done.stderr.count("\n") == 1, where
        next_second()
        assert main(job.go_on()) == 0, where
        assert_same(job.result(), wanted, where)


@pytest.mark.parametrize("name", ["maml", "external", "curriculum", "distill", "compare", "adapt", "adapt to a task"])
def test_a_disk_that_fills_loses_nothing(name: str, place: Path) -> None:
    """On a small tmpfs, where this process may mount one; about 10 s for each of its sizes."""
    _REFERENCES.pop(name, None)  # made again in this place, for the sizes of its files
    reference(name)
    used = sum(map(len, files_under(Path("work")).values())) // 1024
    for number in range(max(2, TRIALS // 20)):
        draw = random.Random(f"tmpfs {SEED} {name} {number}")
        job = begin(name)
        with small_disk(Path("work"), max(8, draw.randrange(used))) as enlarge:
            done = run_limited(job.start, None)
            where = f"{name}, trial {number} of seed {SEED}: {done.stderr}"
            assert done.returncode in (0, EXIT_TRAINING_FAILED, 2), where
            assert "Traceback" not in done.stderr, where
            assert done.returncode == 0 or done.stderr.count("\n") == 1, where
            enlarge()
            finish(job, name, where)


@contextlib.contextmanager
def small_disk(path: Path, kilobytes: int) -> Any:
    """A disk of so many kB at a path; gives what makes it large."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("this process may not mount a tmpfs")

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=100m", str(path)], check=True)

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # checkpoints that were read are mapped still


# ---------------------------------------------------------------------- a reader that leaves


@pytest.mark.parametrize("name", ["maml", "distill", "compare", "adapt", "adapt to a task"])
def test_a_reader_that_leaves_ends_nothing(name: str, place: Path) -> None:
    """`metarl … | head -1`."""
    wanted = reference(name)
    job = begin(name)
    words = " ".join(f"'{word}'" for word in [sys.executable, "-m", "tests.helpers.without_figures", *job.start])
    script = f"set -o pipefail; {words} | head -1"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert_same(job.result(), wanted, name)
