"""Build the task distribution and the learner of a configuration, or of a run's checkpoint."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from metarl.agents.learner import Learner, Sampling
from metarl.agents.policies.cnn import make_policy
from metarl.agents.policies.memory.base import RecurrentConfig
from metarl.agents.policies.memory.make import make_memory_policy
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.observations import ObservationNormalizer, PixelScaling
from metarl.agents.registry import find_agent
from metarl.envs.checks.contract import check_spaces
from metarl.envs.external.env_check import warn_once
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.external.space_json import space_from_json, space_to_json
from metarl.envs.external.user_code import kept_copies, user_sources
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.registry import is_registered, make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import UserError, what_happened
from metarl.evaluation.memory import parameter_bytes, require_memory
from metarl.run.checkpoint import BEST, Checkpoint, CheckpointError, require_state_like
from metarl.run.config import TrainConfig
from metarl.run.device import resolve_device
from metarl.run.files import read_file, write_atomically
from metarl.run.run_directory import SOURCES, RunDirectory
from metarl.run.schema import load_json, read_text

OBSERVATION_FILE = "observation_space.json"
"""In a run of a Gymnasium environment: what its policy sees, the fields of a Dict in their order."""

RATE_FACTORS = "rate_factors"
"""Among the tensors of the best checkpoint: `Learner.rate_factors`, (K,), once they were chosen; none: (0,)."""


class Built(NamedTuple):
    """What a configuration describes.

    Attributes:
        distribution: the tasks.
        learner: as it is before any training.
    """

    distribution: TaskDistribution
    learner: Learner


class LoadedRun(NamedTuple):
    """What a run holds.

    Attributes:
        distribution: the tasks.
        learner: with the parameters of the checkpoint.
        checkpoint: as it was read.
    """

    distribution: TaskDistribution
    learner: Learner
    checkpoint: Checkpoint


def build(config: TrainConfig, generator: torch.Generator) -> Built:
    """Task distribution and untrained learner of a configuration.

    Args:
        config: the configuration.
        generator: draws the initial parameters, which lie on its device.

    Raises:
        UserError, ValueError: unknown agent or environment, or the agent cannot act in the environment.
    """
    find_agent(config.agent)  # an unknown one is said before an environment is made

    distribution = make_distribution(config.env, config.action_scale)
    check_spaces(distribution.env)
    distribution.env.num_threads = config.num_threads
    if isinstance(distribution.env, RobotEnv):
        distribution.env.physics_determinism = config.physics_determinism
    if isinstance(distribution.env, GymnasiumFamily):
        distribution.env.set_timeout(config.env_timeout)
    return Built(distribution, make_learner(config, distribution, generator))


def make_learner(config: TrainConfig, distribution: TaskDistribution, generator: torch.Generator) -> Learner:
    """Untrained learner of a configuration, for a distribution that is there already; see `build`."""
    _require_memory(config, distribution, generator)
    with _blaming(config.agent):
        learner = find_agent(config.agent).make(
            distribution.observation_space, distribution.action_space, config.learner, generator, config.num_threads
        )
        _check_learner(config, learner, distribution)
    # Pixels are scaled in any case: nothing is estimated for it.
    if may_normalize(config, distribution) or isinstance(learner.policy.observations, PixelScaling):
        learner.policy.observations.activate(generator.device)
    return learner


@contextlib.contextmanager
def _blaming(agent: str) -> Iterator[None]:
    """Say of whatever goes wrong in an agent of the user's own that it is the agent's.

    Raises:
        UserError: names the agent, the error, and the line where it was raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if ":" not in agent:
            raise
        raise UserError(f"agent {agent}: {what_happened(error)}") from error


