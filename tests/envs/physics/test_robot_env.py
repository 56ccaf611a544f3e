"""Robots against Gymnasium's own environments: next states, observations and rewards, at states along trajectories."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from metarl.envs.families.robots.ant import AntDirection
from metarl.envs.families.robots.half_cheetah import HalfCheetahDirection, HalfCheetahDynamics
from metarl.envs.families.robots.hopper_walker2d import ForwardDynamics
from metarl.envs.families.robots.humanoid import HumanoidDirection
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.physics.robots import HOPPER, WALKER2D
from metarl.envs.physics.varied_robot import VariedRobot
from metarl.envs.registry import make_distribution
from tests.helpers.family_play import rng

NUM_STATES = 200

ROBOTS: dict[str, RobotEnv] = {
    "HalfCheetah-v5": HalfCheetahDirection(),
    "Ant-v5": AntDirection(alive=1.0, action_cost=0.5, full_observation=True),
    "Hopper-v5": ForwardDynamics(HOPPER),
    "Walker2d-v5": ForwardDynamics(WALKER2D),
    "Humanoid-v5": HumanoidDirection(full_observation=True),
}
"""Families with the rewards of Gymnasium's environments; the cheetah, but for the weight of the control cost."""

every_robot = pytest.mark.parametrize("gymnasium_id", list(ROBOTS))


class Recorded:
    """Transitions of Gymnasium's environment under actions that hold for a few steps; episodes go on to their end.

    Gymnasium reads positions of bodies and contact forces where MuJoCo's integrator left them, up to a physics step
    behind. `rewards` and `obs` are its own formulas after `mj_forward` at the state reached; `raw_rewards` are as it
    gave them.
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
            _, raw, over, _, _info = env.step(scale * action)
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
    before = env.state_of(qpos, qvel, params)
    return before, env.transition(before, action, rng(), params)


@every_robot
def test_a_step_is_gymnasiums(gymnasium_id: str, recorded: dict[str, dict[str, torch.Tensor]]) -> None:
    env, columns = ROBOTS[gymnasium_id], recorded[gymnasium_id]
    params = default_tasks(env, NUM_STATES)
    action = columns["action"].double()
    before, after = step_from(env, columns["qpos"], columns["qvel"], action, params)
    # The humanoid's PGS solver stops after 50 iterations, wherever it is then.
    near = 1e-3 if gymnasium_id == "Humanoid-v5" else 1e-7

    def assert_near(ours: torch.Tensor, gymnasiums: torch.Tensor) -> None:
        torch.testing.assert_close(ours, gymnasiums.double(), rtol=near, atol=near)

    assert_near(after["qpos"], columns["after_qpos"])
    assert_near(after["qvel"], columns["after_qvel"])
    assert_near(env.observation(after, rng(), params), columns["obs"])
    standing = ~columns["over"]  # Gymnasium's hopper and walker get nothing for the step in which they fall
    assert_near(env.reward(before, action, after, rng(), params)[standing], columns["reward"][standing])
    assert torch.equal(env.terminal(after, rng(), params), columns["over"])


@every_robot
def test_a_start_is_gymnasiums(gymnasium_id: str) -> None:
    """Means and deviations of 4,000 starts of ours beside 400 of Gymnasium's, and both within the same bounds."""
    env = ROBOTS[gymnasium_id]
    start = env.initial(rng(), default_tasks(env, 4000))
    theirs: Any = gymnasium.make(gymnasium_id).unwrapped
    for name in ("qpos", "qvel"):
        drawn = []
        for seed in range(400):
            theirs.reset(seed=seed)
            drawn.append(getattr(theirs.data, name).copy())
        sample = torch.tensor(np.array(drawn))
        deviation = start[name].std(0).max()
        torch.testing.assert_close(start[name].mean(0), sample.mean(0), rtol=0, atol=0.25 * float(deviation))
        torch.testing.assert_close(start[name].std(0), sample.std(0), rtol=0.2, atol=1e-9)


