"""Mountain cars beside Gymnasium's own, step by step over whole episodes."""

from collections.abc import Callable

import pytest
import torch

from metarl.envs.families.control.mountain_car import (
    MountainCar,
    MountainCarContinuous,
    mountain_car,
    mountain_car_continuous,
)
from metarl.envs.task_distribution import TaskDistribution
from tests.helpers import gymnasium_twins
from tests.helpers.family_play import assert_actions_beyond_the_bounds_act_as_the_bounds
from tests.helpers.gymnasium_twins import Attributes, Twin, whole_episodes
from tests.helpers.oracle_checks import assert_oracle_comes_near_to_planning, assert_oracle_solves_held_out_tasks


def continuous_attributes(task: Attributes) -> Attributes:
    """Gymnasium's gravity is written into its code."""
    return {name: task[name] for name in ("power", "goal_position")}


TWINS = {
    "discrete": Twin(
        MountainCar(),
        "MountainCar-v0",
        lambda task: task,
        other={"force": 0.0015, "gravity": 0.0021, "goal_position": 0.4},
        state_bounds=(0.6, 0.07),
    ),
    "continuous": Twin(
        MountainCarContinuous(),
        "MountainCarContinuous-v0",
        continuous_attributes,
        other={"power": 0.0022, "goal_position": 0.35},
        state_bounds=(0.6, 0.07),
    ),
}

both = pytest.mark.parametrize("name", TWINS)


@whole_episodes
@both
def test_whole_episodes_equal_gymnasiums(name: str, default: bool, skilled: bool) -> None:
    gymnasium_twins.assert_whole_episodes_equal(TWINS[name], default, skilled)


@both
def test_single_precision_keeps_the_tolerance_in_each_step(name: str) -> None:
    gymnasium_twins.assert_single_precision_keeps_the_tolerance(TWINS[name])


@both
def test_episodes_start_as_gymnasiums_do(name: str) -> None:
    gymnasium_twins.assert_episodes_start_alike(TWINS[name])


@pytest.mark.parametrize("share", [0.5, 3.0, -7.0])
def test_actions_beyond_the_bounds_act_as_the_bounds(share: float) -> None:
    assert_actions_beyond_the_bounds_act_as_the_bounds(MountainCarContinuous(), torch.tensor([0.1, 0.01]), share)


@pytest.mark.parametrize("make", [mountain_car, mountain_car_continuous])
def test_the_oracle_comes_near_to_planning(make: Callable[[], TaskDistribution]) -> None:
    assert_oracle_comes_near_to_planning(make(), (-0.3, 0.0), (0.9, 0.07), wraps=False)


@pytest.mark.parametrize(
    ("make", "mean", "worst"), [(mountain_car, -105.0, -185.0), (mountain_car_continuous, 90.0, 80.0)]
)
def test_the_oracle_solves_the_held_out_tasks(make: Callable[[], TaskDistribution], mean: float, worst: float) -> None:
    """Random actions get −200 and −10."""
    assert_oracle_solves_held_out_tasks(make(), mean, worst)
