"""A specialised policy: SB3's `predict`, files that give it back, programs that act alike; recurrent ones too."""

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatdim, flatten
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from metarl import SpecialisedPolicy, load_policy
from metarl.agents.policies.distributions import DiagonalGaussian
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.observations import ObservationNormalizer
from metarl.agents.policies.parameters import Parameters
from metarl.deployment import export, model_card
from metarl.deployment.specialise import clearly_better
from metarl.envs.external.space_json import space_to_json
from metarl.errors import UserError

TOLERANCE = 1e-5
CARD: dict[str, Any] = {
    "env": "somewhere",
    "task": None,
    "horizon": 5,
    "adaptation": {
        "episodes": [0],
        "env_steps": [0],
        "return_mean": [1.5],
        "return_std": [0.25],
        "adaptation_episodes": 3,
        "adaptation_env_steps": 12,
        "measurement_env_steps": 0,
    },
    "deterministic": None,
    "parent": {"agent": "maml", "run": "runs/one"},
    "versions": {"python": "3"},
}
ROBOT_ACTIONS = Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))


def mlp(actions: Box | Discrete, native: Space[Any], observations: Space[Any] | None = None) -> SpecialisedPolicy:
    observed = observations or Box(-1, 1, (3,))
    size = flatdim(observed)
    network = MLPPolicy(Box(-1, 1, (size,)), actions, PolicyConfig((5, 4)))
    params = {name: 3 * leaf for name, leaf in network.init(torch.Generator().manual_seed(1)).items()}
    return SpecialisedPolicy(network, params, observed, native, actions, CARD)


def gaussian() -> SpecialisedPolicy:
    return mlp(Box(-1, 1, (2,)), ROBOT_ACTIONS)


def observations(count: int, size: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(count, size)).astype(np.float32)


class Leaky:
    """A policy that sums what it saw, and remembers how often; its memory is a pair."""

    def init(self, generator: torch.Generator | None = None) -> Parameters:
        """Fixed parameters."""
        generator = torch.Generator().manual_seed(2)
        return {"in.weight": torch.randn(3, 2, generator=generator), "log_std": torch.zeros(2)}

    def apply(self, params: Parameters, obs: Tensor, memory: Any = None) -> tuple[DiagonalGaussian, Any]:
        """See ActingPolicy.apply."""
        total, count = memory if memory is not None else (obs.new_zeros((*obs.shape[:-1], n)) for n in (2, 1))
        total, count = 0.5 * total + obs @ params["in.weight"], count + 1
        return DiagonalGaussian(total / count, params["log_std"]), (total, count)


def recurrent() -> SpecialisedPolicy:
    network = Leaky()
    return SpecialisedPolicy(network, network.init(), Box(-1, 1, (3,)), ROBOT_ACTIONS, Box(-1, 1, (2,)), CARD)


def session(directory: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(directory / "policy.onnx", providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------------- predict


def test_predict_is_the_network_clipped_and_stretched(tmp_path: Path) -> None:
    """Against the saved parameters multiplied out in numpy."""
    policy = gaussian()
    policy.save(tmp_path / "policy", onnx=False)
    leaves = load_file(tmp_path / "policy" / "policy.safetensors")
    x = obs = observations(20)
    for layer in range(3):
        x = x @ leaves[f"layer{layer}.weight"] + leaves[f"layer{layer}.bias"]
        x = np.tanh(x) if layer < 2 else x
    expected = np.clip(x, -1, 1) * [2, 5] + [0, 5]
    assert (np.abs(x) > 1).any()
    assert (np.abs(x) < 1).any()
    actions, state = policy.predict(obs)
    assert state is None
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, expected, atol=TOLERANCE)
    one, _ = policy.predict(obs[4])
    assert one.shape == (2,)
    np.testing.assert_allclose(one, expected[4], atol=TOLERANCE)


def test_discrete_actions_are_the_most_likely() -> None:
    policy = mlp(Discrete(4), Discrete(4))
    actions, _ = policy.predict(observations(50))
    logits = policy.network.apply(policy.params, torch.from_numpy(observations(50)))[0].logits
    assert actions.tolist() == logits.argmax(-1).tolist()
    assert len(set(actions.tolist())) > 1
    one, _ = policy.predict(observations(50)[7])
    assert one == actions[7]
    assert Discrete(4).contains(one)


def test_drawn_actions_have_the_distribution_and_are_seeded() -> None:
    policy = mlp(Discrete(3), Discrete(3))
    obs = np.repeat(observations(1), 20_000, axis=0)
    policy.set_random_seed(5)
    drawn, _ = policy.predict(obs, deterministic=False)
    policy.set_random_seed(5)
    assert (policy.predict(obs, deterministic=False)[0] == drawn).all()
    logits = policy.network.apply(policy.params, torch.from_numpy(obs[:1]))[0].logits
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, logits.softmax(-1).numpy()[0], atol=0.02)


