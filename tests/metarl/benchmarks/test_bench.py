"""The benchmark measures what it says: the same work on both sides."""

import csv
import functools
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from metarl.benchmarks import iteration as bench_iteration
from metarl.benchmarks import rollouts as bench_rollouts
from metarl.benchmarks import scaling as bench_scaling
from metarl.benchmarks.environments import _gymnax_rate, steps_per_second
from metarl.benchmarks.iteration import Workload, bench
from metarl.benchmarks.scaling import Point, Setting, exponent
from metarl.benchmarks.tables import PHASES, iteration_table
from metarl.cli import bench as bench_command
from metarl.cli.main import main
from metarl.envs.graphs import fuse
from metarl.errors import TrainingError
from metarl.training.machine.accelerate import CAPTURES
from tests.helpers.captured_steps import recorded


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return bench(Workload("point-navigation/pearl", num_tasks=2, episodes=3, hidden_size=4), repeats=1)


def test_figures_are_positive_and_consistent(figures: dict[str, Any]) -> None:
    assert all(value > 0 for value in figures.values() if isinstance(value, (int, float)))
    assert (figures["env"], figures["horizon"], figures["hidden_size"]) == ("point-navigation/pearl", 20, 4)
    assert figures["env_steps"] == 2 * 2 * 3 * 20  # support and query
    assert figures["env_steps_per_s"] == pytest.approx(figures["env_steps"] / figures["sampling_s"])
    assert figures["plain_env_steps_per_s"] == pytest.approx(figures["env_steps"] / figures["plain_sampling_s"])
    for outer in ("trpo", "ppo"):
        assert figures[f"iteration_{outer}_s"] > figures["sampling_s"] + figures[f"meta_update_{outer}_s"]
    for phase in ("sampling", "meta_gradient", "meta_update_trpo", "iteration_trpo"):
        assert figures[f"plain_{phase}_ratio"] == pytest.approx(figures[f"plain_{phase}_s"] / figures[f"{phase}_s"])


def test_a_way_that_is_not_captured_is_marked(monkeypatch: pytest.MonkeyPatch, figures: dict[str, Any]) -> None:
    """A GPU's figures, of stand-ins: a fused pass that was not fused is not shown as one."""

    def measure(workload: Workload, repeats: int) -> Any:
        error = "meta_gradient is not fused: no compiler" if workload.cuda_graphs == "fused" else None
        seconds = {name[:-2]: figures[name] for name in figures if name[:-2] in PHASES.values()}
        return SimpleNamespace(
            distribution=SimpleNamespace(horizon=20), batches=[], seconds=seconds, capture_error=error
        )

    monkeypatch.setattr(bench_iteration, "_measure", measure)
    monkeypatch.setattr(bench_iteration, "peak_memory_mb", lambda device: 1.0)
    measured = bench(Workload("point-navigation/pearl", device="cuda"), repeats=1, plain_loop=False)
    assert measured["capture_error"] is None

    table = iteration_table(measured)
    headings = [str(column.header) for column in table.columns]
    assert "batched" in headings and "fused graphs *" in headings and "without graphs" in headings
    assert table.caption == "* meta_gradient is not fused: no compiler"


