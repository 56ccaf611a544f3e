"""Grid games: every rule by hand-written examples, optima and reachability by plain-Python search."""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest
import torch
from scipy import stats
from torch import Tensor

from metarl.agents.policies.reference import OraclePolicy
from metarl.envs.families.gridworld import (
    DarkKeyDoor,
    GridGame,
    GridNavigation,
    Maze,
    Openings,
    dark_key_door,
    grid_navigation,
    maze,
)
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task, tasks_to_json

STAY, UP, RIGHT, DOWN, LEFT = range(5)
MOVES = {STAY: (0, 0), UP: (0, 1), RIGHT: (1, 0), DOWN: (0, -1), LEFT: (-1, 0)}
Cell = tuple[int, int]
Node = TypeVar("Node")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cell(x: float, y: float) -> Tensor:
    return torch.tensor([float(x), float(y)])


def as_cell(value: Tensor) -> Cell:
    return int(value[0]), int(value[1])


def walk(env: GridGame, params: Task, *actions: int) -> tuple[list[Cell], list[float], list[bool], list[Tensor]]:
    """Cells, rewards, ends and observations after each action of one unbatched episode."""
    state = env.initial(rng(), params)
    cells, rewards, ends, observations = [], [], [], []
    for action in actions:
        state, obs, reward, terminated = env.step(state, torch.tensor(action), rng(), params)
        cells.append(as_cell(state["position"] if isinstance(state, dict) else state))
        rewards.append(round(float(reward), 6))
        ends.append(bool(terminated))
        observations.append(obs)
    return cells, rewards, ends, observations


