"""A policy's actions in an environment's own space: against plain formulas, enumerations and Gymnasium's `contains`."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.spaces.action_map import (
    OWN_UNITS,
    ActionMap,
    TensorActionMap,
    missing_bounds_warning,
    policy_action_space,
    torch_dtype,
)

UNIT = Box(-1.0, 1.0, (1,), np.float32)
LARGEST = float(np.finfo(np.float32).max)

BOXES: dict[str, Box] = {
    "unit": UNIT,
    "wide": Box(-3.0, 12.0, (1,)),
    "narrow": Box(0.1, 0.7, (1,)),
    "float64": Box(0.1, 0.7, (1,), np.float64),
    "far": Box(1e6, 1e6 + 3, (1,)),
    "huge": Box(-1e38, 1e38, (1,)),
    "from two": Box(2.0, np.inf, (1,)),
    "to minus five": Box(-np.inf, -5.0, (1,)),
    "from a tenth, float64": Box(0.1, np.inf, (1,), np.float64),
    "unbounded": Box(-np.inf, np.inf, (1,)),
    "largest floats": Box(-LARGEST, LARGEST, (1,)),
    "largest doubles": Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (1,), np.float64),
    "largest halves": Box(-65504, 65504, (1,), np.float16),
    "fixed": Box(0.3, 0.3, (1,)),
    "integers": Box(0, 3, (1,), np.int64),
    "bytes": Box(0, 255, (1,), np.uint8),
    "signed bytes": Box(-128, 127, (1,), np.int8),
    "one integer": Box(7, 7, (1,), np.int32),
    "integers from two": Box(2, np.inf, (1,), np.int64),
    "all integers": Box(-np.inf, np.inf, (1,), np.int64),
}
NASTY = np.array(
    [-np.inf, -1e30, -7, -1, -0.999, -0.5, -1e-9, 0, 0.1, 1 / 3, 0.5, 0.999, 1, 7, 1e30, np.inf], np.float32
)


def on_tensors(action_map: ActionMap, actions: NDArray[np.float32]) -> NDArray[Any]:
    native = action_map.native
    mapped: Tensor = TensorActionMap(action_map, torch_dtype(native.dtype))(torch.from_numpy(actions))
    return mapped.numpy().astype(np.dtype(native.dtype))


@pytest.mark.parametrize(
    ("native", "action", "expected"),
    [
        (Box(-2.0, 2.0, (1,)), 0.5, 1.0),
        (Box(-3.0, 12.0, (1,)), -1.0, -3.0),
        (Box(-3.0, 12.0, (1,)), 0.0, 4.5),
        (Box(0.0, 10.0, (1,)), 7.0, 10.0),  # clipped
        (UNIT, 1e-9, np.float32(1e-9)),  # nothing is lost to rounding where nothing is stretched
        (Box(-np.inf, np.inf, (1,)), 0.5, 1.5),  # with a scale of 3, from here on
        (Box(2.0, np.inf, (1,)), 0.0, 5.0),
        (Box(2.0, np.inf, (1,)), -9.0, 2.0),
        (Box(-np.inf, -5.0, (1,)), -1.0, -11.0),
        (Box(-np.inf, -5.0, (1,)), 1.0, -5.0),
        (Box(-LARGEST, LARGEST, (1,)), 0.5, 1.5),
        (Box(0.3, 0.3, (1,)), 0.5, np.float32(0.3)),
    ],
)
def test_an_action_is_clipped_and_stretched(native: Box, action: float, expected: float) -> None:
    mapped = ActionMap.of(native, scale=3.0)(np.array([action], np.float32))
    assert mapped.dtype == native.dtype
    assert mapped == pytest.approx([expected], rel=1e-7)


@pytest.mark.parametrize("native", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("scale", [1.0, 0.3, 1e6])
def test_no_action_leaves_the_space_in_numpy_or_torch(native: Box, scale: float) -> None:
    action_map = ActionMap.of(native, scale)
    actions = NASTY.reshape(-1, 1)
    for mapped in (action_map(actions), on_tensors(action_map, actions)):
        assert all(native.contains(one) for one in mapped)
        assert np.all(np.diff(mapped[:, 0].astype(np.float64)) >= 0)  # a larger action is never a smaller one there


@pytest.mark.parametrize("native", [box for box in BOXES.values() if box.dtype != np.float64])
def test_numpy_and_torch_agree_to_the_bit(native: Box) -> None:
    random = np.random.default_rng(0)
    actions = np.concatenate([NASTY, random.normal(0, 1, 5000).astype(np.float32)]).reshape(-1, 1)
    action_map = ActionMap.of(native, 2.7)
    np.testing.assert_array_equal(action_map(actions), on_tensors(action_map, actions))


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-2, 2), (5, 5), (-128, 127), (0, 6)])
def test_each_whole_number_has_its_share(low: int, high: int) -> None:
    native = Box(low, high, (1,), np.int64)
    count = high - low + 1
    # The middles of `count` equal parts of [−1, 1], exactly.
    middles = [float(-1 + Fraction(2 * index + 1, count)) for index in range(count)]
    mapped = ActionMap.of(native)(np.array(middles, np.float32).reshape(-1, 1))
    assert mapped[:, 0].tolist() == list(range(low, high + 1))

    evenly = np.linspace(-1, 1, 100 * count, endpoint=False, dtype=np.float32).reshape(-1, 1)
    shares = np.bincount(ActionMap.of(native)(evenly)[:, 0] - low, minlength=count)
    assert np.abs(shares - 100).max() <= 1


@pytest.mark.parametrize(
    ("native", "scale", "window"),
    [
        (Box(2, np.inf, (1,), np.int64), 1.0, range(2, 5)),
        (Box(-np.inf, -5, (1,), np.int64), 2.5, range(-10, -4)),
        (Box(-np.inf, np.inf, (1,), np.int64), 1.0, range(-1, 2)),
        (Box(-np.inf, np.inf, (1,), np.int32), 2.7, range(-2, 3)),
        (Box(0, 2**31 - 1, (1,), np.int32), 3.0, range(7)),
        (Box(0, 2**40, (1,), np.int64), 0.3, range(1)),
        (Box(2**31 + 256, 2**31 + 1024, (1,), np.int64), 1e6, None),  # the space ends before the window
    ],
)
def test_whole_numbers_without_bounds_stay_in_the_window_with_their_shares(
    native: Box, scale: float, window: range | None
) -> None:
    action_map = ActionMap.of(native, scale)
    window = range(int(native.low[0]), int(native.high[0]) + 1) if window is None else window
    evenly = np.linspace(-1, 1, 50 * len(window) + 1, dtype=np.float32).reshape(-1, 1)
    for mapped in (action_map(evenly), on_tensors(action_map, evenly)):
        assert (mapped.min(), mapped.max()) == (window[0], window[-1])
        if len(window) < 100:
            assert np.abs(np.bincount(mapped[:, 0] - window[0], minlength=len(window)) - 50).max() <= 1


@pytest.mark.parametrize(
    ("native", "lowest", "highest"),
    [
        (Box(-3.0, 12.0, (1,)), 0.75, 8.25),  # half of each window, of s = 3 where there are no bounds
        (Box(0.1, 0.7, (1,), np.float64), 0.25, 0.55),
        (Box(2.0, np.inf, (1,)), 3.5, 6.5),
        (Box(-np.inf, -5.0, (1,)), -9.5, -6.5),
        (BOXES["unbounded"], -1.5, 1.5),
        (BOXES["largest floats"], -1.5, 1.5),
        (BOXES["largest doubles"], -1.5, 1.5),
        (Box(0.0, LARGEST, (1,)), 1.5, 4.5),
        (Box(0, 2**31 - 1, (1,), np.int32), 2, 4),
        (Box(0, 2**40, (1,), np.int64), 2, 4),
        (BOXES["all integers"], -1, 1),
        (BOXES["bytes"], 64, 191),
        (Box(-3, 2, (1,), np.int64), -1, 0),
        (Box(7, 8, (1,), np.int64), 7, 7),
    ],
)
def test_a_limit_is_the_middle_of_what_is_played(native: Box, lowest: float, highest: float) -> None:
    limited = ActionMap.of(native, 3.0).limited(0.5)
    actions = np.concatenate([NASTY, np.linspace(-1, 1, 41, dtype=np.float32)]).reshape(-1, 1)
    for mapped in (limited(actions), on_tensors(limited, actions)):
        assert mapped.dtype == native.dtype
        assert (mapped.min(), mapped.max()) == (pytest.approx(lowest), pytest.approx(highest))

    # Inside the limits nothing changes.
    whole = ActionMap.of(native, 3.0)(actions)
    inside = (whole > lowest) & (whole < highest)
    np.testing.assert_array_equal(limited(actions)[inside], whole[inside])


def test_a_limited_unit_box_is_mapped_and_no_limit_is_the_map_itself() -> None:
    assert ActionMap.of(UNIT).is_identity
    assert not ActionMap.of(UNIT).limited(0.25).is_identity
    assert ActionMap.of(UNIT).limited(1) == ActionMap.of(UNIT)


@pytest.mark.parametrize("native", [BOXES["unbounded"], BOXES["largest floats"], Discrete(3), MultiBinary(2)])
def test_a_limit_without_a_middle_is_refused(native: Space[Any]) -> None:
    """A policy of before acts without bounds."""
    with pytest.raises(ValueError, match="action_limit needs actions with finite bounds"):
        ActionMap.of(native, OWN_UNITS).limited(0.5)


def test_elements_are_independent_and_keep_their_shape() -> None:
    low = np.array([[-1, 0, 2], [-np.inf, 3, -5]], np.float32)
    high = np.array([[1, 4, np.inf], [np.inf, 3, 5]], np.float32)
    native = Box(low, high)
    action_map = ActionMap.of(native, 2.0)
    assert action_map.policy == Box(-1.0, 1.0, (6,), np.float32)
    actions = np.array([[0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [-9, 9, -9, 9, 0, 9]], np.float32)
    expected = [[[0.5, 3, 5], [1, 3, 2.5]], [[-1, 4, 2], [2, 3, 5]]]
    assert action_map(actions).tolist() == on_tensors(action_map, actions).tolist() == expected


def test_a_policy_of_before_does_what_it_did() -> None:
    everything = Box(-np.inf, np.inf, (1,))
    for policy, native, action, expected in (
        (everything, Box(-1.0, 3.0, (1,)), 2.0, 2.0),  # an unbounded policy's actions are the environment's own
        (everything, Box(-1.0, 3.0, (1,)), 9.0, 3.0),
        (everything, everything, 9.0, 9.0),
        (UNIT, everything, 3.0, 1.0),  # the policy's bounds stand for missing ones
        (UNIT, Box(-np.inf, 3.0, (1,)), 0.0, 1.0),
        (Box(-2.0, 2.0, (1,)), Box(-1.0, 3.0, (1,)), 1.0, 2.0),
    ):
        mapped = ActionMap.between(policy, native, OWN_UNITS)(np.array([action], np.float32))
        assert mapped.tolist() == [expected]

    wide = Box(-3.0, 12.0, (1,))
    assert ActionMap.of(wide, OWN_UNITS).policy == wide
    assert ActionMap.of(wide, OWN_UNITS).is_identity


@pytest.mark.parametrize(
    ("native", "policy", "action", "expected"),
    [
        (Discrete(3), Discrete(3), [0, 2], [0, 2]),
        (Discrete(3, start=-1), Discrete(3), [0, 2], [-1, 1]),
        (MultiDiscrete([2, 5]), MultiDiscrete([2, 5]), [[1, 4]], [[1, 4]]),
        (MultiDiscrete([2, 5], start=[3, -1]), MultiDiscrete([2, 5]), [[1, 4]], [[4, 3]]),
        (MultiDiscrete(np.array([[2, 3], [4, 5]])), MultiDiscrete([2, 3, 4, 5]), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]]),
        (MultiBinary(3), MultiDiscrete([2, 2, 2]), [[1, 0, 1]], [[1, 0, 1]]),
        (MultiBinary((2, 2)), MultiDiscrete([2] * 4), [[1, 0, 1, 0]], [[[1, 0], [1, 0]]]),
    ],
)
def test_choices_are_shifted_and_keep_their_shape(
    native: Space[Any], policy: Space[Any], action: list[object], expected: list[object]
) -> None:
    action_map = ActionMap.of(native)
    assert action_map.policy == policy
    actions = np.array(action)
    mapped = action_map(actions)
    assert mapped.tolist() == expected
    assert all(native.contains(one) for one in mapped)

    on_torch = TensorActionMap(action_map)
    tensors = on_torch(torch.from_numpy(actions))
    assert tensors.tolist() == expected
    assert tensors.dtype == torch_dtype(native.dtype)
    assert on_torch.inverse(tensors).tolist() == action
    assert native.contains(action_map.one(actions[0]))


@pytest.mark.parametrize(
    "native",
    [Box(-3.0, 12.0, (2,)), Box(0, 5, (2,), np.int32), Box(np.array([3, 0]), np.array([3, 1]), dtype=np.float32)],
)
def test_the_inverse_gives_an_action_that_becomes_the_same(native: Box) -> None:
    native.seed(0)
    on_torch = TensorActionMap(ActionMap.of(native))
    own = torch.from_numpy(np.stack([native.sample() for _ in range(50)]))
    policy_action = on_torch.inverse(own)
    assert policy_action.abs().max() <= 1
    torch.testing.assert_close(on_torch(policy_action), own, rtol=1e-6, atol=1e-6)


def test_actions_without_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"actions Box\(.*\(0,\).* hold no number"):
        policy_action_space(Box(-1, 1, (0,)))


@pytest.mark.parametrize("native", [Text(3), Dict(a=UNIT)])
def test_other_spaces_are_refused_by_name(native: Space[Any]) -> None:
    with pytest.raises(ValueError, match="must be a Box"):
        policy_action_space(native)


def test_a_policy_of_another_size_is_refused() -> None:
    for policy, native in (
        (UNIT, Box(-1, 1, (2,))),
        (Discrete(2), Discrete(3)),
        (UNIT, Discrete(2)),
        (Discrete(1), UNIT),
    ):
        with pytest.raises(ValueError, match="cannot act in"):
            ActionMap.between(policy, native)


def test_what_is_not_a_number_is_refused() -> None:
    for native in (BOXES["wide"], BOXES["integers"], UNIT):
        with pytest.raises(ValueError, match="not a number"):
            ActionMap.of(native)(np.array([np.nan], np.float32))


def test_missing_bounds_are_told_and_only_those() -> None:
    low = np.array([-1, -LARGEST, 2], np.float32)
    warning = missing_bounds_warning(Box(low, np.array([1, LARGEST, np.inf], np.float32)), 4.0)
    assert warning is not None
    assert "element 1, 2" in warning and "s = 4" in warning and "--action-scale" in warning
    for bounded in (UNIT, BOXES["wide"], BOXES["bytes"], Discrete(3)):
        assert missing_bounds_warning(bounded, 1.0) is None
    assert missing_bounds_warning(BOXES["unbounded"], OWN_UNITS) is None


@pytest.mark.parametrize(
    ("native", "scale", "named"),
    [
        (Box(1e9, np.inf, (1,)), 1.0, "element 0 this window holds only 1 of the numbers of float32"),
        (
            Box(np.array([0, 1e9], np.float32), np.inf),
            100.0,
            "element 1 this window holds only 4 of the numbers of float32",
        ),
        (Box(5, np.inf, (1,), np.int64), 0.4, "element 0 this window holds only 1 of the whole numbers"),
        (Box(1e3, np.inf, (1,)), 1.0, ""),
        (Box(5, np.inf, (1,), np.int64), 1.0, ""),
    ],
)
def test_windows_that_hold_hardly_any_number_are_told(native: Box, scale: float, named: str) -> None:
    warning = missing_bounds_warning(native, scale)
    assert warning is not None
    assert (named in warning) if named else ("holds only" not in warning)


def test_the_warning_names_the_side_that_has_no_bound() -> None:
    assert "spans bound − 2 s to bound there" in str(missing_bounds_warning(BOXES["to minus five"], 1.0))
    assert "spans the whole numbers of bound to bound + 2 s there" in str(
        missing_bounds_warning(BOXES["integers from two"], 1.0)
    )
