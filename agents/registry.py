"""The agents by name: one line for each agent's file, and a user's own as `module:name`."""

import dataclasses
import importlib

from metarl.agents import distillation, maml, multitask, reptile, rl2
from metarl.agents.learner import Agent
from metarl.envs.family_entry import did_you_mean

AGENTS = {module.AGENT.name: module.AGENT for module in (maml, reptile, multitask, distillation, rl2)}


def find_agent(name: str) -> Agent:
    """The agent of that name, or the user's own "package.module:Attribute", an `Agent`.

    Raises:
        ValueError: unknown name, module that cannot be imported, or an attribute that is no Agent.
    """
    if ":" in name:
        return _load_from_module(name)
    found: Agent | None = AGENTS.get(name)
    if found is not None:
        return found

    raise ValueError(
        f"unknown agent {name!r}{did_you_mean(name, AGENTS)}; known are {', '.join(AGENTS)}, "
        "and your own as 'package.module:MyAgent'"
    )


def _load_from_module(name: str) -> Agent:
    """The agent that "package.module:Attribute" names; see `find_agent`."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    # A module of the user's own may fail with anything while it is imported.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"agent {name!r}: cannot import module {module_name!r}: {reason}") from error

    agent = getattr(module, attribute, None)
    if agent is None:
        raise ValueError(f"agent {name!r}: module {module_name!r} has no attribute {attribute!r}")
    if not isinstance(agent, Agent):
        what = f"{attribute!r} is a {type(agent).__name__}"
        raise ValueError(f"agent {name!r}: {what}, but must be a metarl.agents.learner.Agent(name, config, make)")
    if not (isinstance(agent.config_class, type) and dataclasses.is_dataclass(agent.config_class)):
        raise ValueError(f"agent {name!r}: its configuration {agent.config_class!r} must be a dataclass, @dataclass")
    return agent


def is_agent(name: str) -> bool:
    """Whether it is an agent's name, or says where to find the user's own."""
    return name in AGENTS or ":" in name
