"""Conjugate gradient and the trust-region step on problems with known answers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.agents.gradients.trust_region import TrustRegionConfig, conjugate_gradient, trpo_step
from tests.helpers.agent_builders import seeded

pytestmark = pytest.mark.usefixtures("float64")

SIZE = 6
MAX_KL = 0.02
Evaluate = Callable[[Tensor], tuple[float, float]]


def positive_definite(seed: int = 0, size: int = SIZE) -> Tensor:
    root = torch.randn(size, size, generator=seeded(seed))
    return root @ root.T + 0.1 * torch.eye(size)


def vector(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=seeded(seed))


def linear_surrogate(start: Tensor, gradient: Tensor, fisher: Tensor, kl_scale: float = 1.0) -> Evaluate:
    """Improvement g·d and KL ½ dᵀFd · kl_scale of a step d: the model that the step is optimal for."""

    def evaluate(candidate: Tensor) -> tuple[float, float]:
        d = candidate - start
        return float(gradient.dot(d)), kl_scale * 0.5 * float(d @ fisher @ d)

    return evaluate


# ---------------------------------------------------------------------- conjugate gradient


@pytest.mark.parametrize("size", [1, 2, 6, 20])
def test_conjugate_gradient_solves_a_positive_definite_system(size: int) -> None:
    matrix, target = positive_definite(1, size), torch.randn(size, generator=seeded(2))
    solution, residual = conjugate_gradient(lambda v: matrix @ v, target, iterations=3 * size, tolerance=1e-24)
    torch.testing.assert_close(residual, torch.zeros(size), rtol=0, atol=1e-9)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-7, atol=1e-9)


def test_conjugate_gradient_returns_the_residual_of_an_early_stop() -> None:
    matrix, target = positive_definite(), vector(3)
    solution, residual = conjugate_gradient(lambda v: matrix @ v, target, iterations=2)
    assert float(residual.norm()) > 1e-3
    torch.testing.assert_close(residual, target - matrix @ solution)


def test_conjugate_gradient_needs_one_iteration_for_each_distinct_eigenvalue() -> None:
    diagonal = torch.tensor([1.0, 1.0, 4.0, 4.0, 9.0, 9.0])
    exact = vector(3) / diagonal
    early, done = (conjugate_gradient(lambda v: diagonal * v, vector(3), iterations=n)[0] for n in (2, 3))
    torch.testing.assert_close(done, exact)
    assert float((early - exact).norm()) > 1e-3


def test_conjugate_gradient_stops_at_the_tolerance() -> None:
    calls = 0

    def product(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 2 * v

    torch.testing.assert_close(conjugate_gradient(product, vector(3), iterations=50)[0], vector(3) / 2)
    assert calls == 1


def test_conjugate_gradient_of_zero_is_zero() -> None:
    solution, _ = conjugate_gradient(lambda v: 2 * v, torch.zeros(SIZE), iterations=10)
    assert torch.equal(solution, torch.zeros(SIZE))


def test_conjugate_gradient_keeps_its_target() -> None:
    target = vector(3)
    conjugate_gradient(lambda v: positive_definite() @ v, target, iterations=10)
    assert torch.equal(target, vector(3))


# ---------------------------------------------------------------------- one step


@pytest.mark.parametrize("damping", [1e-5, 0.5])
def test_step_is_the_natural_gradient_scaled_to_the_kl_bound(damping: float) -> None:
    fisher, start, gradient = positive_definite(), vector(1), vector(2)
    config = TrustRegionConfig(max_kl=MAX_KL, cg_iterations=50, cg_damping=damping)
    step = trpo_step(start, gradient, lambda v: fisher @ v, linear_surrogate(start, gradient, fisher), config)
    damped = fisher + damping * torch.eye(SIZE)
    natural = torch.linalg.solve(damped, gradient)
    expected = math.sqrt(2 * MAX_KL / float(natural @ damped @ natural)) * natural
    torch.testing.assert_close(step.parameters - start, expected, rtol=1e-4, atol=1e-6)
    assert step.accepted
    assert step.trials == 1
    assert step.improvement == pytest.approx(float(gradient.dot(expected)), rel=1e-4)
    assert step.kl == pytest.approx(0.5 * float(expected @ fisher @ expected), rel=1e-4)
    assert step.kl <= MAX_KL


def test_line_search_shrinks_the_step_until_the_kl_bound_holds() -> None:
    fisher, start, gradient = positive_definite(), vector(1), vector(2)
    config = TrustRegionConfig(max_kl=MAX_KL, cg_iterations=50, line_search_backtrack=0.8)
    full = trpo_step(start, gradient, lambda v: fisher @ v, linear_surrogate(start, gradient, fisher), config)
    real_kl = linear_surrogate(start, gradient, fisher, kl_scale=2.0)  # 0.8² · 2 > 1 > 0.8⁴ · 2
    shrunk = trpo_step(start, gradient, lambda v: fisher @ v, real_kl, config)
    assert shrunk.accepted
    assert shrunk.trials == 3
    torch.testing.assert_close(shrunk.parameters - start, 0.64 * (full.parameters - start))
    assert shrunk.kl == pytest.approx(2 * 0.8**4 * full.kl)
    assert shrunk.kl <= MAX_KL


def test_line_search_shrinks_the_step_until_the_surrogate_improves() -> None:
    start, gradient = torch.zeros(SIZE), vector(2)
    config = TrustRegionConfig(max_kl=MAX_KL, line_search_backtrack=0.5)
    full_length = math.sqrt(2 * MAX_KL)  # with F = 1

    def evaluate(candidate: Tensor) -> tuple[float, float]:
        length = float(candidate.norm())
        return length * (0.3 * full_length - length), 0.0  # improves for steps shorter than 0.3 of the full one

    step = trpo_step(start, gradient, lambda v: v, evaluate, config)
    assert step.trials == 3
    assert float(step.parameters.norm()) == pytest.approx(0.25 * full_length, rel=1e-4)
    assert step.improvement == pytest.approx(0.25 * 0.05 * full_length**2, rel=1e-3)


@pytest.mark.parametrize(
    "outcome",
    [(-1.0, 0.0), (0.0, 0.0), (1.0, 1.01 * MAX_KL), (math.nan, 0.0), (1.0, math.nan)],
    ids=["worse", "equal", "too far", "surrogate nan", "kl nan"],
)
def test_a_rejected_step_returns_the_old_vector_unchanged(outcome: tuple[float, float]) -> None:
    start = vector(1)
    config = TrustRegionConfig(max_kl=MAX_KL, line_search_steps=4)
    step = trpo_step(start, vector(2), lambda v: v, lambda _: outcome, config)
    assert not step.accepted
    assert step.trials == 4
    assert (step.kl, step.improvement) == (0, 0)
    assert torch.equal(step.parameters, vector(1))
    assert torch.equal(start, vector(1))


@pytest.mark.parametrize(
    ("gradient", "fisher_scale"),
    [(torch.zeros(SIZE), 1.0), (torch.ones(SIZE), -1.0), (torch.ones(SIZE), math.nan)],
    ids=["zero gradient", "negative curvature", "curvature nan"],
)
def test_no_step_without_a_direction_of_positive_curvature(gradient: Tensor, fisher_scale: float) -> None:
    def never(candidate: Tensor) -> tuple[float, float]:
        raise AssertionError("there is nothing to try")

    step = trpo_step(vector(1), gradient.double(), lambda v: fisher_scale * v, never, TrustRegionConfig())
    assert not step.accepted
    assert step.trials == 0
    assert torch.equal(step.parameters, vector(1))


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_kl", 0.0, "max_kl must be positive, got 0"),
        ("max_kl", math.nan, "max_kl must be finite, got nan"),
        ("cg_iterations", 0, "cg_iterations must be at least 1, got 0"),
        ("line_search_steps", -1, "line_search_steps must be at least 1, got -1"),
        ("cg_damping", -1e-5, "cg_damping must not be negative, got -1e-05"),
        ("line_search_backtrack", 1.0, "line_search_backtrack must be between 0 and 1, got 1"),
        ("line_search_backtrack", 0.0, "line_search_backtrack must be between 0 and 1, got 0"),
    ],
)
def test_values_out_of_range_are_rejected(field: str, value: float, message: str) -> None:
    arguments: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=message):
        TrustRegionConfig(**arguments)
