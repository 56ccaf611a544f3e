"""The names of the hardware that a run's metadata hold."""

import platform
from pathlib import Path

import pytest

from metarl.run import device


def test_the_cpus_model_is_named_where_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: Example 9000 @ 2.00GHz\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    assert device.cpu_name() == "Example 9000 @ 2.00GHz"


def test_elsewhere_it_is_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "")
    assert device.cpu_name() in (platform.processor(), platform.machine())
