"""What measure.sh measures: one table of figures, each beside its target."""

import argparse
import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metarl.agents.learner import Learner
from metarl.benchmarks.iteration import Workload, bench, median_seconds
from metarl.benchmarks.robots import gpu_robot_throughput
from metarl.benchmarks.rollouts import EPISODES, rollout_rates
from metarl.benchmarks.tables import capture_errors, marked
from metarl.envs.graphs import fuse
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import EXIT_BAD_INPUT, UserError, what_happened
from metarl.run.build import build
from metarl.run.config import TrainConfig
from metarl.run.device import resolve_device
from metarl.run.presets import default_config
from metarl.training.curriculum import make_curriculum
from metarl.training.machine.accelerate import CAPTURES, use_graphs
from metarl.training.meta_iteration import run_meta_iteration, sample_iteration
from tests.helpers.captured_steps import recorded

ENV = "point-navigation/finn"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        what: was measured.
        value: with its unit.
        target: what it should be; empty where there is none.
    """

    what: str
    value: str
    target: str = ""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        device: where.
        tiny: whether only to see that the ways work.
    """

    device: torch.device
    tiny: bool

    def of(self, full: Any, tiny: Any) -> Any:
        """One of two sizes."""
        return tiny if self.tiny else full

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"


EQUAL = (
    ("maml", ENV, "maml-trpo"),
    ("reptile", ENV, "default"),
    ("maml", ENV, "default"),
    ("maml", "cart-pole", "default"),
    ("multitask", "grid-navigation", "default"),
)
"""Agent, environment and preset of what is run in three ways; the first two where only the ways are looked at."""


def equal(sizes: Sizes, cases: Sequence[tuple[str, str, str]] = EQUAL) -> Iterator[Figure]:
    """Captured and fused runs beside eager ones: how far the meta-parameters are apart after three iterations.

    Raises:
        RefusedError: something of a run is not captured, or not fused.
        AssertionError: they are too far apart.
    """
    for agent, env, preset in cases[: sizes.of(len(cases), 2)]:
        with _something_to_capture(sizes):
            ways = ("off", "auto", "fused")
            eager, captured, fused = (_parameters_after(sizes, agent, env, preset, way) for way in ways)
        apart = {"captured": captured, "fused": fused}
        if preset == "maml-trpo":
            del apart["fused"]  # conjugate gradient makes 3e-3 of a change of 1e-7
        for way, parameters in apart.items():
            distance = float((parameters - eager).norm() / eager.norm())
            assert distance < 1e-3, f"{way} {agent} ({preset}) on {env} is {distance:.1e} from eager {agent}"
            yield Figure(f"{way} beside eager, {agent} {preset} on {env}, 3 iterations", f"{distance:.1e}", "< 1e-3")


@contextlib.contextmanager
def _something_to_capture(sizes: Sizes) -> Iterator[None]:
    """Where there is no GPU: operations are recorded and repeated; what would be compiled is traced alone."""
    if sizes.cuda:
        yield
        return
    traced = mock.patch.object(fuse, "_kernels", lambda graph, inputs: graph)
    with mock.patch.dict(CAPTURES, {sizes.device.type: recorded}), traced:
        yield


class RefusedError(Exception):
    """Something runs without the graph, or the fused kernels, that it was to have."""


def _refuse(problem: str) -> None:
    """Let nothing pass for captured that is not."""
    raise RefusedError(problem)


def _parameters_after(sizes: Sizes, agent: str, env: str, preset: str, graphs: str) -> torch.Tensor:
    iterate, learner = _iterations(sizes, agent, env, preset, graphs, _refuse)
    for _ in range(3):
        iterate()
    state = learner.state_dict()
    return torch.cat([leaf.double().flatten().cpu() for name, leaf in state.items() if name.startswith("meta.")])


def _iterations(
    sizes: Sizes, agent: str, env: str, preset: str, graphs: str, say: Callable[[str], None], **changes: Any
) -> tuple[Callable[[], Any], Learner]:
    """A function that runs one meta-iteration of a preset, and the learner; `say` is told what is not captured."""
    config: TrainConfig = default_config(agent, env, preset)
    config = dataclasses.replace(config, device=str(sizes.device), **changes)
    if sizes.tiny:
        config = dataclasses.replace(config, num_tasks=2, episodes=2)
    generator = torch.Generator(sizes.device).manual_seed(0)
    distribution, learner = build(config, generator)
    if sizes.tiny:
        distribution.env.horizon = 5
    curriculum = make_curriculum(config, learner)
    if graphs != "off":
        use_graphs(distribution, learner, sizes.device, say, fuse=graphs == "fused")

    def iterate() -> Any:
        return run_meta_iteration(learner, distribution, curriculum, config.num_tasks, config.episodes, 0.0, generator)

    return iterate, learner


