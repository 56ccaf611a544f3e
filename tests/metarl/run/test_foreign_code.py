"""A run may name the module of its environment; one made elsewhere imports nothing from here without a word."""

import shutil
import sys
from pathlib import Path

import pytest

from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.errors import EXIT_BAD_INPUT, UserError
from metarl.run.run_directory import TRUST_VARIABLE, RunDirectory
from tests.helpers.workbench import RUN, TINY, complaint, forget_config

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")

MODULE = """
from pathlib import Path
from metarl.envs.families.navigation import pearl

Path("imported").touch()
"""

EVALUATE = ["evaluate", RUN, "--num-tasks", "1", "--steps", "0"]


@pytest.fixture
def foreign_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that came with a module beside it: `foreign_envs`."""
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(str(workplace))
    (workplace / "foreign_envs.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "foreign_envs", raising=False)
    return names_env(workplace / "runs" / RUN, "foreign_envs:pearl")


def names_env(run: Path, env: str) -> Path:
    forget_config(run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("env: point-navigation/pearl", f"env: {env}"))
    return run


def test_what_it_would_import_is_said_and_not_done(foreign_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (EVALUATE, ["train", "--resume", RUN], ["compare", RUN], ["report", RUN]):
        assert main(command) == EXIT_BAD_INPUT
        message = complaint(capsys)
        assert f"would import the module foreign_envs from {Path.cwd() / 'foreign_envs.py'}" in message
        assert "--trust" in message
    assert not Path("imported").exists()


def test_trust_allows_it(foreign_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "")  # restored after the test
    assert main([*EVALUATE, "--trust"]) == 0
    assert Path("imported").exists()


def test_the_users_own_module_path_allows_it(foreign_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    assert RunDirectory.open(RUN).config.env == "foreign_envs:pearl"


def test_a_run_made_here_needs_no_word(foreign_run: Path) -> None:
    assert main(["train", "maml", "foreign_envs:pearl", *TINY, "--iterations", "1", "--name", "own"]) == 0
    assert main(["evaluate", "own", "--num-tasks", "1", "--steps", "0"]) == 0
    shutil.copytree("runs/own", "runs/copy")
    assert RunDirectory.open("copy").config.env == "foreign_envs:pearl"

    # The same files somewhere else are somebody else's.
    Path("elsewhere").mkdir()
    shutil.move("foreign_envs.py", "elsewhere/foreign_envs.py")
    shutil.copytree("runs", "elsewhere/runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("elsewhere")
        with pytest.raises(UserError, match="was not made here"):
            RunDirectory.open("own")


def test_code_named_by_a_runs_environment_file_is_said_as_well(foreign_run: Path) -> None:
    names_env(foreign_run, "x")
    config = foreign_run / "config.yaml"
    config.write_text(config.read_text().replace("env: foreign_envs:pearl", "env: own.yaml"))
    (foreign_run / "own.yaml").write_text(
        "env_id: CartPole-v1\nset_task: foreign_envs:change\ntask: {g: {choice: [1]}}"
    )
    with pytest.raises(UserError, match="would import the module foreign_envs"):
        RunDirectory.open(RUN)
    assert not Path("imported").exists()


@pytest.mark.parametrize("env", ["os:abort", "code:interact", "foreign_envs:Path", "foreign_envs:callable_builtin"])
def test_only_what_defines_an_environment_is_called(env: str, foreign_run: Path) -> None:
    Path("foreign_envs.py").write_text(MODULE + "\nimport os\ncallable_builtin = os.abort\n")
    with pytest.raises(ValueError, match=r"defines no environment|is not a TaskDistribution and does not make one"):
        make_distribution(env)
