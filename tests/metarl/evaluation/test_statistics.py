"""Statistics of comparisons against SciPy, closed forms, hand-made examples and synthetic data of known mean."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from metarl.evaluation.intervals import Estimate
from metarl.evaluation.statistics import (
    Curve,
    cvar_10,
    difference,
    iqm,
    iqm_estimate,
    lost_return,
    mean_estimate,
    mean_interval,
    normalized,
    probability_of_improvement,
    ranks,
    steps_to_reach,
)

Floats = NDArray[np.float64]

NORMAL_TAIL = float(stats.norm.ppf(0.975))


def array(*values: Any) -> Floats:
    return np.array(values, np.float64)


def bounds(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def make_curve(env_steps: list[float], returns: Any) -> Curve:
    """Returns (S, P, M), or (P,) for one seed on one task."""
    values = np.array(returns, np.float64)
    return Curve("agent", "baseline", 0, array(*env_steps), values if values.ndim == 3 else values.reshape(1, -1, 1))


# Means and their intervals


def test_ranks_are_scipys() -> None:
    values = np.random.default_rng(0).integers(0, 5, 40).astype(float)
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values))


@pytest.mark.parametrize("size", [*range(1, 14), 50, 101, 1000])
def test_iqm_is_scipys_trimmed_mean(size: int) -> None:
    values = np.random.default_rng(size).standard_cauchy(size)
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_iqm_is_over_all_entries_of_an_array() -> None:
    values = np.random.default_rng(0).exponential(size=(3, 17))
    assert iqm(values) == pytest.approx(stats.trim_mean(values.ravel(), 0.25))
    assert iqm_estimate(values).value == iqm(values)


def test_iqm_ignores_outliers() -> None:
    assert iqm(array(-1e9, 1, 2, 1e9)) == 1.5


@pytest.mark.parametrize("axis", ["tasks", "seeds"])
def test_the_interval_of_a_mean_is_the_normal_one(axis: str) -> None:
    """Mean ± z σ/√n, where only one of tasks and seeds varies."""
    returns = 5 + 3 * np.random.default_rng(1).standard_normal(400)
    estimate = mean_estimate(returns[None] if axis == "tasks" else returns[:, None])
    half = NORMAL_TAIL * returns.std() / math.sqrt(400)  # of so many, Student's t is normal
    assert estimate.value == pytest.approx(returns.mean())
    assert bounds(estimate) == pytest.approx((returns.mean() - half, returns.mean() + half), abs=0.1 * half)


def test_more_seeds_on_the_same_tasks_say_nothing_more_about_the_tasks() -> None:
    """A task is drawn for every seed: equal seeds leave the interval as it is, where independent draws narrow it."""
    tasks = np.random.default_rng(2).standard_normal((1, 60))
    assert bounds(mean_estimate(np.repeat(tasks, 16, axis=0))) == pytest.approx(bounds(mean_estimate(tasks)))


def test_more_tasks_say_nothing_more_about_the_seeds() -> None:
    seeds = np.random.default_rng(3).standard_normal((60, 1))
    assert bounds(mean_estimate(np.repeat(seeds, 16, axis=1))) == pytest.approx(bounds(mean_estimate(seeds)))


def test_seeds_and_tasks_that_vary_independently_add_their_variances() -> None:
    rng = np.random.default_rng(4)
    seeds, tasks = rng.standard_normal((50, 1)), 2 * rng.standard_normal((1, 80))
    half = NORMAL_TAIL * math.hypot(seeds.std() / math.sqrt(50), tasks.std() / math.sqrt(80))
    assert width(mean_estimate(seeds + tasks)) == pytest.approx(2 * half, rel=0.1)


def worst_tenth(returns: Floats) -> Estimate:
    estimate = cvar_10(returns)
    assert estimate is not None
    return estimate


def test_worst_tenth_is_that_of_each_seed() -> None:
    """Returns 0 … 999 and, in another order, 100 lower: the worst tenths have the means 49.5 and −50.5."""
    first = np.arange(1000.0)
    assert worst_tenth(first[None]).value == pytest.approx(49.5, abs=0.5)
    assert worst_tenth(np.stack([first, first[::-1] - 100])).value == pytest.approx(-0.5, abs=0.5)
    assert bounds(worst_tenth(np.full((2, 30), 7.0))) == pytest.approx((7, 7))


def test_there_is_no_worst_tenth_of_fewer_than_20_tasks() -> None:
    assert cvar_10(np.arange(57.0).reshape(3, 19)) is None
    assert cvar_10(np.arange(60.0).reshape(3, 20)) is not None


@pytest.mark.parametrize("num_tasks", [20, 100])
def test_the_worst_tenth_of_few_tasks_has_no_bias(num_tasks: int) -> None:
    """The mean of the two worst of 20 normal returns lies 0.12 above the mean below their 10% quantile."""
    rng = np.random.default_rng(21)
    values = [worst_tenth(rng.standard_normal((1, num_tasks))).value for _ in range(400)]
    expected = -stats.norm.pdf(stats.norm.ppf(0.1)) / 0.1
    assert np.mean(values) == pytest.approx(expected, abs=0.1 if num_tasks == 20 else 0.03)


def test_worst_tenth_of_a_normal_distribution_lies_within_its_interval() -> None:
    """The mean below its 10% quantile z is −φ(z)/0.1."""
    estimate = worst_tenth(np.random.default_rng(0).normal(size=(5, 1000)))
    expected = -stats.norm.pdf(stats.norm.ppf(0.1)) / 0.1
    assert estimate.low < expected < estimate.high
    assert width(estimate) < 0.3


def test_an_interval_is_the_same_in_every_call() -> None:
    returns = np.random.default_rng(6).standard_normal((4, 9))
    assert mean_estimate(returns) == mean_estimate(returns.copy())


def test_the_interval_of_a_curve_is_that_of_each_point() -> None:
    returns = np.random.default_rng(7).standard_normal((3, 4, 10))
    curve = make_curve([0, 1, 2, 3], returns)
    interval = mean_interval(curve)
    assert interval.shape == (4, 2)
    for point in range(4):
        assert tuple(interval[point]) == bounds(mean_estimate(returns[:, point]))
    assert curve.mean == pytest.approx([returns[:, point].mean() for point in range(4)])


# Two agents


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (2, 5)])
def test_a_constant_difference_is_certain_however_much_tasks_differ(seeds: tuple[int, int]) -> None:
    """Both agents meet the same tasks in every resample, so that what the tasks share cancels."""
    tasks = 1000.0 * np.random.default_rng(8).integers(-1000, 1000, 30)
    ours, theirs = np.tile(tasks + 1, (seeds[0], 1)), np.tile(tasks, (seeds[1], 1))
    estimate = difference(ours, theirs)
    assert (estimate.value, *bounds(estimate)) == pytest.approx((1, 1, 1), abs=1e-8)
    assert width(mean_estimate(ours)) > 1e5


def test_the_difference_of_agents_that_share_nothing_adds_their_variances() -> None:
    """Differences task by task are N(2, 1 + 4); SciPy's paired interval agrees."""
    rng = np.random.default_rng(9)
    ours, theirs = 2 + rng.standard_normal((1, 300)), 2 * rng.standard_normal((1, 300))
    expected = stats.ttest_rel(ours[0], theirs[0]).confidence_interval(0.95)
    estimate = difference(ours, theirs)
    assert estimate.value == pytest.approx(ours.mean() - theirs.mean())
    assert bounds(estimate) == pytest.approx((expected.low, expected.high), abs=0.05)


