"""One live Gymnasium environment whose task parameters are unknown: a real robot's case."""

import importlib
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Space, Tuple
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.external.env_check import (
    observed_space,
    read_reset,
    read_step,
    require_no_running_statistics,
    same_layout,
)
from metarl.envs.external.worker_pool import (
    EnvironmentFailedError,
    reason_of,
    require_finite_reward,
    success_of,
    time_limit,
)
from metarl.envs.external.worker_pool import one_line as text_of
from metarl.envs.physics.models import say_warnings_of_mujoco
from metarl.envs.spaces.action_map import DEFAULT_SCALE, ActionMap, PolicySpace
from metarl.envs.spaces.fields import one_line
from metarl.envs.spaces.observation_reader import ObservationReader, UnfitEnvError

LiveGymEnv = gymnasium.Env[Any, Any]


class LiveEnv:
    """Implements the BatchedEnv protocol of `envs/rollout.py` for 1 task × 1 episode; episodes come one after another.

    Observations are flattened, actions become the environment's own by an `ActionMap`. An episode that the environment
    terminates or truncates is not stepped on. Where the policy was trained on a Dict, its fields keep that order,
    whatever the order here. Shapes and kinds of numbers must be those of the training: as many numbers in another
    shape are other observations, such as a transposed image. Bounds of observations may differ.

    Args:
        env: the environment, with its own time limit or none.
        observation_space: what the policy observes, Box (O,).
        action_space: the policy's actions, Box (A,), Discrete or MultiDiscrete.
        horizon: H.
        label: what it is called in error messages.
        trained_on: what was observed of the environments of the training, before it was flattened; None: the vectors
            of `observation_space`.
        observe: keys of a Dict that are observed; empty: all of them.
        allow_running_statistics: whether a wrapper may normalise observations by statistics of what it has seen.
        action_limit: share of the range of actions that may be used, as in `ActionMap.limited`.
        action_scale: span of actions where a Box has no bounds, see `metarl.envs.spaces.action_map`.
        timeout: seconds that a step or a reset may take; one that takes longer has failed; 0 = unlimited.

    Attributes:
        horizon: H.
        batch_shape: (1, 1).
        action_space: as above.
        label: as above.
        observed: what the policy is shown, before it is flattened.
        episode: the number of the episode that runs, from 1; each reset counts on.

    Raises:
        ValueError: the environment has other spaces than the policy, or its actions cannot be limited.
    """

    batch_shape = (1, 1)

    def __init__(
        self,
        env: LiveGymEnv,
        observation_space: Box,
        action_space: PolicySpace,
        horizon: int,
        label: str,
        trained_on: Space[Any] | None = None,
        observe: tuple[str, ...] = (),
        allow_running_statistics: bool = False,
        action_limit: float = 1.0,
        action_scale: float = DEFAULT_SCALE,
        timeout: float = 0.0,
    ) -> None:
        if not allow_running_statistics:
            require_no_running_statistics(env, label)
        observed = observed_space(env.observation_space, observe, label)
        self.observed = _as_trained(observed, observation_space if trained_on is None else trained_on, label)
        check_actions(env, action_space, label)

        self.env = env
        self.action_space = action_space
        self.horizon = horizon
        self.label = label
        self.episode = 0
        self._time = 0
        self._observe = observe
        self._native_actions = env.action_space
        self._timeout = timeout
        self._read = ObservationReader(self.observed)
        self._action_map = ActionMap.between(action_space, env.action_space, action_scale).limited(action_limit)

        self._device = torch.device("cpu")
        self._obs: NDArray[np.float32] = np.zeros(observation_space.shape, np.float32)
        self._over = True
        self._success: bool | None = None

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode, with a seed from the generator; returns obs (1, 1, O)."""
        self._device = generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        self.episode += 1
        self._time = 0
        try:
            with time_limit(self._timeout):
                returned = self.env.reset(seed=seed)
            self._require_same_spaces()
            self._obs = self._flatten(read_reset(returned)[0])
        except (Exception, SystemExit) as error:  # an environment that calls sys.exit() has failed
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
        self._time += 1
        try:
            native = self._action_map.one(action)
            with time_limit(self._timeout):
                returned = self.env.step(native)
            obs, reward, terminated, truncated, info = read_step(returned)
            self._obs = self._flatten(obs)
            require_finite_reward(reward)
        except (Exception, SystemExit) as error:  # an environment that calls sys.exit() has failed
            raise self._failure(error) from error

        self._over = bool(terminated or truncated)
        success = success_of(info)
        if success is not None:
            self._success = bool(self._success or success)
        return reward

    def success(self) -> Tensor | None:
        """See BatchedEnv.success: "success" or "is_success" of the environment's info."""
        return None if self._success is None else self._tensor(np.bool_(self._success))

    def _flatten(self, obs: Any) -> NDArray[np.float32]:
        """An observation of the environment as the policy sees it, (O,); no policy acts on what is not finite."""
        vector = self._read(obs)
        broken = self._read.not_finite(vector)
        if broken:
            raise UnfitEnvError(f"its observation is not finite in float32: {broken}")
        return vector

    def _require_same_spaces(self) -> None:
        """Refuse other spaces than at first: a reset may have changed them.

        Raises:
            UnfitEnvError: says what they were and are.
        """
        observed = observed_space(self.env.observation_space, self._observe, self.label)
        if not same_layout(self.observed, observed):
            raise UnfitEnvError(f"it observes {one_line(observed)} by now, but {one_line(self.observed)} at first")
        if self.env.action_space != self._native_actions:
            now, first = one_line(self.env.action_space), one_line(self._native_actions)
            raise UnfitEnvError(f"its actions are {now} by now, but {first} at first")

    def _tensor(self, value: Any) -> Tensor:
        """A number or array (…) as a tensor (1, 1, …) of its own."""
        array = np.asarray(value)
        return torch.from_numpy(array.reshape(1, 1, *array.shape).copy()).to(self._device)

    def _failure(self, error: Exception | SystemExit) -> EnvironmentFailedError:
        """The error that says when it failed; an environment that knows its task has named it itself."""
        when = f"step {self._time}" if self._time else "the reset"
        reason = str(error) if isinstance(error, UnfitEnvError) else reason_of(error)
        return EnvironmentFailedError(f"environment {self.label} failed at {when} of episode {self.episode}: {reason}")


