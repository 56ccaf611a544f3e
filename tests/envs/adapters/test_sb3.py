"""SB3's view of a batch: against SB3's own DummyVecEnv of Gymnasium environments, and in use by SB3."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecMonitor, VecNormalize

from metarl.envs import GymnasiumTasks, TaskDistribution, TaskGymEnv, make_distribution
from metarl.envs.adapters.sb3 import TaskSB3VecEnv, make_sb3_vec_env
from metarl.envs.task_space import Task, Uniform, tasks_to_json
from tests.envs.adapters.test_gymnasium_vector import DETERMINISTIC
from tests.helpers.corridor import corridor

PEARL = "point-navigation/pearl"
RIGHT = 2
"""The corridor's action that walks to the exit."""

TERMINAL, TRUNCATED, EPISODE = "terminal_observation", "TimeLimit.truncated", "episode"


def one_by_one(distribution: TaskDistribution, tasks: list[dict[str, Any]]) -> DummyVecEnv:
    """SB3's own batch of Gymnasium environments, monitored as SB3 does it."""

    def maker(task: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]]:
        return lambda: Monitor(TimeLimit(TaskGymEnv(distribution, task), distribution.horizon))

    return DummyVecEnv([maker(task) for task in tasks])


def stepped(env: TaskSB3VecEnv, actions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[Any]]:
    """What `step` returns; of a TaskSB3VecEnv its observations are arrays."""
    env.step_async(actions)
    return env.step_wait()


def steps_of(env: VecEnv, actions: list[NDArray[Any]]) -> tuple[Any, list[Any]]:
    """The first observations, and what each step returned."""
    return env.reset(), [env.step(action) for action in actions]


def assert_same(got: tuple[Any, list[Any]], wanted: tuple[Any, list[Any]]) -> None:
    """Observations, rewards and dones alike, and the infos of the episodes that ended."""
    assert (got[0] == wanted[0]).all()
    for (obs, rewards, dones, infos), (their_obs, their_rewards, their_dones, theirs) in zip(
        got[1], wanted[1], strict=True
    ):
        assert obs == pytest.approx(their_obs, abs=1e-6)
        assert rewards == pytest.approx(their_rewards, abs=1e-6)
        assert (dones == their_dones).all()
        for done, info, other in zip(dones, infos, theirs, strict=True):
            assert_same_end(info, other) if done else assert_running(info)


def assert_running(info: dict[str, Any]) -> None:
    assert info == {}


def assert_same_end(info: dict[str, Any], other: dict[str, Any]) -> None:
    assert set(info) == {TERMINAL, TRUNCATED, EPISODE}
    assert info[TERMINAL] == pytest.approx(other[TERMINAL], abs=1e-6)
    assert info[TRUNCATED] == other[TRUNCATED]
    assert info[EPISODE]["l"] == other[EPISODE]["l"]
    assert info[EPISODE]["r"] == pytest.approx(other[EPISODE]["r"], abs=1e-4)
    assert info[EPISODE]["t"] >= 0


def ends_of(steps: list[Any]) -> list[dict[str, Any]]:
    """Infos of the episodes that ended."""
    return [info for _, _, dones, infos in steps for done, info in zip(dones, infos, strict=True) if done]


# Against Gymnasium's view


@pytest.mark.parametrize("family", DETERMINISTIC, ids=lambda family: family.name)
def test_the_batch_equals_gymnasium_environments_stepped_one_by_one(family: Any) -> None:
    """Several episodes of every family, each environment with its own task and actions."""
    distribution = family.make()
    tasks = distribution.sample(3, "test")
    batch = TaskSB3VecEnv(distribution, 3, tasks)
    rng = np.random.default_rng(0)
    actions = [
        rng.uniform(-1.5, 1.5, (3, 2)).astype(np.float32).clip(-1, 1) for _ in range(2 * distribution.horizon + 5)
    ]
    got = steps_of(batch, actions)
    assert len(ends_of(got[1])) >= 6
    assert_same(got, steps_of(one_by_one(distribution, tasks_to_json(tasks)), actions))


