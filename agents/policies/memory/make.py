"""The policy with memory that a configuration means."""

from typing import Any

from gymnasium.spaces import Box, Space

from metarl.agents.policies.memory.base import MemoryPolicy, RecurrentConfig
from metarl.agents.policies.memory.fast_weights import FastWeightPolicy
from metarl.agents.policies.memory.recurrent import RecurrentPolicy


def make_memory_policy(observation_space: Box, action_space: Space[Any], config: RecurrentConfig) -> MemoryPolicy:
    """A policy with the memory of `config.cell`.

    Args:
        observation_space: Box of shape (O,).
        action_space: Box of shape (A,), Discrete or MultiDiscrete of shape (A,), both from 0.
        config: the network.

    Raises:
        ValueError: it has no use for such spaces.
    """
    if config.cell == "fast-weights":
        return FastWeightPolicy(observation_space, action_space, config)
    return RecurrentPolicy(observation_space, action_space, config)
