"""One meta-iteration: what is sampled for each kind of learner, and what it reports."""

import dataclasses

import pytest
import torch

from metarl.agents.distillation import Distillation
from metarl.run.build import build
from metarl.run.config import TrainConfig
from metarl.run.presets import default_config
from metarl.training.curriculum import UniformTasks
from metarl.training.meta_iteration import run_meta_iteration, sample_iteration
from tests.helpers.workbench import ENV

NUM_TASKS = 3
EPISODES = 2


def tiny(agent: str, **changes: object) -> TrainConfig:
    config = default_config(agent, ENV)
    policy = dataclasses.replace(config.learner.policy, hidden_sizes=(4,))
    learner = dataclasses.replace(config.learner, policy=policy, **changes)
    return dataclasses.replace(config, learner=learner, num_threads=1)


@pytest.mark.parametrize(
    ("agent", "changes", "num_support", "has_query"),
    [
        ("maml", {"adaptation_steps": 2}, 2, True),
        ("reptile", {}, 3, False),
        ("multitask", {}, 0, True),
        ("distill", {"states": "teacher", "match": "initial", "objective_steps": "last"}, 0, False),
    ],
)
def test_each_learner_gets_the_batches_it_asks_for(
    agent: str, changes: dict[str, object], num_support: int, has_query: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    distribution, learner = build(tiny(agent, **changes), generator)
    tasks = distribution.sample(NUM_TASKS, "train", generator)
    batch, collect_seconds = sample_iteration(distribution, learner, tasks, EPISODES, generator)
    assert (len(batch.support), batch.query is not None) == (num_support, has_query)
    assert len(batch.batches) == num_support + has_query
    assert (collect_seconds > 0) == bool(batch.batches)


def test_it_updates_the_learner_and_says_what_it_took() -> None:
    generator = torch.Generator().manual_seed(0)
    distribution, learner = build(tiny("maml"), generator)
    before = learner.begin(1).params
    done = run_meta_iteration(learner, distribution, UniformTasks(), NUM_TASKS, EPISODES, 0.0, generator)
    num_batches = 4  # k = 0 … 3
    assert done.env_steps == num_batches * NUM_TASKS * EPISODES * distribution.horizon
    assert len(done.returns) == num_batches
    assert {"surrogate", "kl"} <= set(done.metrics)
    assert done.seconds > done.update_seconds > 0
    after = learner.begin(1).params
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_without_episodes_of_its_own_it_reports_no_steps_and_no_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    config = tiny("distill", states="teacher", match="initial", objective_steps="last")
    distribution, learner = build(config, generator)
    monkeypatch.setattr(Distillation, "update", lambda *arguments: {"kl": 0.5})
    done = run_meta_iteration(learner, distribution, UniformTasks(), NUM_TASKS, EPISODES, 0.0, generator)
    assert (done.env_steps, done.returns, done.metrics) == (0, [], {"kl": 0.5})
