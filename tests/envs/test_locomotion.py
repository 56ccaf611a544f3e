"""Robots against Gymnasium's own environments: next states, observations and rewards, at states along trajectories."""

import copy
import subprocess
import sys
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from family_play import rng

from envs.families.locomotion import (
    AntDirection,
    ForwardDynamics,
    HalfCheetahDirection,
    HalfCheetahDynamics,
    HalfCheetahVelocity,
    HumanoidDirection,
    VariedRobot,
)
from envs.physics.robot_env import RobotEnv
from envs.physics.robots import HOPPER, WALKER2D
from envs.registry import make_distribution

NUM_STATES = 200

ROBOTS: dict[str, RobotEnv] = {
    "HalfCheetah-v5": HalfCheetahDirection(),
    "Ant-v5": AntDirection(alive=1.0, cost=0.5, full_observation=True),
    "Hopper-v5": ForwardDynamics(HOPPER),
    "Walker2d-v5": ForwardDynamics(WALKER2D),
    "Humanoid-v5": HumanoidDirection(full_observation=True),
}
"""Families that pay what Gymnasium's environments pay; the cheetah, but for the weight of the control cost."""

every_robot = pytest.mark.parametrize("gymnasium_id", list(ROBOTS))


class Recorded:
    """Transitions of Gymnasium's environment under actions that hold for a few steps; episodes go on to their end.

    Gymnasium reads positions of bodies and contact forces where MuJoCo's integrator left them, up to a physics step
    behind. `rewards` and `obs` are its own formulas after `mj_forward` at the state reached; `raw_rewards` are as it
    paid them.
    """

    def __init__(self, gymnasium_id: str) -> None:
        env: Any = gymnasium.make(gymnasium_id, max_episode_steps=100).unwrapped
        model, data = env.model, env.data
        random = np.random.default_rng(3)
        columns: dict[str, list[Any]] = {
            name: [] for name in ("qpos", "qvel", "action", "after_qpos", "after_qvel", "obs", "reward", "raw", "over")
        }
        scale = model.actuator_ctrlrange[0, 1]
        env.reset(seed=0)
        over, age = False, 0
        for step in range(NUM_STATES):
            if over or age == 100:
                env.reset(seed=step)
                age = 0
            if step % 3 == 0:
                action = random.uniform(-1, 1, model.nu).astype(np.float32)
            mujoco.mj_forward(model, data)
            position = _position(env)
            columns["qpos"].append(data.qpos.copy())
            columns["qvel"].append(data.qvel.copy())
            columns["action"].append(action)
            _, raw, over, _, info = env.step(scale * action)
            mujoco.mj_forward(model, data)
            mujoco.mj_rnePostConstraint(model, data)
            velocity = (_position(env) - position) / env.dt
            if "contact_cost" in dir(env):
                reward, _ = env._get_rew(velocity, scale * action)
            else:
                reward = raw
            columns["after_qpos"].append(data.qpos.copy())
            columns["after_qvel"].append(data.qvel.copy())
            columns["obs"].append(env._get_obs())
            columns["reward"].append(reward + 0.05 * (action**2).sum() * (gymnasium_id == "HalfCheetah-v5"))
            columns["raw"].append(raw)
            columns["over"].append(over)
            age += 1
        self.columns = {name: torch.tensor(np.array(column)) for name, column in columns.items()}
        env.close()


def _position(env: Any) -> Any:
    """Where Gymnasium measures progress along x."""
    if "mass_center" in env.step.__globals__:
        return env.step.__globals__["mass_center"](env.model, env.data)[0]
    return env.data.qpos[0]


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, torch.Tensor]]:
    return {gymnasium_id: Recorded(gymnasium_id).columns for gymnasium_id in ROBOTS}


def default_tasks(env: RobotEnv, count: int) -> dict[str, torch.Tensor]:
    return {name: value.double().expand(count, *value.shape) for name, value in env.get_default_params().items()}


def step_from(
    env: RobotEnv, qpos: torch.Tensor, qvel: torch.Tensor, action: torch.Tensor, params: dict[str, torch.Tensor]
) -> tuple[Any, Any]:
    """The state with these positions and velocities, and the next one."""
    before = env._engine_of(params, (len(qpos),)).state(qpos, qvel)
    return before, env.transition(before, action, rng(), params)


@every_robot
def test_a_step_is_gymnasiums(gymnasium_id: str, recorded: dict[str, dict[str, torch.Tensor]]) -> None:
    env, columns = ROBOTS[gymnasium_id], recorded[gymnasium_id]
    params = default_tasks(env, NUM_STATES)
    action = columns["action"].double()
    before, after = step_from(env, columns["qpos"], columns["qvel"], action, params)
    # Humanoid's PGS solver stops after 50 iterations, wherever it is.
    loose = gymnasium_id == "Humanoid-v5"
    state = {"rtol": 1e-2, "atol": 1e-2} if loose else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(after["qpos"], columns["after_qpos"], **state)
    torch.testing.assert_close(after["qvel"], columns["after_qvel"], **state)
    torch.testing.assert_close(env.observation(after, rng(), params), columns["obs"], **state)
    paid = env.reward(before, action, after, rng(), params)
    healthy = ~columns["over"]
    torch.testing.assert_close(paid[healthy], columns["reward"].double()[healthy], **state)
    assert torch.equal(env.terminal(after, rng(), params), columns["over"])