def test_goals_reached_end_episodes_at_different_steps() -> None:
    distribution = make_distribution("point-navigation/finn")
    goals = [[0.1, 0.1], [0.3, 0.3], [0.5, 0.5]]
    batch = TaskSB3VecEnv(distribution, 3, {"goal": torch.tensor(goals)})
    actions = [np.ones((3, 2), np.float32)] * 12
    got = steps_of(batch, actions)
    assert_same(got, steps_of(one_by_one(distribution, [{"goal": goal} for goal in goals]), actions))
    assert sorted(info[EPISODE]["l"] for info in ends_of(got[1])) == [1] * 12 + [3] * 4 + [5] * 2
    assert not any(info[TRUNCATED] for info in ends_of(got[1]))


def test_dict_states_discrete_actions_and_unequal_episodes() -> None:
    """Also the exit reached at the time limit, which SB3 counts as the task's end, not as a truncation."""
    exits = [1.0, 2.0, 3.0, 5.0]
    batch = TaskSB3VecEnv(corridor(), 4, {"exit": torch.tensor(exits), "noise": torch.zeros(4)})
    rng = np.random.default_rng(0)
    actions = [np.full(4, RIGHT)] * 10 + [rng.integers(0, 3, 4) for _ in range(40)]
    got = steps_of(batch, actions)
    assert_same(got, steps_of(one_by_one(corridor(), [{"exit": exit_, "noise": 0.0} for exit_ in exits]), actions))
    kinds = {(info[TRUNCATED], info[EPISODE]["l"] == 5) for info in ends_of(got[1])}
    assert kinds == {(False, False), (True, True), (False, True)}


@pytest.mark.parametrize("task", [None, "sample"])
def test_stable_baselines_checks_gymnasiums_view_of_the_same_distribution(task: str | None) -> None:
    check_env(TaskGymEnv(PEARL, task))
    check_env(TaskGymEnv(corridor(), task))


# The end of an episode


def test_the_observation_at_the_end_is_the_next_episodes_first() -> None:
    """Positions by hand: the exits 2 and 4 are reached after 2 and 4 steps to the right."""
    batch = TaskSB3VecEnv(corridor(), 2, {"exit": torch.tensor([2.0, 4.0]), "noise": torch.zeros(2)})
    first, steps = steps_of(batch, [np.full(2, RIGHT)] * 5)
    assert first.tolist() == [[0, 0], [0, 0]]
    assert [step[0][:, 0].tolist() for step in steps] == [[1, 1], [0, 2], [1, 3], [0, 0], [1, 1]]
    assert [step[2].tolist() for step in steps] == [
        [False, False],
        [True, False],
        [False, False],
        [True, True],
        [False, False],
    ]
    assert steps[1][3][0][TERMINAL].tolist() == [2, 2]
    assert steps[3][3][1][TERMINAL].tolist() == [4, 4]


def test_the_horizon_truncates_and_the_exit_does_not() -> None:
    batch = TaskSB3VecEnv(corridor(), 2, {"exit": torch.tensor([4.0, 4.0]), "noise": torch.zeros(2)})
    _, steps = steps_of(batch, [np.array([RIGHT, 1])] * 5)
    assert [info.get(TRUNCATED) for info in steps[3][3]] == [False, None]
    assert [info.get(TRUNCATED) for info in steps[4][3]] == [None, True]


def test_return_and_length_are_those_counted_by_hand() -> None:
    """Over many episodes of unequal length and random starts; infos of running episodes are empty."""
    batch = TaskSB3VecEnv(corridor(), 6, "sample", seed=0)
    rng = np.random.default_rng(0)
    batch.reset()
    returns, lengths, ended = np.zeros(6), np.zeros(6, int), 0
    for _ in range(60):
        _, rewards, dones, infos = batch.step(rng.integers(0, 3, 6))
        returns, lengths = returns + rewards, lengths + 1
        for row, info in enumerate(infos):
            assert bool(info) == dones[row]
            if info:
                assert info[EPISODE]["r"] == pytest.approx(returns[row])
                assert info[EPISODE]["l"] == lengths[row]
                returns[row], lengths[row], ended = 0, 0, ended + 1
    assert ended > 60


def test_a_reset_in_the_middle_starts_every_episode_anew() -> None:
    batch = TaskSB3VecEnv(corridor(), 2, {"exit": 5.0, "noise": 0.0})
    steps_of(batch, [np.full(2, 1)] * 3)
    first, steps = steps_of(batch, [np.full(2, 1)] * 5)
    assert first.tolist() == [[0, 0], [0, 0]]
    assert [step[2].all() for step in steps] == [False] * 4 + [True]
    assert [info[EPISODE]["l"] for info in steps[-1][3]] == [5, 5]
    assert steps[-1][3][0][EPISODE]["r"] == pytest.approx(sum(0.01 * n - 5 for n in range(1, 6)))


