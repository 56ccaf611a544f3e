"""The state of training: all that an iteration changes, as a checkpoint holds it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from metarl.agents.learner import Learner
from metarl.errors import what_happened
from metarl.run.build import curriculum_state, learner_state, observations_state, restore_learner
from metarl.run.checkpoint import Checkpoint, CheckpointError, Progress
from metarl.training.curriculum import Curriculum


@dataclass(frozen=True)
class TrainingState:
    """What training changes in place; a checkpoint holds exactly this, and how far training is.

    Attributes:
        learner: with the statistics of the observations that its policy normalises with.
        curriculum: which tasks come again.
        generator: draws the tasks and drives the rollouts.
    """

    learner: Learner
    curriculum: Curriculum
    generator: torch.Generator

    def checkpoint(self, progress: Progress, config: str) -> Checkpoint:
        """The whole state, as copies.

        Args:
            progress: how far training is.
            config: the run's configuration as JSON.
        """
        parts = {
            "learner": self.learner.state_dict(),
            "observations": self.learner.policy.observations.state_dict(),
            "curriculum": self.curriculum.state_dict(),
        }
        tensors: dict[str, torch.Tensor] = {}
        for part, state in parts.items():
            tensors |= {f"{part}.{name}": value for name, value in state.items()}

        tensors["generator"] = self.generator.get_state()
        return Checkpoint(tensors, progress, config)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Inverse of `checkpoint`."""
        self.learner.load_state_dict(learner_state(checkpoint))
        self.learner.policy.observations.load_state_dict(observations_state(checkpoint))
        self.curriculum.load_state_dict(curriculum_state(checkpoint))
        self.generator.set_state(checkpoint.tensors["generator"])

    def restore_file(self, path: Path, checkpoint: Checkpoint) -> None:
        """Restore what a file holds, which may be of another training.

        Raises:
            CheckpointError: it is not the state of this one; names the file and the tensor.
        """
        restore_learner(self.learner, checkpoint, path)
        try:
            self.curriculum.load_state_dict(curriculum_state(checkpoint))
        except ValueError as error:
            raise CheckpointError(f"checkpoint {path}: curriculum: {error}") from None

        try:
            self.generator.set_state(checkpoint.tensors["generator"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint {path}: generator: {what_happened(error)}") from None
