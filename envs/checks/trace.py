"""Rollouts with given actions: what an environment does when nobody decides, and where two rollouts differ."""

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.env_family import EnvFamily
from metarl.envs.spaces.action_map import missing_bounds
from metarl.envs.task_space import Task

KINDS = 4
"""Of four episodes, the first two act anew at each step, the third holds an action, the fourth swings between two."""


@dataclass(frozen=True)
class Trace:
    """What M tasks × E episodes showed in T steps.

    Attributes:
        obs: (M, E, T + 1, O), the first of them after the reset.
        reward: (M, E, T).
        ended: bool (M, E, T), whether the episode ended by itself at this step or before.
    """

    obs: Tensor
    reward: Tensor
    ended: Tensor

    @property
    def taken(self) -> Tensor:
        """Whether a step was really taken, bool (M, E, T): the episode had not ended before it."""
        before = torch.zeros_like(self.ended[..., :1])
        return ~torch.cat([before, self.ended[..., :-1]], dim=-1)

    @property
    def lengths(self) -> Tensor:
        """Steps of each episode, (M, E)."""
        return self.taken.sum(dim=-1)

    @property
    def seen_obs(self) -> Tensor:
        """The observations after the reset and after each step taken, (N, O)."""
        at_reset = torch.ones_like(self.ended[..., :1])
        return self.obs[torch.cat([at_reset, self.taken], dim=-1)]

    def task(self, index: int) -> "Trace":
        """The episodes of one task."""
        part = slice(index, index + 1)
        return Trace(self.obs[part], self.reward[part], self.ended[part])


def roll_out(env: EnvFamily, tasks: Task, actions: Tensor, seed: int) -> Trace:
    """Step M tasks × E episodes with given actions, (M, E, T, A) or (M, E, T) integers.

    Args:
        env: the family.
        tasks: M of them.
        actions: in the space that policies act in.
        seed: of the environment's own randomness.
    """
    bound = env.bind(tasks, actions.shape[1])
    generator = torch.Generator().manual_seed(seed)

    with torch.no_grad():
        obs = [bound.reset(generator)]
        rewards = []
        ended = [torch.zeros(bound.batch_shape, dtype=torch.bool)]

        for time in range(actions.shape[2]):
            after, reward, terminated = bound.step(actions[:, :, time])
            obs.append(after)
            rewards.append(reward)
            ended.append(ended[-1] | terminated)

    return Trace(torch.stack(obs, dim=2), torch.stack(rewards, dim=2), torch.stack(ended[1:], dim=2))


@torch.no_grad()
def oracle_actions(env: EnvFamily, tasks: Task, num_episodes: int, num_steps: int, seed: int) -> Tensor:
    """What a policy that knows the tasks does, as `roll_out` takes it: it leads where random actions do not."""
    bound = env.bind(tasks, num_episodes)
    params = {}
    for name, value in tasks.items():
        params[name] = value.unsqueeze(1).expand(value.shape[0], num_episodes, *value.shape[1:])

    obs = bound.reset(torch.Generator().manual_seed(seed))
    actions = []
    for time in range(num_steps):
        actions.append(env.oracle_action(obs, params, time))
        obs, _, _ = bound.step(actions[-1])
    return torch.stack(actions, dim=2)


def random_actions(space: Space[object], batch: tuple[int, int], num_steps: int, seed: int) -> Tensor:
    """Actions that reach many places, (M, E, T, A) or (M, E, T) integers; the episodes of a task differ in kind.

    Independent actions cancel one another, so that a distant goal is never met. Held ones go far, and those that swing
    at a random period push what has a rhythm of its own: a pendulum, a car in a valley.

    Args:
        space: the one that policies act in.
        batch: (M, E).
        num_steps: T.
        seed: of the actions.
    """
    rng = np.random.default_rng(seed)
    num_tasks, num_episodes = batch
    anew = _draw(space, (*batch, num_steps), rng)
    pair = _draw(space, (*batch, 2), rng, extreme=True)

    # How long an action is held: from every step to the whole episode, equally often in each octave.
    half_period = np.exp2(rng.uniform(0, np.log2(max(num_steps, 2)), (*batch, 1)))
    phase = rng.uniform(0, 2, (*batch, 1))
    which = (np.arange(num_steps) / half_period + phase).astype(np.int64) % 2
    kind = np.arange(num_episodes) % KINDS
    which[:, kind == KINDS - 2] = 0

    task, episode = np.ogrid[:num_tasks, :num_episodes]
    held = pair[task[..., None], episode[..., None], which]
    anew[:, kind >= KINDS - 2] = held[:, kind >= KINDS - 2]
    return torch.as_tensor(anew)


def _draw(
    space: Space[object], shape: tuple[int, ...], rng: np.random.Generator, extreme: bool = False
) -> NDArray[np.float32] | NDArray[np.int64]:
    """Actions (*shape, A), or (*shape,) integers; `extreme`: half of a Box's are at its bounds."""
    if not isinstance(space, Box):
        counts = np.asarray(getattr(space, "n", None) or getattr(space, "nvec", None))
        return rng.integers(0, counts, (*shape, *counts.shape))

    # Where there is no bound, a policy that was just initialised stays within ±1.
    no_low, no_high = (missing.reshape(space.shape) for missing in missing_bounds(space))
    highest = np.where(no_high, np.inf, space.high)
    low = np.where(no_low, np.minimum(highest - 2, -1), space.low)
    high = np.where(no_high, low + 2, space.high)
    share = rng.random((*shape, *space.shape))
    if extreme:
        at_bound = rng.random(shape) < 0.5
        share[at_bound] = share[at_bound].round()
    return (low + (high - low) * share).astype(np.float32)


def first_difference(trace: Trace, other: Trace) -> str:
    """What differs first between two rollouts, and at which step; empty where they are equal in every bit."""
    steps: list[tuple[int, str]] = []
    for name, first in _comparisons(trace, other).items():
        if first is not None:
            steps.append((first, name))
    if not steps:
        return ""

    step, name = min(steps)
    return f"{name} at step {step}" if step else f"{name} at the reset"


def _comparisons(trace: Trace, other: Trace) -> dict[str, int | None]:
    """The first step at which each of observations, rewards and ends differs; steps that neither took do not count."""
    counted = trace.taken & other.taken
    at_reset = torch.ones_like(counted[..., :1])

    obs = _differ(trace.obs, other.obs).any(dim=-1) & torch.cat([at_reset, counted], dim=-1)
    reward = _differ(trace.reward, other.reward) & counted
    ended = (trace.ended != other.ended) & counted
    return {
        "observation": _first(obs, first_step=0),
        "reward": _first(reward, first_step=1),
        "end of an episode": _first(ended, first_step=1),
    }


def _differ(values: Tensor, others: Tensor) -> Tensor:
    """Where two numbers differ; two that are not numbers are equal."""
    return (values != others) & ~(values.isnan() & others.isnan())


def _first(differs: Tensor, first_step: int) -> int | None:
    """The first step of any episode at which something differs, from bool (M, E, T)."""
    steps = differs.flatten(0, 1).any(dim=0).nonzero()
    return int(steps[0]) + first_step if len(steps) else None
