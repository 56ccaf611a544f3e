"""Stable-Baselines3's PPO collecting on our VecEnv and on its own DummyVecEnv of the same single environments."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from metarl.agents.sb3 import make_model
from metarl.envs.adapters.sb3 import TaskSB3VecEnv
from metarl.envs.registry import FAMILIES


@dataclass(frozen=True)
class SB3Collection:
    """Environment steps per second of PPO's own rollouts, policy included.

    Attributes:
        env: the family.
        num_envs: N, environments side by side.
        vec_env: on TaskSB3VecEnv.
        dummy: on DummyVecEnv of N environments of `gymnasium.make`.
    """

    env: str
    num_envs: int
    vec_env: float
    dummy: float

    def to_json(self) -> dict[str, Any]:
        """Plain data with the ratio."""
        return asdict(self) | {"ratio": self.vec_env / self.dummy}


def sb3_collection(name: str, num_envs: int, repeats: int) -> SB3Collection:
    """Measure both; the median of some rollouts each, after an untimed one."""
    env_id = FAMILIES[name].gymnasium_id
    ours = TaskSB3VecEnv(name, num_envs)
    dummy = DummyVecEnv([lambda: gymnasium.make(env_id, disable_env_checker=True)] * num_envs)
    return SB3Collection(name, num_envs, vec_env=_rate(ours, repeats), dummy=_rate(dummy, repeats))


def _rate(env: VecEnv, repeats: int) -> float:
    """Environment steps per second of PPO's rollouts; the environment is closed."""
    model = make_model("ppo", env, seed=0)
    assert isinstance(model, PPO)
    env_steps = model.n_steps * env.num_envs
    _, callback = model._setup_learn(env_steps * (repeats + 1))

    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)
        seconds.append(time.perf_counter() - start)

    env.close()
    return env_steps / float(np.median(seconds[1:]))
