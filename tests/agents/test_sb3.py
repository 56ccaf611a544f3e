"""SB3's algorithms here: made reproducibly, evaluated without being disturbed, and acting as they do in SB3."""

import copy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor
from torch import Tensor

from metarl.agents.policies.distributions import LOG_STD, Categorical, DiagonalGaussian
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.sb3 import (
    ALGORITHMS,
    SB3Policy,
    as_policy_parameters,
    check_algorithm,
    learn_with_evaluations,
    load_model,
    make_model,
)
from metarl.envs.adapters.gymnasium_single import TaskGymEnv
from metarl.envs.adapters.sb3 import TaskSB3VecEnv
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.envs.task_space import tasks_to_json

PEARL = "point-navigation/pearl"
NUM_ENVS = 5
UPDATE = 25 * NUM_ENVS
"""Environment steps between two updates of PPO."""

FEW_ENVS = {"ppo": {"n_steps": 25, "batch_size": UPDATE}}
"""Settings whose batches NUM_ENVS environments can fill."""


def all_settings() -> dict[str, Any]:
    return {name: (algorithm.settings, algorithm.pretraining) for name, algorithm in ALGORITHMS.items()}


SETTINGS = copy.deepcopy(all_settings())
"""As they are before any model is made."""

BOX, DISCRETE = Box(-1.0, 1.0, (2,)), Discrete(3)
OPTIMIZERS = {
    "ppo": ["optimizer"],
    "a2c": ["optimizer"],
    "sac": ["actor.optimizer", "critic.optimizer"],
    "td3": ["actor.optimizer", "critic.optimizer"],
    "ddpg": ["actor.optimizer", "critic.optimizer"],
    "dqn": ["optimizer"],
}
"""Where each algorithm's policy holds its optimizers."""
KINDS = {"ppo": "actor-critic", "a2c": "actor-critic", "sac": "sac", "td3": "td3", "ddpg": "td3", "dqn": "dqn"}
"""Algorithms of one kind have the same networks, and SB3 loads the files of one as the other."""


def training_env(name: str, num_envs: int = NUM_ENVS) -> VecEnv:
    """Point navigation, or the cart pole for DQN, which needs discrete actions."""
    return cart_poles() if name == "dqn" else TaskSB3VecEnv(PEARL, num_envs)


def cart_poles() -> VecEnv:
    return DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * NUM_ENVS)


def make(name: str, seed: int = 0, **arguments: Any) -> BaseAlgorithm:
    return make_model(name, training_env(name), seed, **{"changes": FEW_ENVS.get(name), **arguments})


def parameters_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    """Copies of all the networks' parameters."""
    return {name: value.detach().clone() for name, value in model.policy.state_dict().items()}


def without_noise(model: BaseAlgorithm) -> dict[str, Tensor]:
    """The parameters of all networks but a Gaussian's standard deviation."""
    return {name: value for name, value in parameters_of(model).items() if name != LOG_STD}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


# Which algorithm can act where


def error_of(name: str, space: Any) -> str:
    with pytest.raises(ValueError) as error:
        check_algorithm(name, space)
    message = str(error.value)
    assert "\n" not in message
    return message


def named_at_the_end(message: str) -> set[str]:
    return set(message.rpartition(":" if ": " in message else "known are")[2].replace(",", " ").split())


def test_an_unknown_algorithm_is_answered_with_a_hint_and_the_known_ones() -> None:
    message = error_of("pp", BOX)
    assert message.startswith("unknown SB3 algorithm 'pp' (did you mean 'ppo'?)")
    assert named_at_the_end(message) == {"ppo", "a2c", "sac", "td3", "ddpg", "dqn"}
    assert "did you mean" not in error_of("reinforce-with-baseline", BOX)


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg"])
def test_algorithms_of_continuous_actions_cannot_act_in_discrete(name: str) -> None:
    message = error_of(name, DISCRETE)
    assert f"'{name}' cannot act in Discrete(3)" in message
    assert named_at_the_end(message) == {"ppo", "a2c", "dqn"}


def test_dqn_cannot_act_in_a_box() -> None:
    message = error_of("dqn", BOX)
    assert "'dqn' cannot act in Box(-1.0, 1.0, (2,), float32)" in message
    assert named_at_the_end(message) == {"ppo", "a2c", "sac", "td3", "ddpg"}


