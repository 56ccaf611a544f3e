"""The one adaptation loop: when it samples, what it adapts on, and that any sampler drives it alike."""

import pytest
import torch

from metarl.agents.fine_tuning import AdaptationConfig
from metarl.agents.learner import Adapted
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.multitask import Multitask, MultitaskConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.envs.families.navigation import pearl
from metarl.envs.rollout import Episodes
from metarl.evaluation.adaptation import (
    CANDIDATE_FACTORS,
    adapt_to_tasks,
    adaptation_loop,
    choose_rate_factors,
    rollouts_in,
)
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


def overshooting(inner_lr: float) -> Multitask:
    adaptation = AdaptationConfig(STEPS, inner_lr=inner_lr, inner_lr_decay=1.0, rates="chosen")
    config = MultitaskConfig(PolicyConfig(hidden_sizes=(8,)), adaptation)
    spaces = DISTRIBUTION.observation_space, DISTRIBUTION.action_space
    return Multitask(*spaces, config, torch.Generator().manual_seed(0))


def test_rates_that_overshoot_are_lowered_until_the_return_is_better() -> None:
    """On validation tasks; on others it is better as well."""
    learner = overshooting(inner_lr=8.0)
    before = learner.state_dict()
    env = DISTRIBUTION.bind(DISTRIBUTION.sample(20, "validation"), EPISODES)
    factors, spent = choose_rate_factors(learner, env, STEPS, torch.Generator().manual_seed(1))
    assert learner.rate_factors == factors
    assert len(factors) == STEPS and min(factors) < 1
    assert spent == (STEPS + 1 + STEPS * len(CANDIDATE_FACTORS)) * 20 * EPISODES * DISTRIBUTION.horizon
    assert same_tensors(learner.state_dict(), before)

    def last_return() -> float:
        tasks = DISTRIBUTION.sample(40, "test")
        batches = adapt_to_tasks(learner, DISTRIBUTION, tasks, STEPS, 10, torch.Generator().manual_seed(2)).batches
        return float(batches[-1].returns.mean())

    chosen = last_return()
    learner.rate_factors = ()
    assert chosen > last_return() + 1


def test_rates_that_make_no_difference_stay_as_they_are() -> None:
    learner = overshooting(inner_lr=1e-9)
    env = DISTRIBUTION.bind(DISTRIBUTION.sample(6, "validation"), EPISODES)
    assert choose_rate_factors(learner, env, STEPS, torch.Generator().manual_seed(1)).factors == ()
