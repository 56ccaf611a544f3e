"""Ranges: draws lie inside and fill them; `contains` and the constructors reject what lies outside."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.envs.task_space import (
    Ball,
    BoxRing,
    Choice,
    Circle,
    Integers,
    LogUniform,
    Normal,
    Range,
    Simplex,
    Uniform,
    num_tasks_of,
    select_tasks,
    task_text,
    tasks_to_json,
)

NUM_DRAWS = 20_000

RANGES = [
    Uniform(-1.0, 3.0),
    Uniform(1000.1, 1000.2, shape=(2,)),
    LogUniform(0.25, 4.0),
    LogUniform(0.5, 2.0, shape=(3, 2)),
    Normal(1.0, 2.0, shape=(2,)),
    Simplex(4),
    Simplex(3, rows=(2, 2)),
    Integers(-2, 5),
    Integers(0, 3, shape=(2,)),
    Choice([1.0, 2.0, 5.0]),
    Choice([[0.0, 1.0], [1.0, 0.0]]),
    Ball(2.0, dim=3),
    Circle(radius=1.5),
    Circle(radius=1.0, start=math.pi, end=2 * math.pi),
    BoxRing(0.5, 1.0),
    BoxRing(0.0, 1.0, dim=1),
    BoxRing(0.5, 1.0, dim=3),
]


def draw(range_: Range, seed: int = 0) -> Tensor:
    return range_.sample(NUM_DRAWS, torch.Generator().manual_seed(seed))


def share(condition: Tensor) -> float:
    return float(condition.float().mean())


def about(expected: float) -> Any:
    """A share of NUM_DRAWS draws, to four standard deviations."""
    return pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / NUM_DRAWS))


@pytest.mark.parametrize("range_", RANGES, ids=str)
def test_draws_lie_in_the_range_and_follow_the_generator(range_: Range) -> None:
    value = draw(range_)
    assert value.shape == (NUM_DRAWS, *range_.shape)
    assert value.dtype == torch.float32
    assert range_.contains(value).shape == (NUM_DRAWS,)
    assert range_.contains(value).all()
    assert torch.equal(value, draw(range_))
    assert not torch.equal(value, draw(range_, seed=1))


def test_uniform_fills_its_interval() -> None:
    value = draw(Uniform(-1.0, 3.0, shape=(2,)))
    assert value.mean(dim=0).tolist() == pytest.approx([1.0, 1.0], abs=0.04)
    assert value.var(dim=0).tolist() == pytest.approx([16 / 12] * 2, rel=0.04)
    assert value.min() < -0.99
    assert value.max() > 2.99
    assert abs(float(torch.corrcoef(value.T)[0, 1])) < 0.03  # elements are independent


def test_log_uniform_gives_a_factor_and_its_inverse_the_same_chance() -> None:
    value = draw(LogUniform(0.25, 4.0))
    assert share(value < 1) == about(1 / 2)
    assert share(value < 0.5) == about(1 / 4)
    assert share(value > 2) == about(1 / 4)


def test_choice_gives_each_value_the_same_chance() -> None:
    value = draw(Choice([1.0, 2.0, 5.0]))
    assert [share(value == choice) for choice in (1, 2, 5)] == [about(1 / 3)] * 3
    assert share(draw(Choice([[0.0, 1.0], [1.0, 0.0]]))[:, 0] == 1) == about(1 / 2)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_ball_is_uniform_in_volume_and_has_no_preferred_direction(dim: int) -> None:
    value = draw(Ball(2.0, dim=dim))
    assert share(value.square().sum(dim=1) < 1) == about(0.5**dim)
    assert share(value[:, 0] > 0) == about(1 / 2)
    assert share((value > 0).all(dim=1)) == about(0.5**dim)


def test_circle_fills_its_arc_evenly() -> None:
    value = draw(Circle(radius=1.5, start=0.0, end=math.pi))
    assert value.square().sum(dim=1).sqrt().tolist() == pytest.approx([1.5] * NUM_DRAWS)
    angle = torch.atan2(value[:, 1], value[:, 0])
    assert [share((angle >= i * math.pi / 4) & (angle < (i + 1) * math.pi / 4)) for i in range(4)] == [about(0.25)] * 4


@pytest.mark.parametrize(
    ("region", "volume"),
    [
        (lambda x: x[:, 0] > 0.5, 0.5 * 2**2),  # a slab over one face, of the whole width
        (lambda x: (x > 0.5).all(dim=1), 0.5**3),  # a corner
        (lambda x: x.abs().amax(dim=1) < 0.75, 1.5**3 - 1),  # the inner half of the shell
        (lambda x: x[:, 2] < 0, (2**3 - 1) / 2),
    ],
)
def test_box_ring_is_uniform_in_volume(region: Callable[[Tensor], Tensor], volume: float) -> None:
    assert share(region(draw(BoxRing(0.5, 1.0, dim=3)))) == about(volume / (2**3 - 1))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_box_ring_gives_every_side_the_same_chance(dim: int) -> None:
    value = draw(BoxRing(0.5, 1.0, dim=dim))
    slab = 0.5 * 2 ** (dim - 1) / (2**dim - 1)
    assert [share(sign * value[:, axis] > 0.5) for axis in range(dim) for sign in (1, -1)] == [about(slab)] * 2 * dim


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        (Uniform(0.1, 0.7), [0.1, 0.3, 0.7], [0.09, 0.71, -0.3, math.nan, math.inf]),
        (Uniform(-1.0, 1.0, shape=(2,)), [[-1.0, 1.0]], [[0.0, 1.1], [-1.1, 0.0]]),
        (LogUniform(0.001, 0.7), [0.001, 0.7], [0.00099, 0.71, -0.3, 0.0, math.nan]),
        (Integers(-1, 3), [-1.0, 3.0], [-2.0, 3.5, 4.0, math.nan]),
        (Choice([0.1, 0.3]), [0.1, 0.3], [0.2, 0.0, math.nan]),
        (Choice([[0.0, 1.0], [1.0, 0.0]]), [[0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]),
        (Ball(1.0), [[0.6, 0.8], [0.0, 0.0]], [[0.61, 0.8], [0.8, 0.8], [math.nan, 0.0]]),
        (Circle(1.0), [[0.6, -0.8], [1.0, 0.0]], [[0.0, 0.0], [0.6, 0.9], [math.nan, 0.0]]),
        (Circle(1.0, 0.0, math.pi), [[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], [[0.0, -1.0], [0.6, -0.8]]),
        (Circle(1.0, -0.5, 0.5), [[1.0, 0.0]], [[0.0, 1.0], [-1.0, 0.0]]),
        (Normal(1.0, 2.0), [-50.0, 0.0, 99.0], [math.nan, math.inf]),
        (Simplex(3), [[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.333, 0.333, 0.333]], [[0.5, 0.6, 0.0], [1.1, -0.1, 0.0]]),
        (Simplex(2, rows=(2,)), [[[0.5, 0.5], [1.0, 0.0]]], [[[0.5, 0.5], [0.5, 0.4]], [[0.5, 0.5], [1.5, -0.5]]]),
        (BoxRing(0.5, 1.0), [[0.5, 0.0], [0.2, -1.0], [-0.7, 0.7]], [[0.4, -0.4], [1.1, 0.0], [math.nan, 0.7]]),
    ],
    ids=str,
)
def test_contains_accepts_the_bounds_and_rejects_what_lies_outside(
    range_: Range, inside: list[Any], outside: list[Any]
) -> None:
    assert range_.contains(torch.tensor(inside)).all()
    assert not range_.contains(torch.tensor(outside)).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(1.0, 1.0),
        lambda: Uniform(0.0, math.inf),
        lambda: Uniform(math.nan, 1.0),
        lambda: LogUniform(0.0, 1.0),
        lambda: LogUniform(2.0, 1.0),
        lambda: LogUniform(1.0, math.inf),
        lambda: Normal(math.inf, 1.0),
        lambda: Normal(0.0, 0.0),
        lambda: Simplex(1),
        lambda: Integers(3, 2),
        lambda: Integers(0, 2**25),
        lambda: Uniform(1e39, 2e39),
        lambda: Uniform(-3e38, 3e38),
        lambda: Uniform(2.0**24, 2.0**24 + 1),
        lambda: LogUniform(1e-50, 1.0),
        lambda: LogUniform(1.0, 1e39),
        lambda: Normal(0.0, 1e38),
        lambda: Integers(0.5, 2),  # type: ignore[arg-type]
        lambda: Choice([]),
        lambda: Choice([1e39]),
        lambda: Choice([1.0, math.nan]),
        lambda: Choice(["easy", "hard"]),  # type: ignore[arg-type]
        lambda: Choice([[1.0, 2.0], [3.0]]),
        lambda: Ball(0.0),
        lambda: Ball(1.0, dim=0),
        lambda: Circle(radius=-1.0),
        lambda: Circle(start=1.0, end=1.0),
        lambda: Circle(start=0.0, end=7.0),
        lambda: BoxRing(1.0, 0.5),
        lambda: BoxRing(-0.1, 0.5),
        lambda: BoxRing(0.0, math.inf),
        lambda: BoxRing(0.0, 1.0, dim=0),
    ],
)
def test_an_empty_or_infinite_range_is_rejected(make: Callable[[], Range]) -> None:
    with pytest.raises(ValueError, match=r"needs"):
        make()


def test_large_and_small_ranges_that_a_float32_holds_give_finite_values() -> None:
    for range_ in (Uniform(-1e38, 2e38), LogUniform(1e-37, 1e38), Normal(1e38, 1e37), Choice([3e38, -3e38])):
        values = range_.sample(1000, torch.Generator().manual_seed(0))
        assert values.isfinite().all()
        assert len(set(values.tolist())) > 1


def test_a_task_is_shown_with_the_digits_that_tell_it_from_others() -> None:
    task = {"goal": torch.tensor([0.3, -0.1]), "mass": np.float32(1 / 3), "legs": torch.tensor(2)}
    assert task_text(task) == "{'goal': [0.3, -0.1], 'mass': 0.33333334, 'legs': 2.0}"
    assert np.float32(0.33333334) == np.float32(1 / 3)
    assert task_text({"map": torch.ones(999)}, limit=20) == "{'map': [1.0, 1.0, 1…"


def test_a_task_on_a_gpu_is_shown_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy cannot read a GPU's memory."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor.detach() + 1)
    assert task_text({"mass": torch.tensor(2.0)}) == "{'mass': 3.0}"


def test_tasks_are_counted_sliced_and_written_as_json() -> None:
    tasks = {"goal": torch.tensor([[0.5, 0.25], [1.0, 2.0], [3.0, 4.0]]), "mass": torch.tensor([1.5, 2.5, 3.5])}
    assert num_tasks_of(tasks) == 3
    assert tasks_to_json(select_tasks(tasks, slice(1, 3))) == [
        {"goal": [1.0, 2.0], "mass": 2.5},
        {"goal": [3.0, 4.0], "mass": 3.5},
    ]
