"""Recipes for other packages: each runs where its extra is installed."""

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from metarl.agents.policies.reference import RandomPolicy
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks, task_values
from metarl.envs.families import highway
from metarl.envs.families.games import minigrid
from metarl.envs.families.robots import metaworld
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_space import Task

pytestmark = [pytest.mark.timeout(280), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def in_this_process(distribution: GymnasiumTasks) -> GymnasiumTasks:
    distribution.family.pool._num_workers = 0
    return distribution


def random_episodes(distribution: GymnasiumTasks, tasks: Task, num_episodes: int = 1) -> Episodes:
    policy = RandomPolicy(distribution.action_space)
    return collect(distribution.bind(tasks, num_episodes), policy, {}, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.available])
def test_a_missing_package_is_named_with_the_command_that_installs_it(name: str) -> None:
    extra = FAMILIES[name].extra
    with pytest.raises(ValueError, match=rf"{name} needs the package .*: python -m pip install -e '\.\[{extra}\]' -c"):
        make_distribution(name)


@needs("highway_env")
def test_highway_has_the_lanes_the_traffic_and_the_reward_of_its_task() -> None:
    distribution = in_this_process(highway.highway())
    task = {"lanes": torch.tensor([3.0]), "density": torch.tensor([1.0]), "desired_speed": torch.tensor([25.0])}
    env: Any = distribution.family.single()
    env.set_task(task_values(task)[0])
    env.reset(seed=0)
    config = env._env.unwrapped.config
    assert (config["lanes_count"], config["vehicles_density"]) == (3, 1.0)
    assert config["reward_speed_range"] == [20.0, 30.0]
    assert len(env._env.unwrapped.road.network.lanes_list()) == 3
    episodes = random_episodes(distribution, distribution.sample(2, "test"))
    assert episodes.obs.shape == (2, 1, 20, 25)
    assert episodes.reward.abs().sum() > 0


@needs("minigrid")
@pytest.mark.parametrize("make", [minigrid.crossing, minigrid.four_rooms])
def test_a_minigrid_layout_belongs_to_the_task(make: Any) -> None:
    distribution = in_this_process(make())
    env: Any = distribution.family.single()
    layouts: list[Any] = []
    for task in [*task_values(distribution.sample(5, "test")), *task_values(distribution.sample(5, "test"))]:
        env.set_task(task)
        env.reset(seed=len(layouts))
        layouts.append(env._env.unwrapped.grid.encode())
    for first, second in zip(layouts[:5], layouts[5:], strict=True):
        assert np.array_equal(first, second)
    assert len({layout.tobytes() for layout in layouts}) > 1
    assert random_episodes(distribution, distribution.sample(2, "test")).obs.shape[-1] == 7 * 7 * 3


@needs("minigrid")
def test_the_crossings_are_those_of_minigrids_own_seeds_each_once() -> None:
    tasks = itertools.product((0, 1), (2, 4, 6), range(1, 8))
    ours = [minigrid.crossing_of(*task) for task in tasks]
    assert len({layout_of(env, seed=0) for env in ours}) == 42

    theirs = minigrid.without_mission(minigrid.CROSSING)
    assert {layout_of(theirs, seed) for seed in range(500)} == {layout_of(env, seed=5) for env in ours}


def layout_of(env: Any, seed: int) -> bytes:
    env.reset(seed=seed)
    layout: bytes = env.unwrapped.grid.encode().tobytes()
    return layout


@needs("metaworld")
def test_ml1_has_the_benchmarks_own_goals_and_reports_success() -> None:
    distribution = in_this_process(metaworld.ml1_reach())
    environments, goals = metaworld.benchmark("reach")
    assert [name for name, _ in environments] == ["reach-v3"] * 2
    assert [len(tasks) for tasks in goals] == [50, 50]
    train, test = distribution.sample(20, "validation"), distribution.sample(20, "test")
    assert (train["environment"] == 0).all()
    assert (test["environment"] == 1).all()
    env: Any = distribution.family.single()
    places = {}
    for task in task_values(test):
        env.set_task(task)
        env.reset(seed=0)
        places[float(task["goal"])] = tuple(env._env.unwrapped._target_pos)
    assert len(set(places.values())) == len(places) > 5
    episodes = random_episodes(distribution, distribution.sample(2, "test"))
    assert episodes.obs.shape == (2, 1, 500, 39)
    assert episodes.success is not None


@needs("metaworld")
def test_ml10_trains_on_ten_environments_and_tests_on_five_others() -> None:
    distribution = metaworld.ml10()
    environments, goals = metaworld.benchmark("ML10")
    names = [name for name, _ in environments]
    assert len(names) == len(set(names)) == 15
    assert all(len(tasks) == 50 for tasks in goals)
    assert set(distribution.sample(300, "validation")["environment"].tolist()) == set(range(10))
    assert set(distribution.sample(300, "test")["environment"].tolist()) == set(range(10, 15))
