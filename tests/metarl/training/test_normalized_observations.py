"""Runs on sensors in any units: learning, resuming, evaluating and exporting with running statistics."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import metarl
from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.run.build import build, load_learner, may_normalize
from metarl.run.checkpoint import LAST, read_checkpoint
from metarl.run.config import TrainConfig, from_yaml, to_yaml
from metarl.run.run_directory import RunDirectory
from metarl.training.first_look import first_look
from tests.helpers.workbench import metrics_of, same_tensors

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")

COUNTS = {"num-tasks": 2, "episodes": 3, "eval-tasks": 2, "test-tasks": 2, "adaptation-steps": 1, "hidden-sizes": 4}
SMALL = [text for name, value in COUNTS.items() for text in (f"--{name}", str(value))]


def train(place: Path, units: str, *flags: str, iterations: int = 3) -> Path:
    """Train on a robot that reports in these units."""
    run = ["--run-dir", str(place), "--name", units, "--num-threads", "1", "--device", "cpu"]
    command = ["train", "maml", f"tests.helpers.reach:{units}", "--iterations", str(iterations), *run, *SMALL, *flags]
    assert main(command) == 0
    return place / units


def returns_of(run: Path) -> list[float]:
    """Training returns after adaptation, iteration by iteration."""
    rows = [row for row in metrics_of(run) if "train/return_k1" in row]
    assert rows, metrics_of(run)[-1]
    return [row["train/return_k1"] for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("units")
    return {units: train(place, units) for units in ("metres", "millimetres")}


def test_millimetres_are_learned_as_metres_are(runs: dict[str, Path], tmp_path: Path) -> None:
    metres, millimetres = returns_of(runs["metres"]), returns_of(runs["millimetres"])
    np.testing.assert_allclose(millimetres, metres, rtol=1e-3)
    raw = returns_of(train(tmp_path, "millimetres", "--normalize-obs", "off"))
    assert max(np.abs(np.array(raw) / metres - 1)) > 0.2


def test_a_run_that_was_stopped_goes_on_with_its_statistics(runs: dict[str, Path], tmp_path: Path) -> None:
    run = train(tmp_path, "millimetres", iterations=1)
    assert main(["train", "--resume", str(run), "--iterations", "3"]) == 0
    file = "checkpoints/iteration-0000003.safetensors"
    ended, expected = (read_checkpoint(one / file) for one in (run, runs["millimetres"]))
    assert "observations.mean" in expected.tensors
    assert same_tensors(ended.tensors, expected.tensors)
    assert ended.progress.env_steps == expected.progress.env_steps == 2 * 2 * 8 + 3 * 2 * 2 * 3 * 8


def test_evaluation_leaves_the_statistics_alone(runs: dict[str, Path]) -> None:
    before = read_checkpoint(runs["metres"] / "checkpoints/iteration-0000003.safetensors").tensors
    _, learner, _ = load_learner(RunDirectory.open(str(runs["metres"])), LAST)
    assert main(["evaluate", str(runs["metres"]), "--num-tasks", "2", "--checkpoint", "last"]) == 0
    state = learner.policy.observations.state_dict()
    for name, value in state.items():
        assert torch.equal(value, before[f"observations.{name}"])


def test_exported_policies_take_raw_observations(runs: dict[str, Path], tmp_path: Path) -> None:
    """A specialised policy, what is loaded, and its program do what the learner's policy does."""
    import onnxruntime

    meta = metarl.load(runs["millimetres"], device="cpu")
    policy = meta.adapt_to("target=0.5", episodes=2, measure_episodes=1)
    policy.save(tmp_path / "policy")
    obs = np.array([[500, 0], [900, 250], [-2000, -4000], [1e6, 1.0]], np.float32)
    distribution, _ = policy.network.apply(policy.params, torch.from_numpy(obs))
    expected = distribution.mean.clamp(-1, 1).numpy()
    assert np.ptp(expected) > 1e-4  # it tells the observations apart

    loaded = metarl.load_policy(tmp_path / "policy")
    program = torch.export.load(tmp_path / "policy/policy.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "policy/policy.onnx", providers=["CPUExecutionProvider"])
    for actions in (
        policy.predict(obs)[0],
        loaded.predict(obs)[0],
        program(torch.from_numpy(obs))[0].numpy(),
        session.run(["action"], {"obs": obs})[0],
    ):
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
    assert "normalises them itself" in (tmp_path / "policy/README.md").read_text()
    assert len(json.loads((tmp_path / "policy/policy.json").read_text())["network"]["observation_shift"]) == 2


@pytest.mark.parametrize(
    ("env", "setting", "expected"),
    [
        ("tests.helpers.reach:metres", "auto", True),
        ("tests.helpers.reach:metres", "off", False),
        ("half-cheetah-velocity", "auto", False),
        ("point-navigation", "auto", False),
        ("point-navigation", "on", True),
        ("tests.helpers.follow:wide", "auto", True),
    ],
)
def test_what_is_normalised(env: str, setting: str, expected: bool) -> None:
    config = TrainConfig(env=env, normalize_obs=setting)  # type: ignore[arg-type]
    assert may_normalize(config, make_distribution(env)) == expected


@pytest.mark.parametrize(("env", "expected"), [("wide", True), ("choices", False)])
def test_a_torch_family_of_ones_own_is_looked_at_first(env: str, expected: bool) -> None:
    """Its actions, which it observes, go to 12, or are choices below 10."""
    config = TrainConfig(env=f"tests.helpers.follow:{env}", num_tasks=2, episodes=5)
    distribution, learner = build(config, torch.Generator())
    steps = first_look(config, learner, distribution, torch.Generator())
    assert steps == 2 * 2 * 4
    assert learner.policy.observations.active == expected
    assert first_look(replace(config, normalize_obs="on"), learner, distribution, torch.Generator()) == 0


def test_a_configuration_of_before_normalises_nothing() -> None:
    new = TrainConfig()
    lines = [line for line in to_yaml(new).splitlines() if not line.startswith("normalize_obs")]
    assert from_yaml("\n".join(lines)).normalize_obs == "off"
