"""Units of observations: as they are written, refused where they do not fit, found in somebody's environment."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Space, Tuple

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.families.navigation import PointNavigation
from metarl.envs.spaces.fields import fields_of
from metarl.envs.spaces.units import Units, units_of_fields
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Uniform

PAIR = Box(-1, 1, (2,))
ROBOT = Dict([("speed", PAIR), ("arm", Tuple([PAIR, Discrete(3)]))])


@pytest.mark.parametrize(
    ("units", "space", "expected"),
    [
        (None, PAIR, {}),
        ("m", PAIR, {"": "m"}),
        (["m", "m/s"], PAIR, {"": "m, m/s"}),
        (("", "rad"), PAIR, {"": "–, rad"}),
        ({"arm.0": ["rad", "rad/s"], "arm.1": "gear"}, ROBOT, {"arm.0": "rad, rad/s", "arm.1": "gear"}),
    ],
)
def test_they_reach_their_fields(units: Units, space: Space[Any], expected: dict[str, str]) -> None:
    stated = units_of_fields(units, space)
    assert stated == expected
    assert {field.name: field.unit for field in fields_of(space, stated) if field.unit} == expected


@pytest.mark.parametrize(
    ("units", "space", "message"),
    [
        (["m"], PAIR, "units must be a text or a list of 2, one for each number, got 1"),
        ({"x": "m"}, PAIR, "observations have no field 'x': they are one"),
        ("m", ROBOT, r"have the fields speed, arm\.0, arm\.1: give a mapping"),
        ({"arm": "rad"}, ROBOT, r"there is no field 'arm' in the observations; there are speed, arm\.0, arm\.1"),
        ({"arm.1": ["gear"]}, ROBOT, r"units of 'arm\.1' must be a text, since it is a Discrete"),
        ({"speed": 3}, ROBOT, "units of 'speed' must be a text, or a list with one text for each number, got 3"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_field(units: Any, space: Space[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        units_of_fields(units, space)


class Rig(gymnasium.Env[Any, Any]):
    """Observes two numbers; what it says of them differs."""

    observation_space = PAIR
    action_space = Discrete(2)

    def __init__(self, units: Any = None, in_metadata: Any = None, load: float = 1.0) -> None:
        self.units = units
        self.metadata = {"units": in_metadata}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start."""
        return np.zeros(2, np.float32), {}


@pytest.mark.parametrize(
    ("said", "stated", "expected"),
    [
        ({"units": ["mm", "ticks"]}, None, {"": "mm, ticks"}),
        ({"in_metadata": "mm"}, None, {"": "mm"}),
        ({"units": ["mm", "ticks"]}, "m", {"": "m"}),  # who trains on it knows better
        ({"units": ["archer", "knight", "pawn"]}, None, {}),  # not units of what is observed
        ({"units": 7}, None, {}),
        ({"units": {"left": "mm"}}, None, {}),
    ],
)
def test_an_environment_may_say_them_itself(said: dict[str, Any], stated: Units, expected: dict[str, str]) -> None:
    def make(**arguments: Any) -> gymnasium.Env[Any, Any]:
        return gymnasium.wrappers.OrderEnforcing(Rig(**said, **arguments))

    load = {"load": Uniform(1, 2)}
    distribution = GymnasiumTasks("Rig", load, make=make, horizon=3, num_workers=0, units=stated)
    assert distribution.env.field_units == expected


def test_those_of_a_torch_environment_are_held_to_its_observations() -> None:
    class InMetres(PointNavigation):
        units = ("m", "m")

    class InThree(PointNavigation):
        units = ("m", "m", "m")

    goal = {"goal": Uniform(-1, 1, shape=(2,))}
    assert TaskDistribution(InMetres(), goal).env.field_units == {"": "m, m"}
    with pytest.raises(ValueError, match=r"InThree\.units must be a text or a list of 2"):
        TaskDistribution(InThree(), goal)
