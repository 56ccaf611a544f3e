"""Agent names → configuration class and constructor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete

from metarl.agents.distillation import Distillation, DistillationConfig
from metarl.agents.learner import MetaLearner
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.multitask import Multitask, MultitaskConfig
from metarl.agents.reptile import Reptile, ReptileConfig

LearnerConfig = MAMLConfig | ReptileConfig | MultitaskConfig | DistillationConfig
"""Hyper-parameters of any agent: a frozen dataclass whose docstring describes each field."""


@dataclass(frozen=True)
class Agent:
    """An entry of the registry.

    Attributes:
        name: name on the command line.
        config_class: dataclass of its hyper-parameters.
        make: (observation_space, action_space, config, generator, num_threads) -> learner on the generator's device;
            the config is of its config_class.
    """

    name: str
    config_class: type[LearnerConfig]
    make: Callable[[Box, Box | Discrete, Any, torch.Generator, int], MetaLearner]

    @property
    def summary(self) -> str:
        """First line of the configuration's docstring."""
        return (self.config_class.__doc__ or "").strip().splitlines()[0]


AGENTS = {
    agent.name: agent
    for agent in (
        Agent("maml", MAMLConfig, MAML),
        Agent("reptile", ReptileConfig, Reptile),
        Agent("multitask", MultitaskConfig, Multitask),
        Agent("distill", DistillationConfig, Distillation),
    )
}
