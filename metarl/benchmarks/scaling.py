"""How the time and the peak memory of a meta-iteration grow with tasks, episodes, horizon, width and processes.

Each point is measured in processes of its own, so that its peak memory is its own as well.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.benchmarks.iteration import Workload
from metarl.errors import TrainingError
from metarl.evaluation.plots import figure_bytes
from metarl.run.config import DEFAULT_AGENT
from metarl.run.files import write_atomically

TRAINED_ITERATIONS = 12
"""Of a job; the first one is not counted."""


@dataclass(frozen=True)
class Setting:
    """One point: what is varied from which base.

    Attributes:
        axis: the varied field's name, "" for the base.
        num_tasks: M.
        episodes: E.
        horizon: H.
        hidden_size: units of each of the two hidden layers.
        processes: started by torchrun.
    """

    axis: str = ""
    num_tasks: int = 40
    episodes: int = 20
    horizon: int = 100
    hidden_size: int = 64
    processes: int = 1


AXES: dict[str, Sequence[int]] = {
    "num_tasks": (10, 20, 40, 80, 160),
    "episodes": (5, 10, 20, 40, 80),
    "horizon": (25, 50, 100, 200, 400),
    "hidden_size": (32, 64, 128, 256),
    "processes": (1, 2),
}


@dataclass(frozen=True)
class Point:
    """A measured setting.

    Attributes:
        setting: what was run.
        seconds: of one MAML-TRPO meta-iteration.
        peak_memory_mb: most memory the process held; None where several did.
    """

    setting: Setting
    seconds: float
    peak_memory_mb: float | None

    @property
    def value(self) -> int:
        """Of the varied field."""
        return int(getattr(self.setting, self.setting.axis))


def scaling(env: str, num_threads: int, show: Callable[[str], None]) -> list[Point]:
    """Measure every point of AXES.

    Args:
        env: a registered family.
        num_threads: CPU threads of the meta-update.
        show: told what is being measured.

    Raises:
        TrainingError: a process failed.
    """
    points = []
    for axis, values in AXES.items():
        # Several processes are a job of torchrun; what it leaves on disk says nothing of its memory.
        measure = _measure_job if axis == "processes" else _measure_one

        for value in values:
            show(f"{axis} = {value}")
            changed: dict[str, Any] = {axis: value}
            setting = Setting(axis=axis, **changed)
            points.append(measure(env, setting, num_threads))
    return points


def exponent(points: Sequence[Point], axis: str) -> float:
    """Slope of log time over log value, by least squares: 1 is linear."""
    chosen = [point for point in points if point.setting.axis == axis]
    values = np.log([point.value for point in chosen])
    seconds = np.log([point.seconds for point in chosen])
    slope, _ = np.polyfit(values, seconds, 1)
    return float(slope)


def write(points: Sequence[Point], env: str, out: Path) -> list[Path]:
    """Write scaling.csv and scaling.png; returns the paths."""
    text = io.StringIO()
    rows = [asdict(p.setting) | {"seconds": p.seconds, "peak_memory_mb": p.peak_memory_mb} for p in points]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)

    table = out / "scaling.csv"
    figure = out / "scaling.png"
    write_atomically(table, text.getvalue().encode())
    write_atomically(figure, figure_bytes(_figure(points, env)))
    return [table, figure]


def _figure(points: Sequence[Point], env: str) -> Figure:
    """Time above memory, a column for each axis."""
    axes = list(dict.fromkeys(point.setting.axis for point in points))
    figure = Figure(figsize=(3.2 * len(axes), 5.4), layout="constrained")
    panels = figure.subplots(2, len(axes), sharex="col", sharey="row", squeeze=False, height_ratios=(2, 1))
    for (time, memory), axis in zip(panels.T, axes, strict=True):
        _draw_axis(time, memory, [point for point in points if point.setting.axis == axis], axis)

    panels[0, 0].set_ylabel("seconds per iteration")
    panels[1, 0].set_ylabel("peak memory, MB")
    most_memory = max((point.peak_memory_mb or 0 for point in points), default=0)
    panels[1, 0].set_ylim(0, 1.1 * most_memory or None)

    base = Setting()
    work = f"{base.num_tasks} tasks × {base.episodes} episodes × {base.horizon} steps, 2×{base.hidden_size} units"
    figure.suptitle(f"MAML-TRPO on {env}, around {work}", fontsize="medium")
    return figure


def _draw_axis(time: Axes, memory: Axes, points: Sequence[Point], axis: str) -> None:
    """The points of one axis in its two panels."""
    name = axis.replace("_", " ")
    values = [point.value for point in points]
    time.loglog(values, [point.seconds for point in points], "o-")
    time.set_title(f"{name}: time ∝ n^{exponent(points, axis):.2f}", fontsize="small")

    measured = [point for point in points if point.peak_memory_mb is not None]
    megabytes = [point.peak_memory_mb or 0.0 for point in measured]
    memory.plot([point.value for point in measured], megabytes, "o-", color="tab:orange")
    memory.set_xticks(values, [str(value) for value in values], minor=False)
    memory.minorticks_off()
    memory.set_xlabel(name)

    for panel in (time, memory):
        panel.grid(alpha=0.3)


def _measure_one(env: str, setting: Setting, num_threads: int) -> Point:
    """`metarl bench iteration` in a process of its own."""
    flags = {
        "num-tasks": setting.num_tasks,
        "episodes": setting.episodes,
        "horizon": setting.horizon,
        "hidden-size": setting.hidden_size,
        "num-threads": num_threads,
    }

    bench = ("-m", "metarl", "bench", "iteration", env, "--no-plain", "--json", "--device", "cpu")
    report = json.loads(_run(*bench, *_as_arguments(flags)))
    return Point(setting, report["iteration_trpo_s"], report["peak_memory_mb"])


def _measure_job(env: str, setting: Setting, num_threads: int) -> Point:
    """A short `metarl train` under torchrun, one thread in each process."""
    with tempfile.TemporaryDirectory() as directory:
        flags: dict[str, Any] = {
            "preset": "maml-trpo",
            "estimator": "lvc",  # with it and the next one, the same work as the other axes'
            "fvp-fraction": Workload.fvp_fraction,
            "num-tasks": setting.num_tasks,
            "episodes": setting.episodes,
            "iterations": TRAINED_ITERATIONS,
            "eval-tasks": 1,
            "test-tasks": 1,
            "num-threads": 1,
            "run-dir": directory,
            "name": "job",
        }

        layers = ("--hidden-sizes", str(setting.hidden_size), str(setting.hidden_size))
        job = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.processes))
        _run(*job, "-m", "metarl", "train", DEFAULT_AGENT, env, *_as_arguments(flags), *layers)
        lines = (Path(directory) / "job" / "metrics.jsonl").read_text().splitlines()

    finished = [json.loads(line)["seconds"] for line in lines]
    seconds = np.diff(finished)
    return Point(setting, float(np.median(seconds[1:])), None)


def _as_arguments(flags: dict[str, Any]) -> list[str]:
    """Flags with their values as a command line takes them."""
    arguments = []
    for name, value in flags.items():
        arguments += [f"--{name}", str(value)]
    return arguments


def _run(*arguments: str) -> str:
    """Run Python with these arguments; returns what it prints.

    Raises:
        TrainingError: it failed; with the last line that it said.
    """
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=one_thread)

    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(f"{' '.join(arguments)} failed: {reason}")
    return done.stdout
