"""Pendulum beside Gymnasium's own, step by step over whole episodes."""

import math
from collections.abc import Callable

import pytest
import torch

from metarl.envs.families.control.pendulum import Pendulum, TargetPendulum, pendulum, pendulum_dynamics
from metarl.envs.task_distribution import TaskDistribution
from tests.helpers import gymnasium_twins
from tests.helpers.family_play import assert_actions_beyond_the_bounds_act_as_the_bounds, rng
from tests.helpers.gymnasium_twins import Attributes, Twin, whole_episodes
from tests.helpers.oracle_checks import assert_oracle_comes_near_to_planning, assert_oracle_solves_held_out_tasks


def gymnasium_attributes(task: Attributes) -> Attributes:
    return {"g": task["gravity"], "m": task["mass"], "l": task["length"], "max_torque": task["torque_limit"]}


TWIN = Twin(
    Pendulum(),
    "Pendulum-v1",
    gymnasium_attributes,
    other={"gravity": 8.0, "mass": 1.5, "length": 1.3, "torque_limit": 4.0},
    state_bounds=(math.pi, 8),
    skilled_end="truncated",
)


@whole_episodes
def test_whole_episodes_equal_gymnasiums(default: bool, skilled: bool) -> None:
    gymnasium_twins.assert_whole_episodes_equal(TWIN, default, skilled)


def test_single_precision_keeps_the_tolerance_in_each_step() -> None:
    gymnasium_twins.assert_single_precision_keeps_the_tolerance(TWIN)


def test_episodes_start_as_gymnasiums_do() -> None:
    gymnasium_twins.assert_episodes_start_alike(TWIN)


@pytest.mark.parametrize(("angle", "target", "error"), [(0.5, 0.5, 0.0), (3.0, -1.0, 4.0 - 2 * math.pi), (0, 1, -1)])
def test_the_reward_falls_with_the_angle_to_the_target(angle: float, target: float, error: float) -> None:
    env = TargetPendulum()
    params = {**env.get_default_params(), "target_angle": torch.tensor(target)}
    state = torch.tensor([angle, 0.0])
    assert float(env.reward(state, torch.zeros(1), state, rng(), params)) == pytest.approx(-(error**2), abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 3.0, -7.0])
def test_actions_beyond_the_bounds_act_as_the_bounds(share: float) -> None:
    assert_actions_beyond_the_bounds_act_as_the_bounds(Pendulum(), torch.tensor([0.1, 0.01]), share)


def test_the_oracle_comes_near_to_planning() -> None:
    assert_oracle_comes_near_to_planning(pendulum(), (0.0, 0.0), (math.pi, 8.0), wraps=True)


@pytest.mark.parametrize(("make", "mean", "worst"), [(pendulum, -90.0, -500.0), (pendulum_dynamics, -80.0, -300.0)])
def test_the_oracle_solves_the_held_out_tasks(make: Callable[[], TaskDistribution], mean: float, worst: float) -> None:
    """Random actions get −1200 and −1230."""
    assert_oracle_solves_held_out_tasks(make(), mean, worst)
