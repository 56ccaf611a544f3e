"""Environment throughput of the families, beside Gymnasium's own vector environments and gymnax, in one process.

All sides step the same number of environments with the same kind of actions, drawn beforehand, and start new episodes
as they do by themselves: ours at the horizon (`batch`, what training steps) or at each episode's end (`vector`, what
`gymnasium.make_vec` gives), Gymnasium's and gymnax's at each episode's end.
"""

import contextlib
import importlib
import importlib.util
import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from metarl.envs.adapters.gymnasium_vector import TaskVectorEnv
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.registry import ALIASES, FAMILIES, make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import unknown
from metarl.training.machine.accelerate import compile_env

GYMNASIUM_IDS = {
    "cart-pole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "mountain-car": "MountainCar-v0",
    "mountain-car-continuous": "MountainCarContinuous-v0",
    "acrobot": "Acrobot-v1",
}
"""Family → id of the same environment in Gymnasium and in gymnax; Gymnasium vectorises ours where it has none."""

DIFFERENT_ACTIONS = 8
"""Batches of actions that are drawn beforehand and used in turn."""


@dataclass(frozen=True)
class Throughput:
    """Environment steps per second of one family.

    Attributes:
        env: the family.
        num_envs: N, environments side by side.
        batch: our TaskEnv as `collect` steps it, N different tasks.
        compiled: the same after TaskEnv.compile; None for families with random numbers in their steps.
        vector: our TaskVectorEnv, with numpy arrays, infos and new episodes.
        single_id: Gymnasium id of the single environment that Gymnasium's vector environments hold.
        sync: SyncVectorEnv of N of them.
        processes: processes of the AsyncVectorEnv, one environment in each.
        asynchronous: AsyncVectorEnv.
        gymnax: gymnax's environment of that id, compiled; None where it is not installed or has none.
    """

    env: str
    num_envs: int
    batch: float
    compiled: float | None
    vector: float
    single_id: str
    sync: float
    processes: int
    asynchronous: float
    gymnax: float | None

    @property
    def best(self) -> float:
        """The faster of `batch` and `compiled`."""
        return max(self.batch, self.compiled or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the ratios of the faster of `batch` and `compiled` to the others."""
        return asdict(self) | ratios_to(self, self.best, ("sync", "asynchronous", "gymnax"))


def ratios_to(measured: object, rate: float, others: Sequence[str]) -> dict[str, float]:
    """How many times as fast a rate is as each of the other ones that were measured.

    Args:
        measured: has the other rates as attributes.
        rate: ours.
        others: names of the attributes, of which some may be None.
    """
    ratios = {}

    for name in others:
        other = getattr(measured, name)
        if other is not None:
            ratios[f"ratio_to_{name}"] = rate / other
    return ratios


def checked_families(names: Sequence[str]) -> list[str]:
    """Registered names of our own families; all of them but the robots where none is given.

    Raises:
        UserError: not one of these.
    """
    known = [name for name, family in FAMILIES.items() if family.gymnasium_id]
    if not names:
        return [name for name in known if not isinstance(FAMILIES[name].make().env, RobotEnv)]

    chosen = [ALIASES.get(name, name) for name in names]
    for name in chosen:
        if name not in known:
            raise unknown("environment", name, known)
    return chosen


def throughput(name: str, num_envs: int, seconds: float, processes: int, compile_steps: bool) -> Throughput:
    """Measure one family on one core; AsyncVectorEnv gets as many as there are.

    Args:
        name: a registered torch family.
        num_envs: N.
        seconds: how long each side steps, after a few untimed steps.
        processes: of AsyncVectorEnv.
        compile_steps: also measure compiled steps.
    """
    distribution = make_distribution(name)
    single_id = GYMNASIUM_IDS.get(name, FAMILIES[name].gymnasium_id)

    with pinned_to_cores(1):
        batch = batch_rate(distribution, num_envs, seconds)
        compiled = None
        if compile_steps and not distribution.task_env.random_steps:
            fused = make_distribution(name)
            compile_env(fused, torch.device("cpu"))
            compiled = batch_rate(fused, num_envs, seconds)
        vector = vector_rate(TaskVectorEnv(num_envs, distribution, task="sample"), seconds)

        sync = vector_rate(SyncVectorEnv([_maker(single_id)] * num_envs), seconds)
        with warnings.catch_warnings(action="ignore"):  # gymnax asks for 64-bit integers that jax does not have
            gymnax = _gymnax_rate(GYMNASIUM_IDS[name], num_envs, seconds) if name in GYMNASIUM_IDS else None

    # Its processes are what it is for: on one core it would be slower than SyncVectorEnv.
    asynchronous = vector_rate(AsyncVectorEnv([_maker(single_id)] * processes, context="spawn"), seconds)
    return Throughput(
        env=name,
        num_envs=num_envs,
        batch=batch,
        compiled=compiled,
        vector=vector,
        single_id=single_id,
        sync=sync,
        processes=processes,
        asynchronous=asynchronous,
        gymnax=gymnax,
    )


def gymnax_installed() -> bool:
    """Whether the extra `bench` is there."""
    return importlib.util.find_spec("gymnax") is not None


@contextlib.contextmanager
def pinned_to_cores(count: int) -> Iterator[None]:
    """Keep this process, and the threads and processes that it starts meanwhile, on so many cores."""
    if not hasattr(os, "sched_setaffinity"):  # not on every system
        yield
        return

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _maker(env_id: str) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Makes a single environment; the prefix registers our ids in a process of its own as well."""
    return lambda: gymnasium.make(f"metarl.envs:{env_id}", disable_env_checker=True)


@torch.no_grad()
def batch_rate(distribution: TaskDistribution, num_envs: int, seconds: float) -> float:
    """Steps per second of N tasks with one episode each, restarted together at the horizon."""
    generator = torch.Generator().manual_seed(0)
    tasks = distribution.sample(num_envs, "train", generator)  # as in training, no two alike
    env = distribution.bind(tasks, 1)

    space = distribution.action_space
    space.seed(0)
    drawn = []
    for _ in range(DIFFERENT_ACTIONS):
        batch = np.stack([space.sample() for _ in range(num_envs)])
        drawn.append(torch.from_numpy(batch).unsqueeze(1))
    actions = itertools.cycle(drawn)

    left = 0  # steps of the current episodes

    def step() -> None:
        nonlocal left
        if left == 0:
            env.reset(generator)
            left = env.horizon
        env.step(next(actions))
        left -= 1

    return steps_per_second(step, num_envs, seconds)


def vector_rate(env: VectorEnv[Any, Any, Any], seconds: float) -> float:
    """Steps per second of a vector environment under random actions; it is closed."""
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(DIFFERENT_ACTIONS)])

    env.reset(seed=0)
    rate = steps_per_second(lambda: env.step(next(actions)), env.num_envs, seconds)
    env.close()
    return rate


