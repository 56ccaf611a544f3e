"""MAML's equations: batched adaptation, meta-gradient and Fisher product against plain loops and differences."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.agents.gradients.meta_objective import FisherProduct
from metarl.agents.gradients.objectives import Batch
from metarl.agents.gradients.trust_region import TrustRegionConfig
from metarl.agents.learner import Adapted, MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.parameters import Parameters, flatten, map_parameters
from metarl.envs.rollout import Episodes
from tests.helpers.agent_builders import (
    TINY,
    make_learner,
    meta_parameters,
    perturb,
    random_episodes,
    random_meta_batch,
    seeded,
)
from tests.helpers.slow_maml import SlowMAML, finite_differences, gradient_of, hvp, value_of

pytestmark = pytest.mark.usefixtures("float64")

HEADS = ["gaussian", "categorical"]
CASES: dict[str, dict[str, Any]] = {
    "lvc-1": {"adaptation_steps": 1},
    "lvc-2": {"adaptation_steps": 2},
    "dice-1": {"adaptation_steps": 1, "estimator": "dice"},
    "dice-2": {"adaptation_steps": 2, "estimator": "dice"},
    "plain-1": {"adaptation_steps": 1, "estimator": "plain"},
    "plain-2": {"adaptation_steps": 2, "estimator": "plain"},
    "decay-2": {"adaptation_steps": 2, "inner_lr_decay": 0.3},
    "all-steps-2": {"adaptation_steps": 2, "objective_steps": "all"},
    "meta-sgd-1": {"adaptation_steps": 1, "inner_lr_mode": "meta-sgd"},
    "meta-sgd-2": {"adaptation_steps": 2, "inner_lr_mode": "meta-sgd"},
    "per-step-2": {"adaptation_steps": 2, "inner_lr_mode": "per-step", "inner_lr_decay": 0.5},
    "meta-sgd-per-step-2": {"adaptation_steps": 2, "inner_lr_mode": "meta-sgd-per-step", "inner_lr_decay": 0.5},
    "log-std-factor-2": {"adaptation_steps": 2, "log_std_lr_factor": 3.0, "inner_lr_decay": 0.5},
    "first-order-1": {"adaptation_steps": 1, "first_order": True},
    "first-order-2": {"adaptation_steps": 2, "first_order": True},
    "first-order-all-per-step-2": {
        "adaptation_steps": 2,
        "first_order": True,
        "objective_steps": "all",
        "inner_lr_mode": "per-step",
    },
    "ppo-1": {"adaptation_steps": 1, "outer": "ppo"},
    "ppo-2": {"adaptation_steps": 2, "outer": "ppo"},
    "ppo-dice-per-step-2": {"adaptation_steps": 2, "outer": "ppo", "estimator": "dice", "inner_lr_mode": "per-step"},
    "ppo-all-meta-sgd-2": {
        "adaptation_steps": 2,
        "outer": "ppo",
        "objective_steps": "all",
        "inner_lr_mode": "meta-sgd",
    },
    "head-1": {"adaptation_steps": 1, "adapted_layers": "head"},
    "head-per-step-2": {"adaptation_steps": 2, "adapted_layers": "head", "inner_lr_mode": "per-step"},
    "ppo-head-2": {"adaptation_steps": 2, "adapted_layers": "head", "outer": "ppo"},
    "credit-1": {"adaptation_steps": 1, "exploration_credit": 0.7},
    "credit-2": {"adaptation_steps": 2, "exploration_credit": 0.7},
    "ppo-credit-head-2": {"adaptation_steps": 2, "outer": "ppo", "exploration_credit": 0.7, "adapted_layers": "head"},
    "ppo-without-penalty-2": {"adaptation_steps": 2, "outer": "ppo", "inner_kl_penalty": 0.0},
}


def config_of(case: str, **changes: Any) -> MAMLConfig:
    """A case with a large inner rate and penalty, so that what they multiply is seen."""
    defaults = {"policy": TINY, "inner_lr": 0.5, "inner_kl_penalty": 0.3, "clip": 0.1, "gae_lambda": 0.9}
    defaults |= {"fvp_fraction": 1.0}
    return MAMLConfig(**{**defaults, **CASES[case], **changes})


def prepared(head: str, config: MAMLConfig, moved: bool = True) -> tuple[MAML, list[Episodes], Episodes]:
    """A learner and its episodes; `moved`: its meta-parameters have changed since collection, as in a second epoch."""
    learner = make_learner(head, config)
    perturb(learner, 0.1, seeded(1))  # biases away from zero
    support, query = random_meta_batch(learner, seeded(2))
    assert all(bool(batch.mask.eq(0).any()) for batch in (*support, query))
    if moved:
        perturb(learner, 0.1, seeded(3))
    return learner, support, query


def assert_same_leaves(actual: Parameters, expected: Parameters, rtol: float = 1e-7, atol: float = 1e-10) -> None:
    assert set(actual) == set(expected)
    for name, leaf in expected.items():
        torch.testing.assert_close(actual[name], leaf, rtol=rtol, atol=atol)


# ---------------------------------------------------------------------- meta-gradient


@pytest.mark.parametrize("moved", [False, True], ids=["at collection", "moved"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", CASES)
def test_meta_gradient_equals_the_loop_over_tasks(case: str, head: str, moved: bool) -> None:
    learner, support, query = prepared(head, config_of(case), moved)
    slow = SlowMAML(learner.config, support, query)
    expected = gradient_of(slow.outer_objective, meta_parameters(learner))
    assert all(bool(leaf.ne(0).any()) for leaf in expected.values())
    assert_same_leaves(learner.meta_gradient(support, query), expected)


DIFFERENCES = ("lvc-1", "lvc-2", "dice-2", "plain-2", "per-step-2", "head-1", "credit-2", "ppo-1", "ppo-all-meta-sgd-2")
EVERY_OTHER = {(case, HEADS[number % len(HEADS)]) for number, case in enumerate(DIFFERENCES)}


@pytest.mark.parametrize(
    ("case", "head"),
    [
        pytest.param(case, head, marks=() if (case, head) in EVERY_OTHER else pytest.mark.slow)
        for case in DIFFERENCES
        for head in HEADS
    ],
)
def test_meta_gradient_equals_finite_differences(case: str, head: str) -> None:
    learner, support, query = prepared(head, config_of(case))
    slow = SlowMAML(learner.config, support, query)
    expected = finite_differences(slow.outer_objective, meta_parameters(learner))
    assert_same_leaves(learner.meta_gradient(support, query), expected, rtol=1e-5, atol=1e-7)


def test_options_of_the_meta_gradient_make_a_difference() -> None:
    """Otherwise the comparisons above could all test the same thing."""
    learner, support, query = prepared("gaussian", config_of("ppo-2"))
    gradients = []
    for case in ("ppo-2", "first-order-2", "lvc-2", "dice-2", "plain-2", "decay-2", "all-steps-2", "credit-2"):
        other = make_learner("gaussian", config_of(case))
        other.load_state_dict(learner.state_dict())
        gradients.append(flatten(other.meta_gradient(support, query).values()))
    distances = torch.cdist(torch.stack(gradients), torch.stack(gradients)) + torch.eye(len(gradients))
    assert float(distances.min()) > 1e-3


@pytest.mark.parametrize("case", ["lvc-2", "ppo-all-meta-sgd-2"])
def test_chunks_of_tasks_have_no_influence_on_the_gradient(case: str) -> None:
    gradients = []
    for chunk in (1, 2, 3, 10):
        learner, support, query = prepared("gaussian", config_of(case, task_chunk=chunk))
        gradients.append(learner.meta_gradient(support, query))
    for gradient in gradients[1:]:
        assert_same_leaves(gradient, gradients[0], rtol=1e-10, atol=1e-13)


def test_meta_gradient_changes_nothing() -> None:
    learner, support, query = prepared("gaussian", config_of("ppo-2"))
    before = learner.state_dict()
    first = learner.meta_gradient(support, query)
    second = learner.meta_gradient(support, query)
    assert_same_leaves(second, first, rtol=0, atol=0)
    assert_same_leaves(learner.state_dict(), before, rtol=0, atol=0)


# ---------------------------------------------------------------------- adaptation


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "case", ["lvc-2", "dice-2", "plain-2", "decay-2", "meta-sgd-2", "per-step-2", "head-1", "head-per-step-2"]
)
def test_adapt_equals_the_loop_over_tasks(case: str, head: str) -> None:
    """With the K steps that training optimises for and one more, which takes the last rate where rates are learned."""
    learner, support, query = prepared(head, config_of(case))
    batches = [*support, query]
    slow = SlowMAML(learner.config, batches, query)
    adapted = learner.begin(3)
    meta = meta_parameters(learner)
    paths = [slow.trajectory(meta, task) for task in range(3)]
    for step, batch in enumerate(batches):
        adapted = learner.adapt(adapted, batch)
        assert adapted.steps == step + 1
        for task, path in enumerate(paths):
            assert_same_leaves(task_parameters(adapted, task), map_parameters(Tensor.detach, path[step + 1]))


def task_parameters(adapted: Adapted, task: int) -> Parameters:
    return map_parameters(lambda leaf: leaf[task], adapted.params)


@pytest.mark.parametrize("head", HEADS)
def test_head_only_leaves_the_layers_below_to_all_tasks(head: str) -> None:
    """ANIL."""
    learner, support, _ = prepared(head, config_of("head-1"))
    start = learner.begin(3)
    adapted = learner.adapt(start, support[0])
    changed = {name for name, leaf in adapted.params.items() if not torch.equal(leaf, start.params[name])}
    assert changed == {"layer1.weight", "layer1.bias", *(["log_std"] if head == "gaussian" else [])}


@pytest.mark.parametrize("case", ["meta-sgd-2", "per-step-2"])
def test_steps_beyond_those_trained_use_the_last_learned_rate(case: str) -> None:
    learner, support, _ = prepared("gaussian", config_of(case))
    start = learner.begin(3)
    last, beyond = (learner.adapt(replace(start, steps=steps), support[0]).params for steps in (1, 7))
    assert_same_leaves(beyond, last, rtol=0, atol=0)
    first = learner.adapt(start, support[0]).params
    assert torch.equal(first["log_std"], last["log_std"]) == (case == "meta-sgd-2")


def test_the_rate_of_a_task_does_not_depend_on_the_number_of_tasks() -> None:
    learner, support, _ = prepared("gaussian", config_of("lvc-1"))
    together = learner.adapt(learner.begin(3), support[0])
    alone = learner.adapt(learner.begin(1), support[0].tasks(slice(1, 2)))
    assert_same_leaves(task_parameters(alone, 0), task_parameters(together, 1))


def test_begin_gives_every_task_the_meta_parameters_and_no_learned_rates() -> None:
    learner = make_learner("gaussian", config_of("per-step-2"))
    adapted = learner.begin(4)
    meta = meta_parameters(learner)
    assert adapted.steps == 0
    assert set(adapted.params) == {name for name in meta if not name.startswith("inner_lr.")}
    for task in range(4):
        assert_same_leaves(task_parameters(adapted, task), {n: meta[n] for n in adapted.params}, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["meta-sgd", "per-step", "meta-sgd-per-step"])
def test_learned_rates_start_at_the_configured_ones(mode: Any) -> None:
    fixed = config_of("lvc-2", log_std_lr_factor=2.0)
    config = replace(fixed, inner_lr_mode=mode)
    _, support, _ = prepared("gaussian", config, moved=False)
    fresh, plain = make_learner("gaussian", config), make_learner("gaussian", fixed)
    for one, other in zip(
        fresh.adapt(fresh.begin(3), support[0]).params.values(),
        plain.adapt(plain.begin(3), support[0]).params.values(),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", ["per-step", "meta-sgd-per-step"])
def test_per_step_rates_start_with_the_decay(mode: Any) -> None:
    config = replace(config_of("decay-2"), inner_lr_mode=mode)
    learner, support, _ = prepared("gaussian", config_of("decay-2"))
    learned = make_learner("gaussian", config)
    state = learned.state_dict()
    learned.load_state_dict(state | learner.state_dict())
    start = learner.begin(3)
    for steps in (0, 1):
        expected = learner.adapt(replace(start, steps=steps), support[steps]).params
        assert_same_leaves(learned.adapt(replace(start, steps=steps), support[steps]).params, expected)


def test_begin_and_adapt_change_neither_the_learner_nor_their_arguments() -> None:
    learner, support, _ = prepared("gaussian", config_of("per-step-2"))
    before = learner.state_dict()
    start = learner.begin(3)
    values = map_parameters(torch.clone, start.params)
    adapted = learner.adapt(start, support[0])
    assert not any(leaf.requires_grad for leaf in adapted.params.values())
    assert_same_leaves(start.params, values, rtol=0, atol=0)
    assert_same_leaves(learner.state_dict(), before, rtol=0, atol=0)


# ---------------------------------------------------------------------- Fisher product


def fisher_product_of(learner: MAML, batches: list[Batch]) -> FisherProduct:
    """As a trust-region update makes it of the batches."""
    config, meta = learner.config, learner.meta_parameters
    _, _, trajectory = learner.objective.value_and_gradient(meta, batches)
    return learner.objective.fisher_product(meta, batches, trajectory, config.fvp_fraction, config.fvp_memory)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "case", ["lvc-1", "lvc-2", "dice-2", "meta-sgd-2", "per-step-2", "first-order-2", "head-1", "head-per-step-2"]
)
def test_fisher_product_is_the_hessian_of_the_mean_kl(case: str, head: str) -> None:
    learner, support, query = prepared(head, config_of(case, task_chunk=2), moved=False)
    slow = SlowMAML(learner.config, support, query)
    meta = meta_parameters(learner)
    batches = [learner.batch(episodes) for episodes in (*support, query)]
    product = fisher_product_of(learner, batches)
    size = len(flatten(meta.values()))
    for vector in torch.randn(3, size, generator=seeded(4)):
        expected = hvp(slow.query_kl, meta, vector)
        assert float(expected.norm()) > 0.1
        torch.testing.assert_close(product(vector), expected, rtol=1e-7, atol=1e-9)


def flat_products(learner: MAML, support: list[Episodes], query: Episodes) -> Tensor:
    """Fisher products with three fixed vectors."""
    batches = [learner.batch(episodes) for episodes in (*support, query)]
    product = fisher_product_of(learner, batches)
    size = len(flatten(meta_parameters(learner).values()))
    return torch.stack([product(vector) for vector in torch.randn(3, size, generator=seeded(4))])


@pytest.mark.parametrize("head", HEADS)
def test_fisher_product_on_a_share_is_the_one_on_these_episodes_at_the_same_parameters(head: str) -> None:
    """The first two of three episodes; with both support and query cut, θ' must stay that of all the episodes."""
    learner, support, query = prepared(head, config_of("lvc-1", fvp_fraction=0.67), moved=False)
    whole = make_learner(head, config_of("lvc-1"))
    whole.load_state_dict(learner.state_dict())
    batches = [whole.batch(episodes) for episodes in (*support, query)]
    _, _, trajectory = whole.objective.value_and_gradient(whole.meta_parameters, batches)
    first = [batch.first_episodes(0.67) for batch in batches]
    assert all(batch.obs.shape[1] == 2 for batch in first)
    for batch in first:
        torch.testing.assert_close(batch.weight.sum(dim=(1, 2)), torch.ones(3))
    expected = whole.objective.fisher_product(whole.meta_parameters, first, trajectory)
    size = len(flatten(meta_parameters(whole).values()))
    products = flat_products(learner, support, query)
    for vector, actual in zip(torch.randn(3, size, generator=seeded(4)), products, strict=True):
        torch.testing.assert_close(actual, expected(vector), rtol=1e-9, atol=1e-12)
    assert float((products - flat_products(whole, support, query)).abs().max()) > 1e-4


