"""Distributions against torch.distributions, and the functional network against a loop over tasks."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor
from torch.distributions import kl_divergence

from metarl.agents.policies.distributions import Categorical, DiagonalGaussian
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters, expand_to_tasks, map_parameters
from tests.helpers.agent_builders import ACTION_SPACES, OBSERVATION_SPACE, make_policy, seeded
from tests.helpers.slow_maml import act, to_distribution

HEADS = ["gaussian", "categorical"]
BATCH = (4, 3, 5)
NUM_SAMPLES = 40_000


def random_outputs(head: str, seed: int, *batch: int) -> Parameters:
    """Parameters of a batch of distributions over 2-D or 3-way actions."""
    generator = seeded(seed)
    if head == "categorical":
        return {"logits": 2 * torch.randn(*batch, 3, generator=generator, dtype=torch.float64)}
    mean, log_std = torch.randn(2, *batch, 2, generator=generator, dtype=torch.float64)
    return {"mean": mean, "log_std": 0.5 * log_std}


def from_outputs(head: str, outputs: Parameters) -> Any:
    return DiagonalGaussian(**outputs) if head == "gaussian" else Categorical(**outputs)


# ---------------------------------------------------------------------- distributions


@pytest.mark.parametrize("head", HEADS)
def test_log_prob_entropy_and_kl_equal_those_of_torch(head: str) -> None:
    outputs, others = random_outputs(head, 0, *BATCH), random_outputs(head, 1, *BATCH)
    ours, theirs = from_outputs(head, outputs), to_distribution(outputs)
    action = theirs.sample()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(from_outputs(head, others)), kl_divergence(theirs, to_distribution(others)))
    assert ours.log_prob(action).shape == ours.entropy().shape == BATCH


def test_gaussian_log_prob_sums_over_action_dimensions() -> None:
    distribution = DiagonalGaussian(torch.zeros(3), torch.zeros(3))
    assert float(distribution.log_prob(torch.ones(3))) == pytest.approx(-1.5 * (1 + math.log(2 * math.pi)))


@pytest.mark.parametrize("leading", [(), (4, 1, 1)], ids=["shared", "per task"])
def test_gaussian_log_std_broadcasts_over_leading_dimensions(leading: tuple[int, ...]) -> None:
    outputs, others = random_outputs("gaussian", 0, *BATCH), random_outputs("gaussian", 1, *BATCH)
    outputs["log_std"] = random_outputs("gaussian", 2, *leading)["log_std"]
    ours, theirs = DiagonalGaussian(**outputs), to_distribution(outputs)
    action = others["mean"]
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(DiagonalGaussian(**others)), kl_divergence(theirs, to_distribution(others)))
    torch.testing.assert_close(DiagonalGaussian(**others).kl(ours), kl_divergence(to_distribution(others), theirs))
    assert ours.parameters()["log_std"].shape == (*BATCH, 2)


@pytest.mark.parametrize("head", HEADS)
def test_extreme_parameters_stay_finite(head: str) -> None:
    if head == "gaussian":
        ours = DiagonalGaussian(torch.tensor([1e3]), torch.tensor([-10.0]))
        assert math.isfinite(ours.log_prob(torch.tensor([1e3])))
    else:
        ours_categorical = Categorical(torch.tensor([1e4, -1e4, 0.0]))
        assert float(ours_categorical.log_prob(torch.tensor(1))) == pytest.approx(-2e4)
        assert float(ours_categorical.entropy()) == 0
        assert float(ours_categorical.kl(ours_categorical)) == 0


def test_gaussian_samples_have_the_stated_moments() -> None:
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    sample = DiagonalGaussian(mean.expand(NUM_SAMPLES, 2), log_std).sample(seeded(0))
    error = log_std.exp() / math.sqrt(NUM_SAMPLES)
    assert bool(((sample.mean(0) - mean).abs() < 4 * error).all())
    torch.testing.assert_close(sample.std(0), log_std.exp(), rtol=0.02, atol=0)
    assert abs(float(torch.corrcoef(sample.T)[0, 1])) < 4 / math.sqrt(NUM_SAMPLES)


def test_categorical_samples_have_the_stated_frequencies() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 2.0]])
    sample = Categorical(logits.expand(NUM_SAMPLES, 2, 3)).sample(seeded(0))
    assert sample.shape == (NUM_SAMPLES, 2)
    for column, probs in zip(sample.T, logits.softmax(-1), strict=True):
        frequency = torch.bincount(column, minlength=3) / NUM_SAMPLES
        assert bool(((frequency - probs).abs() < 4 * (probs * (1 - probs) / NUM_SAMPLES).sqrt()).all())


@pytest.mark.parametrize("head", HEADS)
def test_sampling_depends_on_the_generator_only(head: str) -> None:
    distribution = from_outputs(head, random_outputs(head, 0, *BATCH))
    first = distribution.sample(seeded(1))
    assert torch.equal(first, distribution.sample(seeded(1)))
    assert not torch.equal(first, distribution.sample(seeded(2)))


@pytest.mark.parametrize("head", HEADS)
def test_mode_is_the_most_likely_action(head: str) -> None:
    distribution = from_outputs(head, random_outputs(head, 0, *BATCH))
    best = distribution.log_prob(distribution.mode())
    for seed in range(20):
        assert bool((distribution.log_prob(distribution.sample(seeded(seed))) <= best).all())


@pytest.mark.parametrize("head", HEADS)
def test_fisher_product_is_the_hessian_of_the_kl(head: str) -> None:
    outputs, tangent = random_outputs(head, 0), random_outputs(head, 1)
    names, leaves = list(outputs), tuple(outputs.values())

    def kl_to(*moved: Tensor) -> Tensor:
        new = from_outputs(head, dict(zip(names, moved, strict=True)))
        kl: Tensor = from_outputs(head, outputs).kl(new)
        return kl

    hessian = torch.autograd.functional.hessian(kl_to, leaves)  # type: ignore[no-untyped-call]
    product = from_outputs(head, outputs).fisher_product(tangent)
    assert list(product) == names
    for i, row in enumerate(names):
        expected = sum(hessian[i][j] @ tangent[column] for j, column in enumerate(names))
        torch.testing.assert_close(product[row], expected)


@pytest.mark.parametrize("head", HEADS)
def test_distribution_inverts_parameters(head: str) -> None:
    policy = make_policy(head)
    params = expand_to_tasks(policy.init(seeded(0)), 4)
    distribution, _ = policy.apply(params, torch.randn(*BATCH, 2, generator=seeded(1)))
    restored = policy.distribution(distribution.parameters())
    action = distribution.sample(seeded(2))
    torch.testing.assert_close(restored.log_prob(action), distribution.log_prob(action))
    assert all(leaf.shape[:3] == BATCH for leaf in distribution.parameters().values())


# ---------------------------------------------------------------------- the network


def varied_per_task(params: Parameters, num_tasks: int) -> Parameters:
    generator = seeded(3)
    return map_parameters(lambda leaf: leaf + 0.3 * torch.randn(num_tasks, *leaf.shape, generator=generator), params)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("batch", [(4, 3), (4, 3, 5)], ids=["M,E", "M,E,H"])
def test_task_batched_apply_equals_a_loop_over_tasks(head: str, batch: tuple[int, ...]) -> None:
    policy = make_policy(head, PolicyConfig(hidden_sizes=(6, 5)))
    params = varied_per_task(policy.init(seeded(0)), batch[0])
    obs = torch.randn(*batch, 2, generator=seeded(1))
    together, _ = policy.apply(params, obs)
    for task in range(batch[0]):
        alone, _ = policy.apply(map_parameters(lambda leaf: leaf[task], params), obs[task])  # noqa: B023
        for name, leaf in alone.parameters().items():
            torch.testing.assert_close(together.parameters()[name][task], leaf)
    action = together.sample(seeded(2))
    assert action.shape == (batch if head == "categorical" else (*batch, 2))
    assert together.log_prob(action).shape == together.entropy().shape == batch


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("batch", [(), (7,), (4, 3), (4, 3, 5)])
def test_shared_apply_is_the_network_by_hand(head: str, batch: tuple[int, ...]) -> None:
    policy = make_policy(head, PolicyConfig(hidden_sizes=(6, 5)))
    params = map_parameters(lambda leaf: leaf[0], varied_per_task(policy.init(seeded(0)), 1))
    obs = torch.randn(*batch, 2, generator=seeded(1))
    ours, memory = policy.apply(params, obs)
    expected = act(params, obs)
    action = expected.sample()
    torch.testing.assert_close(ours.log_prob(action), expected.log_prob(action))
    assert ours.log_prob(action).shape == batch
    assert memory is None


def test_relu_network_by_hand() -> None:
    policy = MLPPolicy(OBSERVATION_SPACE, Discrete(2), PolicyConfig(hidden_sizes=(2,), activation="relu"))
    params = {
        "layer0.weight": torch.tensor([[1.0, -1.0], [2.0, 1.0]]),
        "layer0.bias": torch.tensor([0.5, -3.0]),
        "layer1.weight": torch.tensor([[1.0, 2.0], [5.0, 7.0]]),
        "layer1.bias": torch.tensor([0.1, 0.2]),
    }
    distribution, _ = policy.apply(params, torch.tensor([1.0, 1.0]))  # hidden units relu(3.5), relu(-3)
    torch.testing.assert_close(distribution.parameters()["logits"], torch.tensor([3.6, 7.2]))


def test_a_network_without_hidden_layers_is_linear() -> None:
    policy = make_policy("categorical", PolicyConfig(hidden_sizes=()))
    params = policy.init(seeded(0))
    obs = torch.randn(7, 2, generator=seeded(1))
    distribution, _ = policy.apply(params, obs)
    torch.testing.assert_close(distribution.parameters()["logits"], obs @ params["layer0.weight"])


def test_init_is_xavier_uniform_with_zero_biases() -> None:
    policy = MLPPolicy(Box(-1, 1, (30,)), ACTION_SPACES["gaussian"], PolicyConfig((50, 40), init_log_std=-0.7))
    params = policy.init(seeded(0))
    for layer, (fan_in, fan_out) in enumerate([(30, 50), (50, 40), (40, 2)]):
        weight, bound = params[f"layer{layer}.weight"], math.sqrt(6 / (fan_in + fan_out))
        assert weight.shape == (fan_in, fan_out)
        assert 0.9 * bound < -float(weight.min()) <= bound
        assert 0.9 * bound < float(weight.max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert torch.equal(params[f"layer{layer}.bias"], torch.zeros(fan_out))
    assert params["log_std"].tolist() == pytest.approx([-0.7, -0.7])
    assert "log_std" not in make_policy("categorical").init(seeded(0))


def test_init_depends_on_the_generator_only() -> None:
    policy = make_policy("gaussian")
    first, again, other = (policy.init(seeded(seed))["layer0.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_standard_deviation_has_a_floor() -> None:
    policy = make_policy("gaussian")
    params = policy.init(seeded(0)) | {"log_std": torch.tensor([-100.0, 0.0])}
    distribution, _ = policy.apply(params, torch.zeros(2))
    assert distribution.parameters()["log_std"].tolist() == pytest.approx([math.log(1e-6), 0.0])


@pytest.mark.parametrize(
    "action_space",
    [Box(-1, 1, (2, 2)), Box(-1, 1, ()), Discrete(3, start=1), MultiDiscrete([2, 2], start=[0, 1])],
    ids=["matrix", "scalar", "shifted", "shifted choices"],
)
def test_action_spaces_it_cannot_act_in_are_rejected(action_space: Any) -> None:
    with pytest.raises(ValueError, match="action space"):
        MLPPolicy(OBSERVATION_SPACE, action_space)


def test_observations_that_are_no_vectors_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"vector observations.*\(3, 3\)"):
        MLPPolicy(Box(-np.inf, np.inf, (3, 3)), Discrete(2))


def test_layers_without_units_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"hidden_sizes.*\(4, 0\)"):
        PolicyConfig(hidden_sizes=(4, 0))


# ---------------------------------------------------------------------- temperature


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_tempered_density_is_the_density_to_the_power_of_one_over_temperature(head: str) -> None:
    generator = torch.Generator().manual_seed(0)
    distribution: DiagonalGaussian | Categorical
    if head == "gaussian":
        distribution = DiagonalGaussian(torch.randn(5, 2, generator=generator), torch.tensor([-0.5, 0.3]))
        one, other = torch.randn(2, 5, 2, generator=generator)
    else:
        distribution = Categorical(torch.randn(5, 4, generator=generator))
        one, other = torch.randint(4, (2, 5), generator=generator)
    softer = distribution.tempered(3.0)
    expected = (distribution.log_prob(one) - distribution.log_prob(other)) / 3
    torch.testing.assert_close(softer.log_prob(one) - softer.log_prob(other), expected)
