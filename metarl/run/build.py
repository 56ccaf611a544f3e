"""Build the task distribution and the learner of a configuration, or of a run's checkpoint."""

import torch

from metarl.agents.learner import MetaLearner
from metarl.agents.registry import AGENTS
from metarl.envs.registry import make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import unknown
from metarl.run.checkpoint import BEST, Checkpoint
from metarl.run.config import TrainConfig
from metarl.run.device import resolve_device
from metarl.run.run_directory import RunDirectory


def build(config: TrainConfig, generator: torch.Generator) -> tuple[TaskDistribution, MetaLearner]:
    """Task distribution and untrained learner of a configuration.

    Args:
        config: the configuration.
        generator: draws the initial parameters, which lie on its device.

    Raises:
        UserError, ValueError: unknown agent or environment, or the agent cannot act in the environment.
    """
    if config.agent not in AGENTS:
        raise unknown("agent", config.agent, AGENTS)
    agent = AGENTS[config.agent]

    distribution = make_distribution(config.env, config.action_scale)
    distribution.env.num_threads = config.num_threads
    learner = agent.make(
        distribution.observation_space, distribution.action_space, config.learner, generator, config.num_threads
    )
    return distribution, learner


def load_learner(
    run: RunDirectory, which: str = BEST, device: str = "cpu"
) -> tuple[TaskDistribution, MetaLearner, Checkpoint]:
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
    learner.load_state_dict(learner_state(checkpoint))
    return distribution, learner, checkpoint


def learner_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The learner's part of a checkpoint's tensors."""
    return _part(checkpoint, "learner.")


def curriculum_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The curriculum's part of a checkpoint's tensors; empty where no task is replayed."""
    return _part(checkpoint, "curriculum.")


def _part(checkpoint: Checkpoint, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    named = checkpoint.tensors.items()
    return {name.removeprefix(prefix): tensor for name, tensor in named if name.startswith(prefix)}