@pytest.mark.parametrize("name", ["hopper-dynamics", "walker2d-dynamics", "half-cheetah-dynamics"])
def test_varied_dynamics_are_those_of_a_model_changed_by_hand(name: str) -> None:
    """Three tasks of two episodes each, beside MuJoCo's own step of a model whose fields are written one by one."""
    distribution = make_distribution(name)
    env: Any = distribution.env
    tasks = distribution.sample(3, "train", rng(5))
    params = {key: value.double().unsqueeze(1).expand(3, 2, *value.shape[1:]) for key, value in tasks.items()}
    before = env.initial(rng(6), params)
    action = torch.rand(3, 2, env.robot.num_actuators, generator=rng(7), dtype=torch.float64) * 2 - 1
    for _ in range(10):
        before = env.transition(before, action, rng(), params)
    after = env.transition(before, action, rng(), params)
    assert not torch.allclose(after["qvel"][0], after["qvel"][1], atol=1e-2)
    for m in range(3):
        task = {key: value[m].numpy() for key, value in tasks.items()}
        model = copy.copy(env.model)
        if name == "half-cheetah-dynamics":
            for body in range(7):
                model.body_mass[1 + body] *= task["body_mass"][body]
                model.body_inertia[1 + body] *= task["body_mass"][body]
            for geom in range(9):
                model.geom_friction[geom, 0] *= task["friction"]
        else:
            for body in range(env.robot.num_bodies):
                model.body_mass[1 + body] *= task["body_mass"][body]
                model.body_inertia[1 + body] *= task["body_inertia"][body]
            for geom in range(env.robot.num_geoms):
                model.geom_friction[geom] *= task["geom_friction"][geom]
            for dof in range(env.robot.num_velocities):
                model.dof_damping[dof] *= task["dof_damping"][dof]
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        for e in range(2):
            mujoco.mj_resetData(model, data)
            data.qpos[:], data.qvel[:] = before["qpos"][m, e], before["qvel"][m, e]
            data.ctrl[:] = action[m, e]
            if task.get("disabled_joint", -1) >= 0:
                data.ctrl[int(task["disabled_joint"])] = 0
            mujoco.mj_step(model, data, env.robot.frame_skip)
            np.testing.assert_allclose(after["qpos"][m, e], data.qpos, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(after["qvel"][m, e], data.qvel, rtol=1e-7, atol=1e-7)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    seen = []
    for num_threads in (1, 2, 3):
        distribution = make_distribution("walker2d-dynamics")
        distribution.env.num_threads = num_threads
        env = distribution.bind(distribution.sample(5, "test"), 3)
        obs = [env.reset(rng())]
        actions = torch.rand(20, 5, 3, 6, generator=rng(1)) * 2 - 1
        obs += [env.step(action)[0] for action in actions]
        seen.append(torch.stack(obs))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_a_task_written_over_in_place_is_seen() -> None:
    env = HalfCheetahDynamics()
    params = {name: value.expand(1, *value.shape).clone() for name, value in env.get_default_params().items()}
    state, action = env.initial(rng(), params), torch.ones(1, 6)
    first = env.transition(state, action, rng(), params)["qvel"]
    params["body_mass"] *= 3
    assert not torch.allclose(env.transition(state, action, rng(), params)["qvel"], first, atol=1e-2)


def test_scales_name_the_elements_of_the_model() -> None:
    for env in (ForwardDynamics(HOPPER), ForwardDynamics(WALKER2D)):
        assert isinstance(env, VariedRobot)
        assert env.shape_of("dof_damping") == env.model.dof_damping.shape
        assert env.shape_of("geom_friction") == env.model.geom_friction.shape
        assert (env.robot.num_bodies + 1, 3) == env.model.body_inertia.shape


def test_without_opengl_a_picture_is_refused_in_one_line() -> None:
    code = (
        "import gymnasium, metarl.envs\n"
        "env = gymnasium.make('metarl/HalfCheetahDirection-v0', render_mode='rgb_array')\n"
        "env.reset(seed=0); env.step(env.action_space.sample())\n"
        "try: env.render()\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"MUJOCO_GL": "disabled", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("\n") == 1
    assert "pictures of robots need OpenGL" in done.stdout


def test_pictures_of_robots_are_drawn_by_the_command_without_a_display(tmp_path: Path) -> None:
    """In a process of its own: what is imported on the way must not choose an OpenGL that needs a display."""
    code = (
        "import metarl.cli.render, gymnasium; env = gymnasium.make('metarl/AntGoal-v0', render_mode='rgb_array'); "
        "env.reset(seed=0); picture = env.render(); red, green, _ = picture.astype(int).transpose(2, 0, 1); "
        "print(picture.shape, 'line at the start:', ((red > 180) & (green < 60)).sum() > 50)"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "(256, 256, 3) line at the start: True", done.stderr
