"""Tables of the benchmarks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from metarl.benchmarks.environments import Throughput
from metarl.benchmarks.robots import GpuRobotThroughput, RobotThroughput
from metarl.benchmarks.rollouts import RolloutGrowth
from metarl.benchmarks.scaling import AXES, Point, exponent

if TYPE_CHECKING:
    from metarl.benchmarks.sb3 import SB3Collection  # imports Stable-Baselines3, which takes seconds


PHASES = {
    "sampling, before and after 1 step": "sampling",
    "meta-gradient, second order": "meta_gradient",
    "meta-update, MAML-TRPO": "meta_update_trpo",
    "whole meta-iteration, MAML-TRPO": "iteration_trpo",
    "meta-update, ProMP, 5 epochs": "meta_update_ppo",
    "whole meta-iteration, ProMP": "iteration_ppo",
}
"""What `bench.bench` times, and how it calls it."""


def iteration_table(figures: dict[str, Any]) -> Table:
    """One meta-iteration by phase, beside one CPU core and the plain loop where these were timed."""
    setting = f"{figures['num_tasks']} tasks × {figures['episodes']} episodes × {figures['horizon']} steps"
    place = f"{figures['num_threads']} thread(s)" if figures["device"] == "cpu" else figures["device"]
    title = f"MAML on {figures['env']}: {setting}, 2×{figures['hidden_size']} units, {place}"

    others = {
        "fused": "fused graphs",
        "eager": "without graphs",
        "cpu": "one CPU core",
        "plain": "plain loop over tasks",
    }
    shown = [other for other in others if f"{other}_sampling_s" in figures]
    headings = [marked("batched", figures["capture_error"])]
    for other in shown:
        headings += [marked(others[other], figures.get(f"{other}_capture_error")), "ratio"]
    table = _table(title, ["phase"], headings, caption=capture_errors(figures))

    for phase, key in PHASES.items():
        row = [phase, f"{figures[f'{key}_s']:.3f} s"]
        for other in shown:
            seconds = figures.get(f"{other}_{key}_s")
            row += ["", ""] if seconds is None else [f"{seconds:.2f} s", f"{figures[f'{other}_{key}_ratio']:.1f}"]
        table.add_row(*row)
    table.add_row("environment steps per second", f"{figures['env_steps_per_s']:,.0f}")
    table.add_row("peak memory", f"{figures['peak_memory_mb']:,.0f} MB")
    return table


def marked(name: str, capture_error: str | None) -> str:
    """What was measured, with a mark where it did not run as it is called."""
    return f"{name} *" if capture_error else name


def capture_errors(figures: dict[str, Any]) -> str | None:
    """What the marks of one meta-iteration mean; None where there are none."""
    errors = [figures.get(name) for name in ("capture_error", "fused_capture_error")]
    said = dict.fromkeys(error for error in errors if error)
    return f"* {'; '.join(said)}" if said else None


def rollouts_table(growth: RolloutGrowth) -> Table:
    """Environment steps per second by batch, and their share of what the memory allows."""
    units = f"2×{growth.hidden_size} units" if growth.update is None else f"{growth.hidden_size} recurrent units"
    title = (
        f"{growth.env} with a policy of {units} on {growth.device_name}: environment steps per "
        f"second. An environment step moves {growth.step_bytes:,.0f} bytes, operation by operation; at "
        f"{growth.bytes_per_s / 1e9:,.0f} GB/s that allows {growth.memory_bound:,.0f} a second"
    )
    headings = ["environments", "eager", "CUDA graph", "fused", "busy", "share of what memory allows"]
    caption = growth.capture_error
    if growth.update is not None:
        learns = f"an update of one epoch takes {growth.update:,.0f} environment steps per second"
        caption = f"{learns}; {caption}" if caption else learns
    table = _table(title, [], headings, caption=caption)

    for rate in growth.rates:
        captured, fused = ("" if value is None else f"{value:,.0f}" for value in (rate.captured, rate.fused))
        busy = "" if rate.utilization is None else f"{rate.utilization:.0%}"
        share = f"{rate.best / growth.memory_bound:.2f}"
        table.add_row(f"{rate.num_envs:,}", f"{rate.eager:,.0f}", captured, fused, busy, share)
    return table


def envs_table(results: Sequence[Throughput]) -> Table:
    """Steps per second of each family and of the others, with our ratio to them."""
    first = results[0]
    title = (
        f"million environment steps per second: {first.num_envs:,} environments on one core; Gymnasium's vector "
        f"environments (Async: {first.processes} processes) and gymnax, and how many times as fast ours are"
    )
    table = _table(title, ["environment"], ["batch", "compiled", "vector", "Sync", "Async", "gymnax"])

    for result in results:
        table.add_row(
            result.env,
            _millions(result.batch),
            _millions(result.compiled),
            _millions(result.vector),
            _millions_with_ratio(result.best, result.sync),
            _millions_with_ratio(result.best, result.asynchronous),
            _millions_with_ratio(result.best, result.gymnax),
        )
    return table


def _millions(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e6:.3g}"


def _millions_with_ratio(ours: float, rate: float | None) -> str:
    """Another's rate, and how many times as fast ours is."""
    return "" if rate is None else f"{_millions(rate)} ({ours / rate:,.1f})"


