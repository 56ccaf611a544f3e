"""`--compile-env`: the same training but for rounding, and one line where it cannot be had."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from envs.registry import make_distribution
from metarl.cli import main
from metarl.compiled import compile_env
from metarl.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")


def validation_returns(run_dir: Path, *flags: str) -> list[float]:
    arguments = ["train", "maml", "cart-pole", "--run-dir", str(run_dir), "--name", "run", "--iterations", "1"]
    size = ["--num-tasks", "2", "--episodes", "3", "--eval-tasks", "4", "--test-tasks", "2"]
    assert main([*arguments, *size, *flags]) == 0
    rows = [json.loads(line) for line in (run_dir / "run" / "metrics.jsonl").read_text().splitlines()]
    return [rows[-1][f"eval/return_k{k}"] for k in range(4)]


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
