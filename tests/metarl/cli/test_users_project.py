"""A user's project with folders `envs/` and `agents/` of its own: they are the user's, `metarl.envs` is ours."""

import subprocess
import sys
from pathlib import Path

import pytest

REACH = '''
"""The user's own family."""
from metarl.envs.families.navigation import PointNavigation
from metarl.envs import TaskDistribution, Uniform


class Reach(TaskDistribution):
    """Reach a goal nearby."""

    def __init__(self) -> None:
        super().__init__(PointNavigation(horizon=7), {"goal": Uniform(-0.25, 0.25, shape=(2,))})
'''

SCRIPT = """
import metarl, metarl.envs
import agents.x, envs.reach

print(metarl.envs.make_distribution("envs.reach:Reach").horizon, agents.x.ANSWER)
"""

CONSOLE_SCRIPT = Path(sys.executable).with_name("metarl")

AS_MODULE = [sys.executable, "-m", "metarl"]
AS_CONSOLE_SCRIPT = [str(CONSOLE_SCRIPT)]
INSTALLED = pytest.mark.skipif(not CONSOLE_SCRIPT.exists(), reason="needs the console script of an installation")
STARTS = [
    pytest.param(AS_MODULE, id="python -m metarl"),
    # The last test starts the console script as well.
    pytest.param(AS_CONSOLE_SCRIPT, id="metarl", marks=[INSTALLED, pytest.mark.slow]),
]


@pytest.fixture(params=[pytest.param("packages", marks=pytest.mark.slow), "folders"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The user's project; its folders have an __init__.py or not."""
    for folder, module, content in (("envs", "reach.py", REACH), ("agents", "x.py", "ANSWER = 42\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / module).write_text(content)
        if request.param == "packages":
            (tmp_path / folder / "__init__.py").touch()
    return tmp_path


def output_of(command: list[str], place: Path) -> str:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("start", STARTS)
def test_the_users_own_family_is_found(start: list[str], project: Path) -> None:
    text = output_of([*start, "envs", "envs.reach:Reach"], project)
    assert text.startswith("envs.reach:Reach: ")
    assert "horizon     7 steps" in text
    assert "-0.25" in text


@pytest.mark.slow
@INSTALLED
def test_the_users_own_family_is_trained_on(project: Path) -> None:
    small = "--iterations 1 --num-tasks 2 --episodes 2 --eval-tasks 2 --test-tasks 2 --hidden-sizes 4 --name mine"
    text = output_of([*AS_CONSOLE_SCRIPT, "train", "maml", "envs.reach:Reach", *small.split()], project)
    assert "maml on envs.reach:Reach, 1 iteration, in runs/mine" in text
    assert (project / "runs" / "mine" / "evaluation-test.json").is_file()


def test_a_script_of_the_project_imports_both(project: Path) -> None:
    (project / "script.py").write_text(SCRIPT)
    assert output_of([sys.executable, "script.py"], project) == "7 42\n"


@INSTALLED
def test_a_users_file_named_like_a_library_does_not_replace_it(project: Path) -> None:
    for library in ("gymnasium", "rich", "tyro"):
        (project / f"{library}.py").write_text("raise SystemExit('the wrong one')\n")
    assert "horizon     7 steps" in output_of([*AS_CONSOLE_SCRIPT, "envs", "envs.reach:Reach"], project)
