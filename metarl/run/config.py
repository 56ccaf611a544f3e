"""Configuration of a training run: a dataclass that becomes the flags of `metarl train` and the run's config.yaml."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
import yaml

from metarl.agents.registry import find_agent
from metarl.envs.external.yaml_file import UniqueKeysLoader
from metarl.envs.registry import env_label
from metarl.envs.spaces.action_map import DEFAULT_SCALE, LARGEST_SCALE, OWN_UNITS
from metarl.envs.task_distribution import FROZEN_SIZE
from metarl.errors import UserError, require_at_least, require_seconds, unknown
from metarl.run.schema import parse

DEFAULT_AGENT = "maml"
DEFAULT_ENV = "point-navigation/finn"
MAX_SEED = 2**32 - 1
UNIFORM: Literal["uniform"] = "uniform"
LEARNING_PROGRESS = "learning-progress"
HARD_FIRST = "hard-first"


@dataclass(frozen=True)
class TrainConfig:
    """Meta-train an agent on a distribution of tasks.

    Attributes:
        agent: what learns; `metarl agents` lists them; your own as 'package.module:MyAgent'.
        env: what it learns on; `metarl envs` lists them; your own as 'package.module:MyDistribution' or a YAML file.
        preset: named set of defaults for this agent and environment; `metarl agents` lists them.
        seed: seed of the initial parameters, the tasks and the rollouts.
        device: 'auto' (a GPU if there is one), 'cpu', 'cuda' or 'cuda:N'.
        iterations: number of meta-iterations.
        max_env_steps: stop after the meta-iteration that reaches this many environment steps, to train agents on equal
            budgets; 0 = unlimited.
        num_tasks: M, tasks in each meta-iteration.
        episodes: E, episodes per task and adaptation step.
        normalize_obs: 'on' normalises observations by running statistics that the run keeps; 'auto' does so for
            Gymnasium environments, and for your own in torch where a first batch exceeds ±10.
        eval_interval: meta-iterations between evaluations on the validation split.
        eval_tasks: validation tasks in each of these evaluations.
        test_tasks: held-out test tasks in the evaluation at the end.
        checkpoint_interval: meta-iterations between checkpoints.
        logger: where curves and figures are shown, besides metrics.jsonl: TensorBoard's files in the run, or Weights &
            Biases (extra 'wandb'; WANDB_MODE=offline keeps all in the run).
        num_threads: CPU threads; 0 = one per core.
        curriculum: 'uniform' samples new tasks in each meta-iteration. The others replay most of them, and more often
            those whose return after adaptation is low ('hard-first') or has changed ('learning-progress').
        curriculum_buffer: number of tasks that may be replayed, the newest ones.
        curriculum_fresh: share of new tasks in each meta-iteration.
        curriculum_correction: weight tasks by p/q, so that the expected meta-gradient is that of 'uniform'.
        action_scale: span s of actions where a Box space has no bounds, in the environment's units: a policy's [-1, 1]
            becomes [-s, s], or 2 s beside the one bound that there is. Finite bounds need none. 0 = what old
            runs did: torch environments got a policy's actions without stretching.
        compile_env: let torch.compile fuse the environment's steps; needs a C++ compiler and some seconds at the start.
        cuda_graphs: 'auto' runs rollouts, adaptation and updates as CUDA graphs on a GPU; 'fused' compiles them to
            fewer kernels first, which takes up to a minute and pays in long trainings; 'off' runs them one operation
            at a time. All give the same numbers up to rounding.
        physics_determinism: 'on' has a robot's physics add up in the same order each time, which made them 4.5 to 15
            times as slow on a GPU; whether a GPU then repeats every bit has not been measured since its last change.
            'auto' is off on a GPU, where two runs of the same seed may part after some steps, and on elsewhere.
        env_timeout: seconds that a live environment's worker may take for one step; one that takes longer has failed,
            and is named with its task; 0 = unlimited.
        start_from: a run whose best policy training starts from, with all that its learner has learned, in place of a
            random one; the settings are those of that run, unless they are given.
        name: name of the run, a directory below run_dir; by default made of agent, environment and seed.
        run_dir: directory that runs are written to.
        learner: the agent's hyper-parameters.
    """

    agent: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="AGENT")] = DEFAULT_AGENT
    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")] = DEFAULT_ENV
    preset: str = "default"
    seed: int = 0
    device: str = "auto"
    iterations: int = 100
    max_env_steps: int = 0
    num_tasks: int = 20
    episodes: int = 20
    normalize_obs: Literal["auto", "on", "off"] = "auto"
    eval_interval: int = 10
    eval_tasks: int = 40
    test_tasks: int = 100
    checkpoint_interval: int = 10
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    num_threads: int = 0
    curriculum: Literal["uniform", "learning-progress", "hard-first"] = UNIFORM
    curriculum_buffer: int = 100
    curriculum_fresh: float = 0.2
    curriculum_correction: bool = False
    action_scale: float = DEFAULT_SCALE
    compile_env: bool = False
    cuda_graphs: Literal["auto", "fused", "off"] = "auto"
    physics_determinism: Literal["auto", "on", "off"] = "auto"
    env_timeout: float = 0.0
    start_from: str = ""
    name: str = ""
    run_dir: str = "runs"
    learner: Any = field(default_factory=lambda: find_agent(DEFAULT_AGENT).config_class())

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        require_at_least(self, iterations=1, num_tasks=1, episodes=1)
        require_at_least(self, eval_interval=1, eval_tasks=1, test_tasks=1, checkpoint_interval=1, curriculum_buffer=2)

        if not 0 < self.curriculum_fresh <= 1:
            raise UserError(f"curriculum_fresh must be above 0 and at most 1, got {self.curriculum_fresh}")
        if self.curriculum_correction and self.curriculum == UNIFORM:
            raise UserError(f"curriculum_correction needs --curriculum {LEARNING_PROGRESS} or {HARD_FIRST}")

        if not 0 <= self.action_scale <= LARGEST_SCALE:
            raise UserError(f"action_scale must be between 0 and {LARGEST_SCALE:g}, got {self.action_scale}")

        # The validation and test splits are frozen lists of this length.
        for name in ("eval_tasks", "test_tasks"):
            if getattr(self, name) > FROZEN_SIZE:
                raise UserError(f"{name} must be at most {FROZEN_SIZE}, got {getattr(self, name)}")

        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed must be between 0 and {MAX_SEED}, got {self.seed}")
        require_seconds("env_timeout", self.env_timeout)
        for name in ("num_threads", "max_env_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        # A line break or an escape code in a name would come back in every message.
        if "/" in self.name or self.name.startswith(".") or not self.name.isprintable():
            raise UserError(f"name must be a plain directory name, got {self.name!r}")


def to_yaml(config: TrainConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def to_json(config: TrainConfig) -> str:
    """The resolved configuration as JSON, as checkpoints keep it."""
    return json.dumps(to_plain(config))


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """The resolved configuration as plain data."""
    plain = _plain(dataclasses.asdict(config))
    assert isinstance(plain, dict)
    return plain


def from_yaml(text: str) -> TrainConfig:
    """Inverse of `to_yaml`.

    Raises:
        UserError: it is not a training configuration; the message names what is wrong.
    """
    try:
        data = yaml.load(text, UniqueKeysLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date, a number of thousands of digits, a key twice
        raise UserError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError("not YAML: nested too deep") from None
    return from_plain(data)


_HEADER = ("agent", "env", "preset", "seed", "device")
"""What a run's config.yaml begins with; nobody writes the device by hand, which a new run does not take from it."""


