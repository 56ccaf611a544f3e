"""Actions stretched between Boxes: against the plain formula, element by element."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from metarl.envs.external.action_map import ActionMap

UNIT = Box(-1.0, 1.0, (1,), np.float32)


@pytest.mark.parametrize(
    ("policy", "native", "action", "expected"),
    [
        (UNIT, Box(-2.0, 2.0, (1,)), 0.5, 1.0),
        (UNIT, Box(0.0, 10.0, (1,)), 0.0, 5.0),
        (UNIT, Box(0.0, 10.0, (1,)), 7.0, 10.0),  # clipped
        (UNIT, UNIT, 1e-9, np.float32(1e-9)),  # nothing is lost to rounding where nothing is stretched
        (UNIT, Box(-np.inf, np.inf, (1,)), 3.0, 1.0),  # the policy's bounds stand for missing ones
        (UNIT, Box(-np.inf, 3.0, (1,)), 0.0, 1.0),
        (Box(-2.0, 2.0, (1,)), Box(-1.0, 3.0, (1,)), 1.0, 2.0),
        (Box(-np.inf, np.inf, (1,)), Box(-1.0, 3.0, (1,)), 2.0, 2.0),  # an unbounded policy's are the environment's own
        (Box(-np.inf, np.inf, (1,)), Box(-1.0, 3.0, (1,)), 9.0, 3.0),
        (Box(-np.inf, np.inf, (1,)), Box(-np.inf, np.inf, (1,)), 9.0, 9.0),
        (UNIT, Box(0, 10, (1,), np.int64), 0.5, 7.5),
    ],
)
def test_an_action_is_clipped_and_stretched(policy: Box, native: Box, action: float, expected: float) -> None:
    mapped = ActionMap.between(policy, native)(np.array([action], np.float32))
    assert mapped.dtype == np.result_type(native.dtype, np.float32)
    assert mapped == pytest.approx([expected], rel=1e-7)


def test_elements_are_independent() -> None:
    native = Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))
    mapped = ActionMap.between(Box(-1.0, 1.0, (2,)), native)(np.array([[0.5, 0.5], [-9.0, 9.0]], np.float32))
    assert mapped.tolist() == [[0.5, 3.0], [-1.0, 4.0]]
