"""The reference runs that are shipped: small, whole, and as good as they say."""

import hashlib
import json
from pathlib import Path

import pytest

from metarl.cli.main import main
from metarl.errors import EXIT_BAD_INPUT, UserError
from metarl.run.run_directory import RunDirectory
from tests.helpers.workbench import files_under

REFERENCE = Path(__file__).parents[3] / "runs" / "reference"
WITH_POLICY = sorted(path.parent.name for path in REFERENCE.glob("*/checkpoints"))
SLOW_PHYSICS = {"half-cheetah-direction": pytest.mark.slow}
RUNS = sorted(path.parent.name for path in REFERENCE.glob("*/events.out.tfevents*.test"))


def contents(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_there_is_one_of_each_agent_on_goals_and_on_dynamics() -> None:
    families = ("point-navigation", "cart-pole-mirrored")
    assert sorted(f"{agent}-{family}" for agent in ("maml", "promp", "reptile") for family in families) == RUNS


@pytest.mark.parametrize("name", RUNS)
def test_it_is_whole_and_small(name: str) -> None:
    run = REFERENCE / name
    files = contents(run)
    assert {"config.yaml", "metadata.json", "metrics.jsonl", "evaluation-test.json"} <= set(files)
    assert "checkpoints/best.safetensors" in files
    assert any(file.startswith("events.out.tfevents") for file in files)
    assert sum((run / file).stat().st_size for file in files) < 1_000_000
    about = json.loads((run / "metadata.json").read_text())
    assert about["command"][:2] == ["metarl", "train"]
    assert about["cpu_count"] >= 1


RETURNS_AT_ONCE = [name for name in WITH_POLICY if "finn" in name or name == "reptile-point-navigation"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in RETURNS_AT_ONCE else pytest.mark.slow) for name in WITH_POLICY]
)
def test_it_returns_what_was_recorded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = REFERENCE / name
    before, recorded = contents(run), json.loads((run / "evaluation-test.json").read_text())
    steps = str(recorded["adaptation_steps"])
    size = ["--num-tasks", str(recorded["num_tasks"]), "--episodes", str(recorded["episodes_per_step"])]
    assert main(["evaluate", str(run), *size, "--steps", steps, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["checkpoint_iteration"] == recorded["checkpoint_iteration"]
    for mean, (low, high) in zip(evaluated["return_mean"], recorded["return_ci95"], strict=True):
        assert low <= mean <= high
    low, high = recorded["gain_ci95"]
    assert low <= evaluated["return_mean"][-1] - evaluated["return_mean"][0] <= high
    assert low > 0 or not recorded["adaptation_steps"]
    assert contents(run) == before


def test_trials_on_all_goals_stand_beside_what_the_best_player_earns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(REFERENCE / "rl2-grid-navigation"), "--num-tasks", "21", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert sum(evaluated["optimum"]) == pytest.approx(37.214, abs=1e-3)
    assert 33 < evaluated["trial_return_mean"] < 38


def test_it_is_found_by_its_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "promp-point-navigation"
    for given in (name, f"runs/reference/{name}"):
        assert RunDirectory.open(given).path == REFERENCE / name

    (tmp_path / "runs" / name).mkdir(parents=True)  # a run of one's own comes first
    with pytest.raises(UserError, match="is not a run"):
        RunDirectory.open(name)
    with pytest.raises(UserError, match=f"no run 'nothing'.*{name}"):
        RunDirectory.open("nothing")
    with pytest.raises(UserError, match="no run"):
        RunDirectory.open(f"elsewhere/{name}")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REFERENCE.glob("*/config.yaml")))
def test_it_is_not_resumed_and_stays_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds its best policy alone: a new beginning would overwrite it."""
    run = REFERENCE / name
    before = files_under(run)
    for given in (str(run), name):
        assert main(["train", "--resume", given]) == EXIT_BAD_INPUT
        assert "cannot be resumed: of its" in capsys.readouterr().err
        assert main(["train", "--resume", given, "--iterations", "100000"]) == EXIT_BAD_INPUT
    assert files_under(run) == before
