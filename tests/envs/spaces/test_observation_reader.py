"""Observations are read as Gymnasium flattens them, and what does not fit its space never becomes other numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatten
from gymnasium.vector.utils import concatenate, create_empty_array

from metarl.envs.spaces.observation_reader import ObservationReader, UnfitEnvError

BYTES = Box(0, 255, (2, 3, 1), np.uint8)
PAIR = Box(-5, 5, (2, 3))
WHOLE = Box(-5, 5, (2,), np.int64)


@pytest.mark.parametrize(
    "space",
    [
        PAIR,
        Box(-1, 1, ()),
        Box(-1, 1, (3,), np.float16),
        BYTES,
        WHOLE,
        Discrete(4, start=-2),
        MultiDiscrete([3, 2], start=[5, -1]),
        MultiDiscrete(np.array([[3, 2], [4, 1]])),
        MultiBinary((2, 3)),
        Dict([("z", Tuple([Discrete(3), PAIR])), ("a", Dict(c=MultiBinary(2), b=BYTES))]),
    ],
    ids=str,
)
def test_it_flattens_as_gymnasium_does(space: Space[Any]) -> None:
    read = ObservationReader(space)
    space.seed(0)
    samples = [space.sample() for _ in range(5)]
    flat = [np.asarray(flatten(space, obs), np.float32).tolist() for obs in samples]
    for obs, expected in zip(samples, flat, strict=True):
        assert read(obs).dtype == np.float32
        assert read(obs).tolist() == expected
    assert read.rows(samples[0])[0].tolist() == flat[:1]

    # As vector environments give them.
    side_by_side: Any = create_empty_array(space, len(samples))
    side_by_side = concatenate(space, samples, side_by_side)
    rows, single = read.rows(side_by_side)
    assert rows.dtype == np.float32
    assert (rows.tolist(), single) == (flat, False)


@pytest.mark.parametrize(
    ("space", "obs", "expected"),
    [
        (PAIR, [[0, 1, 2], [3, 4, 5]], [0, 1, 2, 3, 4, 5]),
        (PAIR, np.full((2, 3), 7.5), [7.5] * 6),  # outside the bounds, as Gymnasium lets pass
        (Box(-1, 1, (1,)), 0.5, [0.5]),
        (Box(-1, 1, ()), np.array([0.5]), [0.5]),
        (Box(-1, 1, (2,)), torch.tensor([0.25, 0.5]), [0.25, 0.5]),
        (BYTES, np.full((2, 3, 1), 200, np.int64), [200] * 6),
        (WHOLE, [2.0, -3.0], [2, -3]),
        (Discrete(3), np.array([2]), [0, 0, 1]),
        (Discrete(3), True, [0, 1, 0]),
        (MultiBinary(2), [True, False], [1, 0]),
        (Dict(a=Discrete(2)), {"a": 1, "unknown": "x"}, [0, 1]),
    ],
)
def test_what_fits_passes_whatever_its_type(space: Space[Any], obs: Any, expected: list[float]) -> None:
    assert ObservationReader(space)(obs).tolist() == expected


@pytest.mark.parametrize(
    ("space", "obs", "message"),
    [
        (Box(0, 9, (3,)), np.array([7.0]), r"its observation has the shape \(1,\), but its space Box.* has \(3,\)"),
        (PAIR, np.zeros((3, 2)), r"has the shape \(3, 2\), .* has \(2, 3\)"),
        (BYTES, np.zeros((1, 2, 3), np.uint8), r"has the shape \(1, 2, 3\)"),
        (Dict(arm=Dict(a=PAIR)), {"arm": {"a": np.zeros(4)}}, r"its observation 'arm.a' has the shape \(4,\)"),
        (Dict(a=PAIR), {"b": 1}, r"its observation has no key 'a', which its space has; it has \['b'\]"),
        (Dict(a=PAIR), np.zeros(6), r"is an array of float64, shape \(6,\), but its space is a dict of \['a'\]"),
        (Tuple([Discrete(2)] * 2), (1,), "its observation is tuple .*, but its space is a tuple of 2"),
        (BYTES, np.full((2, 3, 1), 300), r"holds 300 at \[0, 0, 0\], .* takes whole numbers from 0 to 255 there"),
        (BYTES, np.full((2, 3, 1), 0.5), "holds 0.5 .*; multiply by 255 and round, or declare a Box of floats"),
        (WHOLE, np.array([1.0, np.nan]), r"holds nan at \[1\]"),
        (WHOLE, np.array([-6, 0]), r"holds -6 at \[0\], .* from -5 to 5"),
        (Discrete(3), 3, r"its observation is 3, but its space Discrete\(3\) takes whole numbers from 0 to 2"),
        (Discrete(3, start=1), 0, "is 0, .* from 1 to 3"),
        (Discrete(3), 1.5, "is 1.5"),
        (MultiDiscrete([3, 2]), np.array([2, 2]), r"holds 2 at \[1\], .* from 0 to 1"),
        (MultiDiscrete([3, 2], start=[5, 0]), np.array([4, 0]), r"holds 4 at \[0\], .* from 5 to 7"),
        (MultiBinary(2), np.array([0, -1]), r"holds -1 at \[1\]"),
        (PAIR, np.zeros((2, 3), complex), r"is an array of complex128, shape \(2, 3\), .* takes numbers"),
        (PAIR, None, "is None, .* takes numbers"),
        (PAIR, "ab", "is str 'ab', .* takes numbers"),
        (PAIR, [[1, 2], [3]], r"is list \[\[1, 2\], \[3\]\], .* takes an array of numbers"),
        (
            Box(-1, 1, (1,)),
            torch.ones(1, requires_grad=True),
            "is Tensor .* an array of numbers: Can't call",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_key_value_and_space(space: Space[Any], obs: Any, message: str) -> None:
    with pytest.raises(UnfitEnvError, match=message) as error:
        ObservationReader(space)(obs)
    assert "\n" not in str(error.value)


def test_a_vector_is_a_copy_and_a_broken_number_is_named() -> None:
    read = ObservationReader(Dict([("gap", Discrete(2)), ("speed", Box(-9, 9, (2,)))]))
    speed = np.array([1, np.inf], np.float32)
    vector = read({"gap": 0, "speed": speed})
    speed[:] = 5
    assert vector.tolist() == [1, 0, 1, np.inf]
    assert read.not_finite(vector) == "inf at index 3 (speed)"
    assert read.not_finite(vector[:3]) == ""
