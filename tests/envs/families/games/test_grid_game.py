"""What all grid games promise."""

import pytest
import torch

from metarl.envs.families.games.dark_key_door import DarkKeyDoor, dark_key_door
from metarl.envs.families.games.grid_navigation import grid_navigation
from metarl.envs.families.games.maze import maze
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from tests.helpers.family_play import rng
from tests.helpers.grid_walks import oracle_episodes

every_game = pytest.mark.parametrize(
    "distribution", [grid_navigation(), dark_key_door(), maze()], ids=["navigation", "dark", "maze"]
)


@every_game
def test_trajectories_in_the_plane_lead_to_the_goal_around_the_middle_of_the_grid(
    distribution: TaskDistribution,
) -> None:
    tasks = distribution.sample(50, "test")
    episodes, env = oracle_episodes(distribution, tasks), distribution.env
    end, goal = env.plane_position(episodes.last_obs[:, 0]), env.plane_goal(tasks)
    assert end is not None
    assert goal is not None
    assert torch.equal(end, goal)
    start = env.plane_position(episodes.obs[0, 0, 0])
    assert start is not None
    assert start.tolist() == ([0.0, 0.0] if isinstance(env, DarkKeyDoor) else [-2.0, -2.0])


@every_game
def test_float64_tasks_give_float64_everywhere(distribution: TaskDistribution) -> None:
    tasks = {name: value.double() for name, value in distribution.sample(3, "test").items()}
    env = distribution.env
    assert isinstance(env, TaskEnv)
    state = env.initial(rng(), tasks)
    _, obs, reward, _ = env.step(state, torch.tensor([0, 1, 2]), rng(), tasks)
    assert obs.dtype == reward.dtype == torch.float64
