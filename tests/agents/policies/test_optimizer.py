"""The optimizer of the meta-parameters."""

import pytest
import torch

from metarl.agents.policies.optimizer import MetaOptimizer
from metarl.agents.policies.parameters import Parameters
from tests.helpers.agent_builders import assert_same_state


def make_optimizer() -> MetaOptimizer:
    return MetaOptimizer({"weight": torch.tensor([1.0, 2.0]), "bias": torch.tensor(3.0)})


def gradient() -> Parameters:
    return {"weight": torch.tensor([3.0, -4.0]), "bias": torch.tensor(0.0)}


def test_adam_goes_up_the_gradient() -> None:
    """Adam's first step is its rate times the sign of the gradient."""
    optimizer = make_optimizer()
    optimizer.ascend(gradient(), lr=0.1)
    assert optimizer.parameters["weight"].tolist() == pytest.approx([1.1, 1.9])
    assert float(optimizer.parameters["bias"]) == 3.0
    assert optimizer.adam_steps == 1


def test_epochs_report_what_was_before_the_first_step() -> None:
    values = iter([7.0, 8.0, 9.0])
    optimizer = make_optimizer()
    assert optimizer.ascend_epochs(lambda: (next(values), gradient()), lr=0.1, epochs=3) == (7.0, 5.0)
    assert optimizer.adam_steps == 3


def test_epochs_are_taken_all_or_none() -> None:
    optimizer = make_optimizer()
    optimizer.ascend(gradient(), lr=0.1)
    before = optimizer.state_dict()
    answers = iter([(7.0, gradient())])

    def fail_at_the_second_epoch() -> tuple[float, Parameters]:
        for answer in answers:
            return answer
        raise FloatingPointError("the gradient is not finite")

    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        optimizer.ascend_epochs(fail_at_the_second_epoch, lr=0.1, epochs=2)
    assert_same_state(optimizer.state_dict(), before)


def test_what_is_assigned_lands_in_the_same_tensors() -> None:
    optimizer = make_optimizer()
    held = optimizer.parameters["weight"]
    optimizer.assign({"weight": torch.tensor([5.0, 6.0]), "bias": torch.tensor(7.0)})
    assert held.tolist() == [5.0, 6.0]


def test_on_a_cpu_adam_takes_the_steps_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = {"weight": torch.randn(7, 5, generator=generator), "bias": torch.randn((), generator=generator)}
    optimizer = MetaOptimizer({name: leaf.clone() for name, leaf in start.items()})
    expected = [leaf.clone().requires_grad_() for leaf in start.values()]
    adam = torch.optim.Adam(expected)

    for step in range(20):
        found = {name: torch.randn(leaf.shape, generator=generator) for name, leaf in start.items()}
        optimizer.ascend(found, lr=0.1 / (1 + step))

        adam.param_groups[0]["lr"] = 0.1 / (1 + step)
        for leaf, ascent in zip(expected, found.values(), strict=True):
            leaf.grad = -ascent
        adam.step()

    for leaf, theirs in zip(optimizer.parameters.values(), expected, strict=True):
        assert torch.equal(leaf, theirs)
