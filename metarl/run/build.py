"""From a configuration or a run to its task distribution and its learner."""

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
    """Task distribution and fresh learner of a configuration, on the generator's device.

    Raises:
        UserError, ValueError: unknown agent or environment, or one that does not fit the other.
    """
    if config.agent not in AGENTS:
        raise unknown("agent", config.agent, AGENTS)
    distribution = make_distribution(config.env)
    distribution.env.num_threads = config.num_threads
    agent = AGENTS[config.agent]
    learner = agent.make(
        distribution.observation_space, distribution.action_space, config.learner, generator, config.num_threads
    )
    return distribution, learner


def load_learner(
    run: RunDirectory, which: str = BEST, device: str = "cpu"
) -> tuple[TaskDistribution, MetaLearner, Checkpoint]:
    """The learner of a run as a checkpoint holds it.

    Args:
        run: the run.
        which: "best" on the validation split, "last", or an iteration.
        device: as in `resolve_device`.

    Raises:
        CheckpointError, UserError, ValueError: no such checkpoint, corrupt, or not of this run's learner.
    """
    checkpoint = run.checkpoints.load(which)
    distribution, learner = build(run.config, torch.Generator(resolve_device(device)))
    learner.load_state_dict(learner_state(checkpoint))
    return distribution, learner, checkpoint


def learner_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The learner's part of a checkpoint's tensors."""
    return _part(checkpoint, "learner.")


def curriculum_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The curriculum's part of a checkpoint's tensors; none where all tasks are drawn afresh."""
    return _part(checkpoint, "curriculum.")


def _part(checkpoint: Checkpoint, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): v for name, v in checkpoint.tensors.items() if name.startswith(prefix)}