def robots_table(results: Sequence[RobotThroughput]) -> Table:
    """Steps per second of robots and of the others, with our ratio to them."""
    first = results[0]
    title = (
        f"environment steps per second: {first.num_envs:,} robots on {first.num_threads} core(s), and how many times "
        "as fast ours are"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("environment", "ours", "mujoco.rollout alone", "robot", "Sync", "Async", "EnvPool"):
        table.add_column(heading, justify="left" if heading in ("environment", "robot") else "right")

    for result in results:
        ours = result.batch
        table.add_row(
            result.env,
            f"{ours:,.0f}",
            _with_ratio(ours, result.rollout),
            result.gymnasium_id,
            _with_ratio(ours, result.sync),
            _with_ratio(ours, result.asynchronous),
            _with_ratio(ours, result.envpool),
        )
    return table


def gpu_robots_table(results: Sequence[GpuRobotThroughput]) -> Table:
    """Steps per second of robots on a GPU beside the physics alone, ours and MuJoCo Warp's own."""
    title = f"robots on {results[0].device_name}: environment steps per second, policy in the loop"
    headings = [
        "robots",
        "all in graphs",
        "physics in a graph",
        "our physics alone",
        "MuJoCo Warp alone",
        "ratio to it",
    ]
    table = _table(title, ["environment"], [*headings, "determinism"])

    for result in results:
        rates = [f"{rate:,.0f}" for rate in (result.captured, result.eager, result.physics, result.bare)]
        ratio = f"{result.captured / result.bare:.2f}"
        table.add_row(result.env, f"{result.num_envs:,}", *rates, ratio, "on" if result.deterministic else "off")
    return table


def _with_ratio(ours: float, rate: float | None) -> str:
    """Another's rate, and how many times as fast ours is."""
    return "" if rate is None else f"{rate:,.0f} ({ours / rate:.2f})"


def sb3_table(results: "Sequence[SB3Collection]") -> Table:
    """Steps per second of PPO's collection on both vector environments."""
    title = "Stable-Baselines3 PPO collecting: environment steps per second"
    table = _table(title, ["environment"], ["environments", "our VecEnv", "DummyVecEnv", "ratio"])
    for result in results:
        ratio = f"{result.vec_env / result.dummy:.1f}"
        table.add_row(result.env, str(result.num_envs), f"{result.vec_env:,.0f}", f"{result.dummy:,.0f}", ratio)
    return table


def scaling_table(points: Sequence[Point], env: str) -> Table:
    """Seconds and peak memory of each point, and the exponent of each axis."""
    title = f"one MAML-TRPO iteration on {env}"
    table = _table(title, ["varied"], ["value", "seconds", "peak memory", "time ∝ n^"])
    for axis in AXES:
        for point in points:
            if point.setting.axis == axis:
                memory = "" if point.peak_memory_mb is None else f"{point.peak_memory_mb:,.0f} MB"
                table.add_row(axis, str(point.value), f"{point.seconds:.2f}", memory, "")
        table.add_row("", "", "", "", f"{exponent(points, axis):.2f}", end_section=True)
    return table


def _table(title: str, names: Sequence[str], numbers: Sequence[str], caption: str | None = None) -> Table:
    """A table without rows: columns of names, and columns of numbers to the right of them."""
    table = Table(title=title, title_justify="left", caption=caption)
    for heading in names:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