def _require_memory(config: TrainConfig, distribution: TaskDistribution, generator: torch.Generator) -> None:
    """Refuse a network that does not fit, or not as often as a task's adaptation steps change it, before it is made.

    Raises:
        UserError: names its size, or the number of steps.
    """
    settings = getattr(config.learner, "policy", None)
    if isinstance(settings, RecurrentConfig):
        _require_memory_of_recurrent(settings, distribution, generator.device)
    if not isinstance(settings, PolicyConfig):
        return
    policy = make_policy(distribution.observation_space, distribution.action_space, settings)
    what = f"{policy.num_parameters:,} parameters of hidden_sizes {' '.join(map(str, settings.hidden_sizes))}"
    require_memory(parameter_bytes(policy.num_parameters, 0), what, "--hidden-sizes", generator.device)

    # Learners make rates for each step when they are made.
    steps = getattr(config.learner, "adaptation_steps", 0)
    what = f"{policy.num_parameters:,} parameters in {steps} adaptation_steps"
    require_memory(parameter_bytes(policy.num_parameters, steps), what, "--adaptation-steps", generator.device)


def _require_memory_of_recurrent(
    settings: RecurrentConfig, distribution: TaskDistribution, device: torch.device
) -> None:
    """`_require_memory` of a network with memory, of which no task has a copy of its own."""
    policy = make_memory_policy(distribution.observation_space, distribution.action_space, settings)
    count = sum(math.prod(shape) for shape in policy.shapes.values())
    what = f"{count:,} parameters of recurrent_size {settings.recurrent_size}"
    lower = "--recurrent-size"
    if settings.hidden_sizes:
        what += f" and hidden_sizes {' '.join(map(str, settings.hidden_sizes))}"
        lower += " or --hidden-sizes"
    require_memory(parameter_bytes(count, 0), what, lower, device)


def may_normalize(config: TrainConfig, distribution: TaskDistribution) -> bool:
    """Whether a run normalises observations, or may turn out to after its first look at them.

    'auto' leaves the families of this project that are written in torch alone: their observations have sensible units,
    and published results belong to them. It always normalises Gymnasium environments, whose units nobody here knows.
    """
    if config.normalize_obs == "auto":
        return isinstance(distribution.env, GymnasiumFamily) or not is_registered(config.env)
    return config.normalize_obs == "on"


def _check_learner(config: TrainConfig, learner: object, distribution: TaskDistribution) -> None:
    """Refuse what does not keep the contract, before it fails somewhere inside.

    A policy of a user's own that says nothing of `observations` takes them as they are.

    Raises:
        UserError: it is no Learner, or lacks what one has; says which.
    """
    agent = config.agent
    if not isinstance(learner, Learner):
        raise UserError(f"agent {agent}: make() gave a {type(learner).__name__}, not a metarl.agents.learner.Learner")
    if not isinstance(getattr(learner, "sampling", None), Sampling):
        raise UserError(
            f"agent {agent}: {type(learner).__name__} must set `sampling`, a metarl.agents.learner.Sampling"
        )
    for method in ("init", "apply"):
        if not callable(getattr(getattr(learner, "policy", None), method, None)):
            raise UserError(f"agent {agent}: {type(learner).__name__}.policy must have a method {method}()")

    state = learner.state_dict()
    if not isinstance(state, dict) or not all(isinstance(leaf, torch.Tensor) for leaf in state.values()):
        raise UserError(f"agent {agent}: {type(learner).__name__}.state_dict() must give tensors by name")

    if not hasattr(learner.policy, "observations"):
        if config.normalize_obs == "on":
            raise UserError(f"agent {agent}: its policy has no `observations`, so --normalize-obs cannot be 'on'")
        learner.policy.observations = _TakenAsTheyAre(distribution.observation_space.shape[0])


class _TakenAsTheyAre(ObservationNormalizer):
    """Observations of a policy that does not normalise them: never active."""

    def activate(self, device: torch.device | str = "cpu") -> None:
        """See ObservationNormalizer.activate; it stays inactive."""


