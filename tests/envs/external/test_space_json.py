"""Spaces come back from JSON equal to what they were."""

import json

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatten

from metarl.envs.external.space_json import space_from_json, space_to_json


@pytest.mark.parametrize(
    "space",
    [
        Box(-1.0, 1.0, (2,)),
        Box(-np.inf, np.inf, (3,), np.float64),
        Box(np.array([-1.0, -np.inf], np.float32), np.array([np.inf, 2.5], np.float32)),
        Box(0, 255, (2, 2, 3), np.uint8),
        Discrete(4),
        Discrete(4, start=-2),
        MultiDiscrete([2, 3], start=[1, 0]),
        MultiBinary(3),
        Dict({"a": Discrete(2), "b": Tuple([Box(0, 1, ()), MultiBinary((2, 2))])}),
    ],
)
def test_round_trip(space: Space[object]) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    back = space_from_json(json.loads(text))
    assert back == space
    assert back.dtype == space.dtype


@pytest.mark.parametrize(
    "space",
    [
        Dict(velocity=Discrete(2), position=Discrete(3)),
        Dict([("z", Discrete(2)), ("a", Dict(y=Discrete(4), x=Discrete(2)))]),
        Dict({2: Discrete(2), 1: Discrete(3)}, sort_keys=False),  # type: ignore[dict-item]
    ],
)
def test_the_order_of_the_keys_is_kept(space: Dict) -> None:
    back = space_from_json(json.loads(json.dumps(space_to_json(space))))
    sample = space.sample()
    assert list(back) == list(space)  # type: ignore[call-overload]
    assert np.array_equal(np.asarray(flatten(back, sample)), np.asarray(flatten(space, sample)))


def test_files_without_an_order_come_back_sorted_as_before() -> None:
    two = {"kind": "Discrete", "n": 2, "start": 0}
    back = space_from_json({"kind": "Dict", "spaces": {"velocity": two, "position": two}})
    assert list(back) == ["position", "velocity"]  # type: ignore[call-overload]


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        space_to_json(Graph(Discrete(2), None))


@pytest.mark.parametrize("data", [{}, {"kind": "Cube"}, {"kind": "Discrete", "n": -1, "start": 0}, {"kind": "Box"}])
def test_foreign_data_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a space"):
        space_from_json(data)
