"""Throughput of robots: our batches beside MuJoCo's own rollout, Gymnasium's vector environments and EnvPool."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from torch import Tensor

from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import expand_to_tasks
from metarl.benchmarks.environments import (
    DIFFERENT_ACTIONS,
    batch_rate,
    pinned_to_cores,
    ratios_to,
    steps_per_second,
    vector_rate,
)
from metarl.benchmarks.iteration import median_seconds
from metarl.envs.physics.engine import make_engine
from metarl.envs.physics.models import import_mujoco, with_warps_solver
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.registry import ALIASES, FAMILIES, make_distribution
from metarl.envs.rollout import collect
from metarl.errors import unknown
from metarl.run.device import device_name

ONE_OF_EACH = (
    "half-cheetah-direction",
    "half-cheetah-dynamics",
    "hopper-dynamics",
    "walker2d-dynamics",
    "ant-direction",
    "humanoid-direction",
)

SYNC_ENVS = 8
"""Environments of Gymnasium's SyncVectorEnv: they are stepped in turn, so that more are not faster."""


@dataclass(frozen=True)
class RobotThroughput:
    """Environment steps per second of one family on the same number of cores.

    Attributes:
        env: the family.
        num_envs: N, worlds side by side.
        num_threads: cores, each with a thread or a process.
        batch: ours as `collect` steps it, with N different tasks.
        rollout: `mujoco.rollout` alone with one model: no reward, no observation, no episodes.
        gymnasium_id: of Gymnasium's environment with this robot.
        sync: SyncVectorEnv of 8 of them; always one core.
        asynchronous: AsyncVectorEnv, one environment and process for each core.
        envpool: EnvPool's environment of that robot, N of them; None where it is not installed.
    """

    env: str
    num_envs: int
    num_threads: int
    batch: float
    rollout: float
    gymnasium_id: str
    sync: float
    asynchronous: float
    envpool: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the ratios of `batch` to the others."""
        return asdict(self) | ratios_to(self, self.batch, ("rollout", "sync", "asynchronous", "envpool"))


@dataclass(frozen=True)
class GpuRobotThroughput:
    """Environment steps per second of one family on a GPU, policy in the loop, and of the physics alone.

    The latter take random controls from the start of an episode on: no policy, no reward, no observation, no episodes.

    Attributes:
        env: the family.
        num_envs: N, worlds side by side.
        device_name: the GPU.
        deterministic: whether the physics repeat bit for bit.
        captured: ours, with everything but the physics in CUDA graphs as well.
        eager: ours, the physics alone in a graph.
        physics: our engine alone, whose steps are those of `captured`.
        bare: MuJoCo Warp's own `step` of the same model, its steps in a graph.
    """

    env: str
    num_envs: int
    device_name: str
    deterministic: bool
    captured: float
    eager: float
    physics: float
    bare: float

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the ratios of `captured` to both physics."""
        return asdict(self) | ratios_to(self, self.captured, ("physics", "bare"))


def checked_robots(names: Sequence[str]) -> list[str]:
    """Registered names of robots' families; one of each robot where none is given.

    Raises:
        UserError: not one of these.
    """
    families = {name: family for name, family in FAMILIES.items() if family.gymnasium_id}
    known = [name for name, family in families.items() if isinstance(family.make().env, RobotEnv)]

    chosen = [ALIASES.get(name, name) for name in names] or list(ONE_OF_EACH)
    for name in chosen:
        if name not in known:
            raise unknown("robot", name, known)
    return chosen