def require_whole(text: str, config: TrainConfig) -> None:
    """Refuse the beginning of a run's config.yaml, which would be a valid configuration of other settings.

    A file that was written by hand, or by a run of an earlier version, may leave out whatever has a default.

    Args:
        text: the file's.
        config: what it says.

    Raises:
        UserError: its end is missing; says from where on.
    """
    if not text.endswith("\n"):
        raise UserError("its last line does not end, as where a file was cut off; if it is whole, add a line break")

    data = yaml.load(text, UniqueKeysLoader)
    if tuple(data)[: len(_HEADER)] != _HEADER:
        return
    last = dataclasses.fields(config.learner)[-1].name
    if last not in data.get("learner", {}):
        raise UserError(
            f"it begins as a run's config.yaml does, and was cut off before learner.{last}; to leave settings out on "
            "purpose, remove the line of 'device' as well"
        )


def from_plain(data: Any) -> TrainConfig:
    """Inverse of `to_plain`; fields that are missing have their defaults, or what they meant before there were them.

    Raises:
        UserError: it is not a training configuration; the message names what is wrong.
    """
    if not isinstance(data, dict):
        raise UserError("not a training configuration")

    try:
        agent = find_agent(f"{data.get('agent')!s:.200}")
    except ValueError as error:
        raise UserError(str(error)) from None
    learner = parse(data.get("learner", {}), agent.config_class, "learner")
    # A run of an earlier version lacks these: what its policy does and sees must stay as it was.
    data = {"action_scale": OWN_UNITS, "normalize_obs": "off"} | data
    return typing.cast(TrainConfig, parse(data | {"learner": learner}, TrainConfig))


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration with some settings changed, checked as those of a file are.

    Args:
        config: what to start from; stays as it is.
        settings: fields of the run, the learner or one of its parts, such as its policy, by the names of their flags
            with "_".

    Raises:
        UserError: no such setting, or a value that is not allowed; names what is.
    """
    data = _plain(dataclasses.asdict(config))
    known = _replace(data, {name: _plain(value) for name, value in settings.items()})
    for name in settings:
        if name not in known:
            raise unknown("setting", name, known)

    try:
        return from_yaml(yaml.safe_dump(data))
    except yaml.YAMLError as error:
        raise UserError(f"a setting is neither a number, a string, a truth value nor a list: {error}") from None


def _replace(data: dict[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Replace what is named, in the parts of a configuration as well; returns all names."""
    names = []
    for name, value in data.items():
        if isinstance(value, dict):
            names += _replace(value, settings)
        elif name not in ("agent", "env", "preset"):  # they decide the defaults of all others
            names.append(name)
            data[name] = settings.get(name, value)
    return names


