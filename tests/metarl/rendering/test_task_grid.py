"""The grid of tasks that heat maps are made of."""

import numpy as np
import pytest
import torch

from metarl.envs.env_family import EnvFamily
from metarl.envs.registry import make_distribution
from metarl.envs.task_distribution import TaskDistribution
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
    Task,
    Uniform,
)
from metarl.errors import UserError
from metarl.rendering.task_grid import TaskGrid, task_grid


def grid_of(
    train: dict[str, Range], ood: dict[str, Range] | None = None, over: tuple[str, ...] = (), points: int = 4
) -> TaskGrid:
    family = EnvFamily()
    family.horizon = 1
    distribution = TaskDistribution(family, train, ood)
    return task_grid(distribution, over, distribution.sample(1, "test"), points)


def values_of(tasks: Task, name: str) -> list[object]:
    values: list[object] = np.round(tasks[name].numpy(), 4).tolist()
    return values


def test_a_square_within_a_ring_is_covered_by_cell_centres() -> None:
    distribution = make_distribution("point-navigation/finn")
    grid = task_grid(distribution, (), distribution.default_task(), 4)
    np.testing.assert_allclose(grid.axes[0].edges, [-1, -0.5, 0, 0.5, 1])
    centres = [-0.75, -0.25, 0.25, 0.75]
    assert values_of(grid.tasks, "goal") == [[x, y] for x in centres for y in centres]
    assert grid.cells.all()
    assert grid.trained.tolist() == [abs(x) < 0.5 and abs(y) < 0.5 for x in centres for y in centres]
    assert grid.axes[1].train == (-0.5, 0.5)
    assert [axis.label for axis in grid.axes] == ["goal x, m", "goal y, m"]


def test_every_task_of_a_grid_is_one_that_the_command_line_takes() -> None:
    for name in ("point-navigation/finn", "point-navigation/pearl", "grid-navigation"):
        distribution = make_distribution(name)
        grid = task_grid(distribution, (), distribution.default_task(), 6)
        for index in range(len(grid.trained)):
            distribution.parse_task({name: value[index].tolist() for name, value in grid.tasks.items()})


def test_cells_outside_the_task_space_stay_empty() -> None:
    grid = grid_of({"goal": Ball(1.0)})
    corners = [(0, 0), (0, 3), (3, 0), (3, 3)]
    assert [tuple(cell) for cell in np.argwhere(~grid.cells)] == corners
    assert len(grid.tasks["goal"]) == 12
    assert grid.radius == 1.0
    shown = grid.to_grid(np.arange(12.0))
    assert np.isnan(shown[0, 0])
    np.testing.assert_array_equal(shown[grid.cells], np.arange(12.0))
    assert shown[0, 1] == 0.0
    assert values_of(grid.tasks, "goal")[0] == [-0.75, -0.25]


def test_points_of_a_circle_have_their_angle_as_the_one_axis() -> None:
    grid = grid_of({"goal": Circle(2.0, 0, np.pi)}, {"goal": Circle(2.0, np.pi, 2 * np.pi)})
    (axis,) = grid.axes
    np.testing.assert_allclose(axis.values, [45, 135, 225, 315])
    half = 2**0.5
    expected = [[half, half], [-half, half], [-half, -half], [half, -half]]
    np.testing.assert_allclose(grid.tasks["goal"].numpy(), expected, rtol=1e-6)
    assert grid.trained.tolist() == [True, True, False, False]
    assert axis.train == (0.0, 180.0)


def test_scales_are_spread_in_their_logarithm() -> None:
    (axis,) = grid_of({"gain": LogUniform(1.0, 16.0)}, points=2).axes
    assert axis.logarithmic
    np.testing.assert_allclose(axis.edges, [1, 4, 16])
    np.testing.assert_allclose(axis.values, [2, 8])


def test_values_that_can_be_listed_are_the_grid() -> None:
    grid = grid_of({"n": Integers(2, 4), "side": Choice((-1.0, 3.0))}, points=20)
    assert values_of(grid.tasks, "n") == [2, 2, 3, 3, 4, 4]
    assert values_of(grid.tasks, "side") == [-1, 3] * 3
    np.testing.assert_allclose(grid.axes[0].edges, [1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(grid.axes[1].edges, [-3, 1, 5])
    many = grid_of({"n": Integers(0, 1000)}, points=3)
    assert values_of(many.tasks, "n") == [0, 500, 1000]


def test_a_normal_reaches_two_standard_deviations() -> None:
    np.testing.assert_allclose(grid_of({"x": Normal(1.0, 2.0)}, points=2).axes[0].edges, [-3, 1, 5])


def test_chosen_parameters_vary_and_the_others_are_held() -> None:
    train: dict[str, Range] = {"a": Uniform(0, 1), "b": Uniform(0, 1), "c": Uniform(0, 1, shape=(3,))}
    grid = grid_of(train, {"b": Uniform(1, 2)}, over=("b",))
    assert values_of(grid.tasks, "b") == [0.25, 0.75, 1.25, 1.75]
    assert grid.trained.tolist() == [True, True, False, False]
    assert set(grid.fixed) == {"a", "c"}
    for name in ("a", "c"):
        assert torch.equal(grid.tasks[name], grid.fixed[name].expand(4, *grid.fixed[name].shape[1:]))


def test_each_parameter_may_lie_in_its_own_ood_range() -> None:
    grid = grid_of({"a": Uniform(0, 1), "b": Uniform(0, 1)}, {"a": Uniform(1, 2), "b": Uniform(1, 2)}, points=2)
    assert grid.cells.all()
    assert grid.trained.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("train", "over", "named"),
    [
        ({"a": Uniform(0, 1, shape=(3,))}, (), "a \\(3\\)"),
        ({"a": Uniform(0, 1), "b": Uniform(0, 1), "c": Uniform(0, 1)}, (), "such as --over a b"),
        ({"a": Uniform(0, 1), "goal": BoxRing(0, 1)}, ("a", "goal"), "one or two dimensions"),
        ({"a": Uniform(0, 1)}, ("b",), "the task parameters are a"),
        ({"a": Uniform(0, 1)}, ("a", "a"), "--over a a"),
        ({"p": Simplex(2)}, (), "simplex"),
    ],
)
def test_what_has_no_map_is_refused(train: dict[str, Range], over: tuple[str, ...], named: str) -> None:
    with pytest.raises(UserError, match=named):
        grid_of(train, over=over)
