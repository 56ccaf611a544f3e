"""Captured rollouts equal eager ones; what a CUDA graph cannot hold is refused. No GPU is needed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.agents.learner import Adapted
from metarl.agents.policies.mlp import MLPPolicy
from metarl.envs.families.control.cart_pole import cart_pole
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes, collect
from metarl.envs.rollout_graphs import MAX_KEPT
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task, Uniform
from tests.envs.test_rollout import Breaking
from tests.helpers.captured_steps import recorded
from tests.helpers.family_play import rng
from tests.helpers.torch_families import TORCH_FAMILIES


def policy_for(distribution: TaskDistribution) -> MLPPolicy:
    return MLPPolicy(distribution.observation_space, distribution.action_space)


def params_for(policy: MLPPolicy, num_tasks: int, seed: int) -> dict[str, Tensor]:
    leaves = policy.init(rng(seed))
    return {
        name: leaf + 0.3 * torch.randn((num_tasks, *leaf.shape), generator=rng(seed)) for name, leaf in leaves.items()
    }


def assert_same(actual: Episodes, expected: Episodes) -> None:
    assert expected.mask.any()
    for name in ("obs", "action", "reward", "mask", "terminated", "last_obs"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    assert set(actual.behaviour) == set(expected.behaviour)
    for name, value in expected.behaviour.items():
        assert torch.equal(actual.behaviour[name], value), name


@pytest.mark.parametrize("name", TORCH_FAMILIES)
def test_captured_rollouts_equal_eager_ones(name: str) -> None:
    """Two rollouts on different tasks with different parameters: the second one replays the first one's step."""
    distribution = make_distribution(name)
    distribution.env.horizon = min(distribution.horizon, 12)
    _assert_captured_is_eager(distribution)


@pytest.mark.parametrize("broken_reward", [False, True])
@pytest.mark.parametrize("steps_per_graph", [2, 256])
def test_what_is_not_finite_after_a_captured_block_is_found(steps_per_graph: int, broken_reward: bool) -> None:
    """The first rollout, in which steps are captured, is sound; the second one breaks in a later block of steps."""
    env = Breaking()
    env.broken_reward = broken_reward
    distribution = TaskDistribution(env, {"length": Uniform(1, 9), "broken": Uniform(0, 9)})
    policy = policy_for(distribution)
    env.steps_per_graph = steps_per_graph
    env.capture_rollouts(policy, recorded)

    def roll_out(broken: list[float]) -> Episodes:
        tasks = {"length": torch.full((3,), 99.0), "broken": torch.tensor(broken)}
        return collect(env.bind(tasks, 2), policy, params_for(policy, 3, 1), rng(1))

    assert roll_out([0.0, 0.0, 0.0]).env_steps == 3 * 2 * env.horizon
    kind = "reward" if broken_reward else "observation"
    with pytest.raises(FloatingPointError, match=rf"'broken': 5.*task 1 of .*{kind} that is not finite at step 5 of"):
        roll_out([0.0, 5.0, 0.0])


def test_an_episode_of_one_step_is_captured() -> None:
    distribution = cart_pole()
    distribution.env.horizon = 1
    _assert_captured_is_eager(distribution)


def _assert_captured_is_eager(distribution: TaskDistribution) -> None:
    env, policy = distribution.task_env, policy_for(distribution)
    batches = [(distribution.sample(3, "train", rng(seed)), params_for(policy, 3, seed)) for seed in (1, 2)]

    def both() -> tuple[list[Episodes], Tensor]:
        generator = rng(5)
        return [collect(env.bind(t, 4), policy, p, generator) for t, p in batches], generator.get_state()

    eager, eager_end = both()
    env.capture_rollouts(policy, recorded)
    captured, captured_end = both()
    for one, other in zip(captured, eager, strict=True):
        assert_same(one, other)
    assert torch.equal(captured_end, eager_end)
    assert not torch.equal(eager[0].action, eager[1].action)


@pytest.mark.parametrize("num_tasks", [1, 2])
@pytest.mark.parametrize("episodes", [1, 3])
def test_results_of_a_rollout_stay_when_the_next_one_is_replayed(num_tasks: int, episodes: int) -> None:
    distribution = cart_pole()
    env, policy = distribution.task_env, policy_for(distribution)
    env.capture_rollouts(policy, recorded)
    env.horizon = 12
    tasks = distribution.sample(num_tasks, "test")
    first = collect(env.bind(tasks, episodes), policy, params_for(policy, num_tasks, 1), rng(1))
    kept = first.obs.clone(), first.last_obs.clone(), first.terminated.clone()
    collect(env.bind(tasks, episodes), policy, params_for(policy, num_tasks, 2), rng(2))
    assert all(torch.equal(a, b) for a, b in zip(kept, (first.obs, first.last_obs, first.terminated), strict=True))