def flat_items(config: TrainConfig) -> dict[str, int | float | str | bool]:
    """Every field as 'name' or 'learner.name', with a value that TensorBoard's HPARAMS can show."""
    items = _flatten(dataclasses.asdict(config)).items()
    return {name: value if isinstance(value, (int, float, str, bool)) else str(value) for name, value in items}


_MAY_CHANGE = ("iterations", "device", "num_threads", "name", "run_dir")
"""Fields that a run may change when it is resumed, elsewhere or for longer."""


def differences(text: str, trained_with: dict[str, Any]) -> list[str]:
    """What a run's config.yaml says otherwise than what the run was trained with, in words.

    A field that is recorded and that the text lacks counts, whatever its default. One that neither has is newer than
    the run.

    Args:
        text: the file's, a valid configuration.
        trained_with: the configuration as plain data, as it was recorded.

    Raises:
        UserError: what was recorded is no configuration.
    """
    there = _flatten(yaml.load(text, UniqueKeysLoader))
    lacking = [name for name in _flatten(trained_with) if name not in there]
    found, wanted = _compared(from_yaml(text)), _compared(from_plain(trained_with))

    said = [f"it lacks {_names(lacking)}"] if lacking else []
    for name, value in wanted.items():
        if name not in lacking and name not in _MAY_CHANGE and found.get(name) != value:
            said.append(f"{name} is {found.get(name)!r:.60}, and was {value!r:.60}")
    return said


def _compared(config: TrainConfig) -> dict[str, Any]:
    """A configuration's fields by name; an environment's file by its own name, because runs are moved."""
    return _flatten(to_plain(dataclasses.replace(config, env=env_label(config.env))))


def _names(names: list[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its name, those of the parts as 'part.name'."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _plain(value: Any) -> Any:
    """As YAML takes it: tuples as lists."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):  # a seed of np.arange, for example
        return value.item()
    return value
