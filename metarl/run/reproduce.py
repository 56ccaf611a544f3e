"""The command line that trains with the settings of a configuration."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from metarl.envs.registry import is_env_file
from metarl.run.config import TrainConfig
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory

_NOT_FLAGS = ("agent", "env")
"""Positional arguments."""
_LEFT_OUT = ("name", "run_dir")
"""Where the new run lies is left to choose."""


def train_command(config: TrainConfig) -> str:
    """`metarl train …` with a flag for each setting that differs from its preset; name and directory are left out."""
    words = ["metarl", "train", config.agent]
    words += ["--env-file", config.env] if is_env_file(config.env) else [config.env]

    defaults = dict(_settings(_defaults_of(config)))
    defaults["preset"] = "default"  # a preset is named by a flag of its own, unless it is the one without a flag
    for name, value in _settings(config):
        if name not in (*_NOT_FLAGS, *_LEFT_OUT) and value != defaults[name]:
            words += _flag(name, value)
    return shlex.join(words)


def settings_to_start_from(run: RunDirectory) -> TrainConfig:
    """What the flags of a run that starts from this one are by default; its name, place and device are its own."""
    defaults = TrainConfig()
    return dataclasses.replace(
        run.config,
        name="",
        run_dir=defaults.run_dir,
        device=defaults.device,
        num_threads=defaults.num_threads,
        start_from="",
        max_env_steps=0,  # the steps of the start count as this run's, and would end it at once
    )


def _defaults_of(config: TrainConfig) -> TrainConfig:
    """The settings of the preset, or of the run that this one starts from as long as that is there."""
    if config.start_from:
        try:
            return settings_to_start_from(RunDirectory.open(config.start_from, config.run_dir))
        except ValueError:
            pass
    return default_config(config.agent, config.env, config.preset)


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
