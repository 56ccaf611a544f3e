"""What the workbench needs of a learner, what an agent's file registers, and what gradient learners share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.agents.gradients.objectives import Batch
from metarl.agents.gradients.parallel import ChunkPool
from metarl.agents.policies.cnn import make_policy
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.optimizer import MetaOptimizer
from metarl.agents.policies.parameters import Parameters, concatenate, expand_to_tasks, map_parameters, tasks_of
from metarl.envs.rollout import Episodes
from metarl.envs.spaces.action_map import PolicySpace
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


@dataclass(frozen=True)
class MetaBatch:
    """What one meta-update learns from: episodes of M tasks × E episodes.

    Attributes:
        support: the learner's `support_batches` batches, each collected after one more adaptation step.
        query: the batch after the last of them; None where the learner collects none.
        progress: share of the training that is done, 0 … 1, for schedules.
        tasks: the tasks of the batches, leaves (M, …); only distillation needs to know them.
        importance: weight of each task in what is improved, (M,): p/q where tasks of density p were drawn with q, so
            that the mean over tasks stays that of p. None weighs all tasks the same.
    """

    support: list[Episodes]
    query: Episodes | None
    progress: float = 0.0
    tasks: Task | None = None
    importance: Tensor | None = None


class MetaLearner(Protocol):
    """A meta-learner. It never samples: `metarl.training.trainer` and `metarl.evaluation.evaluation` do.

    Attributes:
        policy: the functional policy that acts with `Adapted.params`.
        adaptation_steps: K, the number of adaptation steps it is meant to take on a new task.
        support_batches: batches that a meta-iteration samples with an adaptation step after each; MAML's K, 0 for
            joint training.
        collects_query: whether a meta-iteration samples one more batch after them.
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
        """Improve the meta-parameters in place; returns metrics. The arguments are the fields of `MetaBatch`.

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


@dataclass(frozen=True)
class Agent:
    """An entry of the registry: an agent's file ends in one, named AGENT.

    Attributes:
        name: name on the command line.
        config_class: frozen dataclass of its hyper-parameters; the docstring describes each field.
        make: (observation_space, action_space, config, generator, num_threads) -> learner on the generator's device;
            the config is of its config_class.
    """

    name: str
    config_class: type[Any]
    make: Callable[[Box, PolicySpace, Any, torch.Generator, int], MetaLearner]

    @property
    def summary(self) -> str:
        """First line of the configuration's docstring."""
        return (self.config_class.__doc__ or "").strip().splitlines()[0]


class GradientLearnerConfig(Protocol):
    """What every gradient learner's configuration holds.

    Attributes:
        policy: the policy network.
        task_chunk: tasks that are handled at once; 0: see `metarl.agents.gradients.parallel.task_slices`.
    """

    @property
    def policy(self) -> PolicyConfig: ...  # noqa: D102

    @property
    def task_chunk(self) -> int: ...  # noqa: D102


Config = TypeVar("Config", bound=GradientLearnerConfig)


class GradientLearner(ABC, Generic[Config]):
    """A learner that adapts a policy's parameters by gradient steps: MAML, Reptile, joint training.

    A subclass builds its parts in `setup` and says how episodes are made ready (`batch`), what one adaptation step
    is (`adaptation_step`) and how the meta-parameters improve (`update`).

    Attributes:
        config: hyper-parameters.
        policy: see MetaLearner.
        optimizer: holds the meta-parameters and steps them.
        pool: spreads chunks of tasks over threads.

    Args:
        observation_space: Box (O,).
        action_space: Box (A,), Discrete or MultiDiscrete (A,).
        config: hyper-parameters.
        generator: draws the initial parameters; they lie on its device.
        num_threads: CPU threads that share the chunks of tasks; changes no result.
    """

    adaptation_steps: int
    support_batches: int
    collects_query: bool

    def __init__(
        self,
        observation_space: Box,
        action_space: PolicySpace,
        config: Config,
        generator: torch.Generator,
        num_threads: int = 1,
    ) -> None:
        self.config = config
        self.policy = make_policy(observation_space, action_space, config.policy)
        self.pool = ChunkPool(num_threads, config.task_chunk)
        self.optimizer = MetaOptimizer(self.setup(self.policy.init(generator)))

    @abstractmethod
    def setup(self, initial: Parameters) -> Parameters:
        """Build the learner's own parts from `config`, `policy` and `pool`; the constructor calls it once.

        Sets `adaptation_steps`, `support_batches` and `collects_query`.

        Args:
            initial: fresh shared P.

        Returns:
            the meta-parameters: P, and whatever else is meta-trained.
        """

    @abstractmethod
    def batch(self, episodes: Episodes) -> Batch:
        """Episodes made ready for gradient steps."""

    @abstractmethod
    def adaptation_step(self, params: Parameters, batch: Batch, step: int) -> Parameters:
        """One adaptation step.

        Args:
            params: task-batched P, leaves (M, …).
            batch: M tasks × E episodes that P collected.
            step: k, adaptation steps taken before.

        Returns:
            task-batched P without a graph.
        """

    @abstractmethod
    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """See MetaLearner.meta_update."""

    @property
    def meta_parameters(self) -> Parameters:
        """All that is meta-trained, by name; the tensors are the optimizer's own."""
        return self.optimizer.parameters

    @property
    def initial_policy(self) -> Parameters:
        """Shared P from which every task's adaptation starts."""
        return self.meta_parameters

    def begin(self, num_tasks: int) -> Adapted:
        """See MetaLearner.begin."""
        start = map_parameters(torch.clone, self.initial_policy)  # a meta-update writes in place
        return Adapted(expand_to_tasks(start, num_tasks), steps=0)

    def adapt(self, adapted: Adapted, episodes: Episodes) -> Adapted:
        """See MetaLearner.adapt."""
        batch = self.batch(episodes)

        def adapt_chunk(tasks: slice) -> Parameters:
            return self.adaptation_step(tasks_of(adapted.params, tasks), batch.tasks(tasks), adapted.steps)

        chunks = self.pool.map(adapt_chunk, self.pool.chunks(batch.obs))
        return Adapted(concatenate(chunks), adapted.steps + 1)

    def meta_update(
        self,
        support: list[Episodes],
        query: Episodes | None,
        progress: float = 0.0,
        tasks: Task | None = None,
        importance: Tensor | None = None,
    ) -> dict[str, float]:
        """See MetaLearner.meta_update."""
        return self.update(MetaBatch(support, query, progress, tasks, importance))

    def state_dict(self) -> dict[str, Tensor]:
        """See MetaLearner.state_dict."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See MetaLearner.load_state_dict."""
        self.optimizer.load_state_dict(state)
