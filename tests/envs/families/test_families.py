"""What every registered torch family promises, whatever it is about."""

import json
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from torch import Tensor

from metarl.benchmarks.robots import ONE_OF_EACH
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task, num_tasks_of, tasks_to_json
from tests.helpers.family_play import play, random_actions, rng

FAMILY_NAMES = [name for name, family in FAMILIES.items() if family.gymnasium_id]
PARAMETERS = [(name, parameter) for name in FAMILY_NAMES for parameter in FAMILIES[name].make().train]
NUM_TASKS, NUM_EPISODES = 8, 3


def num_steps(distribution: TaskDistribution) -> int:
    """Steps that tests play: the beginning of long episodes, and of robots, whose physics takes its time, less."""
    return min(10 if isinstance(distribution.env, RobotEnv) else 60, distribution.horizon)


every_family = pytest.mark.parametrize("name", FAMILY_NAMES)

# The physics takes its time, and robots differ by numbers: one of each robot, the others when they are asked for.
ROBOTS = {name for name in FAMILY_NAMES if isinstance(FAMILIES[name].make().env, RobotEnv)}
SLOW_ROBOTS = ROBOTS - set(ONE_OF_EACH)
every_kind_of_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_ROBOTS else name for name in FAMILY_NAMES]
)


def steps_that_show_a_task(distribution: TaskDistribution) -> int:
    """Where a goal is reached, if at all, late in an episode: all of it; driving shows its task within some steps."""
    late = distribution.name in ("acrobot", "mountain-car", "mountain-car-continuous")
    return distribution.horizon if late else num_steps(distribution)


# The spaces of robots differ by numbers alone: for what is about spaces, two that end early or not stand for all.
ROBOTS_IN_SPACES = ("half-cheetah-direction", "hopper-dynamics")
every_kind_of_space = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ROBOTS and name not in ROBOTS_IN_SPACES else name
        for name in FAMILY_NAMES
    ],
)


def exploring_actions(distribution: TaskDistribution, tasks: Task) -> Tensor:
    """(H, M, E, …): a third of the episodes acts at random, a third holds one action, a third follows the oracle."""
    actions = random_actions(distribution, steps_that_show_a_task(distribution), num_tasks_of(tasks), NUM_EPISODES)
    actions[:, :, 1::3] = actions[0, :, 1::3].clone()
    env = distribution.task_env
    if env.has_oracle:
        bound = distribution.bind(tasks, NUM_EPISODES)
        params = {name: value.unsqueeze(1).expand(-1, NUM_EPISODES, *value.shape[1:]) for name, value in tasks.items()}
        obs = bound.reset(rng(2))
        for time in range(len(actions)):
            actions[time, :, 2::3] = env.oracle_action(obs, params, time)[:, 2::3].to(actions.dtype)
            obs, _, _ = bound.step(actions[time])
    return actions


