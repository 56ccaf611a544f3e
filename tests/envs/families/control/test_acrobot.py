"""Acrobot beside Gymnasium's own, step by step over whole episodes, and against its energy."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.envs.families.control.acrobot import Acrobot, acrobot
from tests.helpers import gymnasium_twins
from tests.helpers.family_play import rng
from tests.helpers.gymnasium_twins import Attributes, Twin, whole_episodes
from tests.helpers.oracle_checks import assert_oracle_solves_held_out_tasks


def gymnasium_attributes(task: Attributes) -> Attributes:
    """Gymnasium has one moment of inertia for both links: the masses must be equal, and the lengths 1."""
    return {"LINK_MASS_1": task["mass_1"], "LINK_MASS_2": task["mass_2"], "LINK_MOI": task["mass_1"]}


TWIN = Twin(
    Acrobot(),
    "Acrobot-v1",
    gymnasium_attributes,
    other={"mass_1": 1.3, "mass_2": 1.3},
    state_bounds=(3, 3, 5, 5),
)


@whole_episodes
def test_whole_episodes_equal_gymnasiums(default: bool, skilled: bool) -> None:
    gymnasium_twins.assert_whole_episodes_equal(TWIN, default, skilled)


def test_single_precision_keeps_the_tolerance_in_each_step() -> None:
    gymnasium_twins.assert_single_precision_keeps_the_tolerance(TWIN)


def test_episodes_start_as_gymnasiums_do() -> None:
    gymnasium_twins.assert_episodes_start_alike(TWIN)


@pytest.mark.parametrize("action", [0, 1, 2])
def test_an_acrobot_of_other_lengths_moves_as_gymnasiums(action: int) -> None:
    """Masses by which both links have the one moment of inertia that Gymnasium's have: 0.9 · 1.2² = 1.6 · 0.9²."""
    values = {"mass_1": 0.9, "mass_2": 1.6, "length_1": 1.2, "length_2": 0.9, "target_height": 1.0}
    task = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    gym = gymnasium.make("Acrobot-v1").unwrapped
    links = {"LINK_LENGTH_1": 1.2, "LINK_LENGTH_2": 0.9, "LINK_COM_POS_1": 0.6, "LINK_COM_POS_2": 0.45}
    for name, value in {**links, "LINK_MASS_1": 0.9, "LINK_MASS_2": 1.6, "LINK_MOI": 1.296}.items():
        assert hasattr(gym, name)
        setattr(gym, name, value)
    for state in np.random.default_rng(0).uniform(-1, 1, (100, 4)) * [3, 3, 4, 4]:
        gym.state = state  # type: ignore[attr-defined]
        gym.step(action)
        next_state = Acrobot().transition(torch.tensor(state), torch.tensor(action), rng(), task)
        assert next_state.tolist() == pytest.approx(list(gym.state), abs=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("angles", "height"),
    [((0.0, 0.0), -2.0), ((math.pi, 0.0), 2.0), ((math.pi, math.pi), 0.4), ((math.pi / 2, math.pi / 2), 0.8)],
)
def test_an_acrobot_arrives_where_its_end_is_above_the_target(angles: tuple[float, float], height: float) -> None:
    """Links of 1.2 m and 0.8 m, the height worked out by hand."""
    for target, arrived in ((height - 0.01, True), (height + 0.01, False)):
        values = {"mass_1": 1.0, "mass_2": 1.0, "length_1": 1.2, "length_2": 0.8, "target_height": target}
        task = {name: torch.tensor(value) for name, value in values.items()}
        state = torch.tensor([*angles, 0.0, 0.0])
        assert bool(Acrobot().terminal(state, rng(), task)) == arrived
        assert float(Acrobot().reward(state, torch.tensor(1), state, rng(), task)) == arrived - 1


def test_acrobots_with_other_links_keep_their_energy_without_torque() -> None:
    """Independent of the equations of motion: T + V, with Iᵢ = mᵢlᵢ² about the centre of each link."""
    env = Acrobot()
    env.STEP = 0.005
    tasks = {name: value.double() for name, value in acrobot().sample(20, "ood").items()}
    state = env.initial(rng(), tasks) * 10

    def energy(state: Tensor) -> Tensor:
        angle_1, angle_2, speed_1, speed_2 = state.unbind(-1)
        m1, m2, l1, l2 = (tasks[name] for name in ("mass_1", "mass_2", "length_1", "length_2"))
        total = speed_1 + speed_2  # of the second link in the plane
        speed_of_centre = (
            (l1 * speed_1).square() + (l2 / 2 * total).square() + l1 * l2 * speed_1 * total * torch.cos(angle_2)
        )
        kinetic = 0.5 * (m1 * (l1 / 2 * speed_1).square() + m1 * l1**2 * speed_1.square())
        kinetic = kinetic + 0.5 * (m2 * speed_of_centre + m2 * l2**2 * total.square())
        heights = -l1 / 2 * torch.cos(angle_1), -l1 * torch.cos(angle_1) - l2 / 2 * torch.cos(angle_1 + angle_2)
        return kinetic + env.GRAVITY * (m1 * heights[0] + m2 * heights[1])

    before = energy(state)
    for _ in range(200):
        state = env.transition(state, torch.ones(20, dtype=torch.int64), rng(), tasks)
    assert state[:, 2:].abs().max() > 0.5
    torch.testing.assert_close(energy(state), before, rtol=0, atol=1e-6)


def test_the_oracle_solves_the_held_out_tasks() -> None:
    """Random actions get −200."""
    assert_oracle_solves_held_out_tasks(acrobot(), mean=-95.0, worst=-160.0)
