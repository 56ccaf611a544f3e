"""The command that trains with the settings of a configuration."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from metarl.envs.registry import is_env_file
from metarl.run.config import TrainConfig
from metarl.run.presets import default_config

_WHERE = ("name", "run_dir")
_POSITIONAL = ("agent", "env")


def train_command(config: TrainConfig) -> str:
    """`metarl train …` with a flag for each setting that is not its preset's; name and directory are left to choose."""
    defaults = dict(_leaves(default_config(config.agent, config.env, config.preset)))
    env = ["--env-file", config.env] if is_env_file(config.env) else [config.env]
    words = ["metarl", "train", config.agent, *env]
    for name, value in _leaves(config):
        if name == "preset":
            words += ["--preset", value] if value != "default" else []
        elif name not in (*_WHERE, *_POSITIONAL) and value != defaults[name]:
            words += _flag(name, value)
    return shlex.join(words)


def _leaves(config: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every field that is a flag; nested ones have no prefix on the command line."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value)
        else:
            yield field.name, value


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
