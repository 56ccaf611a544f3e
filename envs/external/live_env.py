"""One live Gymnasium environment whose task parameters are unknown: a real robot's case."""

import importlib
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.spaces.utils import flatdim, flatten
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.external.action_map import ActionMap
from metarl.envs.external.worker_pool import EnvironmentFailedError, reason_of, success_of

LiveGymEnv = gymnasium.Env[Any, Any]


class LiveEnv:
    """Implements the BatchedEnv protocol of `envs/rollout.py` for 1 task × 1 episode; episodes come one after another.

    Observations are flattened, Box actions stretched and clipped as in `ActionMap`. An episode that is over is not
    stepped on; one that the environment truncates has nothing more to give either.

    Args:
        env: the environment, with its own time limit or none.
        observation_space: what the policy observes, Box (O,).
        action_space: the policy's actions, Box (A,) or Discrete.
        horizon: H.
        label: what it is called in error messages.

    Attributes:
        horizon: H.
        batch_shape: (1, 1).

    Raises:
        ValueError: the environment has other spaces than the policy.
    """

    batch_shape = (1, 1)

    def __init__(
        self, env: LiveGymEnv, observation_space: Box, action_space: Box | Discrete, horizon: int, label: str
    ) -> None:
        self.env, self.horizon, self.label = env, horizon, label
        check_spaces(env, observation_space, action_space, label)
        self._actions: ActionMap | None = None
        if isinstance(action_space, Box) and isinstance(env.action_space, Box):
            self._actions = ActionMap.between(action_space, env.action_space)
        self._device = torch.device("cpu")
        self._obs: NDArray[np.float32] = np.zeros(observation_space.shape, np.float32)
        self._over = True
        self._success: bool | None = None

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode, with a seed from the generator; returns obs (1, 1, O)."""
        self._device = generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        try:
            obs, _ = self.env.reset(seed=seed)
            self._obs = self._flat(obs)
        except Exception as error:
            raise self._failure(error) from error
        self._over, self._success = False, None
        return self._tensor(self._obs)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step: action (1, 1, A) -> obs (1, 1, O), reward (1, 1), terminated bool (1, 1)."""
        reward = 0.0
        if not self._over:
            try:
                obs, value, terminated, truncated, info = self.env.step(self._native(action[0, 0].cpu().numpy()))
                self._obs, reward = self._flat(obs), float(value)
            except Exception as error:
                raise self._failure(error) from error
            self._over = bool(terminated or truncated)
            success = success_of(info)
            if success is not None:
                self._success = bool(self._success or success)
        return self._tensor(self._obs), self._tensor(np.float32(reward)), self._tensor(np.bool_(self._over))

    def success(self) -> Tensor | None:
        """See BatchedEnv.success: "success" or "is_success" of the environment's info."""
        return None if self._success is None else self._tensor(np.bool_(self._success))

    def _flat(self, obs: Any) -> NDArray[np.float32]:
        return np.asarray(flatten(self.env.observation_space, obs), np.float32)

    def _native(self, action: NDArray[Any]) -> Any:
        if self._actions is None:
            return int(action)
        return self._actions(action).astype(self.env.action_space.dtype)

    def _tensor(self, value: Any) -> Tensor:
        array = np.asarray(value)
        return torch.from_numpy(array.reshape(1, 1, *array.shape).copy()).to(self._device)

    def _failure(self, error: Exception) -> EnvironmentFailedError:
        return EnvironmentFailedError(f"environment {self.label} failed: {reason_of(error)}")


def check_spaces(env: LiveGymEnv, observation_space: Box, action_space: Box | Discrete, label: str) -> None:
    """Refuse an environment with other spaces than the policy's; bounds may differ.

    Raises:
        ValueError: says what it has and what is needed.
    """
    try:
        size = flatdim(env.observation_space)
    except (NotImplementedError, ValueError):
        size = -1
    needed = observation_space.shape[0]
    if size != needed:
        raise ValueError(
            f"environment {label} observes {env.observation_space}, but the policy was trained on {needed} numbers"
        )
    if not _same_actions(env.action_space, action_space):
        raise ValueError(
            f"environment {label} takes actions {env.action_space}, but the policy was trained on {action_space}"
        )


def _same_actions(one: Space[Any], other: Box | Discrete) -> bool:
    if isinstance(other, Discrete):
        return isinstance(one, Discrete) and one == other
    return isinstance(one, Box) and one.shape == other.shape


def make_live_env(name: str) -> LiveGymEnv:
    """An environment by the user's own 'package.module:factory', or by an id that `gymnasium.make` knows.

    Raises:
        ValueError: it cannot be made, or is no gymnasium.Env; says why.
    """
    module, _, attribute = name.rpartition(":")
    try:
        target = getattr(importlib.import_module(module), attribute, None) if module else None
        if target is None and (not module or attribute in gymnasium.registry):
            target = gymnasium.make(name, disable_env_checker=True)
        made = target() if callable(target) else target
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"environment {name!r} cannot be made: {type(error).__name__}: {reason}") from error
    if made is None and target is None:
        raise ValueError(f"environment {name!r}: module {module!r} neither has nor registers {attribute!r}")
    if not isinstance(made, gymnasium.Env):
        raise ValueError(f"environment {name!r} must be a gymnasium.Env or a function that makes one, got {made!r:.80}")
    return made
