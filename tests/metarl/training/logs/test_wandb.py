"""Weights & Biases, offline: the same rows as in metrics.jsonl. Skipped where the package is not installed."""

import importlib
import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarl.cli.main import main
from metarl.training.logs.wandb import ID_FILE, WandbBackend
from tests.helpers.workbench import ITERATIONS, metrics_of, train

pytest_plugins = ["tests.helpers.run_fixtures"]

installed = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")


def records_of(run: Path) -> Iterator[Any]:
    """All that the library wrote of a run, part by part."""
    form: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for content in records_in(file.read_bytes()):
            record = form.Record()
            record.ParseFromString(content)
            yield record


def records_in(log: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB's format: blocks of 32 KiB, of records or parts of them behind 7 bytes each."""
    block, header = 32768, 7
    at, content = header, b""  # the file begins with 7 bytes of its own
    while at + header <= len(log):
        if block - at % block < header:  # what is left of a block is filled up
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", log[at : at + header])
        content += log[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # whole, or the last part
            yield content
            content = b""


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's curves, with the number of each as "step"."""
    rows = []
    for record in records_of(run):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append(items | {"step": record.history.step.num})
    return rows


@installed
@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.usefixtures("without_figures")
def test_offline_it_has_the_rows_of_the_metrics_and_one_id_over_all_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train(tmp_path, "--logger", "wandb")
    assert f"wandb sync {run}/wandb/offline-run-*" in capsys.readouterr().out
    assert not list(run.glob("events.out.tfevents.*"))
    assert main(["train", "--resume", str(run), "--iterations", str(ITERATIONS + 1)]) == 0

    ids = {record.run.run_id for record in records_of(run) if record.WhichOneof("record_type") == "run"}
    assert ids == {json.loads((run / ID_FILE).read_text())["id"]}

    # Training of 0 … 3, the test after it, iteration 4, the test again.
    rows = rows_of(run)
    assert [row["step"] for row in rows] == [*range(ITERATIONS + 1), ITERATIONS + 1, ITERATIONS + 1, ITERATIONS + 2]
    of_training = [row for row in rows if "test/gain" not in row]
    for row, metrics in zip(of_training, metrics_of(run), strict=True):
        assert row["env_steps"] == metrics["env_steps"]
        assert {name: row[name] for name in metrics if "/" in name} == {
            name: value for name, value in metrics.items() if "/" in name
        }
        assert row["eval/adaptation/_type"] == "image-file"
    assert {"test/return_k1", "test/adaptation/_type"} <= set(rows[-1])

    updates = [update for record in records_of(run) for update in record.config.update]
    config = {update.key: json.loads(update.value_json) for update in updates if update.key}
    assert config["agent"] == "maml"
    assert config["hidden_sizes"] == "(8,)"
    assert "run_dir" not in config


@installed
def test_what_cannot_be_sent_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setattr(type(wandb.api), "api_key", property(lambda self: None))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    command = ["train", "--logger", "wandb", "--run-dir", str(tmp_path)]
    assert main(command) == 2
    assert "needs an account: run 'wandb login', or set WANDB_MODE=offline" in capsys.readouterr().err

    monkeypatch.setenv("WANDB_MODE", "offlin")
    assert main(command) == 2
    assert "WANDB_MODE must be one of online, offline, disabled, shared, got 'offlin'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--logger wandb needs the package wandb: python -m pip install .*\[wandb\]"):
        WandbBackend.check()
