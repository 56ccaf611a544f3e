"""The network's derivatives, written out, against differences and autograd's gradients on the policy itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metarl.agents.gradients.adaptation_path import ObjectiveAt
from metarl.agents.gradients.forward_pass import ForwardPass
from metarl.agents.gradients.objectives import INNER_OBJECTIVES, Batch
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters, expand_to_tasks, map_parameters
from tests.helpers.agent_builders import make_policy, random_episodes, seeded
from tests.helpers.slow_maml import gradient_of

pytestmark = pytest.mark.usefixtures("float64")

TASKS = 3


@pytest.fixture(params=["gaussian", "categorical"])
def head(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["tanh", "relu"])
def policy(request: pytest.FixtureRequest, head: str) -> MLPPolicy:
    return make_policy(head, PolicyConfig(hidden_sizes=(5, 4), activation=request.param))


@pytest.fixture
def params(policy: MLPPolicy) -> Parameters:
    """Different for each task; of a Gaussian, one standard deviation lies below the floor."""
    generator = seeded(1)
    shared = expand_to_tasks(policy.init(generator), TASKS)
    moved = map_parameters(lambda leaf: leaf + 0.3 * torch.randn(leaf.shape, generator=generator), shared)
    if policy.gaussian:
        moved["log_std"][0, 0] = -20.0
    return moved


def direction(params: Parameters, seed: int) -> Parameters:
    generator = seeded(seed)
    return map_parameters(lambda leaf: torch.randn(leaf.shape, generator=generator), params)


def outputs_of(policy: MLPPolicy, params: Parameters, obs: Tensor) -> dict[str, Tensor]:
    """What the policy itself puts out, the standard deviation as `ForwardPass` gives it."""
    distribution, _ = policy.apply(params, obs)
    return {name: getattr(distribution, name) for name in (("mean", "log_std") if policy.gaussian else ("logits",))}


def derivative(function: Callable[[Parameters], Parameters], at: Parameters, along: Parameters) -> Parameters:
    """Central differences."""
    width = 1e-5
    ahead, behind = (
        function(map_parameters(lambda leaf, step, s=sign: leaf + s * width * step, at, along)) for sign in (1, -1)
    )
    return map_parameters(lambda a, b: (a - b) / (2 * width), ahead, behind)


def assert_same(actual: Parameters, expected: Parameters, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    assert set(actual) == set(expected)
    for name, leaf in expected.items():
        torch.testing.assert_close(actual[name], leaf, rtol=rtol, atol=atol)


def test_outputs_and_first_derivatives_are_those_of_the_policy(policy: MLPPolicy, params: Parameters) -> None:
    obs = torch.randn(TASKS, 2, 3, policy.sizes[0], generator=seeded(2))
    network = ForwardPass(policy, params, obs)
    outputs, vector = outputs_of(policy, params, obs), direction(params, 3)
    assert_same(network.outputs, outputs)
    expected = derivative(lambda p: outputs_of(policy, p, obs), params, vector)
    assert_same(network.jvp(vector)[0], expected, rtol=1e-6, atol=1e-8)
    cotangent = direction(outputs, 4)
    expected_gradient = gradient_of(
        lambda p: torch.stack([(leaf * cotangent[n]).sum() for n, leaf in outputs_of(policy, p, obs).items()]).sum(),
        params,
    )
    assert_same(network.vjp(cotangent), expected_gradient)


@pytest.mark.parametrize("estimator", INNER_OBJECTIVES)
def test_gradient_and_hessian_vector_product_are_those_of_the_objective(
    policy: MLPPolicy, params: Parameters, estimator: str
) -> None:
    if policy.gaussian:
        params["log_std"][0, 0] = -0.5  # what is drawn at the floor has a density beside which all else vanishes
    episodes = random_episodes(policy, params, seeded(5), (TASKS, 3, 4))
    batch, objective = Batch.of(policy, episodes, 0.99, 0.9), INNER_OBJECTIVES[estimator]

    def total(p: Parameters) -> Tensor:
        return objective(batch, policy.apply(p, batch.obs)[0]).sum()

    at = ObjectiveAt(policy, params, batch, objective, second_order=True)
    assert_same(at.gradient, gradient_of(total, params))
    vector = direction(params, 6)
    expected = derivative(lambda p: gradient_of(total, p), params, vector)
    assert_same(at.hvp(vector), expected, rtol=1e-6, atol=1e-8)
    cotangent = direction(at.network.outputs, 7)
    both = map_parameters(torch.add, at.hvp(vector), at.network.vjp(cotangent))
    assert_same(at.hvp(vector, cotangent), both)