def robot_throughput(name: str, num_envs: int, seconds: float, num_threads: int) -> RobotThroughput:
    """Measure one family.

    Args:
        name: a robot's family.
        num_envs: N.
        seconds: how long each side steps, after a few untimed steps.
        num_threads: cores.
    """
    distribution = make_distribution(name)
    env = distribution.env
    assert isinstance(env, RobotEnv)
    env.num_threads = num_threads
    single_id = env.robot.gymnasium_id

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(single_id, disable_env_checker=True)

    with pinned_to_cores(num_threads):
        batch = batch_rate(distribution, num_envs, seconds)
        rollout = _rollout_rate(env, num_envs, seconds, num_threads)

        sync = vector_rate(SyncVectorEnv([make] * SYNC_ENVS), seconds)
        asynchronous = vector_rate(AsyncVectorEnv([make] * num_threads, context="spawn"), seconds)
        envpool = _envpool_rate(single_id, num_envs, seconds, num_threads)

    return RobotThroughput(
        env=name,
        num_envs=num_envs,
        num_threads=num_threads,
        batch=batch,
        rollout=rollout,
        gymnasium_id=single_id,
        sync=sync,
        asynchronous=asynchronous,
        envpool=envpool,
    )


def gpu_robot_throughput(
    name: str, num_envs: int, device: torch.device, hidden_size: int = 64, deterministic: bool = False, repeats: int = 3
) -> GpuRobotThroughput:
    """Measure one family on a GPU.

    Args:
        name: a robot's family.
        num_envs: N, each with a task of its own.
        device: the GPU.
        hidden_size: units of each of the policy's two hidden layers.
        deterministic: whether the physics are to repeat bit for bit.
        repeats: rollouts of each kind; the median counts.
    """
    generator = torch.Generator(device).manual_seed(0)
    distribution = make_distribution(name)
    env = distribution.env
    assert isinstance(env, RobotEnv)
    env.physics_determinism = "on" if deterministic else "off"

    policy = MLPPolicy(
        distribution.observation_space, distribution.action_space, PolicyConfig((hidden_size, hidden_size))
    )
    params = expand_to_tasks(policy.init(generator), num_envs)
    bound = env.bind(distribution.sample(num_envs, "train", generator), 1)

    def rate() -> float:
        seconds = median_seconds(lambda: collect(bound, policy, params, generator), repeats, device)
        return num_envs * env.horizon / seconds

    eager = rate()
    if device.type == "cuda":
        env.capture_rollouts(policy)
    captured = rate()
    return GpuRobotThroughput(
        env=name,
        num_envs=num_envs,
        device_name=device_name(device),
        deterministic=deterministic,
        captured=captured,
        eager=eager,
        physics=_physics_rate(env, num_envs, device, deterministic, repeats),
        bare=_bare_rate(env, num_envs, device, deterministic, repeats),
    )


PHYSICS_STEPS = 50
"""Environment steps for which the physics alone are timed at once."""


def _physics_rate(env: RobotEnv, num_envs: int, device: torch.device, deterministic: bool, repeats: int) -> float:
    """Our engine alone."""
    engine = make_engine(env.engine, device, env.model, num_envs, env.robot.frame_skip, 0, deterministic)
    position, velocity = _start(env, num_envs, device)
    start = engine.state(position, velocity)
    controls = _random_controls(env, num_envs, device)

    def steps() -> None:
        state = start
        for step in range(PHYSICS_STEPS):
            state = engine.step(state, controls[step % DIFFERENT_ACTIONS])

    return num_envs * PHYSICS_STEPS / median_seconds(steps, repeats, device)


def _bare_rate(env: RobotEnv, num_envs: int, device: torch.device, deterministic: bool, repeats: int) -> float:
    """MuJoCo Warp as it comes: its own solver and steps, on a model and data that it has made."""
    import mujoco_warp
    import warp

    from metarl.envs.physics.warp import worlds_that_fit  # a GPU's

    warp.config.log_level = warp.LOG_WARNING  # else a line for each module that it loads
    model = with_warps_solver(env.model)
    with worlds_that_fit(num_envs, device), warp.ScopedDevice(str(device)):
        own_model = mujoco_warp.put_model(model)
        data = mujoco_warp.make_data(model, nworld=num_envs)
    if deterministic:
        own_model.opt.deterministic = mujoco_warp.DeterminismType.ALL

    def step() -> None:
        with warp.ScopedDevice(str(device)):
            for _ in range(env.robot.frame_skip):
                mujoco_warp.step(own_model, data)

    launch = _as_graph(step, device) if device.type == "cuda" else step
    views = {name: warp.to_torch(getattr(data, name)) for name in ("qpos", "qvel", "ctrl", "qacc_warmstart")}
    position, velocity = _start(env, num_envs, device)
    controls = _random_controls(env, num_envs, device)

    def steps() -> None:
        views["qpos"].copy_(position)
        views["qvel"].copy_(velocity)
        views["qacc_warmstart"].zero_()
        for step in range(PHYSICS_STEPS):
            views["ctrl"].copy_(controls[step % DIFFERENT_ACTIONS])
            launch()

    return num_envs * PHYSICS_STEPS / median_seconds(steps, repeats, device)


