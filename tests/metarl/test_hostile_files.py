"""Every file that is read may be damaged or hostile: one line that names it and exit code 2, or none of it matters.

Each case damages its file many times, drawn from a seed that is the number of the trial. What reads it must give an
error that a command shows as one line, or go on; never another exception. METARL_FUZZ=N makes N times as many trials.
"""

import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from metarl.agents.sb3 import load_model, make_model
from metarl.baselines.teachers import SUMMARY_FILE, TEACHERS_FILE, load_teachers
from metarl.cli.main import main
from metarl.comparison.measurements import Measurement, MeasurementStore
from metarl.deployment.live_record import LiveRecord
from metarl.deployment.meta_policy import load
from metarl.deployment.policy import load_policy
from metarl.envs.adapters.sb3 import make_sb3_vec_env
from metarl.envs.external.yaml_file import from_yaml
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.reporting.evaluation_file import read_evaluation
from metarl.run.build import load_learner, restore_observations
from metarl.run.run_directory import RunDirectory
from tests.helpers.hostile import (
    BYTES,
    Damage,
    rewrite_checkpoint,
    rewrite_json,
    rewrite_json_lines,
    rewrite_tensors,
    rewrite_yaml,
)
from tests.helpers.workbench import ENV, ITERATIONS, RUN, TINY

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")

TIMES = int(os.environ.get("METARL_FUZZ", "1"))

CART_POLE = """
env_id: CartPole-v1
horizon: 20
num_workers: 0
set_task: tests.metarl.test_hostile_files:set_gravity
task:
  gravity: {uniform: [8, 12], units: m/s², ood: {uniform: [12, 20]}}
"""


def set_gravity(env: Any, task: Any) -> None:
    """For --env-file."""
    env.unwrapped.gravity = float(task["gravity"])


def trials(file: Path, damages: tuple[Damage, ...], count: int, read: Callable[[], object]) -> int:
    """Damage a file so often, and read it each time; returns how often that was an error.

    Raises:
        AssertionError: an error of another kind than those that are shown as one line.
    """
    content = file.read_bytes()
    refused = 0
    for number in range(count * TIMES):
        draw = random.Random(f"{file.name} {number}")
        damage = draw.choice(damages)
        file.write_bytes(damage(content, draw))
        try:
            read()
        except ValueError as error:
            refused += 1
            assert len(str(error)) < 3000, f"trial {number}, {damage.__name__}"
        except BaseException as error:
            raise AssertionError(f"trial {number}, {damage.__name__}: {file.read_bytes()[:300]!r}") from error
    file.write_bytes(content)
    read()
    return refused


class Case(NamedTuple):
    """A file of a run, how it may be damaged, and what reads it."""

    name: str
    rewrite: Damage
    read: Callable[[Path], object]
    num_trials: int = 60


def its_policy(run: Path) -> object:
    return load_learner(RunDirectory.open(str(run)))