def test_the_seeds_of_two_agents_are_drawn_independently() -> None:
    """Seed number 3 of one agent has nothing to do with seed number 3 of the other."""
    seeds = np.random.default_rng(10).standard_normal((40, 1))
    half = NORMAL_TAIL * seeds.std() * math.sqrt(2 / 40)
    assert difference(seeds, seeds).value == 0
    assert width(difference(seeds, seeds)) == pytest.approx(2 * half, rel=0.1)


def test_the_difference_changes_its_sign_with_the_order() -> None:
    rng = np.random.default_rng(11)
    ours, theirs = rng.standard_normal((1, 50)), 1 + rng.standard_normal((1, 50))
    there, back = difference(ours, theirs), difference(theirs, ours)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    several = rng.standard_normal((4, 50))
    there, back = difference(several, theirs), difference(theirs, several)
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.1 * width(there))


@pytest.mark.parametrize(("gap", "expected"), [(1.0, 1.0), (0.0, 0.5), (-1.0, 0.0)])
def test_always_better_equal_and_always_worse(gap: float, expected: float) -> None:
    tasks = 100 * np.random.default_rng(12).standard_normal((1, 20))
    estimate = probability_of_improvement(np.tile(tasks + gap, (3, 1)), np.tile(tasks, (2, 1)))
    assert estimate.value == expected


