"""Inner rates: configured, or learned beside the policy's parameters."""

import pytest
import torch

from metarl.agents.gradients.inner_rates import InnerRateMode, InnerRates, RateSchedule, without_rates

SCHEDULE = RateSchedule(lr=0.8, decay=0.5, log_std_factor=3.0)
PARAMETERS = {"weight": torch.zeros(3, 2), "log_std": torch.zeros(2), "frozen": torch.zeros(4)}
ADAPTED = ("weight", "log_std")
LEARNED: dict[InnerRateMode, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "meta-sgd": ((1, 3, 2), (1, 2)),
    "per-step": ((2, 1, 1), (2, 1)),
    "meta-sgd-per-step": ((2, 3, 2), (2, 2)),
}
"""Mode -> shapes of the rates of weight and log_std where K = 2."""


def make_rates(mode: InnerRateMode) -> InnerRates:
    return InnerRates(SCHEDULE, mode, ADAPTED, num_steps=2)


def test_the_schedule_decays_and_favours_the_standard_deviation() -> None:
    assert [SCHEDULE.rate("weight", step) for step in range(3)] == pytest.approx([0.8, 0.4, 0.2])
    assert [SCHEDULE.rate("log_std", step) for step in range(3)] == pytest.approx([2.4, 1.2, 0.6])


def test_fixed_rates_are_those_of_the_schedule_and_nothing_is_learned() -> None:
    rates = make_rates("fixed")
    assert rates.initial(PARAMETERS) == {}
    for step in (2, 7):  # they shrink once more beyond those trained
        assert rates.at(PARAMETERS, step) == pytest.approx({"weight": 0.2, "log_std": 0.6})
    assert rates.learned_at(PARAMETERS, 0) == {}
    assert rates.gradient(PARAMETERS, [{"weight": torch.ones(5, 3, 2), "log_std": torch.ones(5, 2)}]) == {}


@pytest.mark.parametrize("mode", LEARNED)
def test_learned_rates_start_at_the_schedule_in_the_shape_of_their_mode(mode: InnerRateMode) -> None:
    rates = make_rates(mode)
    initial = rates.initial(PARAMETERS)
    weight, log_std = LEARNED[mode]
    assert {name: tuple(leaf.shape) for name, leaf in initial.items()} == {
        "inner_lr.weight": weight,
        "inner_lr.log_std": log_std,
    }
    first = rates.at(PARAMETERS | initial, 0)
    torch.testing.assert_close(first["weight"], torch.full(weight[1:], 0.8))
    torch.testing.assert_close(first["log_std"], torch.full(log_std[1:], 2.4))

    last = 0.8 if mode == "meta-sgd" else 0.4
    for step in (1, 7):  # steps beyond those trained take the last rate
        later = rates.at(PARAMETERS | initial, step)
        torch.testing.assert_close(later["weight"], torch.full(weight[1:], last))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("meta-sgd", [[[11.0] * 2] * 3]),
        ("per-step", [[[5 * 3 * 2 * 0.2]], [[5 * 3 * 2 * 2.0]]]),
        ("meta-sgd-per-step", [[[1.0] * 2] * 3, [[10.0] * 2] * 3]),
    ],
)
def test_the_gradient_is_summed_over_all_that_shares_a_rate(mode: InnerRateMode, expected: list[object]) -> None:
    """Five tasks, to which each element of the weight gives 0.2 at the first step and 2 at the second."""
    rates = make_rates(mode)
    meta = PARAMETERS | rates.initial(PARAMETERS)
    by_step = [{"weight": torch.full((5, 3, 2), value), "log_std": torch.zeros(5, 2)} for value in (0.2, 2.0)]
    gradient = rates.gradient(meta, by_step)
    torch.testing.assert_close(gradient["inner_lr.weight"], torch.tensor(expected))
    assert set(gradient) == {"inner_lr.weight", "inner_lr.log_std"}


def test_the_policy_is_what_is_no_rate() -> None:
    meta = PARAMETERS | make_rates("per-step").initial(PARAMETERS)
    assert list(without_rates(meta)) == list(PARAMETERS)
