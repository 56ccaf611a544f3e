"""Episodes, the BatchedEnv protocol, and `collect`: the one sampling loop of the project."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metarl.envs.task_space import Task


class BatchedEnv(Protocol):
    """What `collect` steps: M tasks × E episodes at once.

    An implementation neither resets by itself nor knows the time limit: both belong to `collect`. It goes on
    accepting steps after termination; `collect` masks what it returns then.

    Attributes:
        horizon: number of steps of an episode, H.
        batch_shape: (M, E).
    """

    horizon: int
    batch_shape: tuple[int, int]

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode everywhere; returns obs (M, E, O)."""
        ...

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step everywhere: action (M, E, A) -> obs (M, E, O), reward (M, E), terminated bool (M, E)."""
        ...

    def success(self) -> Tensor | None:
        """Whether each episode has succeeded so far, bool (M, E); None where success is not defined."""
        ...


class ActionDistribution(Protocol):
    """What a policy returns: a batch of distributions over actions."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one action each."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Named parameters, leaves (*batch, …)."""
        ...


class ActingPolicy(Protocol):
    """What `collect` needs of a policy: `apply(P, obs, memory) -> (distribution, memory)`; memory None at first."""

    def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple[Any, Any]:
        """Distribution over actions for obs (M, E, O) and the memory for the next step."""
        ...


@dataclass(frozen=True)
class Episodes:
    """One batch of episodes, detached from any graph. Values where mask is 0 are zero and mean nothing.

    Attributes:
        obs: (M, E, H, O), what the agent saw before each action.
        action: (M, E, H, A), as the policy sampled it; (M, E, H) integers for discrete actions.
        reward: (M, E, H).
        mask: (M, E, H), 1 where the step was really taken, 0 after termination.
        terminated: (M, E) bool; an episode that did not terminate was truncated at the horizon.
        last_obs: (M, E, O), what the agent saw after its last real step.
        behaviour: parameters of the distribution each action was drawn from, leaves (M, E, H, …).
        success: (M, E) bool, whether the episode succeeded at any time; None where the environment does not say.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    mask: Tensor
    terminated: Tensor
    last_obs: Tensor
    behaviour: dict[str, Tensor]
    success: Tensor | None = None

    @property
    def env_steps(self) -> int:
        """Number of environment steps really taken, over all tasks and episodes."""
        return int(self.mask.count_nonzero().item())  # a float32 sum is exact up to 2²⁴ only

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode, (M, E)."""
        return self.reward.sum(dim=-1)

    def tasks(self, index: slice | Tensor) -> "Episodes":
        """The episodes of some tasks; of a slice, as views."""
        return _each_tensor(lambda part: part[index], self)

    def to(self, device: torch.device | str) -> "Episodes":
        """The episodes on another device."""
        return _each_tensor(lambda part: part.to(device), self)

    @staticmethod
    def concatenate(parts: Sequence["Episodes"], dim: int = 0) -> "Episodes":
        """The tasks of several batches after each other; with dim 1 the episodes of the same tasks."""
        return _each_tensor(lambda *leaves: torch.cat(leaves, dim), *parts)


def _each_tensor(function: Callable[..., Tensor], *parts: Episodes) -> Episodes:
    """The function of the corresponding tensors of the parts."""
    absent = () if parts[0].success is not None else ("success",)
    names = [f.name for f in fields(Episodes) if f.name not in ("behaviour", *absent)]
    return Episodes(
        **{name: function(*(getattr(part, name) for part in parts)) for name in names},
        behaviour={name: function(*(part.behaviour[name] for part in parts)) for name in parts[0].behaviour},
    )


class CapturedRollouts(Protocol):
    """Captured rollouts of one policy; see `metarl.envs.rollout_graphs`."""

    policy: ActingPolicy

    def collect(self, env: "CapturableEnv", params: dict[str, Tensor], generator: torch.Generator) -> Episodes:
        """What `collect` would give."""
        ...


@runtime_checkable
class CapturableEnv(BatchedEnv, Protocol):
    """A BatchedEnv whose steps are operations on tensors alone, so that a graph can hold them.

    Attributes:
        tasks: the M tasks.
        state: of the episodes, leaves (M, E, …); a step reads it and puts the next one in its place.
        rollout_graphs: captured rollouts; None where they are not captured.
    """

    tasks: Task
    state: Any

    @property
    def rollout_graphs(self) -> CapturedRollouts | None:
        """See Attributes."""
        ...

    def rebound(self, tasks: Task) -> "CapturableEnv":
        """The same environment with as many episodes of other tasks."""
        ...


@dataclass(frozen=True)
class Carry:
    """What a rollout carries from step to step, besides the environment's own state.

    Attributes:
        obs: (M, E, O).
        alive: (M, E) bool, whether the episode goes on.
        last_obs: (M, E, O), what the agent saw after its last real step.
        memory: the policy's.
    """

    obs: Tensor
    alive: Tensor
    last_obs: Tensor
    memory: Any = None

    def tensors(self) -> dict[str, Tensor]:
        """All but the memory."""
        return {"obs": self.obs, "alive": self.alive, "last_obs": self.last_obs}


def collect(env: BatchedEnv, policy: ActingPolicy, params: dict[str, Tensor], generator: torch.Generator) -> Episodes:
    """Run one batch of episodes, every task with its own policy parameters.

    Nothing in the loop waits for the device: terminated episodes are stepped on and masked afterwards. Where the
    environment's rollouts with this policy are captured (`TaskEnv.capture_rollouts`), the captured step is run.

    Args:
        env: M tasks × E episodes.
        policy: the functional policy.
        params: task-batched P with leaves (M, …), or one shared P.
        generator: drives the policy's and the environment's randomness.

    Raises:
        FloatingPointError: an observation or reward of a step really taken is not finite; names the first task.
    """
    if isinstance(env, CapturableEnv) and (graphs := env.rollout_graphs) is not None and graphs.policy is policy:
        episodes = graphs.collect(env, params, generator)
    else:
        episodes = _collect_eagerly(env, policy, params, generator)
    _check_finite(episodes)
    return episodes


def _collect_eagerly(
    env: BatchedEnv, policy: ActingPolicy, params: dict[str, Tensor], generator: torch.Generator
) -> Episodes:
    with torch.no_grad():
        carry = begin(env, generator)
        records: dict[str, Tensor] = {}
        for time in range(env.horizon):
            carry, step = advance(env, policy, params, carry, generator)
            records = records or make_records(step, env.horizon)
            for name, value in step.items():
                records[name][time] = value
        return to_episodes(records, carry, env.success())


def begin(env: BatchedEnv, generator: torch.Generator) -> Carry:
    """Start an episode everywhere."""
    obs = env.reset(generator)
    return Carry(obs, torch.ones(env.batch_shape, dtype=torch.bool, device=obs.device), last_obs=obs)


def advance(
    env: BatchedEnv, policy: ActingPolicy, params: dict[str, Tensor], carry: Carry, generator: torch.Generator
) -> tuple[Carry, dict[str, Tensor]]:
    """One step everywhere: what is carried on, and what happened, leaves (M, E, …), for `to_episodes`."""
    distribution, memory = policy.apply(params, carry.obs, carry.memory)
    action = distribution.sample(generator)
    obs, reward, terminated = env.step(action)
    happened = {"obs": carry.obs, "action": action, "reward": reward, "taken": carry.alive}
    happened |= {_BEHAVIOUR + name: value for name, value in distribution.parameters().items()}
    last_obs = torch.where(carry.alive.unsqueeze(-1), obs, carry.last_obs)
    return Carry(obs, carry.alive & ~terminated, last_obs, memory), happened


_BEHAVIOUR = "behaviour."


def make_records(step: dict[str, Tensor], horizon: int) -> dict[str, Tensor]:
    """Room for what happens in H steps, leaves (H, M, E, …).

    Tensors that were kept from each step instead would lie between those that come and go with it, and the C library
    would find no room for the latter where they had been: memory grew by three times their size with each step.
    """
    return {name: value.new_empty((horizon, *value.shape)) for name, value in step.items()}


def to_episodes(records: dict[str, Tensor], end: Carry, success: Tensor | None) -> Episodes:
    """Episodes of what happened in H steps, leaves (H, M, E, …), in memory of their own."""
    in_order = torch.contiguous_format
    steps = {name: record.movedim(0, 2).clone(memory_format=in_order) for name, record in records.items()}
    taken = steps["taken"]

    def masked(name: str) -> Tensor:
        values = steps[name]
        return values.masked_fill_(~taken.reshape(*taken.shape, *(1,) * (values.ndim - taken.ndim)), 0)

    return Episodes(
        obs=masked("obs"),
        action=masked("action"),
        reward=masked("reward"),
        mask=taken.to(steps["reward"].dtype),
        terminated=~end.alive,
        last_obs=end.last_obs,
        behaviour={name.removeprefix(_BEHAVIOUR): masked(name) for name in steps if name.startswith(_BEHAVIOUR)},
        success=success,
    )


def _check_finite(episodes: Episodes) -> None:
    """Raise for the first task whose observations or rewards are not finite; one device synchronisation."""
    seen = episodes.obs.sum(dim=(1, 2, 3)) + episodes.last_obs.sum(dim=(1, 2))
    finite = ((seen + episodes.reward.sum(dim=(1, 2))) * 0).eq(0)
    if not bool(finite.all()):
        task = int(finite.logical_not().nonzero()[0])
        raise FloatingPointError(f"task {task} of the batch gave an observation or reward that is not finite")
