"""Tables of the benchmarks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from metarl.benchmarks.environments import Throughput
from metarl.benchmarks.robots import RobotThroughput
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
    table = Table(title=title, title_justify="left", caption=figures["capture_error"])
    others = {"cpu": "one CPU core", "plain": "plain loop over tasks"}
    shown = [other for other in others if f"{other}_sampling_s" in figures]
    for heading in ("phase", "batched", *(column for other in shown for column in (others[other], "ratio"))):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, key in PHASES.items():
        compared = []
        for other in shown:
            seconds, ratio = (figures.get(f"{other}_{key}_{kind}") for kind in ("s", "ratio"))
            compared += ["", ""] if seconds is None else [f"{seconds:.2f} s", f"{ratio:.1f}"]
        table.add_row(phase, f"{figures[f'{key}_s']:.3f} s", *compared)
    table.add_row("environment steps per second", f"{figures['env_steps_per_s']:,.0f}")
    table.add_row("peak memory", f"{figures['peak_memory_mb']:,.0f} MB")
    return table


def rollouts_table(growth: RolloutGrowth) -> Table:
    """Environment steps per second by batch, and their share of what the memory allows."""
    title = (
        f"{growth.env} with a policy of 2×{growth.hidden_size} units on {growth.device_name}: environment steps per "
        f"second. An environment step moves {growth.step_bytes:,.0f} bytes, operation by operation; at "
        f"{growth.bytes_per_s / 1e9:,.0f} GB/s that allows {growth.memory_bound:,.0f} a second"
    )
    table = Table(title=title, title_justify="left", caption=growth.capture_error)
    for heading in ("environments", "eager", "CUDA graph", "busy", "share of what memory allows"):
        table.add_column(heading, justify="right")
    for rate in growth.rates:
        captured = "" if rate.captured is None else f"{rate.captured:,.0f}"
        busy = "" if rate.utilization is None else f"{rate.utilization:.0%}"
        share = f"{rate.best / growth.memory_bound:.2f}"
        table.add_row(f"{rate.num_envs:,}", f"{rate.eager:,.0f}", captured, busy, share)
    return table


def envs_table(results: Sequence[Throughput]) -> Table:
    """Steps per second of each family and of the others, with our ratio to them."""
    first = results[0]
    title = (
        f"million environment steps per second: {first.num_envs:,} environments on one core; Gymnasium's vector "
        f"environments (Async: {first.processes} processes) and gymnax, and how many times as fast ours are"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("environment", "batch", "compiled", "vector", "Sync", "Async", "gymnax"):
        table.add_column(heading, justify="left" if heading == "environment" else "right")
    for result in results:
        others = (result.sync, result.asynchronous, result.gymnax)
        table.add_row(
            result.env,
            *(_millions(rate) for rate in (result.batch, result.compiled, result.vector)),
            *("" if rate is None else f"{_millions(rate)} ({result.best / rate:,.1f})" for rate in others),
        )
    return table


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
        rollout, *others = (
            "" if rate is None else f"{rate:,.0f} ({result.batch / rate:.2f})"
            for rate in (result.rollout, result.sync, result.asynchronous, result.envpool)
        )
        table.add_row(result.env, f"{result.batch:,.0f}", rollout, result.gymnasium_id, *others)
    return table


def _millions(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e6:.3g}"


def sb3_table(results: "Sequence[SB3Collection]") -> Table:
    """Steps per second of PPO's collection on both vector environments."""
    table = Table(title="Stable-Baselines3 PPO collecting: environment steps per second", title_justify="left")
    for heading in ("environment", "environments", "our VecEnv", "DummyVecEnv", "ratio"):
        table.add_column(heading, justify="left" if heading == "environment" else "right")
    for result in results:
        rates = f"{result.vec_env:,.0f}", f"{result.dummy:,.0f}", f"{result.vec_env / result.dummy:.1f}"
        table.add_row(result.env, str(result.num_envs), *rates)
    return table


def scaling_table(points: Sequence[Point], env: str) -> Table:
    """Seconds and peak memory of each point, and the exponent of each axis."""
    table = Table(title=f"one MAML-TRPO iteration on {env}", title_justify="left")
    for heading in ("varied", "value", "seconds", "peak memory", "time ∝ n^"):
        table.add_column(heading, justify="left" if heading == "varied" else "right")
    for axis in AXES:
        for point in (point for point in points if point.setting.axis == axis):
            memory = "" if point.peak_memory_mb is None else f"{point.peak_memory_mb:,.0f} MB"
            table.add_row(axis, str(point.value), f"{point.seconds:.2f}", memory, "")
        table.add_row("", "", "", "", f"{exponent(points, axis):.2f}", end_section=True)
    return table