def test_twenty_wins_of_twenty_are_no_certainty() -> None:
    """Wilson's interval of n wins of n is n/(n + z²) … 1; six tasks say little."""
    for num_tasks in (6, 20):
        estimate = probability_of_improvement(np.ones((1, num_tasks)), np.zeros((1, num_tasks)))
        expected = num_tasks / (num_tasks + NORMAL_TAIL**2)
        assert (estimate.value, *bounds(estimate)) == pytest.approx((1, expected, 1))


def test_probability_of_improvement_by_hand() -> None:
    """Task 1: 1 beats 0; 3 beats 2 and 0 and ties with 3. Task 2: each 5 ties with 5 and loses to 6 and 7."""
    ours = array([1, 5], [3, 5])
    theirs = array([2, 6], [3, 5], [0, 7])
    first, second = (1 + 2.5) / 6, 2 * 0.5 / 6
    assert probability_of_improvement(ours, theirs).value == pytest.approx((first + second) / 2)


def test_probability_of_improvement_is_mann_whitneys_u_on_one_task() -> None:
    rng = np.random.default_rng(13)
    ours, theirs = rng.integers(0, 6, (9, 1)).astype(float), rng.integers(0, 7, (7, 1)).astype(float)
    expected = stats.mannwhitneyu(ours[:, 0], theirs[:, 0]).statistic / (9 * 7)
    assert probability_of_improvement(ours, theirs).value == pytest.approx(expected)


def test_one_or_the_other_is_better() -> None:
    rng = np.random.default_rng(14)
    ours, theirs = rng.integers(0, 4, (3, 30)).astype(float), rng.integers(0, 4, (5, 30)).astype(float)
    there, back = probability_of_improvement(ours, theirs), probability_of_improvement(theirs, ours)
    assert there.value + back.value == pytest.approx(1)
    single = probability_of_improvement(ours[:1], theirs[:1]), probability_of_improvement(theirs[:1], ours[:1])
    assert single[0].low + single[1].high == pytest.approx(1)
    assert single[0].high + single[1].low == pytest.approx(1)


def test_the_interval_of_a_probability_is_the_binomial_one() -> None:
    """One seed each: a task is won or lost, 60 of 200."""
    ours = np.where(np.arange(200) < 60, 1.0, -1.0)[None]
    estimate = probability_of_improvement(ours, np.zeros((1, 200)))
    half = NORMAL_TAIL * math.sqrt(0.3 * 0.7 / 200)
    assert estimate.value == 0.3
    assert bounds(estimate) == pytest.approx((0.3 - half, 0.3 + half), abs=0.1 * half)


# Normalised scores