CASES = [
    Case("config.yaml", rewrite_yaml, lambda run: RunDirectory.open(str(run)), 20),
    Case("metrics.jsonl", rewrite_json_lines, lambda run: RunDirectory.open(str(run)).read_metrics(), 80),
    Case("metadata.json", rewrite_json, lambda run: RunDirectory.open(str(run)).read_metadata(), 60),
    Case("evaluation-test.json", rewrite_json, lambda run: read_evaluation(run / "evaluation-test.json"), 80),
    Case("checkpoints/best.safetensors", rewrite_checkpoint, its_policy, 40),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_of_a_run(case: Case, workplace: Path) -> None:
    run = workplace / "runs" / RUN
    refused = trials(run / case.name, (*BYTES, case.rewrite, case.rewrite), case.num_trials, lambda: case.read(run))
    assert refused > case.num_trials / 4, "most damage is none: the test shows little"


COMMANDS: dict[str, tuple[list[str], Damage]] = {
    "config.yaml": (["evaluate", RUN, "--num-tasks", "1", "--steps", "0"], rewrite_yaml),
    "metrics.jsonl": (["report", RUN], rewrite_json_lines),
    "metadata.json": (["report", RUN], rewrite_json),
    "evaluation-test.json": (["report", RUN], rewrite_json),
    f"checkpoints/iteration-{ITERATIONS:07d}.safetensors": (["train", "--resume", f"runs/{RUN}"], rewrite_checkpoint),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_end_with_one_line(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit codes 0 and 2 only; an error is one line, whatever ends the command."""
    arguments, rewrite = COMMANDS[name]
    pristine = workplace / "pristine"
    shutil.copytree(workplace / "runs" / RUN, pristine)
    for number in range(4 * TIMES):
        draw = random.Random(f"{name} {number}")
        file = workplace / "runs" / RUN / name
        file.write_bytes(draw.choice((*BYTES, rewrite, rewrite, rewrite))(file.read_bytes(), draw))

        code = main(arguments)
        captured = capsys.readouterr()
        assert code in (0, 2), f"trial {number}: {captured.err}"
        assert captured.err.count("\n") == (code == 2), f"trial {number}: {captured.err}"
        assert "Traceback" not in captured.err
        shutil.rmtree(workplace / "runs" / RUN)
        shutil.copytree(pristine, workplace / "runs" / RUN)


def test_a_policy(workplace: Path) -> None:
    load(RUN).adapt_to("goal=1,0", episodes=1, steps=1, measure_episodes=0).save("policy", onnx=False)

    def act() -> object:
        return load_policy("policy").predict(np.zeros(2, np.float32))

    assert trials(Path("policy/policy.json"), (*BYTES, rewrite_json, rewrite_json), 50, act) > 12
    assert trials(Path("policy/policy.safetensors"), (*BYTES, rewrite_tensors), 40, act) > 10


def test_the_users_environment(tmp_path: Path) -> None:
    file = tmp_path / "env.yaml"
    file.write_text(CART_POLE)
    assert trials(file, (*BYTES, rewrite_yaml, rewrite_yaml), 20, lambda: from_yaml(file)) > 5


def test_the_observations_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("env.yaml").write_text(CART_POLE)
    assert main(["train", "maml", "--env-file", "env.yaml", *TINY, "--iterations", "1", "--name", RUN]) == 0
    run = RunDirectory.open(RUN)
    distribution = make_distribution(run.config.env)

    def restore() -> None:
        restore_observations(run, distribution)

    trials(run.path / "observation_space.json", (*BYTES, rewrite_json, rewrite_json), 50, restore)


def test_teachers(workplace: Path) -> None:
    tiny = [*TINY, "--iterations", "1", "--num-teachers", "2", "--teacher", RUN, "--name", "student"]
    assert main(["train", "distill", ENV, *tiny]) == 0
    run = RunDirectory.open("student")
    distribution = make_distribution(ENV)

    def read() -> object:
        return load_teachers(run, distribution)

    assert trials(run.path / SUMMARY_FILE, (*BYTES, rewrite_json), 40, read) > 10
    assert trials(run.path / TEACHERS_FILE, (*BYTES, rewrite_checkpoint), 40, read) > 10


def test_measurements_that_are_damaged_are_made_again(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path)
    measurement = Measurement([0.0, 20.0], [[-1.0, 2.0], [0.5, 3.0]], 40)
    store.save("ppo", {"seed": 1}, measurement)
    (file,) = tmp_path.iterdir()

    def read() -> None:
        found = store.load("ppo", {"seed": 1})
        if found is not None:
            assert np.array(found.returns, float).shape == (len(found.env_steps), len(found.returns[0]))

    assert trials(file, (*BYTES, rewrite_json, rewrite_json), 80, read) == 0


def test_the_record_of_a_live_adaptation(tmp_path: Path) -> None:
    distribution = make_distribution(ENV)
    generator = torch.Generator().manual_seed(0)
    model = make_distribution(ENV).bind(distribution.sample(1, "train", generator), 1)
    from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig

    policy = MLPPolicy(distribution.observation_space, distribution.action_space, PolicyConfig((3,)))
    asked = {"env": "my_arm:Arm", "episodes": 3, "steps": None}
    record = LiveRecord.begin(tmp_path / "record", asked)
    record.save_episode(1, collect(model, policy, policy.init(generator), generator), generator)

    def read() -> None:
        LiveRecord.resume(tmp_path / "record", asked).load_episode(1, torch.Generator())

    assert trials(tmp_path / "record" / "adaptation.json", (*BYTES, rewrite_json), 40, read) > 10
    assert trials(tmp_path / "record" / "episode-0001.safetensors", (*BYTES, rewrite_tensors), 40, read) > 10


def test_models_of_stable_baselines3(tmp_path: Path) -> None:
    env = make_sb3_vec_env(make_distribution(ENV), 10)
    buffer = io.BytesIO()
    make_model("ppo", env, seed=0).save(buffer)
    file = tmp_path / "model.zip"
    file.write_bytes(buffer.getvalue())
    assert trials(file, BYTES, 20, lambda: load_model("ppo", file, env)) > 8
