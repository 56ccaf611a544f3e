"""Independent discrete choices against a plain enumeration of their joint distribution."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import functional

from metarl.agents.policies.distributions import Categorical, CategoricalProduct

hessian: Any = functional.hessian
jacobian: Any = functional.jacobian

SIZES = [(2, 3), (3, 3), (1, 4, 2), (5,), (2, 2, 2, 2)]


def joint(logits: Tensor, sizes: tuple[int, ...]) -> dict[tuple[int, ...], Tensor]:
    """Probability of each action of one state, in double precision: products of exp(logit) over their sums."""
    parts = torch.split(logits.double(), list(sizes))
    probabilities = {}
    for action in itertools.product(*(range(size) for size in sizes)):
        factors = [part[choice].exp() / part.exp().sum() for part, choice in zip(parts, action, strict=True)]
        probabilities[action] = math.prod(factors[1:], start=factors[0])
    return probabilities


def random_product(sizes: tuple[int, ...], seed: int = 0, batch: tuple[int, ...] = ()) -> CategoricalProduct:
    generator = torch.Generator().manual_seed(seed)
    return CategoricalProduct(2 * torch.randn((*batch, sum(sizes)), generator=generator), sizes)


@pytest.mark.parametrize("sizes", SIZES)
def test_log_prob_entropy_mode_and_divergence_are_those_of_the_joint_distribution(sizes: tuple[int, ...]) -> None:
    one, other = random_product(sizes, 1), random_product(sizes, 2)
    p, q = joint(one.logits, sizes), joint(other.logits, sizes)

    for action, probability in p.items():
        assert one.log_prob(torch.tensor(action)).item() == pytest.approx(probability.log().item(), abs=1e-5)
    assert one.entropy().item() == pytest.approx(float(-sum(x * x.log() for x in p.values())), abs=1e-5)
    divergence = sum(p[action] * (p[action] / q[action]).log() for action in p)
    assert one.kl(other).item() == pytest.approx(float(divergence), abs=1e-5)
    assert tuple(one.mode().tolist()) == max(p, key=lambda action: p[action])


@pytest.mark.parametrize("sizes", SIZES)
def test_samples_have_the_joint_frequencies(sizes: tuple[int, ...]) -> None:
    one = random_product(sizes, 3)
    count = 20_000
    many = CategoricalProduct(one.logits.expand(4, count // 4, -1), sizes)
    samples = many.sample(torch.Generator().manual_seed(0))
    assert samples.shape == (4, count // 4, len(sizes)) and samples.dtype == torch.int64

    drawn = [tuple(action) for action in samples.flatten(0, 1).tolist()]
    for action, probability in joint(one.logits, sizes).items():
        expected = probability.item()
        tolerance = 5 * math.sqrt(expected * (1 - expected) / count) + 1e-9
        assert drawn.count(action) / count == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("sizes", SIZES)
def test_tempering_raises_the_joint_probabilities_to_a_power(sizes: tuple[int, ...]) -> None:
    one = random_product(sizes, 4)
    raised = {action: p ** (1 / 3) for action, p in joint(one.logits, sizes).items()}
    total = sum(raised.values())
    for action, power in raised.items():
        log_prob = one.tempered(3.0).log_prob(torch.tensor(action))
        assert log_prob.item() == pytest.approx((power / total).log().item(), abs=1e-5)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_fisher_product_is_the_expected_outer_product_of_scores(sizes: tuple[int, ...]) -> None:
    one = random_product(sizes, 5)
    logits = one.logits.double().requires_grad_()
    fisher = torch.zeros(sum(sizes), sum(sizes), dtype=torch.double)
    for action, probability in joint(one.logits, sizes).items():
        log_prob = joint(logits, sizes)[action].log()
        (score,) = torch.autograd.grad(log_prob, logits)
        fisher += probability * torch.outer(score, score)

    tangent = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(6))
    product = one.fisher_product({"logits": tangent})["logits"]
    torch.testing.assert_close(product.double(), fisher @ tangent.double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", SIZES)
def test_derivatives_are_those_of_the_plain_sum_and_finite(sizes: tuple[int, ...]) -> None:
    one = random_product(sizes, 7, batch=(3,))
    action = one.mode()

    def plain(logits: Tensor) -> Tensor:
        parts = torch.split(logits, list(sizes), dim=-1)
        return sum((Categorical(part).log_prob(action[..., i]) for i, part in enumerate(parts)), torch.zeros(3)).sum()

    def ours(logits: Tensor) -> Tensor:
        return CategoricalProduct(logits, sizes).log_prob(action).sum()

    def divergence(logits: Tensor) -> Tensor:
        return CategoricalProduct(logits, sizes).kl(one).sum() + CategoricalProduct(logits, sizes).entropy().sum()

    at = random_product(sizes, 8, batch=(3,)).logits
    torch.testing.assert_close(jacobian(ours, at), jacobian(plain, at))
    torch.testing.assert_close(hessian(ours, at), hessian(plain, at))
    assert hessian(divergence, at).isfinite().all()


def test_parameters_make_the_same_distribution_again() -> None:
    one = random_product((2, 3), batch=(4, 5))
    assert one.parameters()["logits"].shape == (4, 5, 5)
    again = CategoricalProduct(**one.parameters(), sizes=one.sizes)
    assert torch.equal(again.entropy(), one.entropy())
    assert one.entropy().shape == (4, 5)