def _as_graph(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What launches steps of MuJoCo Warp as one CUDA graph on torch's stream."""
    import warp

    step()  # may compile kernels, which a capture does not allow
    with warp.ScopedDevice(str(device)), warp.ScopedCapture() as capture:
        step()
    warp.synchronize_device(str(device))

    def launch() -> None:
        warp.capture_launch(capture.graph, stream=warp.stream_from_torch(torch.cuda.current_stream(device)))

    return launch


def _start(env: RobotEnv, num_envs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions and velocities of all worlds at the start of an episode."""
    position = torch.as_tensor(env.robot.start_position, dtype=torch.float32, device=device)
    return position.expand(num_envs, -1).contiguous(), position.new_zeros(num_envs, env.robot.num_velocities)


def _random_controls(env: RobotEnv, num_envs: int, device: torch.device) -> Tensor:
    """Some controls of all worlds, (DIFFERENT_ACTIONS, N, nu)."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (DIFFERENT_ACTIONS, num_envs, env.robot.num_actuators)
    return env.robot.max_control * (2 * torch.rand(shape, generator=generator, device=device) - 1)


def _rollout_rate(env: RobotEnv, num_envs: int, seconds: float, num_threads: int) -> float:
    """The physics alone, from the start of an episode on under random controls."""
    mujoco = import_mujoco()
    from mujoco.rollout import Rollout

    model = env.model
    frame_skip = env.robot.frame_skip
    pool = Rollout(nthread=num_threads if num_threads > 1 else 0)
    data = [mujoco.MjData(model) for _ in range(num_threads)]

    random = np.random.default_rng(0)
    shape = (DIFFERENT_ACTIONS, num_envs, 1, model.nu)
    controls = np.repeat(env.robot.max_control * random.uniform(-1, 1, shape), frame_skip, axis=2)

    # MuJoCo writes into these arrays: allocating them in each call would be measured as well.
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    end = np.zeros((num_envs, frame_skip, size))
    readings = np.zeros((num_envs, frame_skip, model.nsensordata))
    state = np.zeros((num_envs, size))
    steps = 0

    def step() -> None:
        nonlocal state, steps
        if steps % env.horizon == 0:
            state = np.zeros((num_envs, size))
            state[:, 1 : 1 + model.nq] = env.robot.start_position

        control = controls[steps % DIFFERENT_ACTIONS]
        pool.rollout(
            [model] * num_envs, data, state, control, skip_checks=True, nstep=frame_skip, state=end, sensordata=readings
        )
        state = np.ascontiguousarray(end[:, -1])
        steps += 1

    try:
        return steps_per_second(step, num_envs, seconds)
    finally:
        pool.close()


def _envpool_rate(gymnasium_id: str, num_envs: int, seconds: float, num_threads: int) -> float | None:
    """Steps per second of EnvPool under random actions; None where it is not installed."""
    if importlib.util.find_spec("envpool") is None:
        return None
    import envpool

    env_id = gymnasium_id.replace("-v5", "-v4")  # the newest that EnvPool has
    env = envpool.make_gymnasium(env_id, num_envs=num_envs, num_threads=num_threads)
    env.reset()

    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (DIFFERENT_ACTIONS, num_envs, *env.action_space.shape))
    steps = 0

    def step() -> None:
        nonlocal steps
        env.step(actions[steps % DIFFERENT_ACTIONS])
        steps += 1

    return steps_per_second(step, num_envs, seconds)