@pytest.mark.parametrize(
    "space",
    [Discrete(4), Dict({"a": Box(-1, 1, (2, 2)), "b": Discrete(3)}), Box(0, 255, (2, 3), np.uint8)],
)
def test_any_observation_space_alone_and_batched(space: Space[Any]) -> None:
    policy = mlp(Box(-1, 1, (2,)), ROBOT_ACTIONS, space)
    space.seed(0)
    samples = [space.sample() for _ in range(3)]
    batch: Any = np.stack(samples) if not isinstance(space, Dict) else None
    if isinstance(space, Dict):
        batch = {name: np.stack([sample[name] for sample in samples]) for name in space.spaces}
    flat = np.stack([np.asarray(flatten(space, sample), np.float32) for sample in samples])
    expected = gaussian_action(policy, flat)
    np.testing.assert_allclose(policy.predict(batch)[0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(policy.predict(samples[2])[0], expected[2], atol=TOLERANCE)


def gaussian_action(policy: SpecialisedPolicy, flat: NDArray[np.float32]) -> NDArray[Any]:
    mean = policy.network.apply(policy.params, torch.from_numpy(flat))[0].mode().numpy()
    action: NDArray[Any] = np.clip(mean, -1, 1) * [2, 5] + [0, 5]
    return action


VECTOR = Box(-1, 1, (3,))
ARM = Dict([("speed", Box(-9, 9, (2,))), ("mode", Discrete(5, start=2))])


@pytest.mark.parametrize(
    ("space", "wrong", "message"),
    [
        (VECTOR, np.zeros(4), r"has the shape \(4,\), but its space .* has \(3,\)"),
        (VECTOR, np.zeros((2, 4)), r"has the shape \(2, 4\), .* has \(2, 3\), for a batch of 2"),
        (VECTOR, "left", "is str 'left', .* takes numbers"),
        (VECTOR, np.array([0, np.nan, 0]), "is not finite in float32: nan at index 1$"),
        (VECTOR, np.array([[0, 0, 0], [0, 0, 1e39]]), "is not finite in float32: observation 1 of 2: inf at index 2$"),
        (Discrete(5, start=2), 1, "is 1, .* whole numbers from 2 to 6"),
        (Discrete(5, start=2), np.array([2, 7]), r"holds 7 at \[1\], .* whole numbers from 2 to 6"),
        (Box(0, 255, (2,), np.uint8), np.array([0.7, 0]), r"holds 0.7 at \[0\]"),
        (Box(0, 255, (2,), np.uint8), np.array([[9, 8], [7, 300]]), r"holds 300 at \[1, 1\], .* from 0 to 255"),
        (ARM, {"speed": np.zeros(3), "mode": 2}, r"'speed' has the shape \(3,\), .* has \(2,\)"),
        (ARM, {"speed": np.zeros((4, 2)), "mode": np.full(3, 2)}, r"'mode' has the shape \(3,\), .* for a batch of 4"),
        (ARM, {"mode": 2}, r"has no key 'speed', which its space has; it has \['mode'\]"),
    ],
)
def test_a_foreign_observation_is_refused_in_a_line(space: Space[Any], wrong: Any, message: str) -> None:
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match=message) as error:
        mlp(Box(-1, 1, (2,)), ROBOT_ACTIONS, space).predict(wrong)
    assert str(error.value).startswith("the policy cannot act: its observation ")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("make", [gaussian, lambda: mlp(Discrete(4), Discrete(4))])
def test_every_program_acts_alike(tmp_path: Path, make: Any) -> None:
    policy = make()
    files = policy.save(tmp_path / "policy")
    assert sorted(file.name for file in files) == sorted(file.name for file in (tmp_path / "policy").iterdir())
    program = torch.export.load(tmp_path / "policy" / "policy.pt2").module()
    loaded = load_policy(tmp_path / "policy")
    for count in (1, 2, 33):
        obs = observations(count)
        expected, _ = policy.predict(obs)
        assert (loaded.predict(obs)[0] == expected).all()
        np.testing.assert_allclose(program(torch.from_numpy(obs))[0].numpy(), expected, atol=TOLERANCE)
        (action,) = session(tmp_path / "policy").run(["action"], {"obs": obs})
        np.testing.assert_allclose(action, expected, atol=TOLERANCE)
        assert action.dtype == expected.dtype


def test_the_distribution_is_an_output_too(tmp_path: Path) -> None:
    policy = gaussian()
    policy.save(tmp_path / "policy")
    mean, log_std = session(tmp_path / "policy").run(["mean", "log_std"], {"obs": observations(4)})
    distribution, _ = policy.network.apply(policy.params, torch.from_numpy(observations(4)))
    np.testing.assert_allclose(mean, distribution.mean.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(log_std, distribution.parameters()["log_std"].numpy(), atol=TOLERANCE)


def test_the_card_is_kept_and_readable(tmp_path: Path) -> None:
    gaussian().save(tmp_path / "policy")
    description = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert description["parent"] == CARD["parent"]
    assert description["action_space"] == space_to_json(ROBOT_ACTIONS)
    assert 0 <= description["onnx_difference"] <= TOLERANCE
    card = (tmp_path / "policy" / "README.md").read_text()
    for part in ("| 0 | 0 | 0 | 1.50 | 0.25 |", "3 episodes, 12 environment steps", "runs/one", "policy.onnx"):
        assert part in card
    assert load_policy(tmp_path / "policy").card["adaptation"] == CARD["adaptation"]


EVERY_KIND = Dict(
    [
        ("velocity", Box(-9, 9, (2, 2))),
        ("mode", Discrete(3, start=1)),
        ("arm", Tuple([MultiDiscrete([2, 3], start=[0, 5]), MultiBinary(2)])),
    ]
)


@pytest.mark.parametrize(
    "space",
    [Box(-9, 9, (3,)), Box(0, 255, (48, 40, 3), np.uint8), Discrete(5, start=2), MultiDiscrete([2, 3]), EVERY_KIND],
    ids=lambda space: type(space).__name__,
)
def test_the_code_on_the_card_runs(tmp_path: Path, space: Space[Any]) -> None:
    policy = mlp(Box(-1, 1, (2,)), ROBOT_ACTIONS, space)
    policy.save(tmp_path / "policy")
    card = (tmp_path / "policy" / "README.md").read_text()
    with_metarl, without = card.split("```python\n")[1].split("```")[0].split("import numpy")
    assert "metarl" in with_metarl
    space.seed(3)
    obs = space.sample()
    said: dict[str, Any] = {"obs": obs}
    exec("import numpy" + without.replace("DIR", str(tmp_path / "policy")), said)
    np.testing.assert_allclose(said["action"], policy.predict(obs)[0], atol=TOLERANCE)


def test_the_card_says_which_index_holds_what(tmp_path: Path) -> None:
    policy = mlp(Box(-1, 1, (2,)), ROBOT_ACTIONS, EVERY_KIND)
    policy.card["units"] = {"velocity": "m/s", "arm.1": "on|off"}
    policy.save(tmp_path / "policy", onnx=False)
    card = (tmp_path / "policy" / "README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith("| ") and ("Box" in line or "Multi" in line)]
    assert rows[0] == "| 0 … 3 | velocity | m/s | Box(-9.0, 9.0, (2, 2), float32) |"
    places = [["| 7 … 11", "arm.0", "not stated"], ["| 12 … 13", "arm.1", r"on\|off"]]
    assert [row.split(" | ")[:3] for row in rows[1:]] == places
    assert "| 4 … 6 | mode | not stated | Discrete(3, start=1), one number for each choice |" in card
    assert '"kind"' not in card
    assert load_policy(tmp_path / "policy").card["units"] == policy.card["units"]


@pytest.mark.parametrize(("last", "said"), [(-3.0, True), (-2.2, False), (-1.0, False)])
def test_the_card_says_where_an_earlier_policy_earned_more_than_by_chance(last: float, said: bool) -> None:
    """Means of 25 and 100 episodes of deviation 1: their difference has a standard error of √0.05 = 0.22."""
    measured = {"episodes": 100, "return_mean": last, "return_std": 1.0}
    adaptation = {
        **CARD["adaptation"],
        "steps": 2,
        "episodes_per_step": 25,
        "return_mean": [-9.0, -2.0, last],
        "return_std": [1.0, 1.0, 1.0],
    }
    sentences = model_card.summary({**CARD, "adaptation": adaptation, "deterministic": measured})
    expected = "The policy after step 1 earned more, −2.00 against −3.00: --keep auto writes that one."
    assert (expected in sentences) == said
    assert any("--keep" in sentence for sentence in sentences) == said

    by_itself = {**adaptation, "keep": "auto"}
    kept = "Kept is the policy after step 1: it earned more than the last one, −2.00 against −3.00."
    assert (kept in model_card.summary({**CARD, "adaptation": by_itself, "deterministic": measured})) == said


def test_an_earlier_policy_is_clearly_better_by_more_than_two_standard_errors() -> None:
    """Means of 100 and 25 episodes of deviation 1 have a standard error of √0.05 = 0.2236."""
    assert clearly_better([0.448, 0.0], [1.0, 1.0], [100, 25]) == 0
    assert clearly_better([0.447, 0.0], [1.0, 1.0], [100, 25]) is None
    assert clearly_better([0.0, 2.0, 2.0, 1.0], [0.1] * 4, [9] * 4) == 2  # of equal ones, that of most steps
    assert clearly_better([1.0], [0.1], [9]) is None


def test_saving_leaves_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="exists already"):
        gaussian().save(tmp_path / "taken")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        gaussian().save(tmp_path / "file" / "policy")

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_onnx", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gaussian().save(tmp_path / "policy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_without_the_extra_the_rest_is_written_and_a_warning_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_NEEDED", ("onnx", "no_such_package"))
    with pytest.warns(UserWarning, match=r"needs no_such_package: python -m pip install -e '\.\[export\]'"):
        gaussian().save(tmp_path / "policy")
    assert not (tmp_path / "policy" / "policy.onnx").exists()
    assert load_policy(tmp_path / "policy").predict(observations(1)[0])[0].shape == (2,)


def test_a_damaged_policy_is_refused(tmp_path: Path) -> None:
    gaussian().save(tmp_path / "policy", onnx=False)
    parameters, description = (tmp_path / "policy" / name for name in ("policy.safetensors", "policy.json"))
    whole, text = parameters.read_bytes(), description.read_text()
    leaves = load_file(parameters)

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_policy(tmp_path / "policy")
        parameters.write_bytes(whole)
        description.write_text(text)

    parameters.write_bytes(whole[:-8])
    refused("truncated or corrupt")
    save_file({**leaves, "log_std": np.zeros(3, np.float32)}, parameters)
    refused("does not hold the parameters of the network")
    parameters.unlink()
    refused("is not a policy")
    description.write_text(text.replace("metarl-policy-1", "other"))
    refused("does not describe a policy")
    description.write_text(text.replace("tanh", "system"))
    refused("is damaged")
    description.write_text(text.replace("MLPPolicy", "my_agents:MyPolicy"))
    refused("is damaged: network.kind: must be one of MLPPolicy, ")
    with pytest.raises(UserError, match="is MLPPolicy, which is built from this file; give no network"):
        load_policy(tmp_path / "policy", MLPPolicy(Box(-1, 1, (3,)), Box(-1, 1, (2,))))
    description.write_text(text[:100])
    refused("is damaged")
    description.write_text("[]")
    refused("does not describe a policy")
    with pytest.raises(UserError, match="is not a policy"):
        load_policy(tmp_path / "nowhere")
    load_policy(tmp_path / "policy")


# ---------------------------------------------------------------------- memory


def test_a_recurrent_policy_carries_its_memory_in_every_program(tmp_path: Path) -> None:
    """Two episodes of two steps against the sums by hand; the second row starts again after the first step."""
    policy = recurrent()
    policy.save(tmp_path / "policy")
    description = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert description["inputs"] == ["obs", "memory0", "memory1"]
    assert description["outputs"] == ["action", "mean", "log_std", "next_memory0", "next_memory1"]
    first, second = 0.1 * observations(4).reshape(2, 2, 3)
    weight = policy.params["in.weight"].numpy()
    mean = np.stack([(0.5 * first[0] + second[0]) @ weight / 2, second[1] @ weight])
    expected = np.clip(mean, -1, 1) * [2, 5] + [0, 5]

    _, state = policy.predict(first)
    again, _ = policy.predict(second, state, episode_start=np.array([False, True]))
    np.testing.assert_allclose(again, expected, atol=TOLERANCE)

    program = torch.export.load(tmp_path / "policy" / "policy.pt2").module()
    zeros = [np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32)]
    run = session(tmp_path / "policy").run
    for step in (
        lambda *given: run(None, dict(zip(("obs", "memory0", "memory1"), given, strict=True))),
        lambda *given: [leaf.numpy() for leaf in program(*map(torch.from_numpy, given))],
    ):
        *_, total, count = step(first, *zeros)
        total[1], count[1] = 0, 0
        np.testing.assert_allclose(step(second, total, count)[0], expected, atol=TOLERANCE)


def test_a_network_of_ones_own_is_given_with_what_it_normalises_by(tmp_path: Path) -> None:
    def network() -> Leaky:
        own = Leaky()
        own.observations = ObservationNormalizer(3)  # type: ignore[attr-defined]
        return own

    first = network()
    first.observations.set(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3))  # type: ignore[attr-defined]
    policy = SpecialisedPolicy(first, first.init(), Box(-1, 1, (3,)), ROBOT_ACTIONS, Box(-1, 1, (2,)), CARD)
    policy.save(tmp_path / "policy", onnx=False)

    again = network()
    load_policy(tmp_path / "policy", again)
    shift, factor = again.observations.shift_and_factor  # type: ignore[attr-defined]
    assert (shift.tolist(), factor.tolist()) == ([1, 2, 3], [1, 1, 1])
    with pytest.raises(UserError, match="normalised its observations, and Leaky has no `observations`"):
        load_policy(tmp_path / "policy", Leaky())


