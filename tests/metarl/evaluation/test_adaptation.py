"""The one adaptation loop: when it samples, what it adapts on, and that any sampler drives it alike."""

import pytest
import torch

from metarl.agents.learner import Adapted
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.envs.families.navigation import pearl
from metarl.envs.rollout import Episodes
from metarl.evaluation.adaptation import adapt_to_tasks, adaptation_loop, rollouts_in
from tests.helpers.workbench import same_tensors

DISTRIBUTION = pearl()
STEPS = 2
EPISODES = 4


@pytest.fixture
def learner() -> MAML:
    config = MAMLConfig(policy=PolicyConfig(hidden_sizes=(8,)), adaptation_steps=STEPS)
    spaces = DISTRIBUTION.observation_space, DISTRIBUTION.action_space
    return MAML(*spaces, config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("last_batch", "expected"), [(True, [0, 1, 2]), (False, [0, 1])])
def test_each_batch_but_the_last_is_adapted_on(learner: MAML, last_batch: bool, expected: list[int]) -> None:
    tasks = DISTRIBUTION.sample(3, "test")
    sample = rollouts_in(DISTRIBUTION.bind(tasks, EPISODES), learner, torch.Generator().manual_seed(0))
    asked: list[Adapted] = []

    def noting(adapted: Adapted) -> Episodes:
        asked.append(adapted)
        return sample(adapted)

    batches, adapted = adaptation_loop(learner, 3, STEPS, noting, last_batch)
    assert [one.steps for one in asked] == expected
    assert len(batches) == len(expected)

    by_hand = learner.begin(3)
    for batch in batches[:STEPS]:
        by_hand = learner.adapt(by_hand, batch)
    assert adapted.steps == STEPS
    assert same_tensors(adapted.params, by_hand.params)


def test_episodes_may_come_one_after_another(learner: MAML) -> None:
    """As from a live environment: the batches are put together by the sampler."""
    task = DISTRIBUTION.sample(1, "test")
    generator = torch.Generator().manual_seed(0)
    one_episode = rollouts_in(DISTRIBUTION.bind(task, 1), learner, generator)

    def sample(adapted: Adapted) -> Episodes:
        return Episodes.concatenate([one_episode(adapted) for _ in range(EPISODES)], dim=1)

    batches, adapted = adaptation_loop(learner, 1, STEPS, sample)
    assert [batch.reward.shape[:2] for batch in batches] == [(1, EPISODES)] * (STEPS + 1)
    assert not same_tensors(adapted.params, learner.begin(1).params)


def test_the_learner_is_left_as_it_was(learner: MAML) -> None:
    before = learner.state_dict()
    adapt_to_tasks(learner, DISTRIBUTION, DISTRIBUTION.sample(3, "test"), STEPS, EPISODES, torch.Generator())
    assert same_tensors(learner.state_dict(), before)
