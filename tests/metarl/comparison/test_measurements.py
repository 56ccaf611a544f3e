"""Measurements on disk: found again under their own settings and no others, made once, put together by tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.comparison.measurements import Measurement, MeasurementStore, concatenate_tasks, make_curve

SETTINGS: dict[str, Any] = {"seed": 3, "env": "point-navigation/pearl", "schedule": [0, 100], "pretrained": None}
MEASUREMENT = Measurement(
    env_steps=[0.0, 100.5], returns=[[-1.0, -2.25, 0.1], [1e-17, 3.0, -7e12]], evaluation_env_steps=1200
)


@pytest.fixture
def store(tmp_path: Path) -> MeasurementStore:
    return MeasurementStore(tmp_path / "measurements")


def the_file(store: MeasurementStore) -> Path:
    (path,) = store.directory.iterdir()
    return path


def counted(measurement: Measurement) -> tuple[Callable[[], Measurement], list[Measurement]]:
    """A function that gives this one, and a list that grows with each call of it."""
    calls: list[Measurement] = []

    def measure() -> Measurement:
        calls.append(measurement)
        return measurement

    return measure, calls


# The store


def test_a_saved_measurement_is_found_again_by_another_store(store: MeasurementStore) -> None:
    store.save("ppo", SETTINGS, MEASUREMENT)
    assert MeasurementStore(store.directory).load("ppo", dict(SETTINGS)) == MEASUREMENT


def test_an_empty_store_has_no_measurement(store: MeasurementStore) -> None:
    assert store.load("ppo", SETTINGS) is None


@pytest.mark.parametrize(
    "changed",
    [{"seed": 4}, {"seed": "3"}, {"schedule": [0, 101]}, {"schedule": [100, 0]}, {"pretrained": ""}, {"episodes": 20}],
)
def test_a_measurement_of_other_settings_is_not_found(store: MeasurementStore, changed: dict[str, Any]) -> None:
    store.save("ppo", SETTINGS, MEASUREMENT)
    assert store.load("ppo", SETTINGS | changed) is None


def test_a_setting_left_out_is_another_setting(store: MeasurementStore) -> None:
    store.save("ppo", SETTINGS, MEASUREMENT)
    for name in SETTINGS:
        assert store.load("ppo", {key: value for key, value in SETTINGS.items() if key != name}) is None


def test_a_measurement_of_another_agent_is_not_found(store: MeasurementStore) -> None:
    store.save("ppo", SETTINGS, MEASUREMENT)
    assert store.load("sac", SETTINGS) is None


def test_the_order_of_the_settings_does_not_matter(store: MeasurementStore) -> None:
    store.save("ppo", {**SETTINGS, "learner": {"steps": 3, "size": 0.1}}, MEASUREMENT)
    backwards = {"learner": {"size": 0.1, "steps": 3}, **dict(reversed(SETTINGS.items()))}
    assert list(backwards) != list(SETTINGS)
    assert store.load("ppo", backwards) == MEASUREMENT


def test_measurements_of_other_settings_stay_when_one_is_saved(store: MeasurementStore) -> None:
    measurements = {seed: Measurement([0.0], [[float(seed)]], seed) for seed in range(20)}
    for seed, measurement in measurements.items():
        store.save("ppo", {"seed": seed}, measurement)
    assert {seed: store.load("ppo", {"seed": seed}) for seed in measurements} == measurements


def test_saving_again_replaces_the_measurement_and_leaves_one_file(store: MeasurementStore) -> None:
    store.save("ppo", SETTINGS, Measurement([0.0], [[0.0]], 0))
    store.save("ppo", SETTINGS, MEASUREMENT)
    assert store.load("ppo", SETTINGS) == MEASUREMENT
    assert the_file(store).suffix == ".json"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"agent": "ppo", "settings"',
        b"null",
        b"[]",
        b"{}",
        b'{"measurement": 3}',
        b'{"measurement": {"env_steps": [0.0], "returns": [[1.0]]}}',
        b'{"cell": {"env_steps": [0.0], "returns": [[1.0]], "evaluation_env_steps": 0, "more": 1}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_holds_no_measurement_counts_as_none(store: MeasurementStore, content: bytes) -> None:
    store.save("ppo", SETTINGS, MEASUREMENT)
    the_file(store).write_bytes(content)
    assert store.load("ppo", SETTINGS) is None


def test_a_file_of_an_earlier_version_is_read(store: MeasurementStore) -> None:
    store.save("ppo", SETTINGS, MEASUREMENT)
    data = json.loads(the_file(store).read_text())
    data["cell"] = data.pop("measurement")
    the_file(store).write_text(json.dumps(data))
    assert store.load("ppo", SETTINGS) == MEASUREMENT


def test_a_truncated_file_counts_as_none_wherever_it_ends(store: MeasurementStore) -> None:
    store.save("ppo", SETTINGS, MEASUREMENT)
    path = the_file(store)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.load("ppo", SETTINGS) is None
    path.write_bytes(whole)
    assert store.load("ppo", SETTINGS) == MEASUREMENT


def test_a_measurement_is_measured_once(store: MeasurementStore) -> None:
    measure, calls = counted(MEASUREMENT)
    assert [store.load_or_measure("ppo", SETTINGS, measure) for _ in range(3)] == [MEASUREMENT] * 3
    assert MeasurementStore(store.directory).load_or_measure("ppo", SETTINGS, measure) == MEASUREMENT
    assert len(calls) == 1


def test_other_settings_are_measured_for_themselves(store: MeasurementStore) -> None:
    store.load_or_measure("ppo", SETTINGS, counted(MEASUREMENT)[0])
    other = Measurement([0.0], [[5.0]], 1)
    assert store.load_or_measure("ppo", SETTINGS | {"seed": 4}, counted(other)[0]) == other
    assert store.load("ppo", SETTINGS) == MEASUREMENT


def test_a_corrupt_measurement_is_measured_again_and_kept(store: MeasurementStore) -> None:
    measure, calls = counted(MEASUREMENT)
    store.load_or_measure("ppo", SETTINGS, measure)
    the_file(store).write_bytes(b"{")
    assert [store.load_or_measure("ppo", SETTINGS, measure) for _ in range(2)] == [MEASUREMENT] * 2
    assert len(calls) == 2


def test_a_measurement_that_fails_leaves_nothing(store: MeasurementStore) -> None:
    def fail() -> Measurement:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        store.load_or_measure("ppo", SETTINGS, fail)
    assert store.load("ppo", SETTINGS) is None
    assert store.load_or_measure("ppo", SETTINGS, counted(MEASUREMENT)[0]) == MEASUREMENT


# Measurements put together


def test_concatenate_tasks_lists_the_tasks_of_each_measurement_in_turn() -> None:
    first = Measurement([0.0, 100.0], [[1.0, 2.0], [3.0, 4.0]], 10)
    second = Measurement([0.0, 140.0], [[5.0, 6.0], [7.0, 8.0]], 3)
    assert concatenate_tasks([first, second]) == Measurement(
        [0.0, 120.0], [[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]], 13
    )


def test_concatenate_tasks_of_one_task_each() -> None:
    measurements = [Measurement([0.0, 20.0 * task], [[task], [-task]], 1) for task in range(3)]
    assert concatenate_tasks(measurements) == Measurement([0.0, 20.0], [[0.0, 1.0, 2.0], [0.0, -1.0, -2.0]], 3)


def test_concatenate_tasks_of_one_measurement_is_that_measurement() -> None:
    assert concatenate_tasks([MEASUREMENT]) == MEASUREMENT


def test_what_concatenate_tasks_makes_can_be_stored(store: MeasurementStore) -> None:
    together = concatenate_tasks([MEASUREMENT, MEASUREMENT])
    store.save("ppo", SETTINGS, together)
    assert store.load("ppo", SETTINGS) == together


def test_the_curve_has_seeds_points_and_tasks_in_this_order() -> None:
    """Entry (s, p, m) is the return of seed s at point p on task m."""
    measurements = [
        Measurement(
            [0.0, 10.0 + seed], [[100.0 * seed + 10 * point + task for task in range(3)] for point in range(2)], seed
        )
        for seed in range(4)
    ]
    made = make_curve("PPO", "baseline", 5000, measurements)
    assert (made.label, made.kind, made.training_env_steps, made.evaluation_env_steps) == ("PPO", "baseline", 5000, 6)
    assert made.env_steps.tolist() == [0.0, 11.5]
    assert made.returns.shape == (4, 2, 3)
    for (seed, point, task), value in np.ndenumerate(made.returns):
        assert value == 100 * seed + 10 * point + task
