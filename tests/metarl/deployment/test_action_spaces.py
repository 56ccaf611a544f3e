"""Every kind of action space from training to the exported programs, which do what `predict` does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from numpy.typing import NDArray

import metarl
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.cli.main import main
from metarl.deployment.policy import SpecialisedPolicy
from metarl.envs.spaces.action_map import policy_action_space
from metarl.run.config import TrainConfig, from_yaml, to_yaml
from tests.helpers.workbench import train
from tests.metarl.deployment.test_policy import CARD

pytest_plugins = ["tests.helpers.run_fixtures"]

LARGEST = float(np.finfo(np.float32).max)
SPACES: dict[str, Space[Any]] = {
    "wide": Box(-3.0, 12.0, (2,)),
    "float64": Box(0.1, 0.7, (2,), np.float64),
    "half-bounded": Box(np.array([2, -np.inf], np.float32), np.array([np.inf, -5], np.float32)),
    "largest floats": Box(-LARGEST, LARGEST, (2,)),
    "fixed": Box(np.array([3, 0], np.float32), np.array([3, 1], np.float32)),
    "integers": Box(0, 3, (2,), np.int64),
    "bytes": Box(0, 255, (2, 2), np.uint8),
    "words": Box(0, 1000, (2,), np.uint16),
    "signed bytes": Box(-128, 127, (2,), np.int8),
    "half-bounded integers": Box(2, np.inf, (2,), np.int32),
    "from five": Discrete(3, start=5),
    "choices": MultiDiscrete([2, 4], start=[0, -1]),
    "table": MultiDiscrete(np.array([[2, 2], [3, 4]])),
    "switches": MultiBinary(3),
}


def saved_policy(native: Space[Any], directory: Path, action_limit: float = 1.0) -> SpecialisedPolicy:
    """A policy whose outputs are single observations, so that no sum is rounded, whoever computes it."""
    actions = policy_action_space(native)
    network = MLPPolicy(Box(-1, 1, (3,)), actions, PolicyConfig(()))
    params = {name: torch.zeros_like(leaf) for name, leaf in network.init(torch.Generator()).items()}
    for output in range(network.sizes[-1]):
        params["layer0.weight"][output % 3, output] = 1
    card = CARD | {"action_limit": action_limit}
    policy = SpecialisedPolicy(network, params, Box(-1, 1, (3,)), native, actions, card, action_scale=2.5)
    policy.save(directory)
    return policy


LIKE_ANOTHER = {"bytes", "words", "signed bytes", "float64", "fixed", "integers", "half-bounded integers", "choices"}


@pytest.mark.parametrize(
    "native",
    [
        pytest.param(space, id=name, marks=pytest.mark.slow if name in LIKE_ANOTHER else ())
        for name, space in SPACES.items()
    ],
)
def test_loaded_policy_program_and_onnx_do_exactly_what_predict_does(native: Space[Any], tmp_path: Path) -> None:
    require_same_everywhere(native, saved_policy(native, tmp_path / "policy"), tmp_path)


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("bytes", 64, 191),
        pytest.param("words", 250, 750, marks=pytest.mark.slow),
        pytest.param("half-bounded integers", 4, 5, marks=pytest.mark.slow),
        pytest.param("signed bytes", -64, 63, marks=pytest.mark.slow),
        pytest.param("float64", 0.25, 0.55, marks=pytest.mark.slow),
    ],
)
def test_a_limit_changes_no_type(name: str, lowest: float, highest: float, tmp_path: Path) -> None:
    native = SPACES[name]
    policy = saved_policy(native, tmp_path / "policy", action_limit=0.5)
    predicted = require_same_everywhere(native, policy, tmp_path)
    assert (predicted.min(), predicted.max()) == (pytest.approx(lowest), pytest.approx(highest))


def require_same_everywhere(native: Space[Any], policy: SpecialisedPolicy, tmp_path: Path) -> NDArray[Any]:
    """Every form of a saved policy gives the same actions, of the space's type; returns them."""
    obs = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    obs[:9] = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    predicted, _ = policy.predict(obs)
    assert predicted.shape == (1000, *(native.shape or ()))
    sampled, _ = policy.predict(obs, deterministic=False)
    single, _ = policy.predict(obs[0])
    for action in (*predicted, *sampled, single):
        assert native.contains(action)

    again, _ = metarl.load_policy(tmp_path / "policy").predict(obs)
    program = torch.export.load(tmp_path / "policy" / "policy.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "policy" / "policy.onnx", providers=["CPUExecutionProvider"])
    by_program = program(torch.from_numpy(obs))[0].numpy()
    by_onnx = session.run(["action"], {"obs": obs})[0]
    for actions in (predicted, again, by_program, by_onnx):
        assert actions.dtype == native.dtype
        np.testing.assert_array_equal(actions, predicted)
    return predicted


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("wide", ()),
        ("unbounded", ("--action-scale", "3")),
        ("choices", ("--outer", "trpo")),
        pytest.param("switches", (), marks=pytest.mark.slow),
        pytest.param("steps", (), marks=pytest.mark.slow),
    ],
)
def test_from_training_to_a_live_environment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without_figures: None,
    name: str,
    flags: tuple[str, ...],
) -> None:
    """The live environment refuses whatever is not of its space."""
    monkeypatch.chdir(tmp_path)
    run = train(tmp_path, *flags, env=f"tests.helpers.follow:{name}")
    printed = capsys.readouterr().out
    assert printed.count("have no bounds") == (name == "unbounded")
    assert ("s = 3" in printed) == (name == "unbounded")

    where = ["--task", "target=0.5"], ["--env", f"tests.helpers.follow:live_{name}"]
    for number, source in enumerate(where):
        command = ["adapt", str(run), *source, "--out", str(number), "--json", "--measure-episodes", "1", "--no-onnx"]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["action_scale"] == (3.0 if flags[:1] == ("--action-scale",) else 1.0)

        policy = metarl.load_policy(str(number))
        obs = np.zeros(policy.observation_space.shape or (), np.float32)
        assert policy.action_space.contains(policy.predict(obs, deterministic=False)[0])


def test_a_configuration_of_before_keeps_what_its_policy_does() -> None:
    new = TrainConfig(env="tests.helpers.follow:wide")
    assert from_yaml(to_yaml(new)) == new
    assert new.action_scale == 1.0

    lines = [line for line in to_yaml(new).splitlines() if not line.startswith("action_scale")]
    assert from_yaml("\n".join(lines)).action_scale == 0.0


@pytest.mark.parametrize("scale", ["-1", "inf", "nan", "1e39"])
def test_a_scale_that_is_none_is_refused(scale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["train", "maml", "tests.helpers.follow:wide", f"--action-scale={scale}", "--run-dir", str(tmp_path)]) == 2
    )
    assert "action_scale must be" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
