"""The vector environment: against Gymnasium's own SyncVectorEnv of single ones."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from metarl.envs import FAMILIES, TaskDistribution, TaskGymEnv, TaskVectorEnv
from metarl.envs.task_space import tasks_to_json
from tests.helpers.corridor import Corridor, corridor

MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
POINT = "metarl/PointNavigation-v0"
DETERMINISTIC = [family for name, family in FAMILIES.items() if name.startswith("point-")]


def rollout(env: VectorEnv[Any, Any, Any], actions: list[Any], **reset: Any) -> list[Any]:
    """What reset and each step returned."""
    return [env.reset(**reset), *(env.step(action) for action in actions)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", DETERMINISTIC, ids=lambda family: family.name)
def test_the_batch_equals_gymnasiums_vector_environment(family: Any, mode: AutoresetMode) -> None:
    """Observations, rewards, flags and infos, over autoresets after termination and after truncation."""
    tasks = tasks_to_json(family.make().sample(4, "test"))
    if family.name == "point-navigation/finn":
        tasks[1:3] = [{"goal": [0.1, 0.1]}, {"goal": [0.4, 0.4]}]  # reached after 1 and, at the time limit, 4 steps

    def make_one(task: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]]:
        return lambda: gymnasium.make(family.gymnasium_id, task=task, max_episode_steps=4)

    expected = SyncVectorEnv([make_one(task) for task in tasks], autoreset_mode=mode)
    batch = gymnasium.make_vec(family.gymnasium_id, num_envs=4, task=tasks, max_episode_steps=4, autoreset_mode=mode)
    assert isinstance(batch, TaskVectorEnv)
    assert batch.metadata["autoreset_mode"] is expected.metadata["autoreset_mode"] is mode
    assert batch.autoreset_mode is expected.autoreset_mode
    assert batch.observation_space == expected.observation_space
    assert batch.action_space == expected.action_space
    actions = [np.ones((4, 2), np.float32)] * 6 + [batch.action_space.sample() for _ in range(12)]
    results = rollout(batch, actions, seed=0), rollout(expected, actions, seed=0)
    assert any(done.any() for step in results[0][1:] for done in (step[2], step[3]))
    for got, wanted in zip(*results, strict=True):
        assert data_equivalence(got, wanted), (got, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_the_batch_equals_gymnasiums_with_dict_states_discrete_actions_and_unequal_episodes(
    mode: AutoresetMode,
) -> None:
    tasks = [{"exit": float(exit_), "noise": 0.0} for exit_ in (1, 2, 3, 5)]

    def make_one(task: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]]:
        return lambda: TimeLimit(TaskGymEnv(corridor(), task), 3)

    batch = TaskVectorEnv(4, corridor(), tasks, max_episode_steps=3, autoreset_mode=mode.value)
    expected = SyncVectorEnv([make_one(task) for task in tasks], autoreset_mode=mode)
    generator = np.random.default_rng(0)
    actions = [np.full(4, 2)] * 8 + [generator.integers(0, 3, 4) for _ in range(30)]
    results = rollout(batch, actions, seed=0), rollout(expected, actions, seed=0)
    for got, wanted in zip(*results, strict=True):
        assert data_equivalence(got, wanted), (got, wanted)
    flags = np.array([[step[2], step[3]] for step in results[0][1:]])
    assert {tuple(pair) for pair in flags.transpose(0, 2, 1).reshape(-1, 2)} == {
        (False, False),
        (True, False),
        (False, True),
        (True, True),  # the exit reached at the time limit
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_wrapper_reads_the_same_of_both(mode: AutoresetMode) -> None:
    """RecordEpisodeStatistics counts by the autoreset mode: a wrong one gives other lengths."""
    tasks: list[dict[str, Any]] = [{"exit": float(exit_), "noise": 0.0} for exit_ in (1, 3, 5)]

    def make_one(task: dict[str, Any]) -> Callable[[], gymnasium.Env[Any, Any]]:
        return lambda: TimeLimit(TaskGymEnv(corridor(), task), 5)

    ended = []
    for env in (
        TaskVectorEnv(3, corridor(), tasks, autoreset_mode=mode),
        SyncVectorEnv([make_one(task) for task in tasks], autoreset_mode=mode),
    ):
        wrapped = RecordEpisodeStatistics(env)
        infos = [step[-1] for step in rollout(wrapped, [np.full(3, 2)] * 14, seed=0)[1:]]
        ended.append(
            [(info["episode"]["l"].tolist(), info["episode"]["r"].tolist()) for info in infos if "episode" in info]
        )
    assert len(ended[0]) >= 6
    assert ended[0] == ended[1]


def test_same_step_samples_a_task_for_each_new_episode() -> None:
    """`final_info` names the task that ended, `task` the one that begins in the same step."""
    env = TaskVectorEnv(4, corridor(), "sample", autoreset_mode="SameStep")
    results = rollout(env, [np.full(4, 2)] * 30, seed=0)
    before = results[0][-1]["task"]["exit"]
    ended = 0
    for obs, _, terminated, truncated, info in results[1:]:
        done = terminated | truncated
        now = info["task"]["exit"]
        assert (now[~done] == before[~done]).all()
        assert (obs[done, 1] == 0).all()
        if done.any():
            assert (info["_final_info"] == done).all()
            assert (info["final_info"]["task"]["exit"][done] == before[done]).all()
            assert (now[done] != before[done]).all()
            ended += int(done.sum())
        before = now
    assert ended > 20


@pytest.mark.parametrize("mode", ["Disabled", AutoresetMode.DISABLED, "next", None])
def test_other_autoreset_modes_are_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match=r"autoreset_mode .* is not offered; allowed: 'NextStep', 'SameStep'"):
        TaskVectorEnv(1, corridor(), autoreset_mode=mode)


def test_a_reset_in_the_middle_starts_every_episode_anew() -> None:
    tasks: list[dict[str, Any]] = [{"exit": 2.0, "noise": 0.0}, {"exit": 5.0, "noise": 0.0}]
    env = TaskVectorEnv(2, corridor(), tasks)
    right = [np.full(2, 2)]
    rollout(env, right * 2, seed=0)  # the first is done, the second on its way
    (obs, _), *steps = rollout(env, right * 5)
    assert obs.tolist() == [[0.0, 0.0]] * 2
    assert [step[0][:, 1].tolist() for step in steps] == [[1, 1], [2, 2], [0, 3], [1, 4], [2, 5]]
    assert [step[3].tolist() for step in steps] == [[False, False]] * 4 + [[False, True]]


def test_the_step_after_done_returns_the_reset_observation_whatever_the_action() -> None:
    env = TaskVectorEnv(2, corridor(), [{"exit": 1.0, "noise": 0.5}, {"exit": 5.0, "noise": 0.5}])
    first, _ = env.reset(seed=0)
    _, _, terminated, _, _ = env.step(np.array([2, 1]))
    assert terminated.tolist() == [True, False]
    obs, reward, terminated, truncated, _ = env.step(np.array([-7, 1]))  # −7 is no action, and not asked for
    assert obs[:, 1].tolist() == [0.0, 2.0]
    assert 0 <= obs[0, 0] <= 0.5
    assert obs[0, 0] != first[0, 0]  # a fresh draw of the start
    assert obs[1, 0] == pytest.approx(first[1, 0])  # the other goes on where it was
    assert reward[0] == 0.0
    assert reward[1] == pytest.approx(0.02 - (5 - first[1, 0]))
    assert not terminated.any() and not truncated.any()
    assert env.step(np.array([1, 1]))[0][:, 1].tolist() == [1.0, 3.0]


def test_the_batch_has_the_familys_horizon_unless_told() -> None:
    default, short = (
        gymnasium.make_vec("metarl/PointNavigationPearl-v0", num_envs=1, **limit)  # type: ignore[arg-type]
        for limit in ({}, {"max_episode_steps": 3})
    )
    for env, limit in ((default, 20), (short, 3), (TaskVectorEnv(1, "point-navigation/pearl"), 20)):
        steps = rollout(env, [np.zeros((1, 2), np.float32)] * (limit + 2), seed=0)[1:]
        assert [bool(step[3][0]) for step in steps] == [False] * (limit - 1) + [True, False, False]


def tasks_of(results: list[Any], name: str) -> Any:
    """The tasks that reset and each step reported, (1 + steps, N, …)."""
    return np.stack([result[-1]["task"][name] for result in results])


def test_each_environment_of_the_batch_samples_a_task_at_each_of_its_episodes() -> None:
    def run(seed: int) -> list[Any]:
        env = TaskVectorEnv(8, corridor(), "sample")
        return rollout(env, [np.full(8, 2)] * 40, seed=seed)

    results = run(0)
    exits = tasks_of(results, "exit")
    done = np.stack([step[2] | step[3] for step in results[1:]])
    changed = exits[2:] != exits[1:-1]
    assert done.any(axis=0).all()
    assert (changed == done[:-1]).all()  # at the step after done, and at no other
    assert (exits[1] == exits[0]).all()
    assert len(np.unique(exits[0])) == 8
    assert corridor().train["exit"].contains(torch.from_numpy(exits.ravel())).all()
    assert all(data_equivalence(a, b, exact=True) for a, b in zip(results, run(0), strict=True))
    assert not (tasks_of(run(1), "exit")[0] == exits[0]).any()


def test_the_sampled_task_is_the_one_stepped() -> None:
    results = rollout(TaskVectorEnv(8, corridor(), "sample"), [np.full(8, 2)] * 40, seed=0)
    exits = tasks_of(results, "exit")[1:]
    for (obs, reward, terminated, truncated, _), exit_ in zip(results[1:], exits, strict=True):
        started = obs[:, 1] == 0
        expected = np.where(started, 0.0, 0.01 * obs[:, 1] - abs(obs[:, 0] - exit_))
        assert reward == pytest.approx(expected, abs=1e-5)
        assert (terminated == (~started & (obs[:, 0] >= exit_))).all()
        assert (truncated == (obs[:, 1] == 5)).all()


def test_the_task_option_of_the_batch_holds_until_changed() -> None:
    env = TaskVectorEnv(2, "point-navigation")

    def goals(**reset: Any) -> Any:
        return pytest.approx(env.reset(**reset)[1]["task"]["goal"])

    listed = [{"goal": [0.1, 0.2]}, {"goal": [-0.3, 0.4]}]
    assert np.array([[0.3, 0.2]] * 2) == goals(seed=0)
    assert np.array([[0.1, 0.2], [-0.3, 0.4]]) == goals(options={"task": listed})
    assert np.array([[0.1, 0.2], [-0.3, 0.4]]) == goals()
    assert np.array([[0.5, 0.5]] * 2) == goals(options={"task": {"goal": [0.5, 0.5]}})
    env.reset(options={"task": "sample"})
    assert env.reset()[1]["task"]["goal"].tolist() != env.reset()[1]["task"]["goal"].tolist()


def test_a_rejected_option_changes_nothing() -> None:
    env = TaskVectorEnv(2, "point-navigation")
    env.reset(seed=0)
    for options in ({"task": {"goal": [9.0, 9.0]}}, {"task": [{"goal": [0.0, 0.0]}]}, {"tsak": "sample"}):
        with pytest.raises(ValueError):
            env.reset(seed=0, options=options)
    assert env.reset()[1]["task"]["goal"] == pytest.approx(np.array([[0.3, 0.2]] * 2))


# Bad input, of one environment and of the batch


@pytest.mark.parametrize(
    "make", [lambda **kw: TaskGymEnv("point-navigation", **kw), lambda **kw: TaskVectorEnv(2, "point-navigation", **kw)]
)
@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"goal": [2.0, 0.0]}, r"'goal' = \[2.0, 0.0\] is outside its range: uniform in"),
        ({"gaol": [0.0, 0.0]}, r"names the parameters \['gaol'\]"),
        ("smaple", r"task must be None, 'sample' or a mapping of \['goal'\], got 'smaple'"),
        (3, r"task must be None, 'sample' or a mapping of \['goal'\], got 3"),
    ],
)
def test_a_bad_task_is_rejected_when_made_and_when_reset(make: Any, task: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(task=task)
    with pytest.raises(ValueError, match=message):
        make().reset(options={"task": task})


@pytest.mark.parametrize("make", [lambda: TaskGymEnv("point-navigation"), lambda: TaskVectorEnv(2, "point-navigation")])
def test_an_unknown_option_is_rejected(make: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown reset options \['goal'\]; allowed: 'task'"):
        make().reset(options={"goal": [0.1, 0.1], "task": "sample"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": [{"goal": [0.0, 0.0]}]}, r"task must list one task for each of num_envs=2, got 1"),
        ({"task": []}, r"task must list one task for each of num_envs=2, got 0"),
        ({"task": [{"goal": [0.0, 0.0]}, "sample"]}, r"task must be .* mapping of \['goal'\], got 'sample'"),
        ({"task": [{"goal": [0.0, 0.0]}, {"goal": [2.0, 0.0]}]}, r"'goal' = \[2.0, 0.0\] is outside its range"),
        ({"num_envs": 0}, r"num_envs must be at least 1, got 0"),
        ({"max_episode_steps": 0}, r"max_episode_steps must be at least 1, got 0"),
        ({"distribution": "point-navgation"}, r"unknown environment 'point-navgation' \(did you mean"),
        ({"render_mode": "human"}, r"render_mode 'human' is not offered by .*; allowed: None, 'rgb_array'"),
    ],
)
def test_the_batch_rejects_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskVectorEnv(**{"num_envs": 2, "distribution": "point-navigation", **arguments})


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 2)), 0.0])
def test_an_action_of_another_shape_is_rejected(action: Any) -> None:
    env, batch = TaskGymEnv("point-navigation"), TaskVectorEnv(2, "point-navigation")
    env.reset(seed=0)
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"is not in Box"):
        env.step(action)
    with pytest.raises(ValueError, match=r"is not in Box"):
        batch.step(action)


def test_an_action_outside_a_discrete_space_is_rejected() -> None:
    env, batch = TaskGymEnv(corridor()), TaskVectorEnv(2, corridor())
    env.reset(seed=0)
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 3 is not in Discrete\(3\)"):
        env.step(3)
    with pytest.raises(ValueError, match=r"is not in MultiDiscrete"):
        batch.step(np.array([0, 3]))


# Rendering


def test_the_batch_gives_a_picture_of_each_environment() -> None:
    goals = [[-0.4, 0.4], [0.4, -0.4]]
    batch = gymnasium.make_vec(POINT, num_envs=2, task=[{"goal": goal} for goal in goals], render_mode="rgb_array")
    batch.reset(seed=0)
    batch.step(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32))
    pictures: Any = batch.render()
    assert len(pictures) == 2
    for goal, action, picture in zip(goals, ([1.0, 0.0], [0.0, 1.0]), pictures, strict=True):
        env = gymnasium.make(POINT, task={"goal": goal}, render_mode="rgb_array")
        env.reset(seed=0)
        env.step(np.array(action, np.float32))
        assert (picture == env.render()).all()
    batch.close()


def test_frame_rate_is_the_familys() -> None:
    class Fast(Corridor):
        render_fps = 50

    distribution = TaskDistribution(Fast(), corridor().train)
    assert TaskGymEnv(distribution).metadata["render_fps"] == 50
    assert TaskVectorEnv(1, distribution).metadata["render_fps"] == 50
    assert TaskGymEnv.metadata["render_fps"] == 10


def test_a_family_without_pictures_says_so_when_made() -> None:
    assert TaskGymEnv(corridor()).metadata["render_modes"] == []
    for mode in ("rgb_array", "human"):
        with pytest.raises(ValueError, match=rf"render_mode '{mode}' is not offered by corridor; allowed: None"):
            TaskGymEnv(corridor(), render_mode=mode)
        with pytest.raises(ValueError, match=rf"render_mode '{mode}' is not offered by corridor; allowed: None"):
            TaskVectorEnv(2, corridor(), render_mode=mode)


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_render_without_a_mode_warns_and_gives_nothing(make: Any) -> None:
    env = make(POINT).unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match=r"render_mode=\"rgb_array\""):
        assert env.render() is None
