"""Actions of every kind of space through a torch environment: training, graphs, compilation, references, adapters."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.reference import OraclePolicy, RandomPolicy
from metarl.envs.adapters.gymnasium_single import TaskGymEnv
from metarl.envs.adapters.gymnasium_vector import TaskVectorEnv
from metarl.envs.adapters.sb3 import TaskSB3VecEnv, make_sb3_vec_env
from metarl.envs.families.navigation import finn
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from tests.helpers.captured_steps import recorded
from tests.helpers.follow import follow, live_follow

WIDE = Box(-3.0, 12.0, (2,))
SPACES: dict[str, Space[Any]] = {
    "wide": WIDE,
    "integers": Box(-1, 5, (2,), np.int64),
    "bytes": Box(0, 2, (2, 2), np.uint8),
    "half-bounded": Box(0.25, np.inf, (1,)),
    "unbounded": Box(-np.inf, np.inf, (3,)),
    "from minus one": Discrete(3, start=-1),
    "choices": MultiDiscrete([2, 3], start=[0, -1]),
    "table": MultiDiscrete(np.array([[2, 2], [3, 4]])),
    "switches": MultiBinary(3),
}
each_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rollout(distribution: TaskDistribution, episodes: int = 30) -> Episodes:
    policy = MLPPolicy(distribution.observation_space, distribution.action_space, PolicyConfig((4,)))
    env = distribution.bind(distribution.sample(2, "test"), episodes)
    return collect(env, policy, policy.init(rng(1)), rng(2))


def own_actions(episodes: Episodes) -> Any:
    """The actions that reached the environment, which observes them: (M · E · (H − 1), …) flat."""
    return episodes.obs[:, :, 1:, :-1].flatten(0, 2).numpy()


@each_space
def test_what_reaches_the_environment_is_of_its_space(space: Space[Any]) -> None:
    episodes = rollout(follow(space))
    for flat in own_actions(episodes):
        assert space.contains(flat.reshape(space.shape).astype(np.dtype(space.dtype)))


@each_space
def test_torch_and_gymnasium_environments_get_the_same(space: Space[Any]) -> None:
    torch_one, live_one = follow(space), live_follow(space)
    assert torch_one.action_space == live_one.action_space
    ours, theirs = rollout(torch_one, 3), rollout(live_one, 3)
    # Both draw the same policy and noise until the environments' seeds differ: compare action by action.
    tasks = torch_one.sample(2, "test")
    bound = [one.bind(tasks, 3) for one in (torch_one, live_one)]
    for env in bound:
        env.reset(rng())
    for source in (ours, theirs):
        for time in range(3):
            stepped = [env.step(source.action[:, :, time]) for env in bound]
            for one, other in zip(*stepped, strict=True):
                torch.testing.assert_close(one, other)


@each_space
def test_captured_and_compiled_rollouts_are_the_same(space: Space[Any]) -> None:
    plain = rollout(follow(space), 3)

    captured = follow(space)
    policy = MLPPolicy(captured.observation_space, captured.action_space, PolicyConfig((4,)))
    captured.task_env.capture_rollouts(policy, recorded)
    env = captured.bind(captured.sample(2, "test"), 3)
    episodes = collect(env, policy, policy.init(rng(1)), rng(2))
    assert torch.equal(episodes.action, plain.action)
    torch.testing.assert_close(episodes.obs, plain.obs)

    compiled = follow(space)
    compiled.task_env.compile(backend="eager")
    torch.testing.assert_close(rollout(compiled, 3).obs, plain.obs)


@each_space
def test_the_oracle_acts_in_the_environments_own_units(space: Space[Any]) -> None:
    distribution = follow(space)
    tasks = {"target": torch.tensor([0.3, 0.9])}
    env = distribution.bind(tasks, 3)
    episodes = collect(env, OraclePolicy(distribution.env), tasks, rng())
    nearest = tasks["target"] if np.dtype(space.dtype).kind == "f" else tasks["target"].round()
    error = (nearest - tasks["target"]).abs().reshape(2, 1, 1).expand(2, 3, 4)
    torch.testing.assert_close(episodes.reward, -error, atol=1e-5, rtol=0)


@each_space
def test_the_random_policy_reaches_all_of_the_space(space: Space[Any]) -> None:
    distribution = follow(space)
    env = distribution.bind(distribution.sample(2, "test"), 400)
    actions = own_actions(collect(env, RandomPolicy(distribution.action_space), {}, rng()))
    if np.dtype(space.dtype).kind != "f":
        space.seed(0)
        samples = np.stack([np.asarray(space.sample()).reshape(-1) for _ in range(500)])
        for element in range(samples.shape[1]):
            assert set(actions[:, element]) == set(samples[:, element])
        return

    low, high = {"wide": (-3, 12), "half-bounded": (0.25, 2.25), "unbounded": (-1, 1)}[
        next(name for name, one in SPACES.items() if one is space)
    ]
    np.testing.assert_allclose(actions.min(0), low, atol=0.05 * (high - low))
    np.testing.assert_allclose(actions.max(0), high, atol=0.05 * (high - low))


def test_the_scale_reaches_torch_and_gymnasium_environments() -> None:
    for made in (follow(SPACES["unbounded"]), live_follow(SPACES["unbounded"])):
        made.env.set_action_scale(50.0)
        actions = own_actions(rollout(made))
        assert 20 < np.abs(actions).max() <= 50
        assert not made.env.same_actions(50.0, 1.0)
    assert follow(WIDE).env.same_actions(50.0, 1.0)
    assert live_follow(WIDE).env.same_actions(0.0, 1.0)  # they were stretched before as well
    assert not follow(WIDE).env.same_actions(0.0, 1.0)


def test_a_unit_box_costs_nothing_and_is_not_clipped() -> None:
    distribution = follow(Box(-1.0, 1.0, (2,)))
    assert distribution.env.action_map.is_identity
    episodes = rollout(distribution)
    assert torch.equal(episodes.obs[:, :, 1:, :-1], episodes.action[:, :, :-1])
    assert episodes.action.abs().max() > 1


@each_space
def test_adapters_show_and_take_the_environments_own_space(space: Space[Any]) -> None:
    distribution = follow(space)
    one, many = TaskGymEnv(distribution, task={"target": 0.5}), TaskVectorEnv(3, distribution, task={"target": 0.5})
    sb3 = TaskSB3VecEnv(distribution, 3, task={"target": 0.5})
    assert one.action_space == many.single_action_space == sb3.action_space == space

    one.action_space.seed(1)
    action = one.action_space.sample()
    one.reset(seed=0)
    many.reset(seed=0)
    sb3.reset()
    flat = np.asarray(action, np.float32).reshape(-1)
    assert one.step(action)[0][:-1] == pytest.approx(flat)
    np.testing.assert_allclose(many.step(np.stack([action] * 3))[0][:, :-1], [flat] * 3)
    from_sb3: Any = sb3.step(np.stack([action] * 3))[0]
    np.testing.assert_allclose(from_sb3[:, :-1], [flat] * 3)


def test_sb3_baselines_act_as_our_policies_do() -> None:
    env = make_sb3_vec_env(follow(WIDE), 2, {"target": torch.tensor([0.5])})
    assert env.action_space == Box(-1.0, 1.0, (2,), np.float32)
    env.reset()
    obs: Any = env.step(np.array([[0, 1], [-1, 9]], np.float32))[0]
    assert obs[:, :-1].tolist() == [[4.5, 12], [-3, 12]]


@pytest.mark.parametrize("distribution", [finn(), follow(WIDE)], ids=["unit", "wide"])
def test_adapters_refuse_what_is_not_a_number(distribution: TaskDistribution) -> None:
    bad = np.array([0.0, np.nan], np.float32)
    one, many, sb3 = TaskGymEnv(distribution), TaskVectorEnv(2, distribution), TaskSB3VecEnv(distribution, 2)
    for env in (one, many, sb3):
        env.reset()
    for step, action in ((one.step, bad), (many.step, np.stack([bad, bad])), (sb3.step, np.stack([bad, bad]))):
        with pytest.raises(ValueError, match="is not a number"):
            step(action)
    # What was refused changed nothing.
    obs, *_ = one.step(np.zeros(2, np.float32))
    assert np.isfinite(obs).all()


def test_the_same_physics_behind_other_bounds_gives_the_same_episodes() -> None:
    """Box(−3, 12) against [−1, 1] mapped to that by hand."""

    class Scaled(type(follow(WIDE).env)):  # type: ignore[misc]
        def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
            return super().transition(state, -3 + 7.5 * (action.clamp(-1, 1) + 1), rng, params)

    by_hand = TaskDistribution(Scaled(Box(-1.0, 1.0, (2,))), follow(WIDE).train)
    ours, theirs = rollout(follow(WIDE)), rollout(by_hand)
    assert torch.equal(ours.action[:, :, 0], theirs.action[:, :, 0])
    torch.testing.assert_close(ours.reward, theirs.reward, atol=1e-4, rtol=1e-4)