def steps_from(start: Node, onwards: Callable[[Node], Iterable[Node]]) -> dict[Node, int]:
    """Steps to everything that can be reached, by breadth-first search."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for following in onwards(node):
            if following not in steps:
                steps[following] = steps[node] + 1
                queue.append(following)
    return steps


def oracle_episodes(distribution: TaskDistribution, tasks: Task) -> Episodes:
    return collect(distribution.bind(tasks, 1), OraclePolicy(distribution.env), tasks, rng())


def lengths(episodes: Episodes) -> list[int]:
    return [int(steps) for steps in episodes.mask[:, 0].sum(dim=-1)]


def grid(size: int) -> list[Cell]:
    """All cells."""
    return [(x, y) for x in range(size) for y in range(size)]


def open_cells(size: int, here: Cell) -> list[Cell]:
    """Where the five actions lead in a grid without inner walls."""
    moved = [(here[0] + dx, here[1] + dy) for dx, dy in MOVES.values()]
    return [(x, y) for x, y in moved if 0 <= x < size and 0 <= y < size]


# Grid navigation


def test_each_action_moves_to_the_cell_beside_and_stops_at_the_outer_walls() -> None:
    env = GridNavigation()
    for (x, y), (action, (dx, dy)) in itertools.product([(2, 2), (0, 0), (4, 4), (0, 4), (1, 3)], MOVES.items()):
        expected = (min(max(x + dx, 0), 4), min(max(y + dy, 0), 4))
        assert as_cell(env.transition(cell(x, y), torch.tensor(action), rng(), {})) == expected


def test_grid_navigation_pays_on_the_goal_only_and_never_ends() -> None:
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


# Dark key and door


def test_the_door_opens_with_the_key_only_and_the_key_pays_once() -> None:
    task = {"key": cell(4, 5), "door": cell(5, 5)}
    path = [RIGHT, UP, LEFT, STAY, DOWN, UP, RIGHT]  # to the door without the key, then twice to the key
    cells, rewards, ends, observations = walk(DarkKeyDoor(), task, *path)
    assert cells == [(5, 4), (5, 5), (4, 5), (4, 5), (4, 4), (4, 5), (5, 5)]
    assert rewards == [0, 0, 1, 0, 0, 0, 1]
    assert ends == [False] * 6 + [True]
    assert [float(obs[-1]) for obs in observations] == [0, 0, 1, 1, 1, 1, 1]
    for (x, y), obs in zip(cells, observations, strict=True):
        assert obs[:-1].reshape(2, 9).argmax(dim=1).tolist() == [x, y]
        assert float(obs[:-1].sum()) == 2


def test_key_door_and_start_are_always_three_cells() -> None:
    env = DarkKeyDoor()
    keys, doors = env.cells_of(parity=1), env.cells_of(parity=0)
    assert not set(keys) & set(doors)
    assert {*keys, *doors} == set(grid(9)) - {(4, 4)}
    assert len(keys) == len(doors) == 40
    tasks = dark_key_door().sample(1000, "test")
    assert {as_cell(key) for key in tasks["key"]} <= set(keys)
    assert {as_cell(door) for door in tasks["door"]} <= set(doors)


def test_the_oracle_of_the_dark_room_takes_the_fewest_steps() -> None:
    distribution = dark_key_door()
    tasks = distribution.sample(200, "test")
    episodes = oracle_episodes(distribution, tasks)
    assert bool(episodes.terminated.all())
    assert episodes.returns.tolist() == [[2.0]] * 200
    for key, door, steps in zip(tasks["key"], tasks["door"], lengths(episodes), strict=True):
        assert steps == int((key - 4).abs().sum() + (key - door).abs().sum())
        assert steps == fewest_steps_to_open(as_cell(key), as_cell(door)) <= distribution.horizon


def fewest_steps_to_open(key: Cell, door: Cell) -> int:
    def onwards(node: tuple[Cell, bool]) -> list[tuple[Cell, bool]]:
        here, has_key = node
        return [(there, has_key or there == key) for there in open_cells(9, here)]

    return steps_from(((4, 4), False), onwards)[(door, True)]


# Maze

CONNECTED = """
.-.-.
|   |
. .-.
|
.-.-.
"""


def openings_of(drawing: str) -> Tensor:
    """(n, n, 2) of a drawing in which - and | join the cells."""
    rows = drawing.strip("\n").splitlines()[::-1]  # y points up
    size = (len(rows) + 1) // 2
    lines = [row.ljust(2 * size) for row in rows]
    openings = torch.zeros(size, size, 2)
    for x, y in grid(size):
        openings[y, x, 0] = float(y + 1 < size and lines[2 * y + 1][2 * x] == "|")
        openings[y, x, 1] = float(x + 1 < size and lines[2 * y][2 * x + 1] == "-")
    return openings


def passages(openings: Tensor) -> dict[Cell, set[Cell]]:
    """The cells to which each cell is open, read in plain Python."""
    size = len(openings)
    joined: dict[Cell, set[Cell]] = {here: set() for here in grid(size)}
    for y, row in enumerate(openings.tolist()):
        for x, (up, right) in enumerate(row):
            for there, is_open in (((x, y + 1), up), ((x + 1, y), right)):
                if is_open:
                    joined[(x, y)].add(there)
                    joined[there].add((x, y))
    return joined


def test_walls_hold_and_openings_let_pass() -> None:
    task = {"openings": openings_of(CONNECTED), "goal": cell(1, 1)}
    path = [STAY, RIGHT, UP, RIGHT, DOWN, LEFT, DOWN, LEFT, UP, RIGHT, UP, UP, RIGHT, RIGHT, DOWN, LEFT]
    cells, rewards, ends, _ = walk(Maze(size=3), task, *path)
    assert cells == [
        *[(0, 0), (1, 0), (1, 0), (2, 0), (2, 0), (1, 0), (1, 0), (0, 0), (0, 1), (0, 1)],  # (1, 0): no way up
        *[(0, 2), (0, 2), (1, 2), (2, 2), (2, 1), (1, 1)],
    ]
    assert rewards == [-0.01] * 15 + [0.99]
    assert ends == [False] * 15 + [True]


def test_the_agent_sees_its_own_walls_and_those_of_the_cells_that_are_open_to_it() -> None:
    """In the order up, right, down, left: of the cell itself, then of its neighbours."""
    openings = openings_of(CONNECTED)
    expected = {
        (0, 0): "1100 1010 0101 0000 0000",  # the cell above opens up and down, the one to the right to both sides
        (0, 1): "1010 0110 0000 1100 0000",
        (2, 1): "1001 0011 0000 0000 0100",
        (1, 2): "0101 0000 0011 0000 0110",
    }
    env = Maze(size=3)
    for (x, y), view in expected.items():
        obs = env.observation(cell(x, y), rng(), {"openings": openings, "goal": cell(2, 2)})
        assert obs[:9].tolist() == [float(index == x + 3 * y) for index in range(9)]
        assert obs[9:].tolist() == [float(bit) for bit in view.replace(" ", "")], (x, y)


def test_what_is_seen_and_done_in_random_mazes_agrees_with_plain_python() -> None:
    env, distribution = Maze(), maze()
    tasks = distribution.sample(60, "train", rng(1))
    goals_away = {**tasks, "goal": torch.full_like(tasks["goal"], -1.0)}  # so that no episode ends
    state = env.initial(rng(), tasks)
    here = [(0, 0)] * 60
    joined = [passages(openings) for openings in tasks["openings"]]

    def sides(index: int, of: Cell) -> list[bool]:
        return [(of[0] + dx, of[1] + dy) in joined[index][of] for dx, dy in list(MOVES.values())[1:]]

    for action in torch.randint(5, (80, 60), generator=rng(2)):
        state, obs, _, _ = env.step(state, action, rng(), goals_away)
        for index in range(60):
            dx, dy = MOVES[int(action[index])]
            there = (here[index][0] + dx, here[index][1] + dy)
            here[index] = there if there in joined[index][here[index]] else here[index]
            assert as_cell(state[index]) == here[index]
            seen = sides(index, here[index])
            for is_open, (dx, dy) in zip(sides(index, here[index]), list(MOVES.values())[1:], strict=True):
                beyond = (here[index][0] + dx, here[index][1] + dy)
                seen += sides(index, beyond) if is_open else [False] * 4
            assert obs[index, 25:].tolist() == [float(bit) for bit in seen]


def test_the_oracle_takes_shortest_paths_through_several_hundred_mazes() -> None:
    """Its steps, and the distances of all cells, against breadth-first search; each goal is reached in time."""
    distribution, env = maze(), Maze()
    tasks = distribution.sample(400, "test")
    episodes, distances = oracle_episodes(distribution, tasks), env.distances(tasks)
    assert bool(episodes.terminated.all())
    for index, steps in enumerate(lengths(episodes)):
        joined = passages(tasks["openings"][index])
        from_goal = steps_from(as_cell(tasks["goal"][index]), joined.__getitem__)
        assert steps == from_goal[(0, 0)] <= distribution.horizon
        assert float(episodes.returns[index, 0]) == pytest.approx(1 - 0.01 * steps, abs=1e-5)
        assert distances[index].tolist() == [from_goal[(place % 5, place // 5)] for place in range(25)]


@pytest.mark.parametrize(("size", "extra"), [(2, 0), (5, 0), (5, 3), (6, 25)])
def test_mazes_are_a_spanning_tree_and_the_extra_openings(size: int, extra: int) -> None:
    openings = Openings(size, extra)
    values = openings.sample(100, rng(3))
    assert values.dtype == torch.float32
    assert bool(openings.contains(values).all())
    for value in values:
        joined = passages(value)
        assert len(steps_from((0, 0), joined.__getitem__)) == size**2
        assert sum(map(len, joined.values())) == 2 * (size**2 - 1 + extra)


def test_the_spanning_trees_of_four_cells_are_equally_likely() -> None:
    values = Openings(2, extra=0).sample(4000, rng(4)).flatten(1)
    counts = Counter(tuple(value) for value in values.tolist())
    assert len(counts) == 4
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_every_inner_wall_is_open_in_some_mazes_and_closed_in_others() -> None:
    share = Openings(3, extra=3).sample(2000, rng(5)).mean(dim=0)
    for x, y in grid(3):
        assert 0.5 < share[y, x, 0] < 0.99 if y < 2 else share[y, x, 0] == 0
        assert 0.5 < share[y, x, 1] < 0.99 if x < 2 else share[y, x, 1] == 0


def test_contains_tells_connected_mazes_from_others() -> None:
    openings = Openings(3)
    connected = openings_of(CONNECTED)
    apart, border_above, border_right, half_open, twice = (connected.clone() for _ in range(5))
    apart[0, 0, 0] = 0.0
    border_above[2, 1, 0] = border_right[0, 2, 1] = 1.0
    half_open[0, 0, 1] = 0.5
    twice[0, 0, 1] = 2.0
    values = torch.stack([connected, apart, border_above, border_right, half_open, twice])
    assert openings.contains(values).tolist() == [True, False, False, False, False, False]


def test_contains_agrees_with_search_on_arbitrary_openings() -> None:
    openings = Openings(4)
    values = torch.rand(500, 4, 4, 2, generator=rng(6)) < 0.7
    values[:, -1, :, 0] = values[:, :, -1, 1] = False
    connected = [len(steps_from((0, 0), passages(value).__getitem__)) == 16 for value in values]
    assert openings.contains(values.float()).tolist() == connected
    assert 50 < sum(connected) < 450


def test_a_task_with_a_maze_in_two_parts_is_refused() -> None:
    written = tasks_to_json(maze().sample(1, "test"))[0]
    written["openings"] = torch.zeros(5, 5, 2).tolist()
    with pytest.raises(ValueError, match="connected mazes of 5 × 5 cells"):
        maze().parse_task(written)


@pytest.mark.parametrize(("size", "extra"), [(1, 0), (3, -1), (3, 5)])
def test_impossible_mazes_are_refused(size: int, extra: int) -> None:
    with pytest.raises(ValueError, match="Openings needs"):
        Openings(size, extra)


# All of them

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