def test_other_spaces_are_for_none() -> None:
    assert "'ppo' cannot act in MultiBinary(2)" in error_of("ppo", MultiBinary(2))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_table_agrees_with_stable_baselines(name: str) -> None:
    """SB3 itself refuses the spaces that are not listed, and takes those that are."""
    algorithm = ALGORITHMS[name]
    make_bare: Any = algorithm.make
    for space, env in ((BOX, TaskSB3VecEnv(PEARL, 1)), (DISCRETE, cart_poles())):
        if isinstance(space, algorithm.spaces):
            assert check_algorithm(name, space) is algorithm
            make_bare("MlpPolicy", env, device="cpu")
        else:
            with pytest.raises(AssertionError, match="as action spaces"):
                make_bare("MlpPolicy", env, device="cpu")


@pytest.mark.parametrize(("name", "env"), [("sac", "discrete"), ("dqn", "box"), ("pppo", "box")])
def test_no_model_is_made_that_cannot_act(name: str, env: str) -> None:
    with pytest.raises(ValueError, match="SB3 algorithm"):
        make_model(name, cart_poles() if env == "discrete" else TaskSB3VecEnv(PEARL, 2), seed=0)


# Making models


@pytest.mark.parametrize(("name", "env_steps"), [("ppo", 3 * UPDATE), ("a2c", 300), ("sac", 600), ("dqn", 600)])
def test_a_seed_determines_what_is_learned(name: str, env_steps: int) -> None:
    def learned(seed: int) -> dict[str, Tensor]:
        model = make(name, seed)
        before = parameters_of(model)
        model.learn(env_steps)
        assert not same(parameters_of(model), before)
        return parameters_of(model)

    one = learned(3)
    assert same(learned(3), one)
    assert not same(learned(4), one)


def test_models_of_other_seeds_start_from_other_networks() -> None:
    assert same(parameters_of(make("ppo", 1)), parameters_of(make("ppo", 1)))
    assert not same(parameters_of(make("ppo", 1)), parameters_of(make("ppo", 2)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_model_starts_from_anothers_networks_but_with_a_fresh_optimizer(name: str) -> None:
    initial = make(name, seed=0)
    initial.learn(600)
    learned = parameters_of(initial)
    model = make(name, seed=1, initial=initial)
    assert same(without_noise(model), without_noise(initial))
    if LOG_STD in learned:
        assert parameters_of(model)[LOG_STD].tolist() == [-0.5, -0.5]  # exploration starts anew as well
        assert learned[LOG_STD].tolist() != [-0.5, -0.5]
    for path in OPTIMIZERS[name]:
        used, fresh = (_attribute(each.policy, path) for each in (initial, model))
        assert len(used.state) > 0
        assert len(fresh.state) == 0
    assert model.num_timesteps == 0
    model.learn(600)
    assert not same(without_noise(model), without_noise(initial))
    assert same(parameters_of(initial), learned)  # nothing is shared


def _attribute(owner: Any, path: str) -> Any:
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner


@pytest.mark.parametrize("name", ALGORITHMS)
def test_making_a_model_leaves_every_algorithms_settings_as_they_are(name: str) -> None:
    """SB3 writes into the policy_kwargs that it is given."""
    make(name)
    assert all_settings() == SETTINGS


@pytest.mark.parametrize(("first", "second"), [("a2c", "ppo"), ("sac", "td3"), ("ddpg", "td3"), ("ddpg", "dqn")])
def test_a_model_does_not_depend_on_those_made_before_it(first: str, second: str) -> None:
    """The optimizer is Adam, and TD3's critic has two networks, whatever was made before."""
    make(first)
    model = make(second)
    for path in OPTIMIZERS[second]:
        assert type(_attribute(model.policy, path)) is torch.optim.Adam
    if second == "td3":
        assert len(_attribute(model.policy, "critic").q_networks) == 2


def test_pretraining_has_settings_of_its_own() -> None:
    model: Any = make_model("ppo", TaskSB3VecEnv(PEARL, 40, "sample"), 0, pretraining=True)
    assert (model.n_steps, model.batch_size) == (100, 4000)
    usual: Any = make_model("ppo", TaskSB3VecEnv(PEARL, 20), 0)
    assert (usual.n_steps, usual.batch_size) == (10, 100)
    assert (usual.learning_rate, model.learning_rate) == (5e-4, 1e-3)
    assert usual.gae_lambda == model.gae_lambda == 0.95


@pytest.mark.parametrize("pretraining", [False, True])
def test_changes_replace_settings_and_leave_the_others(pretraining: bool) -> None:
    env = TaskSB3VecEnv(PEARL, 40)
    model: Any = make_model("ppo", env, 0, pretraining=pretraining, changes={"n_steps": 200, "gamma": 0.9})
    assert (model.n_steps, model.gamma) == (200, 0.9)
    assert (model.batch_size, model.gae_lambda) == (4000 if pretraining else 100, 0.95)
    if not pretraining:
        assert make_model("ppo", env, 0).gamma == 0.99  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ppo", {"n_step": 50}, r"SB3's ppo has no argument 'n_step' \(did you mean 'n_steps'\?\); known are .*gamma"),
        ("ppo", {"gamma": 0.9, "buffer_size": 3}, "SB3's ppo has no argument 'buffer_size'"),
        ("sac", {"gae_lambda": 0.9}, "SB3's sac has no argument 'gae_lambda'"),
        ("ppo", {"seed": 3}, "SB3's ppo has no argument 'seed'"),
    ],
)
def test_changes_of_what_an_algorithm_does_not_have_are_rejected(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, changes=changes)


