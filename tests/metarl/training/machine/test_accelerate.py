"""`--compile-env` and CUDA graphs: the same training, and one line where they cannot be had."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metarl.agents.maml import MAML, MAMLConfig
from metarl.cli.main import main
from metarl.envs.graphs import fuse
from metarl.envs.registry import make_distribution
from metarl.errors import UserError
from metarl.training.machine.accelerate import CAPTURES, compile_env, first_use, use_graphs
from tests.helpers.captured_steps import recorded

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = [
    pytest.mark.usefixtures("without_figures"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


FAMILY = "point-navigation/pearl"


def validation_returns(run_dir: Path, *flags: str) -> list[float]:
    arguments = ["train", "maml", FAMILY, "--run-dir", str(run_dir), "--name", "run", "--iterations", "1"]
    size = ["--num-tasks", "2", "--episodes", "3", "--eval-tasks", "4", "--test-tasks", "2"]
    assert main([*arguments, *size, *flags]) == 0
    rows = [json.loads(line) for line in (run_dir / "run" / "metrics.jsonl").read_text().splitlines()]
    return [rows[-1][f"eval/return_k{k}"] for k in range(4)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_training_on_compiled_steps_equals_training_on_plain_ones(tmp_path: Path) -> None:
    plain = validation_returns(tmp_path / "plain")
    assert validation_returns(tmp_path / "compiled", "--compile-env") == pytest.approx(plain, rel=0.2)


def test_what_cannot_be_compiled_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> object:
        def step(*arguments: object) -> object:
            raise RuntimeError("no C++ compiler found\nmore lines")

        return step

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match=r"compile_env: torch.compile cannot compile cart-pole here: no C\+\+ compiler"):
        compile_env(make_distribution("cart-pole"), torch.device("cpu"))


# ---------------------------------------------------------------------- CUDA graphs


def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """Let the CPU capture rollouts as well; the list grows with each capture."""
    captures = []

    def capture(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        captures.append(generator)
        return recorded(function, generator)

    monkeypatch.setitem(CAPTURES, "cpu", capture)
    return captures


def test_training_on_captured_rollouts_equals_training_on_eager_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = counted(monkeypatch)
    plain = validation_returns(tmp_path / "plain", "--cuda-graphs", "off")
    assert not captures
    # Epochs that are captured take the Adam of a GPU, which rounds otherwise than a CPU's.
    assert validation_returns(tmp_path / "captured") == pytest.approx(plain, rel=1e-5)
    assert captures


def test_what_cannot_be_captured_is_said_and_runs_eagerly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setitem(CAPTURES, "cpu", refuse)
    validation_returns(tmp_path)
    text = " ".join(capsys.readouterr().out.split())
    assert "warning: rollouts of PointNavigation are not captured as CUDA graphs: operation not permitted when" in text
    assert "more lines" not in text


@pytest.mark.parametrize(("device", "fused"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_the_minute_that_compiling_takes_is_announced(device: str, fused: bool) -> None:
    said = "compiled at their first use" in first_use(torch.device(device), fused)
    assert said is (device == "cuda" and fused)


def test_training_with_fused_graphs_announces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        raise RuntimeError("no graphs here")

    monkeypatch.setitem(CAPTURES, "cpu", refuse)
    monkeypatch.setattr(fuse, "_kernels", lambda graph, inputs: graph)
    validation_returns(tmp_path, "--cuda-graphs", "fused")
    assert "compiled at their first use" in " ".join(capsys.readouterr().out.split())


def test_families_that_are_not_written_in_torch_keep_their_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    distribution = make_distribution("cart-pole")
    learner = MAML(distribution.observation_space, distribution.action_space, MAMLConfig(), torch.Generator())
    foreign: Any = SimpleNamespace(env=object())
    use_graphs(foreign, learner, torch.device("cpu"), pytest.fail)
    assert learner.pool.graphs is not None
    assert distribution.task_env.rollout_graphs is None

    use_graphs(distribution, learner, torch.device("cpu"), pytest.fail)
    assert distribution.task_env.rollout_graphs is not None