def test_only_the_environments_that_are_done_start_anew() -> None:
    """The others go on where they are: their noisy starts stay in their positions."""
    batch = TaskSB3VecEnv(corridor(), 2, {"exit": torch.tensor([1.0, 5.0]), "noise": torch.full((2,), 0.5)}, seed=0)
    first, steps = steps_of(batch, [np.array([RIGHT, 1])] * 4)
    assert {step[2][0] for step in steps} == {True}
    assert [step[0][1, 0] for step in steps] == pytest.approx([first[1, 0]] * 4)
    starts = [first[0, 0], *(step[0][0, 0] for step in steps)]
    assert len(set(starts)) == 5
    assert all(0 <= start <= 0.5 for start in starts)


def test_what_a_step_returned_stays_as_it_was() -> None:
    """SB3 keeps observations, rewards and infos while it goes on stepping."""
    batch = TaskSB3VecEnv(corridor(), 3, "sample", seed=0)
    first = batch.reset()
    kept: list[NDArray[Any]] = [first]
    copies = [first.copy()]
    for _ in range(12):
        obs, rewards, dones, infos = stepped(batch, np.full(3, RIGHT))
        ends = [info[TERMINAL] for info in infos if info]
        kept += [obs, rewards, dones, *ends]
        copies += [part.copy() for part in (obs, rewards, dones, *ends)]
    assert all((part == copy).all() for part, copy in zip(kept, copies, strict=True))
    kept[0][:] = 99
    assert batch.reset().max() < 99


def test_types_and_shapes_are_those_of_stable_baselines() -> None:
    batch = TaskSB3VecEnv(PEARL, 4)
    own = one_by_one(make_distribution(PEARL), [{"goal": [0.0, 1.0]}] * 4)
    first, (step,) = steps_of(batch, [np.zeros((4, 2), np.float32)])
    their_first, (their_step,) = steps_of(own, [np.zeros((4, 2), np.float32)])
    assert (first.dtype, first.shape) == (their_first.dtype, their_first.shape)
    for got, wanted in zip(step[:3], their_step[:3], strict=True):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert (batch.observation_space, batch.action_space) == (own.observation_space, own.action_space)


# Tasks


def reward_of_standing_still(env: VecEnv) -> Any:
    """Minus the distance of each goal from the origin."""
    env.reset()
    return env.step(np.zeros((env.num_envs, 2), np.float32))[1]


@pytest.mark.parametrize(
    ("task", "goals"),
    [
        (None, [[0.3, 0.2]] * 3),
        ({"goal": [0.1, -0.4]}, [[0.1, -0.4]] * 3),
        ({"goal": torch.tensor([[0.1, -0.4]])}, [[0.1, -0.4]] * 3),
        ({"goal": torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.0, 0.5]])}, [[0.1, 0.0], [0.2, 0.0], [0.0, 0.5]]),
    ],
)
def test_each_environment_has_the_task_chosen_for_it_in_every_episode(task: Any, goals: list[list[float]]) -> None:
    batch = TaskSB3VecEnv("point-navigation", 3, task)
    expected = -np.linalg.norm(goals, axis=1)
    assert reward_of_standing_still(batch) == pytest.approx(expected)
    for _ in range(250):
        assert batch.step(np.zeros((3, 2), np.float32))[1] == pytest.approx(expected)


def test_a_sampled_task_is_new_in_every_episode_and_holds_until_its_end() -> None:
    """Standing still, the reward is minus the goal's distance from the origin: it tells tasks apart."""
    distribution = make_distribution("point-navigation/finn")
    distribution.env.horizon = 5
    batch = TaskSB3VecEnv(distribution, 4, "sample", seed=1)
    batch.reset()
    rewards = np.stack([batch.step(np.zeros((4, 2), np.float32))[1] for _ in range(50)])
    episodes = rewards.reshape(10, 5, 4)
    assert (episodes == episodes[:, :1]).all()
    assert len(np.unique(episodes[:, 0])) == 40
    assert episodes.min() >= -(0.5**0.5) and episodes.max() <= 0