def test_the_log_goes_to_its_directory_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make("ppo").learn(UPDATE)
    assert not list(tmp_path.iterdir())
    logged = make("ppo", log_dir=tmp_path / "log").learn(UPDATE)
    logged.logger.close()
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["progress.csv"]
    assert capsys.readouterr().out == ""


# Loading models


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_saved_model_acts_the_same(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save(tmp_path / "model.zip")
    loaded = load_model(name, tmp_path / "model.zip", training_env(name, 20))
    space: Any = model.observation_space
    obs = np.random.default_rng(0).standard_normal((50, *space.shape)).astype(np.float32)
    assert type(loaded) is type(model)
    assert same(parameters_of(loaded), parameters_of(model))
    assert (loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()


def assert_rejected(name: str, path: Path) -> None:
    with pytest.raises(ValueError, match=f"{path.name} is not a model of SB3's {name}"):
        load_model(name, path, training_env(name, 20))


def test_a_missing_file_is_rejected(tmp_path: Path) -> None:
    assert_rejected("ppo", tmp_path / "missing.zip")
    assert_rejected("ppo", tmp_path / "no-directory" / "missing.zip")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all"])
def test_what_is_no_zip_is_rejected(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(content)
    assert_rejected("ppo", tmp_path / "model.zip")


def test_a_zip_of_other_things_is_rejected(tmp_path: Path) -> None:
    for number, (member, content) in enumerate([("notes.txt", "hello"), ("data", "{}"), ("data", "[]"), ("data", "")]):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as file:
            file.writestr(member, content)
        assert_rejected("ppo", tmp_path / f"{number}.zip")


def test_a_truncated_model_is_rejected_wherever_it_ends(tmp_path: Path) -> None:
    make("ppo").save(tmp_path / "model.zip")
    whole = (tmp_path / "model.zip").read_bytes()
    for length in np.linspace(0, len(whole) - 1, 20).astype(int):
        (tmp_path / "part.zip").write_bytes(whole[:length])
        assert_rejected("ppo", tmp_path / "part.zip")


@pytest.mark.parametrize("member", ["data", "policy.pth", "policy.optimizer.pth"])
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 50])
def test_a_model_with_a_damaged_part_is_rejected(member: str, content: bytes | None, tmp_path: Path) -> None:
    make("ppo").save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as whole, zipfile.ZipFile(tmp_path / "damaged.zip", "w") as damaged:
        for name in whole.namelist():
            replaced = content if name == member else whole.read(name)
            if replaced is not None:
                damaged.writestr(name, replaced)
    assert_rejected("ppo", tmp_path / "damaged.zip")


@pytest.mark.parametrize("saved", ALGORITHMS)
def test_a_model_with_networks_of_another_kind_is_rejected(saved: str, tmp_path: Path) -> None:
    make(saved).save(tmp_path / "model.zip")
    for name in ALGORITHMS:
        if KINDS[name] != KINDS[saved]:
            assert_rejected(name, tmp_path / "model.zip")


# Learning with evaluations


def record(model: BaseAlgorithm) -> tuple[int, dict[str, Tensor]]:
    """How many steps the model has counted, and its parameters."""
    return model.num_timesteps, parameters_of(model)


def plainly_learned(name: str, env_steps: int) -> dict[str, Tensor]:
    model = make(name, seed=7)
    model.learn(env_steps)
    return parameters_of(model)


@pytest.mark.parametrize(
    ("name", "schedule", "expected"),
    [
        ("ppo", [0, 500], [0, 500]),
        ("ppo", [0, 1, 125, 126, 300, 500], [0, 125, 250, 375, 500]),  # two counts share 125
        ("ppo", [10, 20, 30, 251], [125, 375]),
        ("ppo", [126], [250]),
        ("ppo", [0], [0]),
        ("ppo", [0, 125, 250], [0, 125, 250]),
        ("a2c", [0, 25, 40, 76], [0, 25, 50, 100]),
        ("sac", [0, 3, 500, 601], [0, 5, 500, 605]),
    ],
)
def test_evaluations_come_at_the_first_update_at_or_after_each_count(
    name: str, schedule: list[int], expected: list[int]
) -> None:
    model = make(name, seed=7)
    results = learn_with_evaluations(model, schedule, record)
    assert [env_steps for env_steps, _ in results] == expected
    assert [counted for _, (counted, _) in results] == expected
    assert model.num_timesteps == expected[-1]


@pytest.mark.parametrize(("name", "schedule"), [("ppo", [0, 125, 250, 375]), ("sac", [0, 520, 540, 560])])
def test_what_is_evaluated_has_learned_from_all_the_steps_counted(name: str, schedule: list[int]) -> None:
    """The parameters are those of a model that is trained for just so long."""
    results = learn_with_evaluations(make(name, seed=7), schedule, record)
    assert [env_steps for env_steps, _ in results] == schedule
    for env_steps, (_, parameters) in results:
        expected = plainly_learned(name, env_steps) if env_steps else parameters_of(make(name, seed=7))
        assert same(parameters, expected)


@pytest.mark.parametrize(("name", "env_steps"), [("ppo", 3 * UPDATE), ("sac", 600)])
def test_evaluations_do_not_change_what_is_learned(name: str, env_steps: int) -> None:
    distribution = make_distribution(PEARL)
    env = distribution.bind(distribution.sample(3, "test"), 2)
    lengths = []

    def evaluate(model: BaseAlgorithm) -> float:
        episodes = collect(env, SB3Policy(model), {}, torch.Generator().manual_seed(0))
        lengths.append(episodes.env_steps)
        return episodes.returns.mean().item()

    model = make(name, seed=7)
    learn_with_evaluations(model, list(range(0, env_steps + 1, 25)), evaluate)
    assert len(lengths) > 3
    assert same(parameters_of(model), plainly_learned(name, env_steps))


# Acting


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_policy_acts_as_the_model_predicts(name: str) -> None:
    """Observation by observation; in the shapes of `collect`."""
    model = shaken(name, training_env(name))
    space: Any = model.observation_space
    obs = 3 * torch.randn(20, 3, *space.shape, generator=torch.Generator().manual_seed(0))
    actions, memory = SB3Policy(model).apply({}, obs)
    drawn = actions.sample(torch.Generator())
    assert memory is None
    assert drawn.shape == ((20, 3) if name == "dqn" else (20, 3, 2))
    for row in range(20):
        for column in range(3):
            expected, _ = model.predict(obs[row, column].numpy(), deterministic=True)
            assert drawn[row, column].numpy() == pytest.approx(expected, abs=1e-5)
    assert len(np.unique(drawn.numpy())) > 1
    assert (actions.sample(torch.Generator()) == drawn).all()


def test_actions_stay_within_the_box() -> None:
    model = make("ppo")
    with torch.no_grad():
        _attribute(model.policy, "action_net").bias.copy_(torch.tensor([5.0, -5.0]))
    actions, _ = SB3Policy(model).apply({}, torch.zeros(1, 1, 2))
    assert actions.sample(torch.Generator()).flatten().tolist() == [1, -1]


def shaken(name: str, env: VecEnv) -> BaseAlgorithm:
    """A model whose every parameter is random, biases and standard deviations included."""
    model = make_model(name, env, seed=0, changes=FEW_ENVS.get(name))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in model.policy.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return model


def both_distributions(model: BaseAlgorithm) -> tuple[Any, Any]:
    """Ours and SB3's over actions on the same 100 observations."""
    space: Any = model.observation_space
    obs = torch.randn(100, *space.shape, generator=torch.Generator().manual_seed(4))
    policy: Any = model.policy
    ours, _ = MLPPolicy(space, model.action_space).apply(as_policy_parameters(model), obs)
    with torch.no_grad():
        return ours, policy.get_distribution(obs).distribution


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_our_policy_is_stable_baselines_gaussian(name: str) -> None:
    ours, theirs = both_distributions(shaken(name, TaskSB3VecEnv(PEARL, NUM_ENVS)))
    assert isinstance(ours, DiagonalGaussian)
    assert torch.allclose(ours.mean, theirs.mean, atol=1e-5)
    assert torch.allclose(ours.log_std.exp().expand(100, 2), theirs.stddev, atol=1e-6)
    assert theirs.stddev[0, 0] != theirs.stddev[0, 1]
    action = torch.randn(100, 2, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_our_policy_is_stable_baselines_categorical(name: str) -> None:
    ours, theirs = both_distributions(shaken(name, cart_poles()))
    assert isinstance(ours, Categorical)
    assert torch.allclose(ours.logits.softmax(-1), theirs.probs, atol=1e-5)
    assert theirs.probs.std(dim=0).min() > 0.01  # the observations matter


def test_our_parameters_are_exactly_those_of_our_policy() -> None:
    """Names and shapes; and copies, without a graph."""
    for env in (TaskSB3VecEnv(PEARL, NUM_ENVS), cart_poles()):
        model = make_model("ppo", env, seed=0, changes=FEW_ENVS["ppo"])
        params = as_policy_parameters(model)
        space: Any = model.observation_space
        expected = MLPPolicy(space, model.action_space).init(torch.Generator())
        assert {name: value.shape for name, value in params.items()} == {
            name: value.shape for name, value in expected.items()
        }
        before = parameters_of(model)
        for value in params.values():
            assert not value.requires_grad
            value += 1
        assert same(parameters_of(model), before)


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg", "dqn"])
def test_other_algorithms_have_no_policy_like_ours(name: str) -> None:
    with pytest.raises(ValueError, match=f"only PPO and A2C .* not {name.upper()}"):
        as_policy_parameters(make(name))


# Against SB3's own evaluation


def saved_and_loaded(name: str, tmp_path: Path) -> BaseAlgorithm:
    """A model that has learned a little."""
    model = make(name)
    model.learn(600)
    model.save(tmp_path / "model.zip")
    return load_model(name, tmp_path / "model.zip", training_env(name, 20))


@pytest.mark.parametrize("name", ["ppo", "sac"])
@pytest.mark.parametrize("env", [PEARL, "point-navigation/finn"])
def test_stable_baselines_evaluation_gives_the_same_returns(name: str, env: str, tmp_path: Path) -> None:
    """Four tasks, five episodes each, through Gymnasium and SB3 on one side and `collect` on the other."""
    model = saved_and_loaded(name, tmp_path)
    distribution = make_distribution(env)
    tasks = distribution.sample(4, "test")

    def maker(task: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]]:
        return lambda: TimeLimit(TaskGymEnv(distribution, task), distribution.horizon)

    one_by_one = VecMonitor(DummyVecEnv([maker(task) for task in tasks_to_json(tasks)]))
    expected, _ = evaluate_policy(model, one_by_one, n_eval_episodes=20, deterministic=True)
    episodes = collect(distribution.bind(tasks, 5), SB3Policy(model), {}, torch.Generator().manual_seed(0))
    assert episodes.returns.mean().item() == pytest.approx(float(np.mean(expected)), rel=1e-4)
    assert episodes.returns[:, 0].std() > 0.1  # the tasks differ


def test_returns_over_sampled_tasks_agree_within_their_spread(tmp_path: Path) -> None:
    """Training tasks drawn by SB3's view and by `collect` have the same mean return, to four standard errors."""
    model = saved_and_loaded("ppo", tmp_path)
    distribution = make_distribution(PEARL)
    theirs, lengths = evaluate_policy(
        model, TaskSB3VecEnv(distribution, 50, "sample", seed=1), n_eval_episodes=400, return_episode_rewards=True
    )
    assert isinstance(theirs, list)
    assert lengths == [20] * 400
    generator = torch.Generator().manual_seed(2)
    tasks = distribution.sample(400, "train", generator)
    ours = collect(distribution.bind(tasks, 1), SB3Policy(model), {}, generator).returns[:, 0].numpy()
    error = np.hypot(ours.std(), np.std(theirs)) / 20
    assert abs(ours.mean() - np.mean(theirs)) < 4 * error < 0.2 * abs(ours.mean())
