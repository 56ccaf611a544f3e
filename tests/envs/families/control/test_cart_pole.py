"""Cart-pole beside Gymnasium's own, step by step over whole episodes."""

from collections.abc import Callable

import pytest
import torch

from metarl.envs.families.control.cart_pole import CartPole, MirroredCartPole, cart_pole, cart_pole_mirrored
from metarl.envs.task_distribution import TaskDistribution
from tests.helpers import gymnasium_twins
from tests.helpers.family_play import rng
from tests.helpers.gymnasium_twins import Attributes, Twin, whole_episodes
from tests.helpers.oracle_checks import assert_oracle_solves_held_out_tasks


def gymnasium_attributes(task: Attributes) -> Attributes:
    return {
        "gravity": task["gravity"],
        "masscart": task["cart_mass"],
        "masspole": task["pole_mass"],
        "total_mass": task["cart_mass"] + task["pole_mass"],
        "length": task["pole_length"],
        "polemass_length": task["pole_mass"] * task["pole_length"],
        "force_mag": task["force"],
    }


TWIN = Twin(
    CartPole(),
    "CartPole-v1",
    gymnasium_attributes,
    other={"gravity": 6.0, "cart_mass": 1.7, "pole_mass": 0.3, "pole_length": 0.8, "force": 14.0},
    state_bounds=(2.4, 3, 0.2, 3),
    skilled_end="truncated",
)


@whole_episodes
def test_whole_episodes_equal_gymnasiums(default: bool, skilled: bool) -> None:
    gymnasium_twins.assert_whole_episodes_equal(TWIN, default, skilled)


def test_single_precision_keeps_the_tolerance_in_each_step() -> None:
    gymnasium_twins.assert_single_precision_keeps_the_tolerance(TWIN)


def test_episodes_start_as_gymnasiums_do() -> None:
    gymnasium_twins.assert_episodes_start_alike(TWIN)


def test_a_mirrored_actuator_pushes_the_other_way() -> None:
    env = MirroredCartPole()
    params = env.get_default_params()
    state = torch.tensor([0.0, 0.1, 0.02, -0.1])
    turned = {**params, "direction": torch.tensor(-1.0)}
    for action in (0, 1):
        expected = CartPole().transition(state, torch.tensor(action), rng(), params)
        assert torch.equal(env.transition(state, torch.tensor(action), rng(), params), expected)
        assert torch.equal(env.transition(state, torch.tensor(1 - action), rng(), turned), expected)


@pytest.mark.parametrize("make", [cart_pole, cart_pole_mirrored])
def test_the_oracle_solves_the_held_out_tasks(make: Callable[[], TaskDistribution]) -> None:
    """Random actions get 22."""
    assert_oracle_solves_held_out_tasks(make(), mean=199.0, worst=190.0)
