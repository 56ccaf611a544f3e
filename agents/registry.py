"""The agents by name: one line for each agent's file."""

from metarl.agents import distillation, maml, multitask, reptile

AGENTS = {module.AGENT.name: module.AGENT for module in (maml, reptile, multitask, distillation)}

LearnerConfig = maml.MAMLConfig | reptile.ReptileConfig | multitask.MultitaskConfig | distillation.DistillationConfig
"""Hyper-parameters of any agent: a frozen dataclass whose docstring describes each field."""
