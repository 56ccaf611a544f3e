"""Grid navigation: every rule by hand-written examples, the optimum by backward induction."""

import itertools

import pytest
import torch

from metarl.envs.families.games.grid_game import Cell
from metarl.envs.families.games.grid_navigation import GridNavigation, grid_navigation
from tests.helpers.family_play import rng
from tests.helpers.grid_walks import (
    DOWN,
    LEFT,
    MOVES,
    RIGHT,
    STAY,
    UP,
    as_cell,
    cell,
    grid,
    open_cells,
    oracle_episodes,
    walk,
)


def test_each_action_moves_to_the_cell_beside_and_stops_at_the_outer_walls() -> None:
    env = GridNavigation()
    for (x, y), (action, (dx, dy)) in itertools.product([(2, 2), (0, 0), (4, 4), (0, 4), (1, 3)], MOVES.items()):
        expected = (min(max(x + dx, 0), 4), min(max(y + dy, 0), 4))
        assert as_cell(env.transition(cell(x, y), torch.tensor(action), rng(), {})) == expected


def test_the_reward_is_on_the_goal_only_and_no_episode_ends() -> None:
    cells, rewards, ends, observations = walk(
        GridNavigation(), {"goal": cell(2, 0)}, UP, DOWN, DOWN, RIGHT, RIGHT, STAY, LEFT, RIGHT, RIGHT
    )
    assert cells == [(0, 1), (0, 0), (0, 0), (1, 0), (2, 0), (2, 0), (1, 0), (2, 0), (3, 0)]
    assert rewards == [-0.1, -0.1, -0.1, -0.1, 1.0, 1.0, -0.1, 1.0, -0.1]
    assert not any(ends)
    for (x, y), obs in zip(cells, observations, strict=True):
        assert obs.tolist() == [float(index == x + 5 * y) for index in range(25)]


def test_goals_are_all_cells_but_the_start_and_those_next_to_it() -> None:
    goals = {as_cell(goal) for goal in grid_navigation().sample(1000, "test")["goal"]}
    assert goals == set(grid(5)) - {(0, 0), (0, 1), (1, 0), (1, 1)}


def best_grid_return(goal: Cell) -> float:
    """By backward induction over the 15 steps."""
    value = dict.fromkeys(grid(5), 0.0)
    for _ in range(15):
        value = {
            here: max((1.0 if there == goal else -0.1) + value[there] for there in open_cells(5, here))
            for here in value
        }
    return value[(0, 0)]


def test_the_oracle_of_grid_navigation_is_optimal_and_earns_the_closed_form() -> None:
    env = GridNavigation()
    tasks = {"goal": torch.tensor(env.goals(), dtype=torch.float32)}
    returns = oracle_episodes(grid_navigation(), tasks).returns[:, 0]
    for goal, earned in zip(env.goals(), returns.tolist(), strict=True):
        distance = sum(goal)
        assert earned == pytest.approx(16 - distance - 0.1 * (distance - 1), abs=1e-4)
        assert earned == pytest.approx(best_grid_return(goal), abs=1e-4)


def test_the_optimum_of_a_trial_is_what_the_best_walk_earns() -> None:
    """It meets a new goal at each step from the second on, and knows the goal, or all but it, afterwards."""
    env = GridNavigation()
    goals = env.goals()
    later = sum(16 - (x + y) - 0.1 * (x + y - 1) for x, y in goals) / len(goals)
    assert env.optimum(3) == pytest.approx((4.0, later, later))

    # None can meet more goals, or earlier; where it meets none it earns −0.1 at each of 15 steps.
    first = sum(max(0.0, 16 - step) - 0.1 * min(step - 1, 15) for step in [*range(2, 16), *[16] * 7]) / 21
    assert env.optimum(1) == pytest.approx((first,))
    assert grid_navigation(size=4).env.optimum(2) == ()
