"""Named sets of defaults for an agent on an environment: tuned ones and published ones."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.registry import AGENTS
from envs.registry import ALIASES
from metarl.config import TrainConfig
from metarl.errors import unknown


@dataclass(frozen=True)
class Preset:
    """What to change in the defaults of TrainConfig.

    Attributes:
        summary: what it is for and what it reaches, one line.
        changes: "field" or "learner.field" or "learner.policy.field" → value.
    """

    summary: str
    changes: Mapping[str, Any]


GENERIC = Preset(
    "ProMP, one adaptation step: a start for an environment that nobody tuned yet",
    {"iterations": 200, "learner.outer": "ppo"},
)

PRESETS: dict[tuple[str, str], dict[str, Preset]] = {
    ("maml", "point-navigation/finn"): {
        "default": Preset(
            "3 adaptation steps, ProMP outer step",
            {
                "iterations": 50,
                "learner.outer": "ppo",
                "learner.adaptation_steps": 3,
            },
        ),
    },
}


def presets_for(agent: str, env: str) -> dict[str, Preset]:
    """The presets of an agent on an environment; "default" always among them."""
    return {"default": GENERIC} | PRESETS.get((agent, ALIASES.get(env, env)), {})


def default_config(agent: str, env: str, preset: str = "default") -> TrainConfig:
    """The configuration that `metarl train AGENT ENV --preset PRESET` starts from.

    Raises:
        UserError: unknown agent or preset.
    """
    if agent not in AGENTS:
        raise unknown("agent", agent, AGENTS)
    presets = presets_for(agent, env)
    if preset not in presets:
        raise unknown(f"preset of {agent} on {env}", preset, presets)
    config = TrainConfig(agent=agent, env=env, preset=preset, learner=AGENTS[agent].config_class())
    for path, value in presets[preset].changes.items():
        config = _replace(config, path.split("."), value)
    return config


def _replace(config: Any, path: list[str], value: Any) -> Any:
    """`dataclasses.replace` along a path of nested fields."""
    name, *rest = path
    return dataclasses.replace(config, **{name: _replace(getattr(config, name), rest, value) if rest else value})