def rollouts(sizes: Sizes) -> Iterator[Figure]:
    """Environment steps per second with the policy in the loop."""
    if sizes.tiny:
        EPISODES[sizes.device.type] = (1,)
    growth = rollout_rates(ENV, sizes.device, 64, repeats=sizes.of(5, 1))
    for rate in growth.rates:
        captured = "" if rate.captured is None else f", captured {rate.captured / 1e6:,.1f}"
        if rate.fused is not None:
            captured += f", fused {rate.fused / 1e6:,.1f}"
        seconds = rate.num_envs * 200 / rate.best
        yield Figure(
            f"rollouts, {rate.num_envs:,} environments, million steps/s",
            f"eager {rate.eager / 1e6:,.1f}{captured}; 200 steps in {seconds * 1e3:.2f} ms",
            "3 ms" if rate.num_envs == 800 else "",
        )
    if growth.capture_error:
        yield Figure("rollouts: what is not captured or fused, and not shown", growth.capture_error)


def iteration(sizes: Sizes) -> Iterator[Figure]:
    """One meta-iteration of MAML-TRPO and ProMP, beside the same without graphs and one CPU core."""
    workload = Workload(ENV, device=str(sizes.device), num_tasks=sizes.of(40, 2), episodes=sizes.of(20, 2))
    if sizes.cuda:
        torch.cuda.reset_peak_memory_stats(sizes.device)  # other parts hold more
    figures = bench(workload, repeats=sizes.of(7, 1), plain_loop=False)
    targets = {"iteration_trpo": "0.02 s, 50 times one core", "sampling": "0.003 s"}
    for phase in ("sampling", "meta_gradient", "meta_update_trpo", "iteration_trpo", "meta_update_ppo"):
        what = marked(f"{phase}, 40 × 20 × 100", figures["capture_error"])
        yield Figure(what, f"{figures[f'{phase}_s']:.4f} s{_beside(figures, phase)}", targets.get(phase, ""))
    if errors := capture_errors(figures):
        yield Figure("what is not captured or fused", errors)

    for graphs in ("fused", "auto", "off"):
        what = f"ProMP iteration, K = 3, 40 × 20 × 100, --cuda-graphs {graphs}"
        yield _iteration_of(sizes, what, "maml", ENV, "default", graphs, "0.03 s" if graphs == "fused" else "", 40)
    for graphs in ("fused", "auto", "off"):
        what = f"RL² iteration on grid-navigation, --cuda-graphs {graphs}"
        yield _iteration_of(sizes, what, "rl2", "grid-navigation", "default", graphs, "", 300)
    yield Figure("peak memory of the MAML-TRPO iterations", f"{figures['peak_memory_mb']:,.0f} MB")


def _beside(figures: dict[str, Any], phase: str) -> str:
    """A phase in the other ways, and how many times as long that takes."""
    text = ""
    for other in ("fused", "eager", "cpu"):
        if f"{other}_{phase}_s" in figures:
            name = marked(other, figures.get(f"{other}_capture_error"))
            text += f"; {name} {figures[f'{other}_{phase}_s']:.4f} s ({figures[f'{other}_{phase}_ratio']:.1f} times)"
    return text


def _iteration_of(
    sizes: Sizes, what: str, agent: str, env: str, preset: str, graphs: str, target: str, num_tasks: int
) -> Figure:
    """The median time of a preset's meta-iteration with so many tasks, and what of it is not captured."""
    refused: list[str] = []
    iterate, _ = _iterations(sizes, agent, env, preset, graphs, refused.append, num_tasks=num_tasks)
    seconds = median_seconds(iterate, sizes.of(7, 1), sizes.device)
    return Figure(what, _with_errors(f"{seconds:.4f} s", refused), target)


def _with_errors(value: str, refused: list[str]) -> str:
    """A figure with what did not run as it is called."""
    return f"{value} * {'; '.join(dict.fromkeys(refused))}" if refused else value


def large(sizes: Sizes) -> Iterator[Figure]:
    """A meta-iteration of 8 million environment steps a batch."""
    workload = Workload(ENV, device=str(sizes.device), num_tasks=sizes.of(40, 2), episodes=sizes.of(2000, 2))
    learner, distribution = _maml_of(workload)
    generator = torch.Generator(sizes.device).manual_seed(0)
    refused: list[str] = []
    use_graphs(distribution, learner, sizes.device, refused.append)
    tasks = distribution.sample(workload.num_tasks, "train", generator)

    def sample() -> Any:
        return sample_iteration(distribution, learner, tasks, workload.episodes, generator)

    sampling = median_seconds(sample, sizes.of(3, 1), sizes.device)
    batch = sample().batch
    update = median_seconds(lambda: learner.update(batch), sizes.of(3, 1), sizes.device)
    value = _with_errors(f"{sampling:.3f} s, {update:.3f} s", refused)
    yield Figure("40 × 2,000 × 100: sampling and adapting, updating", value)


def _maml_of(workload: Workload) -> tuple[Learner, TaskDistribution]:
    config = default_config("maml", workload.env, "maml-trpo")
    learner_config = dataclasses.replace(config.learner, fvp_fraction=workload.fvp_fraction)
    config = dataclasses.replace(config, device=workload.device, learner=learner_config)
    distribution, learner = build(config, torch.Generator(workload.device).manual_seed(0))
    return learner, distribution


