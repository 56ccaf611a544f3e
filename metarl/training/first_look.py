"""The first look at the observations, before the first iteration: whether they have to be normalised."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.agents.gradients.processes import num_processes, sum_over_processes
from metarl.agents.learner import Learner
from metarl.agents.policies.observations import PixelScaling
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.rollout import ActingPolicy, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.run.config import TrainConfig
from metarl.training.machine import distributed

FIRST_EPISODES = 2
"""Episodes of each task that are played before the first iteration where observations may have to be normalised."""

LARGEST_USUAL = 10.0
"""Observations beyond ± this saturate a network that begins with the usual weights."""


def first_look(
    config: TrainConfig, learner: Learner, distribution: TaskDistribution, generator: torch.Generator
) -> int:
    """Play a few episodes with the untrained policy, and begin to normalise observations where they need it.

    The policy acts as if it saw nothing but zeros, so that what it does is the same in all units.

    Args:
        config: 'auto' leaves an environment written in torch alone whose observations stay within ±10.
        learner: what its policy normalises with is changed in place.
        distribution: what the tasks come from.
        generator: draws the tasks and drives the rollouts; in the same state in every process.

    Returns:
        environment steps it took, of all processes.
    """
    observations = learner.policy.observations
    if not observations.active or observations.count > 0 or isinstance(observations, PixelScaling):
        return 0
    episodes = min(config.episodes, FIRST_EPISODES)
    tasks = distribution.sample(config.num_tasks, "train", generator)
    tasks, rollouts = distributed.shard(tasks, generator, distributed.rank(), num_processes())

    env = distribution.bind(tasks, episodes)
    seen = collect(env, _Unseeing(learner.policy), learner.begin(env.batch_shape[0]).params, rollouts)
    beyond = sum_over_processes(seen.obs.abs().gt(LARGEST_USUAL).sum().double())
    moments = sum_over_processes(observations.moments([seen]))

    unknown_units = isinstance(distribution.env, GymnasiumFamily) or config.normalize_obs == "on"
    if unknown_units or beyond > 0:
        observations.merge(moments)
    else:
        observations.deactivate()
    return int(moments[0])


@dataclass(frozen=True)
class _Unseeing:
    """A policy that acts as if all observations were zero; an ActingPolicy."""

    policy: ActingPolicy

    def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple[Any, Any]:
        """See ActingPolicy.apply."""
        return self.policy.apply(params, torch.zeros_like(obs), memory)