def test_a_new_task_meets_only_the_environment_that_starts_anew() -> None:
    """The reward −|x − exit| + 0.01 n tells the exit, which does not change before the episode's end."""
    batch = TaskSB3VecEnv(corridor(), 8, "sample", seed=0)
    before = batch.reset()
    exits: list[set[float]] = [set() for _ in range(8)]
    episode: list[list[float]] = [[] for _ in range(8)]
    for _ in range(40):
        obs, rewards, dones, infos = stepped(batch, np.full(8, RIGHT))
        for row in range(8):
            after = infos[row][TERMINAL] if dones[row] else obs[row]
            distance = 0.01 * after[1] - rewards[row]
            exit_ = after[0] - distance if dones[row] and not infos[row][TRUNCATED] else after[0] + distance
            episode[row].append(float(exit_))
            if dones[row]:
                assert episode[row] == pytest.approx([episode[row][0]] * len(episode[row]), abs=1e-5)
                exits[row].add(round(episode[row][0], 4))
                episode[row] = []
    assert before.shape == (8, 2)
    found = [exit_ for row in exits for exit_ in row]
    assert len(set(found)) == len(found) > 60
    assert min(found) >= 1 and max(found) <= 5


def test_sampled_tasks_are_training_tasks() -> None:
    restricted = make_distribution(PEARL).with_train_tasks({"goal": torch.tensor([[1.0, 0.0], [-0.6, 0.8]])})
    batch = TaskSB3VecEnv(restricted, 50, "sample", seed=0)
    batch.reset()
    obs_reward = batch.step(np.tile(np.array([1, 0], np.float32), (50, 1)))[1]
    expected = [-0.9, -float(np.linalg.norm([0.7, 0.8]))]
    assert sorted(set(np.round(obs_reward, 4).tolist())) == pytest.approx(sorted(expected), abs=1e-4)


def test_changing_the_tensors_afterwards_changes_nothing() -> None:
    task: Task = {"goal": torch.tensor([[0.1, 0.0], [0.2, 0.0]])}
    batch = TaskSB3VecEnv("point-navigation", 2, task)
    task["goal"] += 0.3
    assert reward_of_standing_still(batch) == pytest.approx([-0.1, -0.2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, r"num_envs must be at least 1, got 0"),
        ({"task": {"goal": torch.zeros(2, 2)}}, r"task must hold 1 task or num_envs=3, got 2"),
        ({"task": {"goal": torch.zeros(4, 2)}}, r"task must hold 1 task or num_envs=3, got 4"),
        ({"task": {"goal": [2.0, 0.0]}}, r"'goal' = \[2.0, 0.0\] is outside its range"),
        ({"task": {"gaol": [0.0, 0.0]}}, r"names the parameters \['gaol'\]"),
        ({"task": "smaple"}, r"task must be None, 'sample' or a mapping of \['goal'\], got 'smaple'"),
        ({"distribution": "point-navgation"}, r"unknown environment 'point-navgation' \(did you mean"),
    ],
)
def test_bad_arguments_are_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskSB3VecEnv(**{"distribution": "point-navigation", "num_envs": 3, **arguments})


@pytest.mark.parametrize("actions", [np.zeros(2), np.zeros((1, 2)), np.zeros((3, 3))])
def test_actions_of_another_shape_are_rejected(actions: NDArray[Any]) -> None:
    batch = TaskSB3VecEnv("point-navigation", 3)
    batch.reset()
    with pytest.raises(ValueError, match="is not in Box"):
        batch.step(actions)


def test_an_action_outside_a_discrete_space_is_rejected() -> None:
    batch = TaskSB3VecEnv(corridor(), 2)
    batch.reset()
    with pytest.raises(ValueError, match="is not in MultiDiscrete"):
        batch.step(np.array([0, 3]))


# Counting and seeds


def test_env_steps_counts_every_environment() -> None:
    batch = TaskSB3VecEnv(corridor(), 7)
    assert batch.env_steps == 0
    steps_of(batch, [np.full(7, 1)] * 3)
    assert batch.env_steps == 21
    steps_of(batch, [np.full(7, 1)] * 12)
    assert batch.env_steps == 105


def observations(env: VecEnv) -> NDArray[Any]:
    """Noisy starts and sampled tasks on the way of 20 steps, (21, N, O)."""
    first, steps = steps_of(env, [np.full(env.num_envs, RIGHT)] * 20)
    return np.stack([first, *(step[0] for step in steps)])