def load_learner(run: RunDirectory, which: str = BEST, device: str = "cpu") -> LoadedRun:
    """The task distribution and the learner of a run, with the parameters of one of its checkpoints.

    Args:
        run: the run.
        which: "best" on the validation split, "last", or an iteration.
        device: as in `resolve_device`.

    Raises:
        CheckpointError, UserError, ValueError: the checkpoint is missing, corrupt, or not of this run's learner.
    """
    checkpoint = run.checkpoints.load(which)
    distribution, learner = build(run.config, torch.Generator(resolve_device(device)))
    restore_observations(run, distribution)
    warn_of_changed_sources(run, distribution)
    restore_learner(learner, checkpoint, run.checkpoints.path_of(which))
    return LoadedRun(distribution, learner, checkpoint)


def restore_learner(learner: Learner, checkpoint: Checkpoint, path: Path) -> None:
    """Give a learner the state that a checkpoint holds.

    Args:
        learner: of the checkpoint's run.
        checkpoint: as it was read.
        path: its file, for the message.

    Raises:
        CheckpointError: the state is not this learner's; names the file and the tensor.
    """
    state = learner_state(checkpoint)
    require_state_like(path, state, learner.state_dict())
    try:
        learner.load_state_dict(state)
        observations = observations_state(checkpoint)
        if observations and not all(bool(value.isfinite().all()) for value in observations.values()):
            raise ValueError("the statistics of the observations are not finite")
        learner.policy.observations.load_state_dict(observations)
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None

    if learner.rate_factors is not None:
        learner.rate_factors = _rate_factors(checkpoint, path)


def _rate_factors(checkpoint: Checkpoint, path: Path) -> tuple[float, ...]:
    """The factors on the rates of adaptation that a checkpoint holds; () where none were chosen.

    Raises:
        CheckpointError: they are none.
    """
    kept = checkpoint.tensors.get(RATE_FACTORS)
    if kept is None:
        return ()
    if kept.ndim != 1 or not kept.is_floating_point() or not bool((kept.isfinite() & (kept > 0)).all()):
        raise CheckpointError(f"checkpoint {path}: {RATE_FACTORS} must be positive numbers, one for each step")
    return tuple(kept.tolist())


def keep_observations(run: RunDirectory, distribution: TaskDistribution) -> None:
    """Write down what a run observes of a Gymnasium environment, in the order in which its policy sees it."""
    if isinstance(distribution.env, GymnasiumFamily):
        space = space_to_json(distribution.env.observed)
        write_atomically(run.path / OBSERVATION_FILE, json.dumps(space, indent=1).encode())


def restore_observations(run: RunDirectory, distribution: TaskDistribution) -> None:
    """Show a run's policy what it was trained on, in that order; old runs, which kept nothing, are left as they are.

    Raises:
        UserError: the file is damaged, or the environment has other fields by now.
    """
    file = run.path / OBSERVATION_FILE
    if not (isinstance(distribution.env, GymnasiumFamily) and os.path.lexists(file)):
        return
    try:
        space = space_from_json(load_json(read_text(file)))
        distribution.env.keep_observations(space)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def keep_sources(run: RunDirectory, distribution: TaskDistribution) -> None:
    """Copy the user's own source files of an environment into its run; they are for reading, none is imported."""
    for name, file in user_sources(distribution).items():
        copy = run.path / SOURCES / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, file.read_bytes())


def warn_of_changed_sources(run: RunDirectory, distribution: TaskDistribution) -> None:
    """Warn of each of the user's source files that is another one than the run was trained with."""
    kept = run.path / SOURCES
    if not kept.is_dir():
        return
    for file, copy in kept_copies(kept, user_sources(distribution)).items():
        if read_file(copy) != file.read_bytes():
            warn_once(f"{file} has changed since {run.path} was trained; what it was trained with is kept as {copy}")


def learner_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The learner's part of a checkpoint's tensors."""
    return _part(checkpoint, "learner.")


def observations_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The statistics of observations among a checkpoint's tensors; empty where they are not normalised."""
    return _part(checkpoint, "observations.")


def curriculum_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The curriculum's part of a checkpoint's tensors; empty where no task is replayed."""
    return _part(checkpoint, "curriculum.")


def _part(checkpoint: Checkpoint, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    named = checkpoint.tensors.items()
    return {name.removeprefix(prefix): tensor for name, tensor in named if name.startswith(prefix)}
