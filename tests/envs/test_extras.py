"""What is said to install where something is missing."""

from pathlib import Path

import pytest

from metarl.envs import extras
from metarl.envs.extras import how_to_install


def test_a_checkout_installs_itself_with_the_tested_versions() -> None:
    assert how_to_install() == "python -m pip install -e . -c constraints.txt"
    assert how_to_install("driving") == "python -m pip install -e '.[driving]' -c constraints.txt"
    assert how_to_install("metaworld") == "python -m pip install -e '.[metaworld]' -c constraints-metaworld.txt"


def test_elsewhere_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    assert how_to_install() == "python -m pip install 'metarl-testbed'"
    assert how_to_install("driving") == "python -m pip install 'metarl-testbed[driving]'"
