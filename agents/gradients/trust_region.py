"""Trust-region policy optimisation on a flat parameter vector: conjugate gradient, line search, one step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.agents.policies.validation import check_values
from metarl.envs.graphs.capture import is_capturing

LinearMap = Callable[[Tensor], Tensor]
"""v ↦ A v on flat vectors, (n,) -> (n,)."""


@dataclass(frozen=True)
class TrustRegionConfig:
    """TRPO.

    Attributes:
        max_kl: bound on the mean KL divergence of one step, nats.
        cg_iterations: iterations of conjugate gradient.
        cg_damping: multiple of the identity added to the Fisher matrix.
        line_search_steps: trial steps before the update is given up.
        line_search_backtrack: factor by which a trial step shrinks.
    """

    max_kl: float = 0.01
    cg_iterations: int = 10
    cg_damping: float = 1e-5
    line_search_steps: int = 15
    line_search_backtrack: float = 0.8

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(
            self,
            at_least_one=("cg_iterations", "line_search_steps"),
            positive=("max_kl",),
            not_negative=("cg_damping",),
        )
        if not 0 < self.line_search_backtrack < 1:
            raise ValueError(f"line_search_backtrack must be between 0 and 1, got {self.line_search_backtrack}")


@dataclass(frozen=True)
class TrustRegionStep:
    """Outcome of one step.

    Attributes:
        parameters: the new vector, or the old one where no trial step was good.
        accepted: whether a trial step was.
        kl: mean KL of the step taken, nats; 0 if none.
        improvement: gain of the surrogate; 0 if none.
        trials: trial steps evaluated.
    """

    parameters: Tensor
    accepted: bool
    kl: float
    improvement: float
    trials: int


def conjugate_gradient(
    product: LinearMap, target: Tensor, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Solve A x = b for symmetric positive definite A, given x ↦ A x.

    Args:
        product: x ↦ A x.
        target: b, (n,).
        iterations: at most this many.
        tolerance: stop when ‖b − A x‖² falls below it, relative to ‖b‖².

    Returns:
        x, and the residual b − A x, which comes with it.

    Source: Hestenes & Stiefel 1952.
    """
    x = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    squared = residual.dot(residual)
    stop = tolerance * squared

    for _ in range(iterations):
        # What is solved stays as it is; a graph cannot stop there.
        unsolved = squared > stop
        if not (is_capturing() or bool(unsolved)):
            break

        # Minimise along the direction.
        mapped = product(direction)
        step = torch.where(unsolved, squared / direction.dot(mapped), 0.0)
        x = x + step * direction
        residual = residual - step * mapped

        # The next direction is conjugate to all before it.
        new_squared = residual.dot(residual)
        conjugate = residual + (new_squared / squared) * direction
        direction = torch.where(unsolved, conjugate, direction)
        squared = torch.where(unsolved, new_squared, squared)

    return x, residual


def natural_step(gradient: Tensor, fisher_product: LinearMap, config: TrustRegionConfig) -> tuple[Tensor, Tensor]:
    """The largest step along the natural gradient that a quadratic KL allows: √(2δ / xᵀFx) · x with x ≈ F⁻¹g.

    Where it is captured, nothing waits for the device.

    Args:
        gradient: gradient g of the surrogate to be maximised, (n,).
        fisher_product: v ↦ F v without damping.
        config: bounds and iterations.

    Returns:
        the step, (n,), and xᵀFx; the step means something only where that is above 0.

    Source: Schulman et al. 2015, "Trust Region Policy Optimization", appendix C.
    """

    def damped(vector: Tensor) -> Tensor:
        return fisher_product(vector) + config.cg_damping * vector

    direction, residual = conjugate_gradient(damped, gradient, config.cg_iterations)
    curvature = direction.dot(gradient - residual)  # xᵀFx without one more product
    return torch.sqrt(2 * config.max_kl / curvature) * direction, curvature


def line_search(
    parameters: Tensor,
    full_step: Tensor,
    curvature: Tensor,
    evaluate: Callable[[Tensor], tuple[float, float]],
    config: TrustRegionConfig,
) -> TrustRegionStep:
    """Shrink a step until the surrogate improves within the KL bound.

    Args:
        parameters: θ, (n,).
        full_step: what the quadratic model of the KL would allow, (n,).
        curvature: xᵀFx; a step along a direction without curvature is not tried.
        evaluate: θ' ↦ (surrogate(θ') − surrogate(θ), mean KL from θ to θ').
        config: bounds and iterations.
    """
    if not bool(curvature > 0):
        return TrustRegionStep(parameters, accepted=False, kl=0.0, improvement=0.0, trials=0)

    for trial in range(config.line_search_steps):
        candidate = parameters + config.line_search_backtrack**trial * full_step
        improvement, kl = evaluate(candidate)
        if improvement > 0 and kl <= config.max_kl:
            return TrustRegionStep(candidate, accepted=True, kl=kl, improvement=improvement, trials=trial + 1)

    return TrustRegionStep(parameters, accepted=False, kl=0.0, improvement=0.0, trials=config.line_search_steps)


def trpo_step(
    parameters: Tensor,
    gradient: Tensor,
    fisher_product: LinearMap,
    evaluate: Callable[[Tensor], tuple[float, float]],
    config: TrustRegionConfig,
) -> TrustRegionStep:
    """Maximise a surrogate within a KL ball: the step of `natural_step`, shortened by `line_search`.

    Args:
        parameters: P numbers in a row, (P,).
        gradient: of the surrogate at them, (P,).
        fisher_product: a vector (P,) -> its product with the Fisher information, (P,).
        evaluate: parameters (P,) -> improvement of the surrogate and KL divergence from the policy that acted.
        config: size of the ball, conjugate gradient, line search.

    Source: Schulman et al. 2015, "Trust Region Policy Optimization", appendix C.
    """
    full_step, curvature = natural_step(gradient, fisher_product, config)
    return line_search(parameters, full_step, curvature, evaluate, config)
