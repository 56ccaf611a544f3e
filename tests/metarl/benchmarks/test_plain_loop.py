"""The plain loop that `metarl bench` measures does the work of the learner, and comes to the same numbers."""

from dataclasses import replace

import pytest
import torch

from metarl.agents.gradients.trust_region import TrustRegionConfig
from metarl.agents.learner import MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import flatten
from metarl.benchmarks.plain_loop import PlainLoop
from metarl.envs.families.navigation import pearl
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import select_tasks, tasks_to_json
from metarl.training.meta_iteration import sample_iteration

SMALL = MAMLConfig(
    policy=PolicyConfig(hidden_sizes=(5, 4)), fvp_fraction=0.5, trust_region=TrustRegionConfig(cg_iterations=3)
)


def prepared(config: MAMLConfig) -> tuple[MAML, list[Episodes], Episodes, PlainLoop]:
    distribution, generator = pearl(), torch.Generator().manual_seed(0)
    learner = MAML(distribution.observation_space, distribution.action_space, config, generator)
    tasks = distribution.sample(3, "train", generator)
    batch = sample_iteration(distribution, learner, tasks, 4, generator).batch
    support, query = batch.support, batch.query
    assert query is not None
    return learner, support, query, PlainLoop("metarl/PointNavigationPearl-v0", learner, 4)


def test_it_adapts_as_the_learner_does() -> None:
    learner, support, query, plain = prepared(SMALL)
    expected = learner.adapt(learner.begin(3), support[0]).params
    for task, (few, _) in enumerate(plain.tasks([*support, query])):
        for name, leaf in plain.adapted(plain.meta, few).items():
            torch.testing.assert_close(leaf.detach(), expected[name][task], rtol=1e-4, atol=1e-6, msg=name)


def test_it_computes_the_same_meta_gradient() -> None:
    learner, support, query, plain = prepared(SMALL)
    expected = learner.meta_gradient(support, query)
    actual = plain.gradient(plain.tasks([*support, query]))
    assert actual.keys() == expected.keys()
    assert max(float(leaf.abs().max()) for leaf in expected.values()) > 1e-2
    for name, leaf in expected.items():
        torch.testing.assert_close(actual[name], leaf, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_its_fisher_product_is_that_of_the_learner(fraction: float) -> None:
    learner, support, query, plain = prepared(replace(SMALL, fvp_fraction=fraction))
    batches, meta = learner.batches(support, query), learner.meta_parameters
    _, gradient, trajectory = learner.objective.value_and_gradient(meta, batches)
    vector = flatten(gradient.values())
    expected = learner.objective.fisher_product(meta, batches, trajectory, fraction)(vector)
    actual = plain.fisher_product(plain.tasks([*support, query]))(vector)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_it_takes_the_same_step() -> None:
    learner, support, query, plain = prepared(SMALL)
    start = flatten(plain.meta.values()).detach()
    actual = plain.updated(plain.tasks([*support, query]), 15) - start
    metrics = learner.update(MetaBatch(support, query))
    expected = flatten(plain.meta.values()).detach() - start
    assert metrics["step_accepted"] == 1
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


def test_it_counts_the_steps_of_one_task() -> None:
    *_, plain = prepared(SMALL)
    task = tasks_to_json(select_tasks(pearl().sample(1, "test"), slice(0, 1)))[0]
    assert plain.sample(task) == 2 * 4 * 20  # before and after the inner step; nothing ends an episode early
