"""What every learner promises beyond its own equations: the Learner protocol and its state."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from metarl.agents.fine_tuning import AdaptationConfig
from metarl.agents.learner import Learner, MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.multitask import Multitask, MultitaskConfig
from metarl.agents.policies.parameters import map_parameters
from metarl.agents.reptile import Reptile, ReptileConfig
from tests.helpers.agent_builders import (
    ACTION_SPACES,
    OBSERVATION_SPACE,
    TINY,
    assert_same_state,
    random_meta_batch,
    seeded,
)

MakeLearner = Callable[[int, int], Learner]
"""(seed, num_threads) -> learner."""


def maker(learner_class: type[Any], config: Any) -> MakeLearner:
    space = ACTION_SPACES["gaussian"]
    return lambda seed, num_threads: learner_class(OBSERVATION_SPACE, space, config, seeded(seed), num_threads)


SMALL: dict[str, Any] = {"policy": TINY, "task_chunk": 1}
TWO_STEPS = AdaptationConfig(adaptation_steps=2)
LEARNERS: dict[str, MakeLearner] = {
    "anil": maker(MAML, MAMLConfig(**SMALL, adapted_layers="head", inner_lr_mode="per-step", outer="ppo")),
    "e-maml": maker(MAML, MAMLConfig(**SMALL, exploration_credit=1.0, adaptation_steps=2)),
    "reptile": maker(Reptile, ReptileConfig(**SMALL, adaptation=TWO_STEPS)),
    "reptile adam": maker(Reptile, ReptileConfig(**SMALL, adaptation=TWO_STEPS, outer="adam", outer_lr=0.01)),
    "multitask": maker(Multitask, MultitaskConfig(**SMALL, adaptation=TWO_STEPS)),
}

every_learner = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


def update(learner: Learner, seed: int) -> dict[str, float]:
    """One meta-update on random episodes."""
    support, query = random_meta_batch(learner, seeded(seed))
    return learner.update(MetaBatch(support, query if learner.sampling.query else None, progress=0.1))


@every_learner
def test_a_restored_learner_goes_on_bit_identically(make: MakeLearner) -> None:
    original, restored = make(0, 1), make(1, 1)
    update(original, 2)
    update(restored, 3)  # both have a history
    restored.load_state_dict(original.state_dict())
    for seed in (4, 5):
        before = original.state_dict()
        assert update(original, seed) == update(restored, seed)
        assert_same_state(restored.state_dict(), original.state_dict())
        assert not torch.equal(original.state_dict()["meta.log_std"], before["meta.log_std"])


@every_learner
def test_threads_have_no_influence(make: MakeLearner) -> None:
    alone, shared = make(0, 1), make(0, 3)
    assert update(alone, 2) == update(shared, 2)
    assert_same_state(shared.state_dict(), alone.state_dict())


@every_learner
def test_begin_and_adapt_change_neither_the_learner_nor_their_arguments(make: MakeLearner) -> None:
    learner = make(0, 1)
    update(learner, 2)
    before, start = learner.state_dict(), learner.begin(3)
    values = map_parameters(torch.clone, start.params)
    support, query = random_meta_batch(learner, seeded(3))
    adapted = learner.adapt(start, [*support, query][0])
    assert adapted.steps == 1
    assert not any(leaf.requires_grad for leaf in adapted.params.values())
    assert_same_state(start.params, values)
    assert_same_state(learner.state_dict(), before)
    update(learner, 4)
    assert_same_state(start.params, values)  # an adapted policy outlives a meta-update


@every_learner
def test_numbers_that_are_not_finite_leave_the_learner_as_it_was(make: MakeLearner) -> None:
    learner = make(0, 1)
    update(learner, 2)
    before = learner.state_dict()
    support, query = random_meta_batch(learner, seeded(3))
    broken = (support or [query])[0]
    reward = broken.reward.clone()
    reward[1, 0, 0] = torch.nan
    broken = replace(broken, reward=reward)
    batches = [broken, *support[1:]] if support else []
    with pytest.raises(FloatingPointError, match="not finite"):
        learner.update(MetaBatch(batches, (query if support else broken) if learner.sampling.query else None))
    assert_same_state(learner.state_dict(), before)


@every_learner
def test_a_foreign_state_is_refused(make: MakeLearner) -> None:
    learner = make(0, 1)
    before = learner.state_dict()
    for foreign in ({}, before | {"meta.layer7.bias": torch.zeros(3)}, before | {"meta.log_std": torch.zeros(5)}):
        with pytest.raises(ValueError, match="the state is not this learner's"):
            learner.load_state_dict(foreign)
    assert_same_state(learner.state_dict(), before)
