"""MAML on episodes that `collect` sampled: updates, persistence, failure, and whether it learns."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.agents.gradients.trust_region import TrustRegionConfig
from metarl.agents.learner import MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import map_parameters
from metarl.envs.families.navigation import pearl
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task
from tests.helpers.agent_builders import (
    TINY,
    OneState,
    assert_same_state,
    make_learner,
    meta_parameters,
    random_meta_batch,
    seeded,
)
from tests.helpers.slow_maml import SlowMAML, value_of

SMALL = PolicyConfig(hidden_sizes=(16,))


class HiddenArm(OneState):
    """Three actions, one of which is paid; nothing that the agent observes says which."""

    action_space = Discrete(3)
    horizon = 4

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """One for the paid action."""
        assert params is not None
        return (action == params["paid"]).to(state.dtype)


@dataclass(frozen=True)
class Problem:
    """An environment and how to draw its tasks."""

    env: TaskEnv
    draw: Callable[[int, torch.Generator], Task]

    def learner(self, config: MAMLConfig) -> MAML:
        """An untrained learner."""
        return MAML(self.env.observation_space, self.env.action_map.policy, config, seeded(0))

    def sample(self, learner: MAML, num_tasks: int, generator: torch.Generator) -> tuple[list[Episodes], Episodes]:
        """Support batches and query batch of one meta-iteration, 10 episodes each."""
        env = self.env.bind(self.draw(num_tasks, generator), 10)
        adapted = learner.begin(num_tasks)
        support = []
        for _ in range(learner.adaptation_steps):
            support.append(collect(env, learner.policy, adapted.params, generator))
            adapted = learner.adapt(adapted, support[-1])
        return support, collect(env, learner.policy, adapted.params, generator)


HIDDEN_ARM = Problem(HiddenArm(), lambda n, generator: {"paid": torch.randint(3, (n,), generator=generator)})
POINT_NAVIGATION = Problem(pearl().task_env, lambda n, generator: pearl().sample(n, "train", generator))

# ---------------------------------------------------------------------- learning


def adapted_returns(problem: Problem, learner: MAML) -> tuple[Tensor, Tensor]:
    """Mean return of each of 40 fixed tasks before adaptation and after it."""
    support, query = problem.sample(learner, 40, seeded(7))
    return support[0].returns.mean(dim=1), query.returns.mean(dim=1)


@pytest.mark.parametrize(
    ("problem", "changes", "gain"),
    [
        (HIDDEN_ARM, {"inner_lr": 0.5}, 1.0),
        (HIDDEN_ARM, {"inner_lr": 0.5, "outer": "ppo", "outer_lr": 0.01}, 1.0),
        (HIDDEN_ARM, {"inner_lr": 0.2, "adaptation_steps": 2, "inner_lr_mode": "per-step"}, 1.0),
        (POINT_NAVIGATION, {"inner_lr": 0.1}, 6.0),
        (POINT_NAVIGATION, {"inner_lr": 0.1, "outer": "ppo", "outer_lr": 0.01}, 6.0),
    ],
    ids=["arm trpo", "arm ppo", "arm trpo per-step", "point trpo", "point ppo"],
)
def test_training_raises_the_return_after_adaptation(problem: Problem, changes: dict[str, Any], gain: float) -> None:
    learner = problem.learner(MAMLConfig(policy=SMALL, **changes))
    _, untrained = adapted_returns(problem, learner)
    generator = seeded(1)
    for _ in range(25):
        learner.update(MetaBatch(*problem.sample(learner, 20, generator)))
    before_adaptation, trained = adapted_returns(problem, learner)
    raised = trained - untrained
    standard_error = float(raised.std()) / math.sqrt(len(raised))
    assert float(raised.mean()) > gain
    assert float(raised.mean()) > 5 * standard_error
    assert float(trained.mean()) > float(before_adaptation.mean()) + gain


# ---------------------------------------------------------------------- one update


@pytest.mark.parametrize("problem", [HIDDEN_ARM, POINT_NAVIGATION], ids=["arm", "point"])
def test_trpo_updates_on_collected_episodes_keep_the_kl_bound_and_improve(problem: Problem) -> None:
    config = MAMLConfig(
        policy=TINY, adaptation_steps=2, fvp_fraction=1.0
    )  # there are too few episodes to leave any out
    learner = problem.learner(config)
    generator = seeded(2)
    for _ in range(3):
        support, query = problem.sample(learner, 4, generator)
        slow = SlowMAML(config, support, query)
        before = meta_parameters(learner)
        metrics = learner.update(MetaBatch(support, query))
        after = meta_parameters(learner)
        assert metrics["step_accepted"] == 1
        assert value_of(slow.query_kl, after) <= config.trust_region.max_kl * (1 + 1e-3)
        improvement = value_of(slow.outer_objective, after) - value_of(slow.outer_objective, before)
        assert improvement > 0
        assert metrics["surrogate_improvement"] == pytest.approx(improvement, rel=1e-2)


def test_a_rejected_trpo_step_leaves_the_parameters_bit_identical() -> None:
    """A first trial far beyond the region where the quadratic model holds, and no second one."""
    trust_region = TrustRegionConfig(max_kl=100.0, line_search_steps=1)
    learner = make_learner(config=MAMLConfig(policy=TINY, trust_region=trust_region))
    before = learner.state_dict()
    metrics = learner.update(MetaBatch(*random_meta_batch(learner, seeded(2))))
    assert metrics["gradient_norm"] > 0
    assert (metrics["step_accepted"], metrics["line_search_trials"]) == (0, 1)
    assert (metrics["surrogate_improvement"], metrics["kl"]) == (0, 0)
    assert_same_state(learner.state_dict(), before)


def test_episodes_without_any_reward_leave_the_parameters_bit_identical() -> None:
    learner = make_learner()
    before = learner.state_dict()
    support, query = random_meta_batch(learner, seeded(2))
    unpaid = [replace(batch, reward=torch.zeros_like(batch.reward)) for batch in (*support, query)]
    metrics = learner.update(MetaBatch(unpaid[:-1], unpaid[-1]))
    assert metrics["step_accepted"] == 0
    assert_same_state(learner.state_dict(), before)


def test_ppo_update_changes_every_parameter_and_the_state_of_adam() -> None:
    config = MAMLConfig(policy=TINY, outer="ppo", inner_lr_mode="per-step", outer_epochs=3)
    learner = make_learner(config=config)
    before = learner.state_dict()
    assert not any(name.startswith("adam.") for name in before)
    learner.update(MetaBatch(*random_meta_batch(learner, seeded(2))))
    after = learner.state_dict()
    for name, leaf in before.items():
        assert not torch.equal(after[name], leaf), name
        parameter = name.removeprefix("meta.")
        assert float(after[f"adam.step.{parameter}"]) == 3
        assert after[f"adam.exp_avg.{parameter}"].shape == leaf.shape
        assert bool(after[f"adam.exp_avg_sq.{parameter}"].ne(0).any())


@pytest.mark.parametrize("outer", ["trpo", "ppo"])
def test_threads_have_no_influence(outer: Any) -> None:
    config = MAMLConfig(policy=TINY, outer=outer, task_chunk=1)
    learners = [make_learner(config=config, num_threads=num_threads) for num_threads in (1, 2, 4)]
    metrics = [learner.update(MetaBatch(*random_meta_batch(learner, seeded(2)))) for learner in learners]
    for i in (1, 2):
        assert metrics[i] == metrics[0]
        assert_same_state(learners[i].state_dict(), learners[0].state_dict())


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_error_in_one_chunk_is_raised(num_threads: int) -> None:
    learner = make_learner(config=MAMLConfig(policy=TINY, task_chunk=1), num_threads=num_threads)
    support, query = random_meta_batch(learner, seeded(2))
    with pytest.raises(RuntimeError, match=r"shape|size"):
        learner.update(MetaBatch(support, replace(query, obs=query.obs[..., :1])))


# ---------------------------------------------------------------------- failure


@pytest.mark.parametrize("outer", ["trpo", "ppo"])
@pytest.mark.parametrize("which", ["support", "query"])
def test_a_gradient_that_is_not_finite_raises_and_leaves_the_learner_as_it_was(which: str, outer: Any) -> None:
    learner = make_learner(config=MAMLConfig(policy=TINY, outer=outer))
    support, query = random_meta_batch(learner, seeded(2))
    learner.update(MetaBatch(support, query))
    before = learner.state_dict()
    broken = (support[0] if which == "support" else query).reward.clone()
    broken[1, 0, 0] = torch.nan
    if which == "support":
        support = [replace(support[0], reward=broken)]
    else:
        query = replace(query, reward=broken)
    with pytest.raises(FloatingPointError, match="not finite"):
        learner.update(MetaBatch(support, query))
    assert_same_state(learner.state_dict(), before)


def test_a_gradient_that_is_not_finite_in_a_later_epoch_leaves_the_learner_as_it_was() -> None:
    learner = make_learner(config=MAMLConfig(policy=TINY, outer="ppo", outer_lr=1e30, outer_epochs=2))
    before = learner.state_dict()
    with pytest.raises(FloatingPointError, match="not finite"):
        learner.update(MetaBatch(*random_meta_batch(learner, seeded(2))))
    assert_same_state(learner.state_dict(), before)


# ---------------------------------------------------------------------- persistence

LEARNERS = {
    "trpo": MAMLConfig(policy=TINY),
    "trpo per-step": MAMLConfig(policy=TINY, adaptation_steps=2, inner_lr_mode="per-step"),
    "ppo": MAMLConfig(policy=TINY, outer="ppo"),
    "ppo meta-sgd": MAMLConfig(policy=TINY, outer="ppo", inner_lr_mode="meta-sgd"),
}


@pytest.mark.parametrize("config", LEARNERS.values(), ids=LEARNERS)
def test_a_restored_learner_goes_on_bit_identically(config: MAMLConfig) -> None:
    original, restored = make_learner(config=config), make_learner(config=config, seed=1)
    for learner, seed in ((original, 2), (restored, 3)):
        learner.update(MetaBatch(*random_meta_batch(learner, seeded(seed))))  # both have a history
    restored.load_state_dict(original.state_dict())
    assert_same_state(restored.state_dict(), original.state_dict())
    for seed in (4, 5):
        before = original.state_dict()
        metrics = [
            learner.update(MetaBatch(*random_meta_batch(learner, seeded(seed)))) for learner in (original, restored)
        ]
        assert metrics[0] == metrics[1]
        assert_same_state(restored.state_dict(), original.state_dict())
        assert not torch.equal(original.state_dict()["meta.log_std"], before["meta.log_std"])


@pytest.mark.parametrize("reloaded", [False, True])
def test_the_outer_rate_anneals_from_one_update_to_the_next(reloaded: bool) -> None:
    learner = make_learner(config=MAMLConfig(policy=TINY, outer="ppo", outer_lr=1e-2, outer_lr_decay=1e-3))
    batch = random_meta_batch(learner, seeded(2))
    moved = []
    for _ in range(2):
        before = learner.state_dict()
        learner.update(MetaBatch(*batch))
        after = learner.state_dict()
        moved.append(max((after[n] - v).abs().max().item() for n, v in before.items() if n.startswith("meta.")))
        if reloaded:
            learner = make_learner(config=learner.config)
            learner.load_state_dict(after)
    assert moved[0] > 1e-2
    assert 0 < moved[1] < 1e-4


def test_the_outer_rate_follows_the_progress_of_the_training() -> None:
    """At half of the training the rate is the root of what is left at the end, however many updates came before."""
    config = MAMLConfig(policy=TINY, outer="ppo", outer_lr=1e-2, outer_lr_final=1e-4, outer_epochs=1)
    moved = []
    for progress in (0.0, 0.5, 1.0):
        learner = make_learner(config=config)
        before = learner.state_dict()["meta.log_std"]
        learner.update(MetaBatch(*random_meta_batch(learner, seeded(2)), progress=progress))
        moved.append(float((learner.state_dict()["meta.log_std"] - before).abs().max()))
    assert moved == pytest.approx([1e-2, 1e-4, 1e-6], rel=0.05)


@pytest.mark.parametrize("mode", ["fixed", "meta-sgd", "per-step", "meta-sgd-per-step"])
def test_every_parameter_keeps_a_value_of_its_own(mode: Any) -> None:
    learner = make_learner(config=MAMLConfig(policy=TINY, adaptation_steps=2, inner_lr_mode=mode))
    state = {n: torch.randn(v.shape, generator=seeded(i)) for i, (n, v) in enumerate(learner.state_dict().items())}
    learner.load_state_dict(state)
    assert_same_state(learner.state_dict(), state)


def test_loading_the_state_of_a_fresh_learner_forgets_the_moments_of_adam() -> None:
    config = MAMLConfig(policy=TINY, outer="ppo")
    learner, fresh = make_learner(config=config), make_learner(config=config)
    learner.update(MetaBatch(*random_meta_batch(learner, seeded(2))))
    learner.load_state_dict(fresh.state_dict())
    assert_same_state(learner.state_dict(), fresh.state_dict())


def test_a_state_dict_is_a_copy() -> None:
    learner = make_learner(config=MAMLConfig(policy=TINY, outer="ppo"))
    learner.update(MetaBatch(*random_meta_batch(learner, seeded(2))))
    state = learner.state_dict()
    kept = map_parameters(torch.clone, state)
    for leaf in learner.state_dict().values():
        leaf.add_(1)
    assert_same_state(learner.state_dict(), kept)
    other = make_learner(config=learner.config)
    other.load_state_dict(state)
    other.update(MetaBatch(*random_meta_batch(other, seeded(3))))
    assert_same_state(state, kept)


FOREIGN: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "empty": lambda state: {},
    "parameter missing": lambda state: {n: v for n, v in state.items() if n != "meta.log_std"},
    "parameter too many": lambda state: state | {"meta.layer7.bias": torch.zeros(3)},
    "another shape": lambda state: state | {"meta.layer0.weight": torch.zeros(2, 4)},
    "learned rates": lambda state: state | {"meta.inner_lr.log_std": torch.zeros(1, 2)},
    "name unknown": lambda state: state | {"baseline.weight": torch.zeros(3)},
    "moment missing": lambda state: {n: v for n, v in state.items() if n != "adam.exp_avg.log_std"},
    "moments of one parameter missing": lambda state: {
        n: v for n, v in state.items() if not (n.startswith("adam.") and n.endswith(".log_std"))
    },
    "moment of another shape": lambda state: state | {"adam.exp_avg_sq.log_std": torch.zeros(5)},
    "moment of no parameter": lambda state: state | {"adam.exp_avg.layer7.bias": torch.zeros(3)},
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_state_is_rejected_and_leaves_the_learner_untouched(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    config = MAMLConfig(policy=TINY, outer="ppo")
    learner, other = make_learner(config=config), make_learner(config=config, seed=1)
    for trained in (learner, other):
        trained.update(MetaBatch(*random_meta_batch(trained, seeded(2))))
    before = learner.state_dict()
    with pytest.raises(ValueError, match="state"):
        learner.load_state_dict(change(other.state_dict()))
    assert_same_state(learner.state_dict(), before)


def test_an_adapted_policy_outlives_a_meta_update() -> None:
    learner = make_learner()
    started = learner.begin(3)
    values = map_parameters(torch.clone, started.params)
    metrics = learner.update(MetaBatch(*random_meta_batch(learner, seeded(2))))
    assert metrics["step_accepted"] == 1
    assert_same_state(started.params, values)
