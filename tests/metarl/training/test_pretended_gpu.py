"""Runs checks_on_pretended_gpu.py in a process of its own: a device must be there before autograd's first use."""

import subprocess
import sys
from pathlib import Path


def test_checks_on_a_pretended_gpu() -> None:
    checks = Path(__file__).parents[2] / "helpers" / "checks_on_pretended_gpu.py"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--no-header", "-p", "no:cacheprovider", str(checks)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:]
    assert " passed" in done.stdout