def test_normalized_by_hand() -> None:
    random, oracle = (
        array(-10, -100, 0),
        array(-2, 0, -4),
    )  # an oracle may be worse than random, and then the sign turns
    returns = array([-10, -100, 0], [-2, 0, -4], [-6, -25, -1], [2, -150, 4])
    assert normalized(returns, random, oracle) == pytest.approx(
        array([0, 0, 0], [1, 1, 1], [0.5, 0.75, 0.25], [1.5, -0.5, -1])
    )


def test_normalized_goes_by_the_last_dimension() -> None:
    returns = np.random.default_rng(15).standard_normal((2, 4, 3))
    random, oracle = array(0, 1, 2), array(1, 3, 6)
    scores = normalized(returns, random, oracle)
    for task in range(3):
        span = oracle[task] - random[task]
        assert scores[..., task] == pytest.approx((returns[..., task] - random[task]) / span)


def test_normalized_names_the_task_where_random_is_the_oracle() -> None:
    with pytest.raises(ValueError, match="task 1: random and oracle have the same return"):
        normalized(array([1, 2, 3]), array(0, 5, 5), array(1, 5, 5))


# Curves


def test_a_curve_between_its_points_is_numpys_interpolation() -> None:
    rng = np.random.default_rng(16)
    env_steps = array(20, 50, 51, 400, 1000)
    returns = rng.standard_normal((2, 5, 3))
    curve = make_curve(env_steps.tolist(), returns)
    for asked in [-5.0, 0.0, 19.99, *env_steps, 1000.01, 1e9, *rng.uniform(0, 1100, 50)]:
        expected = [[np.interp(asked, env_steps, returns[seed, :, task]) for task in range(3)] for seed in range(2)]
        assert curve.at(float(asked)) == pytest.approx(np.array(expected))
    assert (curve.final == returns[:, 4]).all()


@pytest.mark.parametrize("asked", [0.0, 7.0, 1e6])
def test_a_curve_of_one_point_is_constant(asked: float) -> None:
    curve = make_curve([7], [[[1.0, 2.0]], [[3.0, 4.0]]])
    assert curve.at(asked).tolist() == [[1, 2], [3, 4]]


def test_a_curve_as_plain_data() -> None:
    curve = Curve("MAML", "meta-learner", 8000, array(0, 20), array([[1.5], [2.5]]), 40)
    assert curve.to_json() == {
        "label": "MAML",
        "kind": "meta-learner",
        "training_env_steps": 8000,
        "evaluation_env_steps": 40,
        "validation_env_steps": 0,
        "env_steps": [0, 20],
        "returns": [[[1.5], [2.5]]],
    }


@pytest.mark.parametrize(
    ("returns", "target", "expected"),
    [
        ([-5, -4, -3], -6, 10),  # reached at the first point
        ([-5, -4, -3], -5, 10),
        ([-5, -4, -3], -4.75, 15),  # a quarter of the way from 10 to 30
        ([-5, -4, -3], -4, 30),
        ([-5, -4, -3], -3.5, 65),
        ([-5, -4, -3], -3, 100),
        ([-5, -4, -3], -2.9, math.inf),  # never
        ([-5, -1, -9], -3, 20),  # reached and lost again
        ([-5, -9, -1], -5, 10),
        ([-5, -9, -1], -4, 30 + 70 * 5 / 8),
        ([-5, -5, -3], -4, 65),  # a flat piece first
        ([-9, -5, -5], -5, 30),
    ],
)
def test_steps_to_reach_by_hand(returns: list[float], target: float, expected: float) -> None:
    """One seed on one task: every resample is the data, so the interval has no width."""
    estimate = steps_to_reach(make_curve([10, 30, 100], returns), array([target]))
    assert (estimate.value, *bounds(estimate)) == pytest.approx((expected,) * 3)


def test_a_curve_of_one_point_reaches_at_once_or_never() -> None:
    curve = make_curve([40], [2.0])
    assert steps_to_reach(curve, array([2.0])).value == 40
    assert steps_to_reach(curve, array([2.1])).value == math.inf


