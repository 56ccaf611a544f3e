"""Closed-form derivatives of log-probabilities, divergences and objectives, against autograd."""

from collections.abc import Callable

import pytest
import torch
from gymnasium.spaces import MultiDiscrete
from torch import Tensor

from metarl.agents.gradients.objectives import (
    Batch,
    ClippedSurrogate,
    LikelihoodRatio,
    Objective,
    OuterObjective,
    ScoreFunction,
    StepObjective,
    by_outputs,
)
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.log_prob import Outputs, kl_vjp, log_prob_of
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import flatten, map_parameters
from tests.helpers.agent_builders import ACTION_SPACES, OBSERVATION_SPACE, TINY, make_policy, random_episodes, seeded

pytestmark = pytest.mark.usefixtures("float64")

SIZE = (2, 3, 4)  # tasks, episodes, steps

POLICIES = {head: make_policy(head) for head in ACTION_SPACES}
POLICIES["choices"] = MLPPolicy(OBSERVATION_SPACE, MultiDiscrete([3, 2]), TINY)

every_head = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def batch_and_outputs(policy: MLPPolicy, seed: int) -> tuple[Batch, Outputs]:
    """A batch, and outputs some way off those that it was collected with, a Gaussian's log σ one for each task."""
    episodes = random_episodes(policy, policy.init(seeded(seed)), seeded(seed + 1), SIZE)
    batch = Batch.of(policy, episodes, 0.9, 0.8)
    outputs = map_parameters(lambda leaf: leaf + 0.4 * torch.randn(leaf.shape, generator=seeded(seed)), batch.behaviour)
    if policy.gaussian:
        outputs["log_std"] = outputs["log_std"][:, :1, :1]
    return batch, outputs


def random_like(outputs: Outputs, seed: int) -> Outputs:
    return map_parameters(lambda leaf: torch.randn(leaf.shape, generator=seeded(seed)), outputs)


def gradient(function: Callable[[Outputs], Tensor], at: Outputs) -> Outputs:
    """By autograd, so that it can be differentiated again."""
    found = torch.autograd.grad(function(at), list(at.values()), create_graph=True, materialize_grads=True)
    return dict(zip(at, found, strict=True))


def change_of(found: Outputs, at: Outputs, tangent: Outputs) -> Outputs:
    """How a gradient changes along a change of what it is taken at: the Hessian is symmetric."""
    products = [(found[name] * tangent[name]).sum() for name in found]
    derivatives = torch.autograd.grad(torch.stack(products).sum(), list(at.values()), materialize_grads=True)
    return dict(zip(at, derivatives, strict=True))


def leaves(outputs: Outputs) -> Outputs:
    return map_parameters(lambda leaf: leaf.clone().requires_grad_(), outputs)


@every_head
def test_log_probability_and_its_derivatives(policy: MLPPolicy) -> None:
    batch, outputs = batch_and_outputs(policy, 0)
    weight, weight_change = torch.randn((2, *SIZE), generator=seeded(3))
    tangent = random_like(outputs, 4)
    found = log_prob_of(policy.distribution(outputs), batch.action)

    at = leaves(outputs)
    log_prob = policy.distribution(at).log_prob(batch.action)
    assert torch.equal(found.value, log_prob)  # a policy that has not moved has the likelihood ratio 1

    by_weight = gradient(lambda p: (weight * policy.distribution(p).log_prob(batch.action)).sum(), at)
    torch.testing.assert_close(found.vjp(weight), by_weight)

    each = [torch.autograd.grad(value, list(at.values()), retain_graph=True) for value in log_prob.flatten()]
    direction = flatten(tangent.values())
    along = [flatten(parts).dot(direction) for parts in each]
    torch.testing.assert_close(found.jvp(tangent).flatten(), torch.stack(along))

    by_change = gradient(lambda p: (weight_change * policy.distribution(p).log_prob(batch.action)).sum(), at)
    expected = map_parameters(torch.add, by_change, change_of(by_weight, at, tangent))
    torch.testing.assert_close(found.vjp_along(weight, weight_change, tangent), expected)


@every_head
def test_gradient_of_the_divergence(policy: MLPPolicy) -> None:
    batch, outputs = batch_and_outputs(policy, 0)
    weight = torch.randn(SIZE, generator=seeded(3))
    old = policy.distribution(batch.behaviour)
    expected = gradient(lambda p: (weight * old.kl(policy.distribution(p))).sum(), leaves(outputs))
    torch.testing.assert_close(kl_vjp(old, policy.distribution(outputs), weight), expected)


OBJECTIVES = [ScoreFunction(), LikelihoodRatio(), ClippedSurrogate(0.1)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_objectives_of_steps_have_the_derivatives_that_autograd_finds(objective: StepObjective) -> None:
    policy = make_policy("gaussian")
    batch, outputs = batch_and_outputs(policy, 5)
    tangent = random_like(outputs, 6)

    def any_objective(batch: Batch, distribution: ActionDistribution) -> Tensor:
        return objective(batch, distribution)

    found = by_outputs(policy, batch, objective, outputs)
    expected = by_outputs(policy, batch, any_objective, outputs, second_order=True)
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.gradient, expected.gradient)
    torch.testing.assert_close(found.hvp(tangent), expected.hvp(tangent))


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("before_adaptation", [False, True])
@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.7, 0.3)])
def test_the_outer_objective_has_the_gradient_that_autograd_finds(
    every_step: bool, before_adaptation: bool, weights: tuple[float, float]
) -> None:
    policy = make_policy("gaussian")
    pairs = [batch_and_outputs(policy, 10 * step) for step in range(3)]
    batches = [batch for batch, _ in pairs]
    batches[0].credit.copy_(torch.tensor([0.5, -2.0]))
    batches[-1] = batches[-1].weighted(torch.tensor([0.5, 3.0]))

    def outer(surrogate: Objective) -> OuterObjective:
        return OuterObjective(policy, surrogate, every_step, before_adaptation, *weights)

    outputs = [output for _, output in pairs]
    clipped = ClippedSurrogate(0.1)
    found = outer(clipped).differentiate(outputs, batches)
    expected = outer(lambda batch, distribution: clipped(batch, distribution)).differentiate(outputs, batches)
    torch.testing.assert_close(found[0], expected[0])
    assert [part is None for part in found[1]] == [part is None for part in expected[1]]
    for part, expected_part in zip(found[1], expected[1], strict=True):
        if part is not None:
            torch.testing.assert_close(part, expected_part)
