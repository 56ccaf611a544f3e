"""Ctrl-C while modules are imported ends the program without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from metarl.errors import EXIT_INTERRUPTED

# Sends this process Ctrl-C when a module is looked for, as a user does who has mistyped.
INTERRUPTED = """
import os, runpy, signal, sys


class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})


sys.meta_path.insert(0, Interrupting())
sys.argv = ["metarl", "evaluate", "rl2-grid-navigation"]
runpy.run_module("metarl", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "number", "codes"),
    [
        ("metarl.cli.main", "SIGINT", (-2,)),
        pytest.param("tyro", "SIGINT", (EXIT_INTERRUPTED,), marks=pytest.mark.slow),
        ("torch._ops", "SIGINT", (EXIT_INTERRUPTED,)),
        pytest.param("torch._ops", "SIGTERM", (EXIT_INTERRUPTED,), marks=pytest.mark.slow),
    ],
)
def test_it_is_quiet(module: str, number: str, codes: tuple[int, ...], tmp_path: Path) -> None:
    script = INTERRUPTED.format(module=module, signal=number)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stderr
    assert done.stderr in ("", "metarl: interrupted\n")
    assert done.stdout == ""