def _as_trained(observed: Space[Any], trained_on: Space[Any], label: str) -> Space[Any]:
    """What is observed, with the fields of a Dict in the order of the training.

    Raises:
        ValueError: it is not what the policy was trained on.
    """
    if not same_layout(trained_on, observed):
        raise ValueError(
            f"environment {label} observes {one_line(observed)}, but the policy was trained on {one_line(trained_on)}; "
            "shapes, kinds of numbers and names must be the same: a wrapper of gymnasium.wrappers can make them so"
        )
    return _in_order(observed, trained_on)


def _in_order(observed: Space[Any], trained_on: Space[Any]) -> Space[Any]:
    """The space itself, or its parts in the order of another one of the same layout."""
    if isinstance(observed, Dict) and isinstance(trained_on, Dict):
        return Dict([(key, _in_order(observed[key], part)) for key, part in trained_on.spaces.items()])
    if isinstance(observed, Tuple) and isinstance(trained_on, Tuple):
        return Tuple([_in_order(*pair) for pair in zip(observed.spaces, trained_on.spaces, strict=True)])
    return observed


def check_actions(env: LiveGymEnv, action_space: PolicySpace, label: str) -> None:
    """Refuse an environment with other actions than the policy's; bounds may differ.

    Raises:
        ValueError: says what it has and what is needed.
    """
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
    say_warnings_of_mujoco()
    try:
        # "module:Id-v0" is Gymnasium's own syntax, where the module registers the id.
        target = getattr(importlib.import_module(module), attribute, None) if module else None
        if target is None and (not module or attribute in gymnasium.registry):
            target = gymnasium.make(name, disable_env_checker=True)
        made = target() if callable(target) else target
    except Exception as error:
        reason = f"{type(error).__name__}: {text_of(error)}"
        raise ValueError(f"environment {name!r} cannot be made: {reason}") from error

    if made is None and target is None:
        raise ValueError(f"environment {name!r}: module {module!r} neither has nor registers {attribute!r}")
    if not isinstance(made, gymnasium.Env):
        raise ValueError(f"environment {name!r} must be a gymnasium.Env or a function that makes one, got {made!r:.80}")
    return made
