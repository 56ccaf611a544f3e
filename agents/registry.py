"""Agent names → configuration class and constructor."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gymnasium.spaces import Box, Discrete

from agents.maml import MAML, MAMLConfig
from agents.meta_learner import MetaLearner

LearnerConfig = MAMLConfig
"""Hyper-parameters of any agent: a frozen dataclass whose docstring describes each field."""


@dataclass(frozen=True)
class Agent:
    """An entry of the registry.

    Attributes:
        name: name on the command line.
        config_class: dataclass of its hyper-parameters.
        make: (observation_space, action_space, config, generator, num_threads) -> learner on the generator's device.
    """

    name: str
    config_class: type[LearnerConfig]
    make: Callable[[Box, Box | Discrete, LearnerConfig, torch.Generator, int], MetaLearner]

    @property
    def summary(self) -> str:
        """First line of the configuration's docstring."""
        return (self.config_class.__doc__ or "").strip().splitlines()[0]


AGENTS = {agent.name: agent for agent in (Agent("maml", MAMLConfig, MAML),)}
