"""MuJoCo Warp beside MuJoCo, on the CPU; compiling its kernels takes minutes the first time."""

import sys
from typing import Any
from unittest import mock

import mujoco
import pytest
import torch

from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import expand_to_tasks
from metarl.envs.physics.engine import make_engine
from metarl.envs.physics.robot_env import is_deterministic
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes, collect
from tests.helpers.captured_steps import recorded
from tests.helpers.family_play import rng


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("determinism", ["on", "off"])
@pytest.mark.parametrize("name", ["half-cheetah-direction", "half-cheetah-dynamics", "walker2d-dynamics", "ant-goal"])
def test_both_engines_take_the_same_steps(name: str, determinism: str) -> None:
    """Each of 20 steps from the same state, with sensors and varied dynamics, to what float32 can show.

    "off" is what a GPU does by default; its branches run one after the other here.
    """
    pytest.importorskip("mujoco_warp")
    distribution, other = make_distribution(name), make_distribution(name)
    cpu: Any = distribution.env
    warp: Any = other.env
    warp.engine, warp.physics_determinism = "warp", determinism
    if name == "ant-goal":
        for env in (cpu, warp):
            env.model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC  # pyramids are turned differently
    tasks = distribution.sample(3, "train", rng(1))
    params = {key: value.double().unsqueeze(1).expand(3, 2, *value.shape[1:]) for key, value in tasks.items()}
    state = cpu.initial(rng(2), params)
    for step in range(20):
        action = torch.rand(3, 2, cpu.robot.num_actuators, generator=rng(step), dtype=torch.float64) * 2 - 1
        ours, theirs = (env.transition(state, action, rng(), params) for env in (cpu, warp))
        assert theirs["qpos"].dtype == torch.float32
        torch.testing.assert_close(theirs["qpos"].double(), ours["qpos"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(theirs["qvel"].double(), ours["qvel"], rtol=1e-3, atol=1e-2)
        rewards = [env.reward(state, action, after, rng(), params) for env, after in ((cpu, ours), (warp, theirs))]
        torch.testing.assert_close(rewards[1], rewards[0], rtol=1e-3, atol=1e-2)
        state = ours


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_worlds_get_their_own_robots_anew() -> None:
    """One engine for one meta-batch after the other: the second batch's masses count."""
    pytest.importorskip("mujoco_warp")
    env: Any = make_distribution("half-cheetah-dynamics").env
    fresh: Any = make_distribution("half-cheetah-dynamics").env
    env.engine = fresh.engine = "warp"
    first, second = (make_distribution("half-cheetah-dynamics").sample(4, "train", rng(seed)) for seed in (0, 1))
    action = torch.full((4, 6), 0.5)
    env.transition(env.initial(rng(), first), action, rng(), first)
    again = env.transition(env.initial(rng(), second), action, rng(), second)
    alone = fresh.transition(fresh.initial(rng(), second), action, rng(), second)
    assert torch.equal(again["qvel"], alone["qvel"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("determinism", ["on", "off"])
@pytest.mark.parametrize("name", ["half-cheetah-dynamics", "walker2d-dynamics", "ant-goal"])
def test_captured_rollouts_of_robots_equal_eager_ones(name: str, determinism: str) -> None:
    """Physics between graphs: two batches of different tasks, the second one replays the first one's steps."""
    pytest.importorskip("mujoco_warp")
    distribution = make_distribution(name)
    env: Any = distribution.env
    env.engine, env.horizon, env.physics_determinism = "warp", 4, determinism
    policy = MLPPolicy(distribution.observation_space, distribution.action_space)
    params = expand_to_tasks(policy.init(rng(1)), 2)

    def two_batches() -> list[Episodes]:
        return [collect(env.bind(distribution.sample(2, "train", rng(n)), 2), policy, params, rng(5)) for n in (1, 2)]

    eager = two_batches()
    env.capture_rollouts(policy, recorded)
    for one, other in zip(two_batches(), eager, strict=True):
        assert torch.equal(one.obs, other.obs)
        assert torch.equal(one.reward, other.reward)
    assert not torch.equal(eager[0].reward, eager[1].reward)
    assert torch.equal(eager[0].obs, eager[1].obs) is (name == "ant-goal")  # goals change no motion


@pytest.mark.parametrize(("flag", "device", "deterministic"), [("auto", "cuda", False), ("auto", "cpu", True)])
def test_physics_are_deterministic_but_where_that_is_slow(flag: str, device: str, deterministic: bool) -> None:
    assert is_deterministic(flag, torch.device(device)) is deterministic
    for asked in ("on", "off"):
        assert is_deterministic(asked, torch.device(device)) is (asked == "on")


def test_worlds_that_do_not_fit_are_refused_with_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    warp, mujoco_warp = mock.MagicMock(), mock.MagicMock()
    mujoco_warp.make_data.side_effect = RuntimeError("Failed to allocate 99 bytes\non device 'cuda:0'")
    monkeypatch.setitem(sys.modules, "warp", warp)
    monkeypatch.setitem(sys.modules, "mujoco_warp", mujoco_warp)
    model: Any = make_distribution("half-cheetah-direction").task_env.model  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=r"9000 worlds .* do not fit on cuda: lower --num-tasks or --episodes"
    ) as refused:
        make_engine("auto", torch.device("cuda"), model, 9000, 5, 1)
    assert "\n" not in str(refused.value)


def test_an_engine_that_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = None
    with pytest.raises(ValueError, match="engine must be one of auto, mujoco, warp, got 'bullet'"):
        make_engine("bullet", torch.device("cpu"), model, 1, 5, 1)
    with pytest.raises(ValueError, match="the engine mujoco runs on the CPU, not on cuda"):
        make_engine("mujoco", torch.device("cuda"), model, 1, 5, 1)
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    with pytest.raises(
        ValueError, match=r"robots on cuda need MuJoCo Warp .*'\.\[warp\]'.* or train them with --device cpu"
    ):
        make_engine("auto", torch.device("cuda"), make_distribution("half-cheetah-direction").env.model, 1, 5, 1)  # type: ignore[attr-defined]
