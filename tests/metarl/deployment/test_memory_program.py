"""A policy that learns in its memory, alone: its programs and `predict` do what the policy does in rollouts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

import metarl
from metarl.agents.learner import Adapted, Learner
from metarl.agents.policies.memory.base import Distribution, Memory, RecurrentConfig
from metarl.agents.policies.memory.recurrent import RecurrentPolicy
from metarl.agents.policies.parameters import Parameters
from metarl.agents.rl2 import RL2, RL2Config
from metarl.cli.main import main
from metarl.deployment.policy import SpecialisedPolicy
from metarl.deployment.specialise import AdaptationBudget, simulated_episodes, specialise, without_noise
from metarl.envs.adapters.arguments import own_spaces
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import UserError
from metarl.run.build import load_learner
from metarl.run.run_directory import RunDirectory
from tests.helpers.agent_builders import perturb, seeded
from tests.helpers.workbench import complaint, train
from tests.metarl.deployment.test_policy import CARD

pytest_plugins = ["tests.helpers.run_fixtures"]

EPISODES = 3
GOAL = "goal=3,2"


def made(env: str, seed: int = 1, **network: Any) -> tuple[RL2, TaskDistribution]:
    """A learner whose policy does something else at every step, and its environment."""
    distribution = make_distribution(env)
    distribution.env.horizon = 25
    config = RL2Config(policy=RecurrentConfig(6, **network), trial_episodes=EPISODES)
    learner = RL2(distribution.observation_space, distribution.action_space, config, seeded(0))
    perturb(learner, 0.8, seeded(seed))
    observations = learner.policy.observations
    observations.set(torch.full_like(observations.shift_and_factor[0], 0.1), observations.shift_and_factor[1] * 0.7)
    return learner, distribution


def trials(learner: Learner, distribution: TaskDistribution, num: int) -> list[Episodes]:
    """The episodes 1 … n of some trials of one task, without exploration noise; (1, num, …)."""
    env = distribution.bind(distribution.sample(1, "test"), num)
    adapted = learner.begin(1)
    batches: list[Episodes] = []
    for _ in range(EPISODES):
        batches.append(collect(env, without_noise(learner.policy), adapted, seeded(len(batches))))
        adapted = learner.adapt(adapted, batches[-1])
    return batches


def policy_of(learner: RL2, distribution: TaskDistribution) -> SpecialisedPolicy:
    spaces = own_spaces(distribution)
    params = {name: leaf[0] for name, leaf in learner.begin(1).params.items()}
    return SpecialisedPolicy(learner.policy, params, *spaces, distribution.action_space, CARD)


class Steps:
    """The steps of one trial as whoever runs a program meets them: obs, action, and what the step before earned."""

    def __init__(self, batches: list[Episodes], trial: int) -> None:
        self.rows: list[tuple[NDArray[Any], Any, float, bool, bool]] = []
        reward, terminated = 0.0, False
        for batch in batches:
            taken = int(batch.mask[0, trial].sum())
            for time in range(taken):
                obs, action = batch.obs[0, trial, time].numpy(), batch.action[0, trial, time].numpy()
                self.rows.append((obs, action, reward, terminated, time == 0))
                reward = float(batch.reward[0, trial, time])
                terminated = bool(batch.terminated[0, trial]) and time == taken - 1


def run_program(run: Any, directory: Path, steps: Steps, names: list[str]) -> list[Any]:
    """The actions of a program over a trial, by the protocol of its model card."""
    memory = dict(np.load(directory / "memory.npz"))
    actions = []
    for obs, _, reward, terminated, begins in steps.rows:
        earned = {
            "reward": np.array([reward], np.float32),
            "terminated": np.array([terminated]),
            "begins": np.array([begins]),
        }
        outputs = dict(zip(names, run({"obs": obs[None], **memory, **earned}), strict=True))
        actions.append(outputs["action"][0])
        memory = {name: outputs[f"next_{name}"] for name in memory}
    return actions


@pytest.mark.parametrize(("cell", "seed"), [pytest.param("lstm", 7, marks=pytest.mark.slow), ("fast-weights", 10)])
def test_programs_and_predict_play_the_trial_of_the_rollouts(tmp_path: Path, cell: str, seed: int) -> None:
    """Episodes that end early, discrete actions, normalised observations, several states (the README has a GRU)."""
    learner, distribution = made("cart-pole/mirrored", seed=seed, cell=cell)
    batches = trials(learner, distribution, 2)
    trial = [Steps(batches, index) for index in range(2)]
    assert len({len(one.rows) for one in trial} | {25 * EPISODES}) > 1
    policy_of(learner, distribution).save(tmp_path / "policy")

    session = onnxruntime.InferenceSession(tmp_path / "policy" / "policy.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    program = torch.export.load(tmp_path / "policy" / "policy.pt2").module()
    order = [given.name for given in session.get_inputs()]

    def run_torch(inputs: dict[str, Any]) -> list[Any]:
        return [leaf.detach().numpy() for leaf in program(*(torch.from_numpy(inputs[name]) for name in order))]

    expected = [int(action) for _, action, *_ in trial[0].rows]
    assert len(set(expected)) > 1
    assert [
        int(a) for a in run_program(lambda i: session.run(names, i), tmp_path / "policy", trial[0], names)
    ] == expected
    assert [int(a) for a in run_program(run_torch, tmp_path / "policy", trial[0], names)] == expected

    loaded = metarl.load_policy(tmp_path / "policy")
    for one in trial:
        assert predicted(loaded, one) == [int(action) for _, action, *_ in one.rows]


def predicted(policy: SpecialisedPolicy, steps: Steps) -> list[Any]:
    """What `predict` does over a trial, by the protocol of `observe`."""
    state, actions = policy.reset(), []
    for time, (obs, _, reward, terminated, begins) in enumerate(steps.rows):
        if time:
            state = policy.observe(state, reward, terminated)
        action, state = policy.predict(obs, state, episode_start=np.array([begins]))
        actions.append(action.tolist())
    return actions


def test_continuous_actions_and_a_hypernetwork_too() -> None:
    learner, distribution = made("point-navigation/finn", hidden_sizes=(4,), hypernetwork=True, embedding_size=3)
    trial = Steps(trials(learner, distribution, 1), 0)
    policy = policy_of(learner, distribution)
    expected = np.clip([action for _, action, *_ in trial.rows], -1, 1) * policy.action_space.high  # type: ignore[attr-defined]
    np.testing.assert_allclose(predicted(policy, trial), expected, atol=1e-5)


def test_trials_side_by_side_are_separate_and_a_missing_reward_is_refused() -> None:
    learner, distribution = made("cart-pole/mirrored")
    policy = policy_of(learner, distribution)
    obs = distribution.bind(distribution.sample(1, "test"), 1).reset(seeded(3))[0, 0].numpy()
    rows = np.stack([obs, obs, obs])
    _, state = policy.predict(rows, policy.reset(3))
    with pytest.raises(ValueError, match=r"call state = policy\.observe"):
        policy.predict(rows, state)
    with pytest.raises(ValueError, match="not finite"):
        policy.observe(state, np.nan)
    with pytest.raises(ValueError, match="of 3 trials"):
        policy.observe(state, [1.0, 2.0])
    assert state is not None

    _, after = policy.predict(rows, policy.observe(state, [0.0, 5.0, 0.0]))
    _, alone = policy.predict(obs, policy.observe(policy.predict(obs)[1], 5.0))
    assert after is not None and alone is not None
    np.testing.assert_allclose(after[0][1], alone[0][0], atol=1e-6)
    np.testing.assert_allclose(after[0][0], after[0][2])
    assert np.abs(after[0][0] - after[0][1]).max() > 1e-3


# ---------------------------------------------------------------------- metarl adapt


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None) -> Path:
    """A directory to work in with an RL² run."""
    train(tmp_path / "runs", "--outer-lr", "0.05", env="grid-navigation", agent="rl2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_adapt_begins_with_the_memory_of_the_episodes_that_it_played(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--task", GOAL, "--no-onnx", "--measure-episodes", "2", "--seed", "3"]
    for steps in ("0", "2"):
        assert main(["adapt", "run", "--out", steps, "--steps", steps, *flags]) == 0
    assert "goes on learning" in capsys.readouterr().out
    assert all(not leaf.any() for leaf in np.load(grid / "0" / "memory.npz").values())

    # The same two episodes, by hand.
    distribution, learner, _ = load_learner(RunDirectory.open("runs/run"))
    env = distribution.bind(distribution.parse_task(GOAL), 1)
    generator, adapted = seeded(3), learner.begin(1)
    for _ in range(2):
        adapted = learner.adapt(adapted, collect(env, learner.policy, adapted, generator))
    remembered = np.load(grid / "2" / "memory.npz")
    for name, leaf in adapted.memory.items():
        np.testing.assert_array_equal(remembered[f"memory_{name}"], leaf[0].numpy())
    assert remembered["memory_hidden"].any()
    one, other = (load_file(grid / name / "policy.safetensors") for name in "02")
    assert all((one[name] == other[name]).all() for name in one)

    # What was saved is what goes on, and a reset goes back to it.
    policy = metarl.load_policy(grid / "2")
    for _ in range(2):
        obs = np.eye(25, dtype=np.float32)[0]
        first, _ = policy.predict(obs, policy.reset(), deterministic=True)
        acting, _ = learner.policy.apply(adapted.params, torch.from_numpy(obs)[None, None], adapted.memory)
        assert int(first) == int(acting.mode())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--task", GOAL, "--episodes", "3"],
            "rl2 adapts in the memory of one trial: episodes must be 1 a step, got 3",
        ),
        (["--env", "CartPole-v1"], "rl2 learns in its memory wherever it is used"),
    ],
)
def test_what_does_not_fit_is_refused(
    grid: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    capsys.readouterr()
    assert main(["adapt", "run", "--out", "policy", *flags]) == 2
    assert message in complaint(capsys)
    assert not (grid / "policy").exists()
    assert not (grid / "policy.unfinished").exists()


def test_a_learner_that_does_more_between_episodes_than_its_policy_is_refused() -> None:
    class Forgetful(RL2):
        def adapt(self, adapted: Adapted, episodes: Episodes, generator: torch.Generator | None = None) -> Adapted:
            after = super().adapt(adapted, episodes, generator)
            return replace(after, memory={name: 0.5 * leaf for name, leaf in after.memory.items()})

    distribution = make_distribution("grid-navigation")
    learner = Forgetful(distribution.observation_space, distribution.action_space, RL2Config(), seeded(0))
    source = simulated_episodes(distribution, distribution.sample(1, "test"))
    with pytest.raises(UserError, match="Forgetful does more between episodes"):
        specialise(learner, source, AdaptationBudget(0, 1, 2), seeded(1))


class Doubled(RecurrentPolicy):
    """A network with memory of a user's own: derived from one of this project's, and another function."""

    def apply(self, params: Parameters, obs: Tensor, memory: Memory | None = None) -> tuple[Distribution, Memory]:
        """See MemoryPolicy.apply."""
        distribution, after = super().apply(params, obs, memory)
        return self.distribution({"logits": 2 * distribution.parameters()["logits"]}), after


def test_a_network_with_memory_of_ones_own_is_given_and_learns_on(tmp_path: Path) -> None:
    learner, distribution = made("grid-navigation")
    spaces = distribution.observation_space, distribution.action_space
    learner.policy = Doubled(*spaces, learner.config.policy)
    policy = policy_of(learner, distribution)
    policy.save(tmp_path / "policy", onnx=False)
    with pytest.raises(UserError, match=r"its network tests\.metarl\..*:Doubled is your own"):
        metarl.load_policy(tmp_path / "policy")

    loaded = metarl.load_policy(tmp_path / "policy", Doubled(*spaces, learner.config.policy))
    states = [policy.reset(), loaded.reset()]
    for time in range(4):
        obs = np.eye(25, dtype=np.float32)[time]
        acted = [one.predict(obs, state) for one, state in zip((policy, loaded), states, strict=True)]
        assert acted[0][0] == acted[1][0]
        states = [one.observe(after, 1.0) for one, (_, after) in zip((policy, loaded), acted, strict=True)]
    for mine, theirs in zip(states[0] or (), states[1] or (), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_damaged_memory_is_refused(tmp_path: Path) -> None:
    learner, distribution = made("cart-pole/mirrored")
    policy_of(learner, distribution).save(tmp_path / "policy", onnx=False)
    file = tmp_path / "policy" / "memory.npz"
    whole, arrays = file.read_bytes(), dict(np.load(file))

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            metarl.load_policy(tmp_path / "policy")

    np.savez(file, **{**arrays, "acted": np.array([object()])})
    refused("truncated or corrupt")
    np.savez(file, **{**arrays, "memory_hidden": np.zeros((1, 7), np.float32)})
    refused(r"memory_hidden must be float32 of shape \(1, 6\), got float32 of shape \(1, 7\)")
    np.savez(file, **{**arrays, "memory_reward": np.array([[np.nan]], np.float32)})
    refused("memory_reward holds a number that is not finite")
    np.savez(file, hidden=np.zeros(1))
    refused("must hold memory_hidden")
    file.write_bytes(whole[:200])
    refused("truncated or corrupt")
    file.unlink()
    refused("is not a policy")