@cache
def explored(name: str) -> tuple[Task, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Tasks, exploring actions and what they lead to, which all parameters of a family are compared with."""
    distribution = make_distribution(name)
    tasks = distribution.sample(NUM_TASKS, "train", rng(3))
    actions = exploring_actions(distribution, tasks)
    return tasks, actions, play(distribution, tasks, actions)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_every_task_parameter_changes_the_trajectory_or_the_rewards(name: str, parameter: str) -> None:
    tasks, actions, before = explored(name)
    distribution = make_distribution(name)
    changed = {**tasks, parameter: distribution.sample(NUM_TASKS, "train", rng(4))[parameter]}
    after = play(distribution, changed, actions)
    assert not all(torch.allclose(a.float(), b.float(), atol=1e-4) for a, b in zip(before, after, strict=True))


@every_kind_of_family
def test_the_same_tasks_and_seed_give_the_same_trajectory(name: str) -> None:
    distribution = make_distribution(name)
    tasks = distribution.sample(NUM_TASKS, "train", rng(3))
    actions = random_actions(distribution, num_steps(distribution), NUM_TASKS, NUM_EPISODES)
    first, second = play(distribution, tasks, actions), play(distribution, tasks, actions)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_family
def test_steps_draw_random_numbers_where_the_family_says_so(name: str) -> None:
    distribution = make_distribution(name)
    env, tasks = distribution.task_env, distribution.sample(NUM_TASKS, "test")
    state, action = env.initial(rng(), tasks), random_actions(distribution, num_tasks_of(tasks))
    before = rng(5).get_state()
    generator = rng(5)
    env.step(state, action, generator, tasks)
    assert torch.equal(generator.get_state(), before) is not env.random_steps


@every_kind_of_family
def test_the_tasks_of_a_batch_do_not_meet(name: str) -> None:
    """Other tasks in the rest of the batch leave the trajectory of a task as it is."""
    distribution = make_distribution(name)
    tasks = distribution.sample(NUM_TASKS, "train", rng(3))
    others = distribution.sample(NUM_TASKS, "train", rng(4))
    mixed = {parameter: torch.cat([value[:4], others[parameter][4:]]) for parameter, value in tasks.items()}
    actions = random_actions(distribution, num_steps(distribution), NUM_TASKS, NUM_EPISODES)
    for a, b in zip(play(distribution, tasks, actions), play(distribution, mixed, actions), strict=True):
        assert torch.equal(a[:, :4], b[:, :4])


@every_kind_of_family
def test_one_unbatched_environment_equals_a_batch_of_one(name: str) -> None:
    """Leaves without leading dimensions, as gymnasium.make uses them, against (1, 1, …), as training does."""
    distribution = make_distribution(name)
    env, tasks = distribution.task_env, distribution.sample(1, "test")
    actions = random_actions(distribution, num_steps(distribution), 1, 1)
    obs, reward, terminated = play(distribution, tasks, actions)
    task = {parameter: value[0] for parameter, value in tasks.items()}
    generator = rng(2)
    state = env.initial(generator, task)
    assert torch.allclose(env.observation(state, generator, task), obs[0, 0, 0])
    for time, action in enumerate(actions[:, 0, 0]):
        next_state = env.transition(state, action, generator, task)
        step_reward = env.reward(state, action, next_state, generator, task)
        state = next_state
        assert torch.allclose(step_reward, reward[time, 0, 0], rtol=1e-4, atol=1e-4)
        assert torch.equal(env.terminal(state, generator, task), terminated[time, 0, 0])
        assert torch.allclose(env.observation(state, generator, task), obs[time + 1, 0, 0], rtol=1e-4, atol=1e-4)
        if terminated[time, 0, 0]:
            break


@every_kind_of_family
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), size=st.floats(0, 100), data=st.data())
def test_any_task_and_any_actions_keep_to_the_spaces(name: str, seed: int, size: float, data: st.DataObject) -> None:
    """Finite float32 observations within the space's bounds, and finite rewards, until each episode's end."""
    distribution = make_distribution(name)
    split = data.draw(st.sampled_from([split for split in distribution.splits if split in ("train", "ood")]))
    tasks = distribution.sample(1000 if split == "ood" else 8, split, rng(seed))
    tasks = {parameter: value[seed % (len(value) - 7) :][:8] for parameter, value in tasks.items()}
    actions = random_actions(distribution, num_steps(distribution), 8, 4, seed=seed)
    if isinstance(distribution.action_space, Box):
        actions = size * actions
    if data.draw(st.booleans(), label="hold one action"):
        actions = actions[:1].expand(actions.shape)
    obs, reward, terminated = play(distribution, tasks, actions)
    over = terminated.int().cumsum(dim=0) - terminated.int() > 0
    space = distribution.observation_space
    within = (obs[1:] >= torch.from_numpy(space.low)) & (obs[1:] <= torch.from_numpy(space.high))
    assert obs.dtype == reward.dtype == torch.float32
    assert obs.shape[3:] == space.shape
    assert bool((within.all(dim=-1) | over).all())
    assert bool((reward.isfinite() | over).all())


@every_family
def test_the_default_task_is_one_of_training(name: str) -> None:
    distribution = make_distribution(name)
    default = distribution.default_task()
    for parameter, range_ in distribution.train.items():
        assert default[parameter].shape == (1, *range_.shape)
        assert range_.contains(default[parameter]).all(), parameter


@every_family
def test_tasks_are_written_and_read(name: str) -> None:
    distribution = make_distribution(name)
    for split in ("test", *(["ood"] if distribution.ood else [])):
        tasks = distribution.sample(5, split)
        for index, written in enumerate(tasks_to_json(tasks)):
            read = distribution.parse_task(json.dumps(written))
            assert all(torch.equal(read[parameter][0], value[index]) for parameter, value in tasks.items())


@every_kind_of_space
def test_gymnasium_and_stable_baselines_check_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for task in (None, "sample"):
        check_env(gymnasium.make(FAMILIES[name].gymnasium_id, task=task).unwrapped)
    check_env_for_sb3(gymnasium.make(FAMILIES[name].gymnasium_id))


@every_kind_of_family
def test_its_pictures_show_that_something_happens(name: str) -> None:
    env: gymnasium.Env[Any, Any] = gymnasium.make(FAMILIES[name].gymnasium_id, render_mode="rgb_array")
    env.reset(seed=0)
    env.action_space.seed(0)
    first = env.render()
    assert isinstance(first, np.ndarray)
    assert first.dtype == np.uint8
    assert np.ptp(first) > 0
    for _ in range(40):
        env.step(env.action_space.sample())
    later = env.render()
    assert isinstance(later, np.ndarray)
    assert not np.array_equal(first, later)


@every_family
def test_a_family_is_documented(name: str) -> None:
    distribution = make_distribution(name)
    assert distribution.name == name
    assert FAMILIES[name].summary
    assert isinstance(distribution.task_env, TaskEnv)
    assert "Source:" in (type(distribution.task_env).__doc__ or "")
    assert all(range_.units for range_ in distribution.train.values())