def test_fisher_product_on_a_share_converges_to_the_whole_one() -> None:
    """The error on 200 episodes is well below that on 8: it falls with the square root."""
    learner = make_learner("gaussian", config_of("lvc-1"))
    start, generator = learner.begin(2), seeded(5)
    support = random_episodes(learner.policy, start.params, generator, (2, 400, 5))
    query = random_episodes(learner.policy, learner.adapt(start, support).params, generator, (2, 400, 5))
    errors = []
    whole = flat_products(learner, [support], query)
    for fraction in (0.5, 0.02):
        part = make_learner("gaussian", config_of("lvc-1", fvp_fraction=fraction))
        part.load_state_dict(learner.state_dict())
        errors.append(float((flat_products(part, [support], query) - whole).norm() / whole.norm()))
    assert errors[0] < errors[1] / 3
    assert errors[0] < 0.3


@pytest.mark.parametrize("case", ["lvc-2", "per-step-2", "head-1"])
def test_what_is_kept_between_fisher_products_changes_none(case: str) -> None:
    products = []
    for memory in (0.0, 0.0005, 512.0):  # megabytes: no chunk, some, all of them
        learner, support, query = prepared("gaussian", config_of(case, fvp_memory=memory, task_chunk=1), moved=False)
        batches = [learner.batch(episodes) for episodes in (*support, query)]
        products.append((flat_products(learner, support, query), fisher_product_of(learner, batches).num_kept))
    assert products[0][1] == 0
    assert products[2][1] == 3
    assert torch.equal(products[0][0], products[1][0])
    assert torch.equal(products[0][0], products[2][0])


