"""The command line that trains with the settings of a configuration."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from metarl.envs.registry import is_env_file
from metarl.run.config import TrainConfig
from metarl.run.presets import default_config

_NOT_FLAGS = ("agent", "env")
"""Positional arguments."""
_LEFT_OUT = ("name", "run_dir")
"""Where the new run lies is left to choose."""


def train_command(config: TrainConfig) -> str:
    """`metarl train …` with a flag for each setting that differs from its preset; name and directory are left out."""
    words = ["metarl", "train", config.agent]
    words += ["--env-file", config.env] if is_env_file(config.env) else [config.env]

    defaults = dict(_settings(default_config(config.agent, config.env, config.preset)))
    defaults["preset"] = "default"  # a preset is named by a flag of its own, unless it is the one without a flag
    for name, value in _settings(config):
        # A run that starts from another one has the settings of that one for defaults: here all are given.
        given = value != defaults[name] or config.start_from
        if name not in (*_NOT_FLAGS, *_LEFT_OUT) and given:
            words += _flag(name, value)
    return shlex.join(words)


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every setting; on the command line, those of nested configurations have no prefix."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value)
        else:
            yield field.name, value


def _flag(name: str, value: Any) -> list[str]:
    """The words that set a flag: `--flag`, `--no-flag`, `--flag value` or `--flag value value …`."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, tuple) else [value]
    return [f"--{flag}", *map(str, values)]
