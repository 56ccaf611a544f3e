"""Policies that learn nothing: the random one, and the oracle, which knows the task."""

import torch

from metarl.agents.policies.reference import OraclePolicy, RandomPolicy
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task


def reference_episodes(
    distribution: TaskDistribution, tasks: Task, episodes: int, generator: torch.Generator
) -> dict[str, Episodes]:
    """Episodes of the random policy, and of the oracle where the family has one, on each of M tasks.

    Args:
        distribution: what the tasks come from.
        tasks: M tasks.
        episodes: E per task.
        generator: drives the rollouts.

    Returns:
        "random", and "oracle" if there is one → Episodes.
    """
    env = distribution.bind(tasks, episodes)

    references = {"random": collect(env, RandomPolicy(distribution.action_space), {}, generator)}
    if distribution.env.has_oracle:
        # The oracle's parameters are the tasks themselves: that is what it knows.
        references["oracle"] = collect(env, OraclePolicy(distribution.env), tasks, generator)

    return references