def test_table_shows_the_figures(
    figures: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metarl.cli.bench.bench", lambda *arguments: figures)
    assert (
        main(
            [
                "bench",
                "iteration",
                "point-navigation/pearl",
                "--num-tasks",
                "2",
                "--episodes",
                "3",
                "--hidden-size",
                "4",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "2 tasks × 3 episodes × 20 steps" in text
    assert f"{figures['env_steps_per_s']:,.0f}" in text
    assert f"{figures['iteration_ppo_s']:.3f} s" in text
    assert f"{figures['plain_iteration_trpo_ratio']:.1f}" in text


def test_peak_memory_is_that_of_a_process_with_torch(figures: dict[str, Any]) -> None:
    assert 100 < figures["peak_memory_mb"] < 10_000


def test_the_plain_loop_can_be_left_out() -> None:
    small = bench(Workload("bandit/bernoulli", 2, 2, horizon=7, hidden_size=4), repeats=1, plain_loop=False)
    assert small["horizon"] == 7
    assert small["env_steps"] == 2 * 2 * 2 * 7
    assert not [name for name in small if name.startswith(("plain", "cpu")) or name.endswith("ratio")]


def test_a_gpu_stands_beside_one_cpu_core(capsys: pytest.CaptureFixture[str]) -> None:
    """In the table; the figures are made up."""
    measured = {f"{phase}_s": 0.001 for phase in PHASES.values()}
    cpu = {f"cpu_{phase}_s": 0.25 for phase in PHASES.values()} | {f"cpu_{p}_ratio": 250.0 for p in PHASES.values()}
    figures = asdict(Workload("cart-pole", horizon=100, device="cuda:0")) | {"env_steps_per_s": 1e8}
    Console(width=120).print(iteration_table(figures | measured | cpu | {"peak_memory_mb": 1.0, "capture_error": None}))
    text = capsys.readouterr().out
    assert "cuda:0" in text and "one CPU core" in text and "plain loop" not in text
    row = next(line for line in text.splitlines() if "whole meta-iteration, MAML-TRPO" in line)
    assert row.split("MAML-TRPO")[1].split()[1:-1] == ["0.001", "s", "│", "0.25", "s", "│", "250.0"]


def test_rollouts_are_measured_eager_and_captured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_rollouts.EPISODES, "cpu", (1, 2))
    monkeypatch.setitem(CAPTURES, "cpu", recorded)
    monkeypatch.setattr(fuse, "_kernels", lambda graph, inputs: graph)
    arguments = ["bench", "rollouts", "point-navigation/pearl", "--device", "cpu", "--repeats", "1"]
    assert main([*arguments, "--hidden-size", "4", "--json"]) == 0
    growth = json.loads(capsys.readouterr().out)
    assert [rate["num_envs"] for rate in growth["rates"]] == [40, 80]
    assert all(rate["eager"] > 0 and rate["captured"] > 0 and rate["fused"] > 0 for rate in growth["rates"])
    assert growth["memory_bound"] == pytest.approx(growth["bytes_per_s"] / growth["step_bytes"])
    best = max(max(rate["eager"], rate["captured"], rate["fused"]) for rate in growth["rates"])
    assert growth["share_of_bound"] == pytest.approx(best / growth["memory_bound"])
    assert main(["bench", "rollouts", "half-cheetah-direction", "cart-pole"]) == 2
    assert "bench rollouts takes one environment" in capsys.readouterr().err


def test_what_cannot_be_captured_is_measured_eagerly_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> Callable[[], None]:
        raise RuntimeError("operation not permitted")

    monkeypatch.setitem(bench_rollouts.EPISODES, "cpu", (1,))
    monkeypatch.setitem(CAPTURES, "cpu", refuse)
    for what in ("rollouts", "iteration"):
        size = ["--num-tasks", "2", "--episodes", "2", "--hidden-size", "4", "--repeats", "1", "--no-plain"]
        assert main(["bench", what, "point-navigation/pearl", "--device", "cpu", *size]) == 0
        assert "operation not permitted" in " ".join(capsys.readouterr().out.split())


def test_an_environment_step_moves_at_least_what_it_is_made_of() -> None:
    """Observation, action, two layers of activations and the distribution are written and read at least once."""
    growth = bench_rollouts.rollout_rates("point-navigation/pearl", torch.device("cpu"), 64, 1)
    assert 2 * 4 * (2 + 2 + 2 * 64 + 4) < growth.step_bytes < 100 * 4 * (2 + 2 + 2 * 64 + 4)


def test_a_recurrent_policy_is_measured_in_rollouts_and_in_its_update(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench_rollouts.EPISODES, "cpu", (1,))
    monkeypatch.setattr(bench_rollouts, "UPDATE_TRIALS", 1)
    size = ["--hidden-size", "8", "--repeats", "1", "--device", "cpu", "--json"]
    assert main(["bench", "rollouts", "grid-navigation", "--recurrent", *size]) == 0
    growth = json.loads(capsys.readouterr().out)
    assert growth["rates"][0]["num_envs"] == 40
    assert growth["update"] > 0


def test_a_batch_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_rollouts.EPISODES, "cpu", (1, 2, 1_000))
    monkeypatch.setattr(bench_rollouts, "available_bytes", lambda device: 10_000_000)
    growth = bench_rollouts.rollout_rates("point-navigation/pearl", torch.device("cpu"), 4, 1)
    assert [rate.num_envs for rate in growth.rates] == [40, 80]


@pytest.mark.slow
def test_throughput_of_a_family_is_measured_beside_gymnasium(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num-envs", "8", "--seconds", "0.05", "--no-compile", "--json"]
    assert main(["bench", "envs", "cart-pole", "bandit/bernoulli", *flags]) == 0
    cart_pole, bandit = json.loads(capsys.readouterr().out)
    assert (cart_pole["single_id"], bandit["single_id"]) == ("CartPole-v1", "metarl/BernoulliBandit-v0")
    for row in (cart_pole, bandit):
        assert row["ratio_to_sync"] == pytest.approx(row["batch"] / row["sync"])
        assert min(row["batch"], row["vector"], row["sync"], row["asynchronous"]) > 0
        assert row["compiled"] is None
    assert bandit["gymnax"] is None


def test_robots_are_measured_beside_the_physics_alone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "robots", "half-cheetah-velocity", "--num-envs", "4", "--seconds", "0.05", "--json"]
    assert main(arguments) == 0
    (figures,) = json.loads(capsys.readouterr().out)
    assert figures["env"] == "half-cheetah-velocity/finn"
    assert figures["ratio_to_rollout"] == figures["batch"] / figures["rollout"]
    assert min(figures[name] for name in ("batch", "rollout", "sync", "asynchronous")) > 0
    assert main(["bench", "robots", "cart-pole"]) == 2
    assert "unknown robot 'cart-pole'" in capsys.readouterr().err


def test_rates_count_the_environment_steps_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the steps move."""
    now = [0.0]

    def step() -> None:
        now[0] += 0.01

    monkeypatch.setattr("metarl.benchmarks.environments.time.perf_counter", lambda: now[0])
    assert steps_per_second(step, env_steps=50, seconds=0.1) == pytest.approx(50 / 0.01)


def test_gymnax_takes_as_many_steps_as_are_counted() -> None:
    pytest.importorskip("gymnax")
    assert (_gymnax_rate("Pendulum-v1", 4, 0.05) or 0) > 0


def test_ppo_collects_on_both_vector_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sb3", "cart-pole", "--num-envs", "10", "--repeats", "1"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "cart-pole" in line)
    assert "10" in row.split()


def test_all_in_one_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the families, which take seconds."""
    assert bench_command.TOGETHER == ("iteration", "sb3", "envs")
    monkeypatch.setattr(bench_command, "TOGETHER", ("iteration", "sb3"))
    size = ["--num-tasks", "2", "--episodes", "2", "--hidden-size", "4", "--num-envs", "10"]
    assert main(["bench", "all", "cart-pole", *size, "--repeats", "1", "--device", "cpu", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"iteration", "sb3"}
    assert figures["iteration"]["env"] == "cart-pole"
    assert [row["env"] for row in figures["sb3"]] == ["cart-pole"]


def test_exponents_come_from_the_points() -> None:
    quadratic = [Point(Setting(axis="num_tasks", num_tasks=n), 0.5 * n**2, 100.0) for n in (10, 20, 40)]
    linear = [Point(Setting(axis="episodes", episodes=n), 3.0 * n, 100.0) for n in (5, 80)]
    assert exponent(quadratic + linear, "num_tasks") == pytest.approx(2.0)
    assert exponent(quadratic + linear, "episodes") == pytest.approx(1.0)


@pytest.mark.slow
def test_processes_do_the_same_work_as_the_other_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published MAML-TRPO takes Fisher products on all episodes, three times the work of the benchmark's."""
    commands: list[tuple[str, ...]] = []

    def noted(*arguments: str) -> str:
        commands.append(arguments)
        raise TrainingError("not run")

    monkeypatch.setattr(bench_scaling, "_run", noted)
    with pytest.raises(TrainingError):
        bench_scaling._measure_job("point-navigation/pearl", Setting(processes=2), 1)

    words = " ".join(commands[0])
    assert "--fvp-fraction 0.2" in words
    assert "--estimator lvc" in words


def test_scaling_writes_its_points_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points in processes of their own: one bench, one job of torchrun."""
    monkeypatch.setattr(bench_scaling, "AXES", {"horizon": (2,), "processes": (1,)})
    monkeypatch.setattr(bench_scaling, "TRAINED_ITERATIONS", 3)
    monkeypatch.setattr(bench_scaling, "Setting", functools.partial(Setting, num_tasks=2, episodes=2, hidden_size=4))
    points = bench_scaling.scaling("point-navigation/pearl", 1, lambda line: None)
    assert [(point.setting.axis, point.value) for point in points] == [("horizon", 2), ("processes", 1)]
    assert all(point.seconds > 0 for point in points)
    twice = replace(points[0], setting=replace(points[0].setting, horizon=4))
    table, picture = bench_scaling.write([points[0], twice], "point-navigation/pearl", tmp_path)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["horizon"] for row in rows] == ["2", "4"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_failed_point_is_said_in_one_line() -> None:
    with pytest.raises(TrainingError, match="unknown environment"):
        bench_scaling.scaling("nowhere", 1, lambda line: None)