# ---------------------------------------------------------------------- outer updates


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", ["lvc-1", "per-step-2", "first-order-1"])
def test_trpo_update_improves_the_surrogate_within_the_kl_bound(case: str, head: str) -> None:
    learner, support, query = prepared(head, config_of(case), moved=False)
    slow = SlowMAML(learner.config, support, query)
    before = meta_parameters(learner)
    metrics = learner.update(MetaBatch(support, query))
    after = meta_parameters(learner)
    improvement = value_of(slow.outer_objective, after) - value_of(slow.outer_objective, before)
    kl = value_of(slow.query_kl, after)
    assert metrics["step_accepted"] == 1
    assert improvement > 0
    assert 0.1 * learner.config.trust_region.max_kl < kl <= learner.config.trust_region.max_kl
    assert metrics["surrogate"] == pytest.approx(value_of(slow.outer_objective, before))
    assert metrics["surrogate_improvement"] == pytest.approx(improvement)
    assert metrics["kl"] == pytest.approx(kl)
    assert metrics["gradient_norm"] == pytest.approx(
        float(flatten(gradient_of(slow.outer_objective, before).values()).norm())
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", ["ppo-1", "ppo-all-meta-sgd-2", "ppo-dice-per-step-2"])
def test_ppo_update_is_adam_on_the_clipped_surrogate(case: str, head: str) -> None:
    config = config_of(case, outer_lr=0.05, outer_epochs=4)
    learner, support, query = prepared(head, config, moved=False)
    slow = SlowMAML(config, support, query)
    expected = map_parameters(lambda leaf: leaf.clone().requires_grad_(), meta_parameters(learner))
    adam = torch.optim.Adam(expected.values(), lr=config.outer_lr, maximize=True)
    first_value = value_of(slow.outer_objective, expected)
    for _ in range(config.outer_epochs):
        value = slow.outer_objective(expected)
        adam.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        adam.step()
    metrics = learner.update(MetaBatch(support, query))
    assert_same_leaves(meta_parameters(learner), map_parameters(Tensor.detach, expected))
    assert metrics["surrogate"] == pytest.approx(first_value)
    gain = value_of(slow.outer_objective, expected) - first_value
    assert metrics["surrogate_improvement"] == pytest.approx(gain)
    assert metrics["kl"] == pytest.approx(value_of(slow.query_kl, expected))


def test_entropy_metric_is_the_mean_over_tasks_and_steps_taken() -> None:
    learner, support, query = prepared("gaussian", config_of("lvc-1"), moved=False)
    slow = SlowMAML(learner.config, support, query)
    entropies = [torch.cat([e.behaviour.entropy() for e in batches[-1]]).mean() for batches in slow.tasks]
    metrics = learner.update(MetaBatch(support, query))
    assert metrics["entropy"] == pytest.approx(float(torch.stack(entropies).mean()))


@pytest.mark.parametrize("outer", ["trpo", "ppo"])
def test_chunks_of_tasks_have_no_influence_on_the_update(outer: Any) -> None:
    few = TrustRegionConfig(cg_iterations=3)  # more of them magnify rounding on so small a network
    results = []
    for chunk in (1, 2, 10):
        config = replace(config_of("lvc-2", task_chunk=chunk, trust_region=few), outer=outer)
        learner, support, query = prepared("gaussian", config, moved=False)
        metrics = learner.update(MetaBatch(support, query))
        results.append((meta_parameters(learner), metrics))
    for parameters, metrics in results[1:]:
        assert_same_leaves(parameters, results[0][0])
        assert metrics == pytest.approx(results[0][1])


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("adaptation_steps", 0, "adaptation_steps must be at least 1, got 0"),
        ("outer_epochs", 0, "outer_epochs must be at least 1, got 0"),
        ("task_chunk", -1, "task_chunk must not be negative, got -1"),
        ("inner_lr", 0.0, "inner_lr must be positive, got 0"),
        ("inner_lr_decay", -0.5, "inner_lr_decay must be positive, got -0.5"),
        ("outer_lr", float("nan"), "outer_lr must be finite, got nan"),
        ("clip", 0.0, "clip must be positive, got 0"),
        ("gamma", 1.01, "gamma must be between 0 and 1, got 1.01"),
        ("fvp_fraction", 0.0, "fvp_fraction must be above 0 and at most 1, got 0"),
        ("fvp_memory", -1.0, "fvp_memory must not be negative, got -1"),
        ("gae_lambda", -0.1, "gae_lambda must be between 0 and 1, got -0.1"),
        ("inner_kl_penalty", -1e-3, "inner_kl_penalty must not be negative, got -0.001"),
    ],
)
def test_values_out_of_range_are_rejected(field: str, value: float, message: str) -> None:
    arguments: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=message):
        MAMLConfig(**arguments)


def test_random_episodes_are_what_the_tests_need() -> None:
    """Terminations of every kind: at once, in between, never."""
    learner = make_learner("gaussian", config_of("lvc-1"))
    episodes = random_episodes(learner.policy, learner.begin(3).params, seeded(2))
    lengths = set(episodes.mask.sum(-1).flatten().tolist())
    assert {1.0, 4.0} <= lengths
    assert len(lengths) > 2
