"""Cells on disk: found again under their own settings and under no others, measured once, put together by tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.comparison.measurements import Cell, CellStore, curve, side_by_side

SETTINGS: dict[str, Any] = {"seed": 3, "env": "point-navigation/pearl", "schedule": [0, 100], "pretrained": None}
CELL = Cell(env_steps=[0.0, 100.5], returns=[[-1.0, -2.25, 0.1], [1e-17, 3.0, -7e12]], evaluation_env_steps=1200)


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path / "cells")


def the_file(store: CellStore) -> Path:
    (path,) = store.directory.iterdir()
    return path


def counted(cell: Cell) -> tuple[Callable[[], Cell], list[Cell]]:
    """A measurement of the cell, and a list that grows with each call of it."""
    calls: list[Cell] = []

    def measure() -> Cell:
        calls.append(cell)
        return cell

    return measure, calls


# The store


def test_a_saved_cell_is_found_again_by_another_store(store: CellStore) -> None:
    store.save("ppo", SETTINGS, CELL)
    assert CellStore(store.directory).load("ppo", dict(SETTINGS)) == CELL


def test_an_empty_store_has_no_cell(store: CellStore) -> None:
    assert store.load("ppo", SETTINGS) is None


@pytest.mark.parametrize(
    "changed",
    [{"seed": 4}, {"seed": "3"}, {"schedule": [0, 101]}, {"schedule": [100, 0]}, {"pretrained": ""}, {"episodes": 20}],
)
def test_a_cell_of_other_settings_is_not_found(store: CellStore, changed: dict[str, Any]) -> None:
    store.save("ppo", SETTINGS, CELL)
    assert store.load("ppo", SETTINGS | changed) is None


def test_a_setting_left_out_is_another_setting(store: CellStore) -> None:
    store.save("ppo", SETTINGS, CELL)
    for name in SETTINGS:
        assert store.load("ppo", {key: value for key, value in SETTINGS.items() if key != name}) is None


def test_a_cell_of_another_agent_is_not_found(store: CellStore) -> None:
    store.save("ppo", SETTINGS, CELL)
    assert store.load("sac", SETTINGS) is None


def test_the_order_of_the_settings_does_not_matter(store: CellStore) -> None:
    store.save("ppo", {**SETTINGS, "learner": {"steps": 3, "size": 0.1}}, CELL)
    backwards = {"learner": {"size": 0.1, "steps": 3}, **dict(reversed(SETTINGS.items()))}
    assert list(backwards) != list(SETTINGS)
    assert store.load("ppo", backwards) == CELL


def test_cells_of_other_settings_stay_when_one_is_saved(store: CellStore) -> None:
    cells = {seed: Cell([0.0], [[float(seed)]], seed) for seed in range(20)}
    for seed, cell in cells.items():
        store.save("ppo", {"seed": seed}, cell)
    assert {seed: store.load("ppo", {"seed": seed}) for seed in cells} == cells


def test_saving_again_replaces_the_cell_and_leaves_one_file(store: CellStore) -> None:
    store.save("ppo", SETTINGS, Cell([0.0], [[0.0]], 0))
    store.save("ppo", SETTINGS, CELL)
    assert store.load("ppo", SETTINGS) == CELL
    assert the_file(store).suffix == ".json"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"agent": "ppo", "settings"',
        b"null",
        b"[]",
        b"{}",
        b'{"cell": 3}',
        b'{"cell": {"env_steps": [0.0], "returns": [[1.0]]}}',
        b'{"cell": {"env_steps": [0.0], "returns": [[1.0]], "evaluation_env_steps": 0, "more": 1}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_holds_no_cell_counts_as_none(store: CellStore, content: bytes) -> None:
    store.save("ppo", SETTINGS, CELL)
    the_file(store).write_bytes(content)
    assert store.load("ppo", SETTINGS) is None


def test_a_truncated_file_counts_as_none_wherever_it_ends(store: CellStore) -> None:
    store.save("ppo", SETTINGS, CELL)
    path = the_file(store)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.load("ppo", SETTINGS) is None
    path.write_bytes(whole)
    assert store.load("ppo", SETTINGS) == CELL


def test_a_cell_is_measured_once(store: CellStore) -> None:
    measure, calls = counted(CELL)
    assert [store.measure("ppo", SETTINGS, measure) for _ in range(3)] == [CELL] * 3
    assert CellStore(store.directory).measure("ppo", SETTINGS, measure) == CELL
    assert len(calls) == 1


def test_other_settings_are_measured_for_themselves(store: CellStore) -> None:
    store.measure("ppo", SETTINGS, counted(CELL)[0])
    other = Cell([0.0], [[5.0]], 1)
    assert store.measure("ppo", SETTINGS | {"seed": 4}, counted(other)[0]) == other
    assert store.load("ppo", SETTINGS) == CELL


def test_a_corrupt_cell_is_measured_again_and_kept(store: CellStore) -> None:
    measure, calls = counted(CELL)
    store.measure("ppo", SETTINGS, measure)
    the_file(store).write_bytes(b"{")
    assert [store.measure("ppo", SETTINGS, measure) for _ in range(2)] == [CELL] * 2
    assert len(calls) == 2


def test_a_measurement_that_fails_leaves_nothing(store: CellStore) -> None:
    def fail() -> Cell:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        store.measure("ppo", SETTINGS, fail)
    assert store.load("ppo", SETTINGS) is None
    assert store.measure("ppo", SETTINGS, counted(CELL)[0]) == CELL


# Cells put together


def test_side_by_side_lists_the_tasks_of_each_cell_in_turn() -> None:
    first = Cell([0.0, 100.0], [[1.0, 2.0], [3.0, 4.0]], 10)
    second = Cell([0.0, 140.0], [[5.0, 6.0], [7.0, 8.0]], 3)
    assert side_by_side([first, second]) == Cell([0.0, 120.0], [[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]], 13)


def test_side_by_side_of_one_task_each() -> None:
    cells = [Cell([0.0, 20.0 * task], [[task], [-task]], 1) for task in range(3)]
    assert side_by_side(cells) == Cell([0.0, 20.0], [[0.0, 1.0, 2.0], [0.0, -1.0, -2.0]], 3)


def test_side_by_side_of_one_cell_is_that_cell() -> None:
    assert side_by_side([CELL]) == CELL


def test_what_side_by_side_makes_can_be_stored(store: CellStore) -> None:
    together = side_by_side([CELL, CELL])
    store.save("ppo", SETTINGS, together)
    assert store.load("ppo", SETTINGS) == together


def test_the_curve_has_seeds_points_and_tasks_in_this_order() -> None:
    """Entry (s, p, m) is the return of seed s at point p on task m."""
    cells = [
        Cell([0.0, 10.0 + seed], [[100.0 * seed + 10 * point + task for task in range(3)] for point in range(2)], seed)
        for seed in range(4)
    ]
    made = curve("PPO", "baseline", 5000, cells)
    assert (made.label, made.kind, made.training_env_steps, made.evaluation_env_steps) == ("PPO", "baseline", 5000, 6)
    assert made.env_steps.tolist() == [0.0, 11.5]
    assert made.returns.shape == (4, 2, 3)
    for (seed, point, task), value in np.ndenumerate(made.returns):
        assert value == 100 * seed + 10 * point + task
