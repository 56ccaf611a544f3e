"""What the training loop and the evaluator need of a learner."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task


@dataclass(frozen=True)
class Adapted:
    """A policy under adaptation to M tasks.

    Attributes:
        params: task-batched P, leaves (M, …).
        steps: adaptation steps taken so far.
    """

    params: Parameters
    steps: int


class MetaLearner(Protocol):
    """A meta-learner. It never samples: `metarl.training.trainer` and `metarl.evaluation.evaluation` do.

    Attributes:
        policy: the functional policy that acts with `Adapted.params`.
        adaptation_steps: K, the number of adaptation steps it is meant to take on a new task.
        support_batches: batches that a meta-iteration samples with an adaptation step after each; MAML's K, 0 for
            joint training.
        collects_query: whether it samples one more after them.
    """

    policy: MLPPolicy
    adaptation_steps: int
    support_batches: int
    collects_query: bool

    def begin(self, num_tasks: int) -> Adapted:
        """The meta-trained parameters, before any adaptation."""
        ...

    def adapt(self, adapted: Adapted, episodes: Episodes) -> Adapted:
        """One adaptation step on episodes collected with `adapted`; builds no graph, changes nothing in place."""
        ...

    def meta_update(
        self,
        support: list[Episodes],
        query: Episodes | None,
        progress: float = 0.0,
        tasks: Task | None = None,
        importance: Tensor | None = None,
    ) -> dict[str, float]:
        """Improve the meta-parameters in place; returns metrics.

        Args:
            support: its support_batches, each collected after one more adaptation step.
            query: the batch after the last one; None where it collects none.
            progress: share of the training that is done, 0 … 1, for schedules.
            tasks: the tasks of the batches; only distillation needs to know them.
            importance: weight of each task in what is improved, (M,): p/q where tasks of density p were drawn with
                q, so that the mean over tasks stays that of p; None weighs all the same.

        Raises:
            FloatingPointError: a gradient is not finite; the meta-parameters are as they were.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training needs to go on, as copies."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: names or shapes are not this learner's.
        """
        ...