def test_a_memory_that_does_not_begin_with_zeros_is_refused() -> None:
    class Restless(Leaky):
        def apply(self, params: Parameters, obs: Tensor, memory: Any = None) -> tuple[DiagonalGaussian, Any]:
            return super().apply(params, obs, memory or (torch.ones(len(obs), 2), torch.ones(len(obs), 1)))

    with pytest.raises(ValueError, match="Restless does not begin an episode with a memory of zeros"):
        SpecialisedPolicy(Restless(), Leaky().init(), Box(-1, 1, (3,)), ROBOT_ACTIONS, Box(-1, 1, (2,)), CARD)


def test_stable_baselines3_evaluates_it() -> None:
    """On CartPole, whose return is the number of steps: the same as stepping by hand."""
    from stable_baselines3.common.evaluation import evaluate_policy

    env = gymnasium.make("CartPole-v1")
    policy = mlp(Discrete(2), Discrete(2), env.observation_space)
    env.reset(seed=0)
    mean, std = evaluate_policy(policy, env, n_eval_episodes=4, warn=False)
    env.reset(seed=0)
    lengths = []
    for _ in range(4):
        (obs, _), done, length = env.reset(), False, 0
        while not done:
            obs, _, terminated, truncated, _ = env.step(policy.predict(obs)[0])
            done, length = terminated or truncated, length + 1
        lengths.append(length)
    assert (mean, std) == pytest.approx((np.mean(lengths), np.std(lengths)))