def test_each_shape_is_captured_once_and_only_so_many_are_kept() -> None:
    captures = []

    def counting(function: Any, generator: torch.Generator) -> Any:
        captures.append(generator)
        return recorded(function, generator)

    distribution = cart_pole()
    env, policy = distribution.task_env, policy_for(distribution)
    env.horizon = 3
    env.capture_rollouts(policy, counting)

    def roll_out(episodes: int) -> None:
        collect(env.bind(distribution.sample(2, "test"), episodes), policy, params_for(policy, 2, 1), rng(1))

    for episodes in (1, 2, 1, 2):
        roll_out(episodes)
    assert len(captures) == 2
    for episodes in range(1, MAX_KEPT + 2):
        roll_out(episodes)
    assert len(captures) == MAX_KEPT + 1
    roll_out(MAX_KEPT + 1)  # one of the newest
    assert len(captures) == MAX_KEPT + 1
    roll_out(1)  # the oldest was given up
    assert len(captures) == MAX_KEPT + 2


def test_other_policies_act_eagerly() -> None:
    distribution = cart_pole()
    env, policy = distribution.task_env, policy_for(distribution)

    def never(function: Any, generator: torch.Generator) -> Any:
        raise AssertionError("captured")

    env.capture_rollouts(policy_for(distribution), never)
    collect(env.bind(distribution.sample(2, "test"), 3), policy, params_for(policy, 2, 1), rng(1))


class Walk(TaskEnv):
    """A walk on the line."""

    def __init__(self) -> None:
        source = make_distribution("point-navigation").env
        self.observation_space, self.action_space, self.horizon = source.observation_space, source.action_space, 5
        self.steps = 0

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv."""
        assert params is not None
        return torch.zeros(*params["goal"].shape[:-1], 2)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv."""
        return state + action

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv."""
        return next_state.sum(dim=-1)


def captured_and_eager(env: TaskEnv) -> tuple[Episodes, Episodes]:
    policy = MLPPolicy(env.observation_space, env.action_space)
    tasks, params = {"goal": torch.zeros(2, 2)}, params_for(policy, 2, 1)
    eager = collect(env.bind(tasks, 3), policy, params, rng(1))
    env.capture_rollouts(policy, recorded)
    return collect(env.bind(tasks, 3), policy, params, rng(1)), eager


def test_the_stand_in_shows_a_step_that_depends_on_changing_python_variables() -> None:
    class Counting(Walk):
        def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
            self.steps += 1
            return state + action * self.steps

    assert_same(*captured_and_eager(Walk()))
    captured, eager = captured_and_eager(Counting())
    assert not torch.allclose(captured.obs, eager.obs)


def test_a_step_that_waits_for_the_device_is_refused() -> None:
    class Waiting(Walk):
        def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
            return state + action if bool(state.sum() < 100) else state

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        captured_and_eager(Waiting())


class Remembering(MLPPolicy):
    """Acts on its observation plus the sum of all rewards, which it remembers as if it were one more step's input."""

    def apply(self, params: Any, obs: Tensor, memory: Any = None) -> Any:
        """See ActingPolicy."""
        total = torch.zeros(obs.shape[:-1]) if memory is None else memory["total"]
        return super().apply(params, obs + total.unsqueeze(-1))[0], {"total": total}

    def observe(self, memory: Any, action: Tensor, reward: Tensor, terminated: Tensor) -> Any:
        """See ObservingPolicy."""
        return {"total": memory["total"] + reward}


def test_a_graph_holds_what_the_policy_remembers() -> None:
    distribution = cart_pole()
    env, policy = distribution.task_env, Remembering(distribution.observation_space, distribution.action_space)
    env.horizon = 6
    params = Adapted(params_for(policy, 2, 1))

    def two_batches() -> list[Episodes]:
        bound, generator = env.bind(distribution.sample(2, "test"), 3), rng(1)
        first = collect(bound, policy, params, generator)
        return [first, collect(bound, policy, Adapted(params.params, memory=first.memory), generator)]

    eager = two_batches()
    env.capture_rollouts(policy, recorded)
    captured = two_batches()
    for one, other in zip(captured, eager, strict=True):
        assert_same(one, other)
        assert torch.equal(one.memory["total"], other.memory["total"])
    assert torch.equal(eager[1].memory["total"], eager[0].returns + eager[1].returns)