def test_a_seed_determines_everything() -> None:
    one, same, other = (observations(TaskSB3VecEnv(corridor(), 4, "sample", seed=seed)) for seed in (5, 5, 6))
    assert (one == same).all()
    assert (one != other).any()


def test_a_later_reset_goes_on_with_the_stream() -> None:
    env = TaskSB3VecEnv(corridor(), 4, "sample", seed=5)
    assert (observations(env) != observations(env)).any()


def test_seed_holds_from_the_next_reset() -> None:
    env = TaskSB3VecEnv(corridor(), 4, "sample", seed=5)
    observations(env)
    env.seed(9)
    first = observations(env)
    assert (observations(env) != first).any()  # it was used up
    env.seed(9)
    assert (observations(env) == first).all()
    env.seed(10)
    assert (observations(env) != first).any()
    assert (first == observations(TaskSB3VecEnv(corridor(), 4, "sample", seed=9))).all()


def test_the_environments_of_a_batch_differ() -> None:
    assert len(np.unique(TaskSB3VecEnv(corridor(), 16, "sample", seed=0).reset()[:, 0])) == 16


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    observations(TaskSB3VecEnv(corridor(), 4, "sample"))
    assert (torch.get_rng_state() == before).all()
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]


# The rest of SB3's interface


def test_attributes_are_read_and_set_for_all() -> None:
    env = TaskSB3VecEnv(PEARL, 3)
    assert env.get_attr("num_envs") == [3, 3, 3]
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert env.get_attr("num_envs", indices=1) == [3]
    assert [one is env.distribution for one in env.get_attr("distribution")] == [True] * 3
    assert env.get_attr("render_mode") == [None] * 3
    env.set_attr("note", "kept")
    assert env.get_attr("note", indices=2) == ["kept"]
    assert env.has_attr("note")
    assert not env.has_attr("no_such_attribute")


def test_methods_are_called_once_for_the_batch() -> None:
    env = TaskSB3VecEnv(PEARL, 3)
    calls: list[tuple[int, int]] = []

    def method(first: int, second: int) -> int:
        calls.append((first, second))
        return first + second

    env.set_attr("add", method)
    assert env.env_method("add", 2, second=3, indices=[0, 2]) == [5, 5]
    assert calls == [(2, 3)]
    assert len(env.env_method("reset")) == 3


def test_only_a_monitor_is_said_to_be_there() -> None:
    env = TaskSB3VecEnv(PEARL, 3)
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(Monitor, indices=[1]) == [True]
    assert env.env_is_wrapped(TimeLimit) == [False] * 3
    assert env.unwrapped is env


def test_there_are_no_pictures() -> None:
    env = TaskSB3VecEnv(PEARL, 3)
    assert list(env.get_images()) == [None] * 3
    env.close()


def test_stable_baselines_check_for_nans_passes() -> None:
    env = VecCheckNan(TaskSB3VecEnv(corridor(), 3, "sample"), raise_exception=True)
    assert observations(env).shape == (21, 3, 2)


def test_stable_baselines_monitor_counts_the_same() -> None:
    """It replaces the "episode" entries by its own."""
    inner = TaskSB3VecEnv(corridor(), 3, "sample", seed=4)
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        outer = VecMonitor(TaskSB3VecEnv(corridor(), 3, "sample", seed=4))
    actions = [np.full(3, RIGHT)] * 25
    ours, theirs = (ends_of(steps_of(env, actions)[1]) for env in (inner, outer))
    assert len(ours) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert one[EPISODE]["l"] == other[EPISODE]["l"]
        assert one[EPISODE]["r"] == pytest.approx(other[EPISODE]["r"], abs=1e-5)
        assert (one[TERMINAL] == other[TERMINAL]).all()


def test_stable_baselines_normalisation_works() -> None:
    env = VecNormalize(TaskSB3VecEnv(corridor(), 3, "sample"))
    assert np.abs(observations(env)).max() <= 10


def test_stable_baselines_evaluates_on_it_without_a_warning() -> None:
    """Warnings are errors: SB3 warns where there is no monitor."""
    env = TaskSB3VecEnv(PEARL, 3, {"goal": [0.0, 1.0]})
    model = PPO("MlpPolicy", env, n_steps=20, batch_size=60, device="cpu", seed=0)
    rewards, lengths = evaluate_policy(model, env, n_eval_episodes=6, return_episode_rewards=True)
    assert lengths == [20] * 6
    assert rewards == pytest.approx([rewards[0]] * 6)  # type: ignore[index]


