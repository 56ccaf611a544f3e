"""Reference policies: the ends of normalised scores (0 = random, 1 = oracle)."""

from dataclasses import dataclass

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from metarl.envs.env_family import EnvFamily
from metarl.envs.spaces.action_map import PolicySpace, TensorActionMap
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_space import Task

Bounds = tuple[Tensor, Tensor] | Tensor | int
"""See UniformActions.bounds."""


@dataclass(frozen=True)
class UniformActions:
    """Uniform between two bounds, (A,), or over the integers below one, in every state of batch shape (M, E).

    Attributes:
        batch_shape: (M, E).
        bounds: lower and upper ones, (A,); the number of integers; or of each choice its number of integers, (A,).
    """

    batch_shape: torch.Size
    bounds: Bounds

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one action each: (M, E, A), or (M, E) integers."""
        device = generator.device
        if isinstance(self.bounds, int):
            return torch.randint(self.bounds, self.batch_shape, generator=generator, device=device)
        if isinstance(self.bounds, Tensor):
            uniform = torch.rand((*self.batch_shape, *self.bounds.shape), generator=generator, device=device)
            # A product with a number just below 1 may be rounded up.
            return torch.minimum((uniform * self.bounds).long(), self.bounds - 1)
        low, high = self.bounds
        return low + (high - low) * torch.rand(
            (*self.batch_shape, *low.shape), generator=generator, device=device, dtype=float_dtype()
        )

    def parameters(self) -> dict[str, Tensor]:
        """None."""
        return {}


@dataclass(frozen=True)
class FixedActions:
    """Certain actions, (M, E, A) or (M, E) integers."""

    action: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """The action itself."""
        return self.action

    def parameters(self) -> dict[str, Tensor]:
        """None."""
        return {}


class RandomPolicy:
    """Acts uniformly at random; an ActingPolicy without parameters.

    Args:
        action_space: a bounded Box (A,), Discrete, or MultiDiscrete (A,) from 0.

    Raises:
        ValueError: a Box without bounds has no uniform distribution.
    """

    def __init__(self, action_space: PolicySpace) -> None:
        if isinstance(action_space, Box) and not action_space.is_bounded():
            raise ValueError(f"a random policy needs a bounded action space, got {action_space}")
        self.action_space = action_space
        self._bounds: dict[torch.device, Bounds] = {}

    def apply(self, params: dict[str, Tensor], obs: Tensor, memory: None = None) -> tuple[UniformActions, None]:
        """See ActingPolicy.apply; there is no memory."""
        # Moved to a device once: a step waits for no copy.
        if obs.device not in self._bounds:
            self._bounds[obs.device] = self._bounds_on(obs.device)
        return UniformActions(obs.shape[:-1], self._bounds[obs.device]), None

    def _bounds_on(self, device: torch.device) -> Bounds:
        if isinstance(self.action_space, Discrete):
            return int(self.action_space.n)
        if isinstance(self.action_space, MultiDiscrete):
            return torch.as_tensor(self.action_space.nvec, dtype=torch.int64, device=device)
        low, high = self.action_space.low, self.action_space.high
        return torch.as_tensor(low, device=device), torch.as_tensor(high, device=device)


class OraclePolicy:
    """Acts knowing the task: an ActingPolicy whose parameters are the tasks, leaves (M, …).

    Args:
        env: a family that defines `oracle_action`.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, env: EnvFamily) -> None:
        if not env.has_oracle:
            raise ValueError(f"{type(env).__name__} defines no oracle_action, so there is no oracle")
        self.env = env
        self._action_map = env.action_map
        self._maps: dict[torch.device, TensorActionMap] = {}

    def apply(self, params: Task, obs: Tensor, memory: int | None = None) -> tuple[FixedActions, int]:
        """See ActingPolicy.apply; the memory is the time."""
        time = memory or 0
        num_episodes = obs.shape[1]

        # Every episode sees its task: (M, …) -> (M, E, …).
        tasks = {}
        for name, value in params.items():
            tasks[name] = value.unsqueeze(1).expand(value.shape[0], num_episodes, *value.shape[1:])

        action = self.env.oracle_action(obs, tasks, time)
        return FixedActions(self._as_policy_action(action)), time + 1

    def _as_policy_action(self, action: Tensor) -> Tensor:
        """The family's oracle acts in the environment's units; what is stepped takes a policy's."""
        if self._action_map.is_identity:
            return action
        if action.device not in self._maps:
            self._maps[action.device] = TensorActionMap(self._action_map).to(action.device)
        return self._maps[action.device].inverse(action)
