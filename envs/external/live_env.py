"""One live Gymnasium environment whose task parameters are unknown: a real robot's case."""

import importlib
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatdim
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.external.worker_pool import EnvironmentFailedError, one_line, reason_of, success_of
from metarl.envs.spaces.action_map import DEFAULT_SCALE, ActionMap, PolicySpace
from metarl.envs.spaces.observation import flatten_observation

LiveGymEnv = gymnasium.Env[Any, Any]


class LiveEnv:
    """Implements the BatchedEnv protocol of `envs/rollout.py` for 1 task × 1 episode; episodes come one after another.

    Observations are flattened, actions become the environment's own by an `ActionMap`. An episode that the environment
    terminates or truncates is not stepped on.

    Args:
        env: the environment, with its own time limit or none.
        observation_space: what the policy observes, Box (O,).
        action_space: the policy's actions, Box (A,), Discrete or MultiDiscrete.
        horizon: H.
        label: what it is called in error messages.
        action_scale: span of actions where a Box has no bounds, see `metarl.envs.spaces.action_map`.

    Attributes:
        horizon: H.
        batch_shape: (1, 1).

    Raises:
        ValueError: the environment has other spaces than the policy.
    """

    batch_shape = (1, 1)

    def __init__(
        self,
        env: LiveGymEnv,
        observation_space: Box,
        action_space: PolicySpace,
        horizon: int,
        label: str,
        action_scale: float = DEFAULT_SCALE,
    ) -> None:
        check_spaces(env, observation_space, action_space, label)
        self.env = env
        self.horizon = horizon
        self.label = label
        self._action_map = ActionMap.between(action_space, env.action_space, action_scale)

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
            self._obs = flatten_observation(self.env.observation_space, obs)
        except Exception as error:
            raise self._failure(error) from error

        self._over = False
        self._success = None
        return self._tensor(self._obs)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step: action (1, 1, A) -> obs (1, 1, O), reward (1, 1), terminated bool (1, 1)."""
        reward = 0.0 if self._over else self._step_on(action[0, 0].cpu().numpy())
        return self._tensor(self._obs), self._tensor(np.float32(reward)), self._tensor(np.bool_(self._over))

    def _step_on(self, action: NDArray[Any]) -> float:
        """Take an action in the running episode; returns the reward."""
        try:
            obs, value, terminated, truncated, info = self.env.step(self._action_map.one(action))
            self._obs = flatten_observation(self.env.observation_space, obs)
            reward = float(value)
        except Exception as error:
            raise self._failure(error) from error

        self._over = bool(terminated or truncated)
        success = success_of(info)
        if success is not None:
            self._success = bool(self._success or success)
        return reward

    def success(self) -> Tensor | None:
        """See BatchedEnv.success: "success" or "is_success" of the environment's info."""
        return None if self._success is None else self._tensor(np.bool_(self._success))

    def _tensor(self, value: Any) -> Tensor:
        """A number or array (…) as a tensor (1, 1, …) of its own."""
        array = np.asarray(value)
        return torch.from_numpy(array.reshape(1, 1, *array.shape).copy()).to(self._device)

    def _failure(self, error: Exception) -> EnvironmentFailedError:
        return EnvironmentFailedError(f"environment {self.label} failed: {reason_of(error)}")


def check_spaces(env: LiveGymEnv, observation_space: Box, action_space: PolicySpace, label: str) -> None:
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

    try:
        ActionMap.between(action_space, env.action_space)
    except ValueError:
        raise ValueError(
            f"environment {label} takes actions {env.action_space}, but the policy was trained on {action_space}"
        ) from None


def make_live_env(name: str) -> LiveGymEnv:
    """Make an environment by the user's own 'package.module:factory', or by an id that `gymnasium.make` knows.

    Raises:
        ValueError: it cannot be made, or is no gymnasium.Env; says why.
    """
    module, _, attribute = name.rpartition(":")
    try:
        # "module:Id-v0" is Gymnasium's own syntax, where the module registers the id.
        target = getattr(importlib.import_module(module), attribute, None) if module else None
        if target is None and (not module or attribute in gymnasium.registry):
            target = gymnasium.make(name, disable_env_checker=True)
        made = target() if callable(target) else target
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"environment {name!r} cannot be made: {reason}") from error

    if made is None and target is None:
        raise ValueError(f"environment {name!r}: module {module!r} neither has nor registers {attribute!r}")
    if not isinstance(made, gymnasium.Env):
        raise ValueError(f"environment {name!r} must be a gymnasium.Env or a function that makes one, got {made!r:.80}")
    return made
