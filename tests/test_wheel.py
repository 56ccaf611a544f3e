"""The wheel, built and installed where there is no checkout."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, beside the packages that this test's environment has."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(ROOT)]
    subprocess.run(build, check=True, timeout=250)
    (wheel,) = place.glob("metarl_testbed-*.whl")

    environment = place / "environment"
    venv.create(environment, with_pip=False)
    binaries = environment / "bin"
    target = subprocess.run(
        [binaries / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Files named in a .pth are not read for .pth files of their own: the editable install does not come along.
    others = [path for path in sys.path if path.endswith("site-packages")]
    Path(target, "others.pth").write_text("\n".join(others) + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(binaries / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, timeout=250)
    return binaries


def run(installed: Path, place: Path, *command: str) -> str:
    """Standard output of a command of the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [installed / command[0], *command[1:]], cwd=place, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_commands_work_beside_a_users_own_folders(installed: Path, tmp_path: Path) -> None:
    for floor in ("envs", "agents"):
        (tmp_path / floor).mkdir()
        (tmp_path / floor / "__init__.py").write_text("raise ImportError('the user\\'s own')\n")

    assert run(installed, tmp_path, "metarl", "--version").startswith("metarl ")
    assert "point-navigation/finn" in run(installed, tmp_path, "metarl", "envs")
    where = run(installed, tmp_path, "python", "-c", "import metarl.envs, metarl.agents; print(metarl.envs.__file__)")
    assert not where.startswith(str(ROOT))


def test_a_reference_run_is_found_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    flags = ["--num-tasks", "2", "--episodes", "2", "--json"]
    printed = run(installed, tmp_path, "metarl", "evaluate", "runs/reference/promp-point-navigation", *flags)
    assert len(json.loads(printed)["return_mean"]) == 4


def test_it_trains_and_writes_below_the_working_directory(installed: Path, tmp_path: Path) -> None:
    small = ["--num-tasks", "2", "--episodes", "2", "--eval-tasks", "2", "--test-tasks", "2"]
    run(installed, tmp_path, "metarl", "train", "--iterations", "1", "--name", "first", *small)
    assert (tmp_path / "runs" / "first" / "evaluation-test.json").is_file()


def test_hints_do_not_speak_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    script = "from metarl.envs.extras import how_to_install; print(how_to_install('warp'))"
    assert run(installed, tmp_path, "python", "-c", script) == "python -m pip install 'metarl-testbed[warp]'\n"