def training(sizes: Sizes) -> Iterator[Figure]:
    """The default run, from the prompt to the table; twice, since the first one may compile."""
    flags = ["--device", str(sizes.device)]
    if sizes.tiny:
        flags += ["--iterations", "1", "--num-tasks", "2", "--episodes", "2", "--eval-tasks", "2", "--test-tasks", "2"]
    for turn in ("first", "second")[: sizes.of(2, 1)]:
        with tempfile.TemporaryDirectory() as runs:
            seconds, table = _train(*flags, "--run-dir", runs)
        yield Figure(f"metarl train, {turn} time: {table}", f"{seconds:.1f} s", "10 s")


def cheetah(sizes: Sizes) -> Iterator[Figure]:
    """Meta-training of the half-cheetah with the preset that is made for a GPU."""
    yield _trained_cheetah(sizes, "half-cheetah-direction", 122, "300 s, return 500")


def velocity(sizes: Sizes) -> Iterator[Figure]:
    """The beginning of the half-cheetah's training for velocities: a sixth of what the other one takes."""
    yield _trained_cheetah(sizes, "half-cheetah-velocity", 20, "")


def _trained_cheetah(sizes: Sizes, env: str, iterations: int, target: str) -> Figure:
    flags = ["maml", env, "--preset", "gpu", "--device", str(sizes.device)]
    flags += ["--iterations", str(sizes.of(iterations, 1))]
    if sizes.tiny:
        flags += ["--num-tasks", "2", "--episodes", "1", "--eval-tasks", "2", "--test-tasks", "2"]
    with tempfile.TemporaryDirectory() as runs:
        seconds, table = _train(*flags, "--run-dir", runs)
    return Figure(f"{env}, {iterations} iterations: {table}", f"{seconds:.0f} s", target)


def _train(*flags: str) -> tuple[float, str]:
    """Seconds of `metarl train`, and the returns of its table."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "metarl", "train", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"metarl train ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│") and line.count("│") == 6]
    returns = [cells[4].strip() for cells in rows if cells[1].strip().isdigit()]
    trained = next((line for line in done.stdout.splitlines() if line.startswith("trained ")), "")
    return seconds, f"returns {' '.join(returns)}; {trained}"


def robots(sizes: Sizes) -> Iterator[Figure]:
    """Robots beside our physics alone, and beside MuJoCo Warp itself."""
    cases = [
        ("half-cheetah-direction", 16_384, False, "3,000,000"),
        ("half-cheetah-direction", 4_096, False, ""),
        ("half-cheetah-direction", 400, False, "400,000"),
        ("half-cheetah-direction", 400, True, ""),
        ("ant-direction", 4_096, False, "400,000"),
        ("humanoid-direction", 4_096, False, "300,000"),
    ]
    for name, num_envs, deterministic, target in cases[: sizes.of(len(cases), 1)]:
        worlds = sizes.of(num_envs, 2)
        rate = gpu_robot_throughput(name, worlds, sizes.device, deterministic=deterministic, repeats=sizes.of(2, 1))
        how = "deterministic" if deterministic else ""
        yield Figure(
            f"{name}, {worlds:,} worlds {how}, steps/s",
            f"{rate.captured:,.0f}; physics alone in a graph {rate.eager:,.0f}; without the rest {rate.physics:,.0f}; "
            f"MuJoCo Warp {rate.bare:,.0f}",
            target,
        )


PARTS: dict[str, Callable[[Sizes], Iterator[Figure]]] = {
    "equal": equal,
    "rollouts": rollouts,
    "iteration": iteration,
    "large": large,
    "training": training,
    "robots": robots,
    "cheetah": cheetah,
    "velocity": velocity,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table; a part that fails has a row that says so.

    Returns:
        0; 1 where a part failed; 2 where there is no such device.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="'cuda', or 'cpu' for a tiny form")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT

    sizes = Sizes(device, tiny=device.type != "cuda")
    console = Console(width=160)
    name = torch.cuda.get_device_name(device) if sizes.cuda else "CPU, tiny sizes: no figure means anything"
    table = Table("what", "value", "target", title=f"{name}, torch {torch.__version__}", title_justify="left")
    start = time.perf_counter()
    failed = [part for part in options.parts if not _measure(part, sizes, table, console)]
    table.add_row("all of this", f"{time.perf_counter() - start:.0f} s", "480 s")

    console.print(table)
    if options.out is not None:
        with options.out.open("w", encoding="utf-8") as file:
            Console(file=file, width=160).print(table)
    return 1 if failed else 0


def _measure(part: str, sizes: Sizes, table: Table, console: Console) -> bool:
    """Add the rows of a part; whether it came to its end."""
    start = time.perf_counter()
    failed = False
    try:
        for figure in PARTS[part](sizes):
            table.add_row(escape(figure.what), escape(figure.value), figure.target)
            console.print(f"{figure.what}: {figure.value}", style="dim", highlight=False, markup=False)
    except Exception as error:  # the other parts may work
        failed = True
        traceback.print_exc()
        table.add_row(f"{part} failed", escape(what_happened(error)))

    console.print(f"{part} took {time.perf_counter() - start:.0f} s", style="dim", highlight=False)
    return not failed


if __name__ == "__main__":
    sys.exit(main())
