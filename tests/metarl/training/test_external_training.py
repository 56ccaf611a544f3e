"""The workbench on environments that are not ours: from a YAML file, from a recipe, and when their workers die."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metarl.cli.main import main

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = [pytest.mark.timeout(280), pytest.mark.usefixtures("without_figures")]
COUNTS = {"num-tasks": 2, "episodes": 2, "eval-tasks": 2, "test-tasks": 2, "hidden-sizes": 4}
SMALL = [text for flag, count in COUNTS.items() for text in (f"--{flag}", str(count))]

PENDULUM = """\
env_id: Pendulum-v1
horizon: 10
num_workers: {workers}
task:
  g: {{uniform: [5, 15], units: m/s²}}
"""

FRAGILE = """\
import os
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Fragile(gymnasium.Env):
    observation_space, action_space = Box(0, 1, (1,)), Discrete(2)

    def __init__(self, load, how):
        self.load, self.how = load, how

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if os.path.exists("broken"):
            if self.how == "exit":
                os._exit(3)
            raise RuntimeError("the arm came off")
        return np.zeros(1, np.float32), self.load, False, False, {"success": self.load > 0.5}


gymnasium.register("Fragile-v0", Fragile)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, on the path of imports, also that of new processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def evaluation_of(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "evaluation-test.json").read_text())
    return report


