"""The way of a GPU, walked on a device without numbers: everything lies on it, and rollouts do not wait for it."""

from typing import Any

import pytest
import torch

from metarl.agents.distillation import Distillation
from metarl.agents.gradients.trust_region import TrustRegionConfig
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.reference import RandomPolicy
from metarl.agents.registry import AGENTS
from metarl.agents.teachers import Teachers
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import advance, begin
from metarl.evaluation.adaptation import adapt_to_tasks
from metarl.training.meta_iteration import sample_iteration
from tests.helpers.pretended_gpu import NAME, PretendedGenerator, pretended_gpu
from tests.helpers.torch_families import TORCH_FAMILIES

FEW = TrustRegionConfig(cg_iterations=2, line_search_steps=2)
"""Each operation on a fake tensor takes its time, and one iteration walks the way of all."""

CASES: list[tuple[str, dict[str, Any], int]] = [
    ("maml", {"trust_region": FEW}, 11),
    ("maml", {"outer": "ppo", "adaptation_steps": 2, "exploration_credit": 1.0}, 49),
    ("maml", {"inner_lr_mode": "meta-sgd", "estimator": "dice", "trust_region": FEW}, 11),
    ("reptile", {}, 2),
    ("multitask", {}, 48),
    ("distill", {"trust_region": FEW}, 14),
]
"""Agent, what is not as its defaults, and how often an update of it asks the device for a number at most.

Operation by operation, that is; what is captured asks only between its graphs.
"""


@pytest.mark.parametrize("name", TORCH_FAMILIES)
def test_a_step_neither_waits_for_the_device_nor_moves_numbers_to_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution = make_distribution(name)
    mlp = MLPPolicy(distribution.observation_space, distribution.action_space)
    sampled = distribution.sample(3, "test")
    with pretended_gpu(monkeypatch) as traffic:
        generator = PretendedGenerator()
        tasks = {name: torch.zeros(task.shape, dtype=task.dtype, device=NAME) for name, task in sampled.items()}
        env = distribution.bind(tasks, 4)
        for policy, params in ((mlp, mlp.init(generator)), (RandomPolicy(distribution.action_space), {})):
            carry, _ = advance(env, policy, params, begin(env, generator), generator)  # the first may prepare
            traffic.moves.clear()
            traffic.questions.clear()
            carry, happened = advance(env, policy, params, carry, generator)
            assert not traffic.moves and not traffic.questions
            assert {value.device.type for value in (*carry.fields().values(), *happened.values())} == {NAME}


@pytest.mark.parametrize(
    ("agent", "changes", "questions", "env"),
    [(*case, "point-navigation/finn") for case in CASES] + [(*case, "cart-pole") for case in CASES[:1]],
)
def test_a_meta_iteration_stays_on_the_device(
    agent: str, changes: dict[str, Any], questions: int, env: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = AGENTS[agent]
    distribution = make_distribution(env)
    distribution.env.horizon = 3
    spaces = distribution.observation_space, distribution.action_space
    with pretended_gpu(monkeypatch) as traffic:
        generator = PretendedGenerator()
        learner = entry.make(*spaces, entry.config_class(**changes), generator, 1)
        tasks = distribution.sample(3, "train", generator)
        if isinstance(learner, Distillation):
            params = {name: torch.stack([leaf] * 3) for name, leaf in MLPPolicy(*spaces).init(generator).items()}
            learner.teachers = Teachers(MLPPolicy(*spaces), params, tasks)

        traffic.questions.clear()
        batch = sample_iteration(distribution, learner, tasks, 4, generator).batch
        batches = [*batch.support, *([batch.query] if batch.query is not None else [])]
        assert sum(traffic.questions.values()) <= len(batches) + 1  # whether all is finite, once for each
        assert {episodes.obs.device.type for episodes in batches} == {NAME}

        before = {name: leaf for name, leaf in learner.state_dict().items() if leaf.ndim > 0}
        traffic.questions.clear()
        traffic.moves.clear()
        learner.update(batch)
        assert not traffic.moves
        assert traffic.questions.total() <= questions
        after = learner.state_dict()
        assert {after[name].device.type for name in before} == {NAME}


def test_an_evaluation_ends_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    distribution = make_distribution("point-navigation/finn")
    distribution.env.horizon = 5
    entry = AGENTS["maml"]
    with pretended_gpu(monkeypatch):
        generator = PretendedGenerator()
        spaces = distribution.observation_space, distribution.action_space
        learner = entry.make(*spaces, entry.config_class(), generator, 1)
        tasks = distribution.sample(3, "train", generator)  # a frozen list is made on the CPU, which is pretended here
        adaptation = adapt_to_tasks(learner, distribution, tasks, 2, 4, generator)
        assert {leaf.device.type for leaf in adaptation.adapted.params.values()} == {NAME}
        assert len(adaptation.batches) == 3


def test_tensors_of_two_devices_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu(monkeypatch) as traffic:
        there, here = torch.zeros(3, device=NAME), torch.zeros(3)
        with pytest.raises(Exception, match="two devices, pretended:0 and cpu"):
            there + here
        assert bool(there.sum() + here.to(NAME).sum() > 1)
        assert traffic.questions.total() == 1 and traffic.moves.total() == 1
