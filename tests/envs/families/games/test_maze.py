"""Mazes: every rule by hand-written examples, shortest paths and connection by plain-Python search."""

from collections import Counter

import pytest
import torch
from scipy import stats
from torch import Tensor

from metarl.envs.families.games.grid_game import Cell
from metarl.envs.families.games.maze import Maze, Openings, maze
from metarl.envs.task_space import tasks_to_json
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
    lengths,
    oracle_episodes,
    steps_from,
    walk,
)

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
