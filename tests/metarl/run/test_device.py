"""The names of the hardware that a run's metadata hold."""

import dataclasses
import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.run import device, run_directory
from metarl.run.config import TrainConfig


def test_the_cpus_model_is_named_where_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: Example 9000 @ 2.00GHz\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    assert device.cpu_name() == "Example 9000 @ 2.00GHz"


def test_elsewhere_it_is_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "")
    assert device.cpu_name() in (platform.processor(), platform.machine())


@pytest.mark.parametrize(("setting", "resolved"), [("auto", "off"), ("on", "on"), ("off", "off")])
def test_metadata_says_what_auto_determinism_meant(
    setting: Any, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TrainConfig(), physics_determinism=setting)
    monkeypatch.setattr(run_directory, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(run_directory, "device_name", lambda device: "a GPU")
    assert run_directory._metadata(config)["physics_determinism"] == resolved
