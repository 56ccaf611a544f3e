"""Dark key door: every rule by hand-written examples, the fewest steps by plain-Python search."""

from metarl.envs.families.games.dark_key_door import DarkKeyDoor, dark_key_door
from metarl.envs.families.games.grid_game import Cell
from tests.helpers.grid_walks import (
    DOWN,
    LEFT,
    RIGHT,
    STAY,
    UP,
    as_cell,
    cell,
    grid,
    lengths,
    open_cells,
    oracle_episodes,
    steps_from,
    walk,
)


def test_the_door_opens_with_the_key_only_and_the_key_is_rewarded_once() -> None:
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