def test_a_run_of_a_file_goes_on_without_the_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, move the run, change the file: resume, evaluate and compare read the run's own copy."""
    Path("my_env.yaml").write_text(PENDULUM.format(workers=0))
    assert main(["train", "maml", "--env-file", "my_env.yaml", "--iterations", "1", *SMALL]) == 0
    run = place / "runs" / "maml-my-env-seed0"
    assert evaluation_of(run)["env"] == "my_env.yaml"
    Path("my_env.yaml").write_text("spoiled")
    shutil.move(run, place / "elsewhere")
    assert main(["train", "--resume", "elsewhere", "--iterations", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "elsewhere", "--num-tasks", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint_iteration"] in (0, 1, 2)
    baselines = ["--baselines", "ppo", "random", "--num-tasks", "1", "--budget", "400", "--episodes", "2"]
    assert main(["compare", "elsewhere", *baselines, "--num-threads", "1"]) == 0
    assert "my_env.yaml" in capsys.readouterr().out


def test_interrupted_and_resumed_ends_as_if_it_had_not_been(place: Path) -> None:
    Path("env.yaml").write_text(PENDULUM.format(workers=0))
    for name, steps in (("whole", ["2"]), ("halves", ["1", "2"])):
        first, *later = steps
        assert main(["train", "maml", "--env-file", "env.yaml", "--iterations", first, "--name", name, *SMALL]) == 0
        for iterations in later:
            assert main(["train", "--resume", f"runs/{name}", "--iterations", iterations]) == 0
    whole, halves = (evaluation_of(place / "runs" / name) for name in ("whole", "halves"))
    assert whole["total_env_steps"] == halves["total_env_steps"]


TOLD = """\
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Text


class Told(gymnasium.Env):
    action_space = Box(-1, 1, (1,))

    def __init__(self, goal=0.5, names=("velocity", "position")):
        parts = [(name, Box(-1, 1, (1,))) for name in names]
        self.goal, self.observation_space = goal, Dict([*parts, ("mission", Text(8))])

    def obs(self):
        return {"mission": "go", "position": np.float32([self.x]), "velocity": np.float32([0.7])}

    def reset(self, seed=None, options=None):
        self.x = 0.0
        return self.obs(), {}

    def step(self, action):
        self.x += 0.1 * float(action[0])
        return self.obs(), -abs(self.x - self.goal), False, False, {}


def turned_round():
    return Told(names=("position", "velocity"))


gymnasium.register("Told-v0", Told)
"""


def test_the_order_of_the_observations_goes_with_the_run_and_the_policy(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("told.py").write_text(TOLD)
    text = "env_id: told:Told-v0\nhorizon: 3\nnum_workers: 0\ntask: {goal: {uniform: [0, 1]}}\n"
    Path("env.yaml").write_text(text)
    arguments = ["train", "maml", "--env-file", "env.yaml", "--name", "run", "--iterations", "1", *SMALL]
    assert main(arguments) == 2
    assert "the observation 'mission', a Text, cannot be flattened" in capsys.readouterr().err
    assert not Path("runs/run").exists()

    Path("env.yaml").write_text(text + "observe: [position, velocity]\n")
    assert main(arguments) == 0
    kept = json.loads(Path("runs/run/observation_space.json").read_text())
    assert kept["order"] == ["velocity", "position"]

    live = ["--env", "told:turned_round", "--episodes", "2", "--measure-episodes", "0", "--no-onnx"]
    assert main(["adapt", "run", *live, "--out", "policy"]) == 0
    assert json.loads(Path("policy/policy.json").read_text())["observation_space"]["order"] == ["velocity", "position"]

    # Gymnasium's other order in the file of the run: what the policy sees turns round, so it is the file that counts.
    kept["order"] = ["speed", "position"]
    kept["spaces"]["speed"] = kept["spaces"].pop("velocity")
    Path("runs/run/observation_space.json").write_text(json.dumps(kept))
    capsys.readouterr()
    assert main(["evaluate", "run", "--num-tasks", "2"]) == 2
    assert "but the run was trained on Dict('speed'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "workers", "reason"),
    [("raise", 0, "the arm came off"), pytest.param("exit", 1, "exit code 3", marks=pytest.mark.slow)],
)
def test_a_dying_environment_ends_the_run_with_a_checkpoint(
    place: Path, capsys: pytest.CaptureFixture[str], how: str, workers: int, reason: str
) -> None:
    Path("fragile.py").write_text(FRAGILE)
    Path("env.yaml").write_text(
        f"env_id: fragile:Fragile-v0\nhorizon: 4\nnum_workers: {workers}\nmake: {{how: {how}}}\n"
        "task: {load: {uniform: [0, 1]}}\n"
    )
    arguments = ["train", "maml", "--env-file", "env.yaml", "--name", "run", *SMALL, "--checkpoint-interval", "1"]
    assert main([*arguments, "--iterations", "1"]) == 0
    report = evaluation_of(place / "runs" / "run")
    assert len(report["success_rate"]) == 4
    assert "success rate" in capsys.readouterr().out
    Path("broken").touch()
    assert main(["train", "--resume", "runs/run", "--iterations", "3"]) == 1
    complaint = capsys.readouterr().err
    assert "iteration 2: environment fragile:Fragile-v0 failed on the task {'load': 0." in complaint
    assert reason in complaint
    assert "the run is saved" in complaint
    Path("broken").unlink()
    assert main(["train", "--resume", "runs/run", "--iterations", "3"]) == 0


@pytest.mark.slow
def test_a_recipe_trains_evaluates_and_is_listed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "reptile", "frozen-lake", "--iterations", "1", "--name", "lake", *SMALL]) == 0
    assert evaluation_of(place / "runs" / "lake")["env"] == "frozen-lake"
    capsys.readouterr()
    assert main(["envs", "frozen-lake"]) == 0
    text = capsys.readouterr().out
    assert "FrozenLake" in text
    assert "4 × 4 maps with a way" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env-file", "no_such.yaml"], "no_such.yaml: cannot be read"),
        (["--env-file", "env.json"], "env_file must end in .yaml or .yml, got 'env.json'"),
        (["--env-file", "bad.yaml"], "bad.yaml: unknown keys colour"),
        (["--env-file", "good.yaml", "--compile-env"], "is not written in torch"),
    ],
)
def test_bad_files_are_one_line_and_leave_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("bad.yaml").write_text("env_id: Pendulum-v1\ntask: {g: {uniform: [1, 2]}}\ncolour: red\n")
    Path("good.yaml").write_text(PENDULUM.format(workers=0))
    assert main(["train", "maml", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1
    assert not (place / "runs").exists()