def _gymnax_rate(env_id: str, num_envs: int, seconds: float) -> float | None:
    """Steps per second of gymnax, 100 of them in each compiled call, new episodes included; None: not installed."""
    if not gymnax_installed():
        return None
    gymnax: Any = importlib.import_module("gymnax")
    jax: Any = importlib.import_module("jax")

    steps = 100
    env, params = gymnax.make(env_id)
    keys = jax.random.split(jax.random.key(0), num_envs)
    _, state = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    sample = jax.vmap(jax.vmap(env.action_space(params).sample))
    actions = sample(jax.random.split(jax.random.key(1), (steps, num_envs)))

    def run(state: Any, key: Any) -> Any:
        def step(carry: Any, action: Any) -> Any:
            state, key = carry
            key, now = jax.random.split(key)
            obs, state, reward, *_ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
                jax.random.split(now, num_envs), state, action, params
            )
            return (state, key), (obs.sum(), reward.sum())  # so that neither is optimised away

        return jax.lax.scan(step, (state, key), actions)

    compiled = jax.jit(run)
    carry = (state, jax.random.key(2))

    def chunk() -> None:
        nonlocal carry
        carry, seen = compiled(*carry)
        jax.block_until_ready(seen)

    return steps_per_second(chunk, num_envs * steps, seconds)


def steps_per_second(step: Callable[[], object], env_steps: int, seconds: float) -> float:
    """Environment steps per second of a function that takes so many each time."""
    for _ in range(3):  # caches, compilation
        step()

    calls = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or calls < 3:
        step()
        calls += 1
    return calls * env_steps / elapsed