def test_steps_to_reach_goes_by_the_means_over_seeds_and_tasks() -> None:
    curve = make_curve([0, 10], [[[0, 2], [4, 6]], [[-2, 0], [2, 8]]])  # means 0 and 5
    assert steps_to_reach(curve, array([1, 3], [4, 4])).value == pytest.approx(10 * 3 / 5)


def test_the_interval_of_steps_to_reach_holds_the_value() -> None:
    """Return e/100 + noise of standard deviation 1 on each of 100 tasks: the target 5 is reached at 500 ± 2 · 10."""
    rng = np.random.default_rng(17)
    env_steps = np.arange(0.0, 1001.0, 50.0)
    returns = env_steps[None, :, None] / 100 + rng.standard_normal((1, 1, 100))
    estimate = steps_to_reach(make_curve(env_steps.tolist(), returns), np.full((1, 100), 5.0))
    expected = 500 - 100 * returns[0, 0].mean()
    half = 100 * NORMAL_TAIL * returns[0, 0].std() / math.sqrt(100)
    assert estimate.value == pytest.approx(expected)
    assert bounds(estimate) == pytest.approx((expected - half, expected + half), abs=0.15 * half)


def test_steps_to_reach_draws_the_same_tasks_for_the_target() -> None:
    """A target 3 above the start on every task is reached at once for all, however much the tasks differ."""
    tasks = 1e4 * np.random.default_rng(18).standard_normal(30)
    curve = make_curve([0, 60], np.stack([tasks, tasks + 6])[None])
    estimate = steps_to_reach(curve, (tasks + 3)[None])
    assert (estimate.value, *bounds(estimate)) == pytest.approx((30, 30, 30))


def test_the_interval_ends_at_infinity_where_many_resamples_never_reach() -> None:
    """Final return 0 or 2, mean 1.1: a quarter of the resamples of 20 tasks stay below 1, hardly one below 0.2."""
    final = np.where(np.arange(20) < 11, 2.0, 0.0)
    curve = make_curve([0, 100], np.stack([np.full(20, -1.0), final])[None])
    estimate = steps_to_reach(curve, np.full((1, 20), 1.0))
    assert estimate.value == pytest.approx(100 * 2 / 2.1)
    assert estimate.high == math.inf
    assert 0 < estimate.low < estimate.value
    sure = steps_to_reach(curve, np.full((1, 20), 0.2))
    assert sure.high < math.inf


# Return lost while adapting


def test_the_return_lost_is_the_area_under_steps_or_lines_by_hand() -> None:
    """Reference 10. After 0, 20, 60 steps: 0, 5, 10, so that a meta-learner loses 10 for 20 steps, then 5 for 40."""
    reference = array(10)
    points, returns = array(0, 20, 60), array(0, 5, 10).reshape(1, 3, 1)
    learner = Curve("maml", "meta-learner", 0, points, returns)
    baseline = Curve("ppo", "baseline", 0, points, returns)
    assert lost_return(learner, reference, 60).value == pytest.approx((20 * 10 + 40 * 5) / 60)
    assert lost_return(baseline, reference, 60).value == pytest.approx((20 * 7.5 + 40 * 2.5) / 60)
    # Half way, and beyond the end, where both stay as they are.
    assert lost_return(learner, reference, 40).value == pytest.approx((20 * 10 + 20 * 5) / 40)
    assert lost_return(baseline, reference, 40).value == pytest.approx((20 * 7.5 + 20 * 3.75) / 40)
    assert lost_return(learner, reference, 100).value == pytest.approx((20 * 10 + 40 * 5) / 100)


def test_the_return_lost_is_that_of_each_task_against_its_own_reference() -> None:
    tasks: Floats = 100.0 * np.arange(8.0)
    curve = Curve("maml", "meta-learner", 0, array(0, 10), np.stack([tasks - 4, tasks])[None])
    estimate = lost_return(curve, tasks, 10)
    assert (estimate.value, *bounds(estimate)) == pytest.approx((4, 4, 4))
