"""Surrogates: their first derivatives agree, and their second ones are compared with exact enumeration."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.agents.gradients.advantages import advantages_of
from metarl.agents.gradients.objectives import (
    INNER_OBJECTIVES,
    Batch,
    OuterObjective,
    as_leaves,
    clipped_surrogate,
    exploration_credit,
    likelihood_ratio,
    mean_over_steps,
    score_function,
)
from metarl.agents.policies.distributions import ActionDistribution, Categorical
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters, expand_to_tasks, flatten, unflatten_like
from tests.helpers.agent_builders import make_policy, random_episodes, seeded
from tests.helpers.slow_maml import to_distribution

pytestmark = pytest.mark.usefixtures("float64")

Surrogate = Callable[[Batch, ActionDistribution], Tensor]
ESTIMATORS = ["lvc", "dice", "plain"]

# ---------------------------------------------------------------------- first derivatives


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_first_derivatives_coincide_at_the_behaviour_parameters(head: str) -> None:
    policy = make_policy(head)
    shared = policy.init(seeded(0))
    batch = Batch.of(policy, random_episodes(policy, shared, seeded(1), (3, 4, 5)), gamma=0.9, gae_lambda=0.8)
    leaves = as_leaves(expand_to_tasks(shared, 3))
    surrogates: dict[str, Surrogate] = {**INNER_OBJECTIVES, "clipped": partial(clipped_surrogate, clip=0.2)}
    gradients = {
        name: torch.autograd.grad(surrogate(batch, policy.apply(leaves, batch.obs)[0]).sum(), list(leaves.values()))
        for name, surrogate in surrogates.items()
    }
    assert float(flatten(gradients["plain"]).norm()) > 0.1
    for name in ("lvc", "dice", "clipped"):
        torch.testing.assert_close(gradients[name], gradients["plain"])


# ---------------------------------------------------------------------- second derivatives, by enumeration

# Two actions, at most two steps. The first action decides the second observation: both follow in state 1 + action.
# In the variant that terminates, the first action 1 ends the episode.
REWARDS = torch.tensor([[1.0, -0.5], [2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)  # of each state and action
POLICY = MLPPolicy(Box(-np.inf, np.inf, (3,)), Discrete(2), PolicyConfig(hidden_sizes=()))


def tabular_parameters() -> Parameters:
    """A linear policy on one-hot states that prefers some actions."""
    generator = seeded(5)
    return {name: leaf + torch.randn(leaf.shape, generator=generator) for name, leaf in POLICY.init(generator).items()}


def enumerate_trajectories(horizon: int, terminates: bool) -> list[list[tuple[int, int]]]:
    """Every possible trajectory as its (state, action) pairs."""
    trajectories = []
    for actions in itertools.product(range(2), repeat=horizon):
        states = [0, 1 + actions[0]][:horizon]
        trajectory = list(zip(states, actions, strict=True))
        if terminates and actions[0] == 1:
            trajectory = trajectory[:1]
        if trajectory not in trajectories:
            trajectories.append(trajectory)
    return trajectories


def trajectory_probabilities(params: Parameters, trajectories: list[list[tuple[int, int]]]) -> Tensor:
    log_p = torch.log_softmax(params["layer0.weight"] + params["layer0.bias"], dim=-1)  # of each state and action
    return torch.stack([torch.stack([log_p[s, a] for s, a in steps]).sum() for steps in trajectories]).exp()


def expected_return(params: Parameters, trajectories: list[list[tuple[int, int]]]) -> Tensor:
    """J(θ) = Σ_τ p(τ; θ) R(τ)."""
    returns = torch.stack([torch.stack([REWARDS[s, a] for s, a in steps]).sum() for steps in trajectories])
    return trajectory_probabilities(params, trajectories).dot(returns)


def enumerated_batch(params: Parameters, trajectories: list[list[tuple[int, int]]], horizon: int) -> Batch:
    """Each trajectory as a task of one episode; reward-to-go as advantage, no baseline, steps summed, not averaged."""
    size = (len(trajectories), 1, horizon)
    obs, action, mask, reward = torch.zeros(*size, 3), torch.zeros(size).long(), torch.zeros(size), torch.zeros(size)
    for row, steps in enumerate(trajectories):
        for t, (state, chosen) in enumerate(steps):
            obs[row, 0, t, state], action[row, 0, t], mask[row, 0, t] = 1, chosen, 1
            reward[row, 0, t] = REWARDS[state, chosen]
    behaviour, _ = POLICY.apply(params, obs)
    return Batch(
        obs=obs,
        action=action,
        advantage=reward.flip(-1).cumsum(-1).flip(-1),
        weight=mask,
        old_log_prob=behaviour.log_prob(action),
        behaviour=behaviour.parameters(),
        credit=torch.zeros(len(trajectories)),
        importance=torch.ones(len(trajectories)),
    )


def derivatives(horizon: int, terminates: bool, estimator: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expected gradient and Hessian of a surrogate at the behaviour parameters; exact ones of the expected return."""
    params = tabular_parameters()
    trajectories = enumerate_trajectories(horizon, terminates)
    batch = enumerated_batch(params, trajectories, horizon)
    probabilities = trajectory_probabilities(params, trajectories)
    assert float(probabilities.sum()) == pytest.approx(1)

    def expected_surrogate(vector: Tensor) -> Tensor:
        distribution, _ = POLICY.apply(unflatten_like(vector, params), batch.obs)
        return INNER_OBJECTIVES[estimator](batch, distribution).dot(probabilities)

    def exact(vector: Tensor) -> Tensor:
        return expected_return(unflatten_like(vector, params), trajectories)

    results = []
    for function in (expected_surrogate, exact):
        at = flatten(params.values())
        results.append(torch.autograd.functional.jacobian(function, at))  # type: ignore[no-untyped-call]
        results.append(torch.autograd.functional.hessian(function, at))  # type: ignore[no-untyped-call]
    return results[0], results[1], results[2], results[3]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("terminates", [False, True], ids=["full", "terminating"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_first_derivative_is_unbiased(estimator: str, terminates: bool) -> None:
    gradient, _, exact_gradient, _ = derivatives(2, terminates, estimator)
    torch.testing.assert_close(gradient, exact_gradient)


@pytest.mark.parametrize("terminates", [False, True], ids=["full", "terminating"])
def test_second_derivative_of_dice_is_unbiased(terminates: bool) -> None:
    _, hessian, _, exact_hessian = derivatives(2, terminates, "dice")
    torch.testing.assert_close(hessian, exact_hessian)


@pytest.mark.parametrize("estimator", ["lvc", "plain"])
def test_second_derivatives_of_the_others_are_biased_over_two_steps(estimator: str) -> None:
    _, hessian, _, exact_hessian = derivatives(2, False, estimator)
    assert relative_error(hessian, exact_hessian) > 0.1


def test_over_one_step_only_the_plain_surrogate_is_biased() -> None:
    for estimator in ("lvc", "dice"):
        _, hessian, _, exact_hessian = derivatives(1, False, estimator)
        torch.testing.assert_close(hessian, exact_hessian)
    _, hessian, _, exact_hessian = derivatives(1, False, "plain")
    assert relative_error(hessian, exact_hessian) > 0.1


# ---------------------------------------------------------------------- by hand


def hand_batch(ratio: float, advantage: float) -> tuple[Batch, Tensor]:
    """One step of a two-way choice under equal behaviour probabilities; logits that give the ratio for action 0."""
    probability = 0.5 * ratio
    logits = torch.tensor([math.log(probability), math.log(1 - probability)]).reshape(1, 1, 1, 2).requires_grad_()
    behaviour = Categorical(torch.zeros(1, 1, 1, 2))
    action = torch.zeros(1, 1, 1, dtype=torch.long)
    return (
        Batch(
            obs=torch.zeros(1, 1, 1, 1),
            action=action,
            advantage=torch.full((1, 1, 1), advantage),
            weight=torch.ones(1, 1, 1),
            old_log_prob=behaviour.log_prob(action),
            behaviour=behaviour.parameters(),
            credit=torch.zeros(1),
            importance=torch.ones(1),
        ),
        logits,
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "moves"),
    [
        (1.1, 2.0, 2.2, True),
        (0.9, -2.0, -1.8, True),
        (1.5, 2.0, 2.4, False),
        (1.5, -2.0, -3.0, True),
        (0.5, -2.0, -1.6, False),
        (0.5, 2.0, 1.0, True),
    ],
)
def test_clipped_surrogate_by_hand(ratio: float, advantage: float, expected: float, moves: bool) -> None:
    batch, logits = hand_batch(ratio, advantage)
    value = clipped_surrogate(batch, Categorical(logits), clip=0.2)
    assert value.tolist() == pytest.approx([expected])
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(gradient.ne(0).any()) == moves


def test_likelihood_ratio_and_score_function_by_hand() -> None:
    batch, logits = hand_batch(1.5, 2.0)
    assert likelihood_ratio(batch, Categorical(logits)).tolist() == pytest.approx([3.0])
    assert score_function(batch, Categorical(logits)).tolist() == pytest.approx([2 * math.log(0.75)])


# ---------------------------------------------------------------------- the outer objective

ADVANTAGES = (1.0, 10.0, 100.0)
"""Of two support batches and the query, each one step with the likelihood ratio 1."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 100.0),
        ({"every_step": True}, (10.0 + 100.0) / 2),
        ({"every_step": True, "before_adaptation": True}, (1.0 + 10.0 + 100.0) / 3),
        ({"exploration_credit": 0.5}, 100.0 + 0.5 * (7.0 + 7.0) / 2),
        ({"inner_kl_penalty": 2.0}, 100.0),
    ],
)
def test_outer_objective_by_hand(settings: dict[str, Any], expected: float) -> None:
    """Where the policies are those that collected the batches there is nothing to penalise."""
    batches = [hand_batch(1.0, advantage)[0] for advantage in ADVANTAGES]
    batches = [replace(batch, credit=torch.tensor([7.0])) for batch in batches]
    batches[-1] = batches[-1].weighted(torch.tensor([3.0]))
    objective = OuterObjective(POLICY, likelihood_ratio, **settings)
    policies = [POLICY.distribution(batch.behaviour) for batch in batches]
    assert objective(policies, batches).tolist() == pytest.approx([3.0 * expected])


def test_the_penalty_is_the_mean_kl_of_the_policies_on_the_way() -> None:
    batches = [hand_batch(1.0, advantage)[0] for advantage in ADVANTAGES]
    moved = Categorical(torch.tensor([[[[0.25, 0.75]]]]).log())
    still = POLICY.distribution(batches[0].behaviour)
    with_penalty = OuterObjective(POLICY, likelihood_ratio, inner_kl_penalty=2.0)([moved, still, still], batches)
    kl = float(still.kl(moved))
    assert kl > 0.1
    assert with_penalty.tolist() == pytest.approx([100.0 - 2.0 * (kl + 0.0) / 2])


def test_a_policy_that_does_not_adapt_has_the_query_alone() -> None:
    batch, _ = hand_batch(1.0, 4.0)
    objective = OuterObjective(POLICY, likelihood_ratio, inner_kl_penalty=2.0, exploration_credit=1.0)
    assert objective([POLICY.distribution(batch.behaviour)], [batch]).tolist() == pytest.approx([4.0])


def test_exploration_credit_by_hand() -> None:
    """Returns 1, 2 and 6 of three tasks: mean 3, variance 14/3; less the mean of the others, 4, 3.5 and 1.5."""
    policy = make_policy("gaussian")
    episodes = random_episodes(policy, policy.init(seeded(0)), seeded(1), (3, 2, 1))
    reward = torch.tensor([1.0, 2.0, 6.0]).reshape(3, 1, 1).expand(3, 2, 1)
    expected = torch.tensor([-3.0, -1.5, 4.5]) / math.sqrt(14 / 3)
    torch.testing.assert_close(exploration_credit(replace(episodes, reward=reward)), expected, rtol=1e-6, atol=0)


# ---------------------------------------------------------------------- batches


def test_a_batch_weighs_the_steps_taken_equally_within_each_task() -> None:
    policy = make_policy("gaussian")
    episodes = random_episodes(policy, policy.init(seeded(0)), seeded(1), (3, 4, 5))
    batch = Batch.of(policy, episodes, gamma=0.9, gae_lambda=0.8, normalized=False)
    values = torch.randn(3, 4, 5, generator=seeded(2))
    for task in range(3):
        taken = values[task][episodes.mask[task] > 0]
        assert float(mean_over_steps(batch, values)[task]) == pytest.approx(float(taken.mean()))
    assert bool((batch.weight[episodes.mask == 0] == 0).all())
    assert torch.equal(batch.advantage, advantages_of(episodes, 0.9, 0.8, normalized=False))
    torch.testing.assert_close(batch.old_log_prob, to_distribution(episodes.behaviour).log_prob(episodes.action))


def test_the_batch_of_some_tasks_equals_theirs_in_the_whole() -> None:
    policy = make_policy("gaussian")
    params = policy.init(seeded(0))
    episodes = random_episodes(policy, params, seeded(1), (4, 3, 5))
    whole, some = (Batch.of(policy, e, 0.9, 0.8) for e in (episodes, episodes.tasks(slice(1, 3))))
    distribution, _ = policy.apply({n: leaf + 0.1 for n, leaf in params.items()}, episodes.obs)
    sliced, _ = policy.apply({n: leaf + 0.1 for n, leaf in params.items()}, some.obs)
    for estimator in ESTIMATORS:
        expected = INNER_OBJECTIVES[estimator](whole, distribution)[1:3]
        torch.testing.assert_close(INNER_OBJECTIVES[estimator](some, sliced), expected)
        torch.testing.assert_close(INNER_OBJECTIVES[estimator](whole.tasks(slice(1, 3)), sliced), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_masked_steps_have_no_influence(estimator: str, head: str) -> None:
    policy = make_policy(head)
    params = policy.init(seeded(0))
    batch = Batch.of(policy, random_episodes(policy, params, seeded(1), (3, 4, 5)), 0.9, 0.8)
    moved, _ = policy.apply({n: leaf + 0.1 for n, leaf in params.items()}, batch.obs)
    garbage = batch.obs + 5 * (batch.weight == 0).unsqueeze(-1)
    elsewhere, _ = policy.apply({n: leaf + 0.1 for n, leaf in params.items()}, garbage)
    objective = INNER_OBJECTIVES[estimator]
    torch.testing.assert_close(objective(batch, elsewhere), objective(batch, moved), rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_long_tail_of_masked_steps_does_not_overflow(estimator: str) -> None:
    """A policy far from the zeros that stand in masked steps, whose ratios there would multiply to infinity."""
    policy = make_policy("gaussian")
    params = policy.init(seeded(0)) | {"log_std": torch.full((2,), -2.0)}
    episodes = random_episodes(policy, params, seeded(1), (1, 2, 400))
    assert episodes.mask[0, 1].sum() == 1
    batch = Batch.of(policy, episodes, 0.9, 0.8)
    leaves = as_leaves(params)
    value = INNER_OBJECTIVES[estimator](batch, policy.apply(leaves, batch.obs)[0]).sum()
    gradient = flatten(torch.autograd.grad(value, list(leaves.values())))
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())