def test_ppo_learns_on_it_and_sees_the_episodes() -> None:
    env = TaskSB3VecEnv(PEARL, 5, "sample")
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=50, n_epochs=2, device="cpu", seed=0)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(2 * 250)
    assert model.num_timesteps == env.env_steps == 500
    assert any((value != before[name]).any() for name, value in model.policy.state_dict().items())
    assert model.ep_info_buffer is not None
    assert [episode["l"] for episode in model.ep_info_buffer] == [20] * 25  # 100 steps each: 5 episodes of 20
    assert all(-20 * 4 < episode["r"] < 0 for episode in model.ep_info_buffer)


def test_ppo_learns_with_discrete_actions_and_terminal_states() -> None:
    env = TaskSB3VecEnv(corridor(), 4, {"exit": 1.0, "noise": 0.0})
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=5, learning_rate=1e-2, device="cpu", seed=0)
    model.learn(20 * 128)
    _, lengths = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True)
    assert lengths == [1] * 4  # straight to the exit


# ---------------------------------------------------------------------- options of reset


def test_the_task_option_equals_that_of_gymnasium_environments() -> None:
    """One task for all, one each, some only: at the next reset, and held over the resets after it."""
    tasks: list[dict[str, Any]] = [{"exit": float(exit_), "noise": 0.0} for exit_ in (2, 4, 5)]
    batch = TaskSB3VecEnv(corridor(), 3, {"exit": 3.0, "noise": 0.0})
    expected = one_by_one(corridor(), [{"exit": 3.0, "noise": 0.0}] * 3)
    walk = [np.full(3, RIGHT)] * 7

    for options in (
        None,
        {"task": tasks[0]},
        {},
        [{"task": task} for task in tasks],
        [{}, {"task": {"exit": 1.0, "noise": 0.0}}, {}],
    ):
        batch.set_options(options)
        expected.set_options(options)
        assert_same(steps_of(batch, walk), steps_of(expected, walk))
        assert_same(steps_of(batch, walk), steps_of(expected, walk))


def test_the_task_option_may_ask_for_samples() -> None:
    env = TaskSB3VecEnv(corridor(), 2, {"exit": 3.0, "noise": 0.0})
    env.set_options({"task": "sample"})
    rewards = set()
    for _ in range(4):
        env.reset()
        rewards |= set(stepped(env, np.full(2, RIGHT))[1].tolist())
    assert len(rewards) == 8


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"goal": [0, 0]}, r"unknown reset options \['goal'\]; allowed: 'task'"),
        ([{"task": {"exit": 2.0, "noise": 0.0}}, {"speed": 1}], "unknown reset options"),
        ({"task": {"exit": 99.0, "noise": 0.0}}, "outside its range"),
        ({"task": "other"}, "task must be None, 'sample' or a mapping"),
        ([{"task": "sample"}, {}], "either all environments sample tasks, or none does"),
    ],
)
def test_options_that_are_wrong_are_refused_and_change_nothing(options: Any, named: str) -> None:
    env = TaskSB3VecEnv(corridor(), 2, {"exit": 3.0, "noise": 0.0})
    env.set_options(options)
    with pytest.raises(ValueError, match=named):
        env.reset()
    env.reset()
    assert stepped(env, np.full(2, RIGHT))[1] == pytest.approx(0.01 - 2)


def test_an_environment_not_written_in_torch_takes_the_option_too() -> None:
    """Pendulum's gravity shows in the first velocity: 3 g / 2l · sin θ · dt."""
    tasks = GymnasiumTasks("Pendulum-v1", {"g": Uniform(5.0, 15.0)}, horizon=5, num_workers=0)
    env = make_sb3_vec_env(tasks, 1, {"g": 6.0})
    for gravity in (6.0, 9.0, 12.0):
        env.set_options({"task": {"g": gravity}})
        before: Any = env.reset()
        after: Any = env.step(np.zeros((1, 1), np.float32))[0]
        assert after[0, 2] - before[0, 2] == pytest.approx(0.05 * 1.5 * gravity * before[0, 1], abs=1e-5)
    env.set_options({"gravity": 3})
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset()
