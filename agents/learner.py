"""What the workbench needs of a learner, what an agent's file registers, and what gradient learners share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.agents.gradients.objectives import Batch
from metarl.agents.gradients.parallel import ChunkPool
from metarl.agents.policies.cnn import make_policy
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.optimizer import MetaOptimizer
from metarl.agents.policies.parameters import Parameters, concatenate, expand_to_tasks, map_parameters, tasks_of
from metarl.agents.teachers import Teachers
from metarl.envs.rollout import Episodes
from metarl.envs.spaces.action_map import PolicySpace
from metarl.envs.task_space import Task


class Policy(Protocol):
    """A functional policy: it acts with the parameters P that it is given, and keeps none.

    A policy may define `observe(memory, action, reward, terminated) -> memory` as well, which is called after each
    real step: a policy that learns inside its memory sees there what it did and earned. One whose memory marks where an
    episode begins defines `next_episode(memory) -> memory` too: what the next episode of a trial begins with.
    """

    def init(self, generator: torch.Generator) -> Parameters:
        """Fresh shared P, on the generator's device."""
        ...

    def apply(self, params: Parameters, obs: Tensor, memory: Any = None) -> tuple[Any, Any]:
        """Distribution over actions for obs (M, E, O), and the memory for the next step.

        Args:
            params: shared P, or task-batched P with leaves (M, …).
            obs: (M, E, O).
            memory: leaves (M, E, …); None where nothing is remembered.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """What a learner wants to be sampled.

    Attributes:
        adaptation_steps: K, adaptation steps that it is meant to take on a new task.
        support: batches that a meta-iteration samples with an adaptation step after each; MAML's K, 0 for joint
            training.
        query: whether a meta-iteration samples one more batch after them.
        pooled: True: the E episodes of a batch inform one adapted policy, and a task costs all of them. False: they are
            E separate trials of the task, of which none knows the others: a task costs what one trial takes.
    """

    adaptation_steps: int
    support: int
    query: bool
    pooled: bool = True

    @property
    def batches(self) -> int:
        """Batches of a meta-iteration."""
        return self.support + self.query


@dataclass(frozen=True)
class Adapted:
    """A policy under adaptation to M tasks; opaque to the workbench, which hands it on.

    Attributes:
        params: task-batched P, leaves (M, …).
        memory: what the policy remembers from earlier episodes, leaves (M, E, …); None where that is nothing.
        context: whatever else the learner knows of the tasks, leaves (M, …).
        steps: adaptation steps taken so far.
    """

    params: Parameters
    memory: Any = None
    context: Any = None
    steps: int = 0


@dataclass(frozen=True)
class MetaBatch:
    """What one meta-update learns from: episodes of M tasks × E episodes.

    Attributes:
        support: the learner's `Sampling.support` batches, each collected after one more adaptation step.
        query: the batch after the last of them; None where the learner collects none.
        progress: share of the training that is done, 0 … 1, for schedules.
        tasks: the tasks of the batches, leaves (M, …); only distillation needs to know them.
        importance: weight of each task in what is improved, (M,): p/q where tasks of density p were drawn with q, so
            that the mean over tasks stays that of p. None weighs all tasks the same.
    """

    support: list[Episodes]
    query: Episodes | None = None
    progress: float = 0.0
    tasks: Task | None = None
    importance: Tensor | None = None

    @property
    def batches(self) -> list[Episodes]:
        """Support and query, in the order in which they were sampled."""
        return self.support if self.query is None else [*self.support, self.query]


class Section(Protocol):
    """What a learner adds to the report of an evaluation.

    Attributes:
        name: its key in the evaluation's JSON.
    """

    name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        ...

    def lines(self) -> list[str]:
        """Sentences for people."""
        ...


class Lab(Protocol):
    """What the training offers to a learner beyond episodes."""

    def teachers(self) -> tuple[Teachers, int]:
        """The run's specialised teachers, and the environment steps that they cost.

        Only for an agent whose configuration is a `TaughtConfig`.
        """
        ...

    def train_on(self, tasks: Task) -> None:
        """Train on these tasks alone from now on."""
        ...


class Evaluated(Protocol):
    """What an evaluation offers to a learner: the run's policy has been adapted to tasks."""

    def comparison_with_teachers(self, student: "Learner") -> Section | None:
        """What a student keeps of its teachers; None where the teachers are gone."""
        ...


class Learner(ABC):
    """All that the workbench may ask of an agent. It never samples: `metarl.evaluation.adaptation` does.

    Attributes:
        policy: the functional policy that acts with `Adapted.params` and `Adapted.memory`.
        sampling: what it wants to be sampled.
        rate_factors: what the given rate of each adaptation step is multiplied by, the last one for steps beyond; ():
            nothing. None: it leaves no rates to be chosen on validation tasks.
    """

    policy: Any
    sampling: Sampling
    rate_factors: tuple[float, ...] | None = None

    @property
    def adaptation_steps(self) -> int:
        """K, adaptation steps that it is meant to take on a new task."""
        return self.sampling.adaptation_steps

    @property
    def adapts_in_memory(self) -> bool:
        """Whether adaptation is what the policy remembers of a trial: it goes on wherever the policy is used.

        Then `adapt` hands on `policy.next_episode(episodes.memory)`, or the memory as it is.
        """
        return not self.sampling.pooled

    @abstractmethod
    def begin(self, num_tasks: int, generator: torch.Generator | None = None) -> Adapted:
        """The meta-trained policy for M tasks, before any adaptation; the generator draws what is random in it."""

    @abstractmethod
    def adapt(self, adapted: Adapted, episodes: Episodes, generator: torch.Generator | None = None) -> Adapted:
        """One adaptation step on episodes collected with `adapted`; builds no graph, changes nothing in place.

        A gradient step, memory that is carried on, a posterior: whatever the agent's adaptation is.
        """

    @abstractmethod
    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """Improve the meta-parameters in place; returns metrics. On any exception they are as they were before.

        Raises:
            FloatingPointError: a gradient is not finite.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training needs to go on, as copies."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: names or shapes are not this learner's.
        """

    def prepare(self, lab: Lab) -> int:
        """What has to be done before the first iteration; returns the environment steps that it took."""
        return 0

    def kept_bytes(self, num_tasks: int, episodes: int, horizon: int) -> int:
        """Bytes that an update on M tasks × E episodes × H steps keeps beside its batches, until it is done."""
        return 0

    def summary(self, evaluated: Evaluated) -> Section | None:
        """What the report of an evaluation says of this learner besides; None where that is nothing."""
        return None


@dataclass(frozen=True)
class Preset:
    """Changes to the defaults of a training configuration.

    Attributes:
        summary: what it is for, one line.
        changes: "field", "learner.field" or "learner.policy.field" → value.
    """

    summary: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Agent:
    """An entry of the registry: an agent's file ends in one, named AGENT.

    Attributes:
        name: name on the command line.
        config_class: frozen dataclass of its hyper-parameters; the docstring describes each field.
        make: (observation_space, action_space, config, generator, num_threads) -> learner on the generator's device;
            the config is of its config_class.
        presets: name → preset, for any environment; "default" is what training starts from.
    """

    name: str
    config_class: type[Any]
    make: Callable[[Box, PolicySpace, Any, torch.Generator, int], Learner]
    presets: Mapping[str, Preset] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the configuration's docstring."""
        return (self.config_class.__doc__ or "").strip().splitlines()[0]


class GradientLearnerConfig(Protocol):
    """What every gradient learner's configuration holds.

    Attributes:
        policy: the policy network.
        task_chunk: tasks that are handled at once; 0 = see `metarl.agents.gradients.parallel.task_slices`.
    """

    @property
    def policy(self) -> PolicyConfig: ...  # noqa: D102

    @property
    def task_chunk(self) -> int: ...  # noqa: D102


Config = TypeVar("Config", bound=GradientLearnerConfig)


class GradientLearner(Learner, Generic[Config]):
    """A learner that adapts a policy's parameters by gradient steps: MAML, Reptile, joint training.

    A subclass builds its parts in `setup` and says how episodes are made ready (`batch`), what one adaptation step
    is (`adaptation_step`) and how the meta-parameters improve (`update`).

    Attributes:
        config: hyper-parameters.
        policy: see Learner.
        optimizer: holds the meta-parameters and steps them.
        pool: spreads chunks of tasks over threads.

    Args:
        observation_space: Box (O,).
        action_space: Box (A,), Discrete or MultiDiscrete (A,).
        config: hyper-parameters.
        generator: draws the initial parameters; they lie on its device.
        num_threads: CPU threads that share the chunks of tasks; changes no result.
    """

    policy: MLPPolicy

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

        Sets `sampling`.

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

    @property
    def meta_parameters(self) -> Parameters:
        """All that is meta-trained, by name; the tensors are the optimizer's own."""
        return self.optimizer.parameters

    @property
    def initial_policy(self) -> Parameters:
        """Shared P from which every task's adaptation starts."""
        return self.meta_parameters

    def begin(self, num_tasks: int, generator: torch.Generator | None = None) -> Adapted:
        """See Learner.begin; nothing is random."""
        start = map_parameters(torch.clone, self.initial_policy)  # a meta-update writes in place
        return Adapted(expand_to_tasks(start, num_tasks), steps=0)

    def adapt(self, adapted: Adapted, episodes: Episodes, generator: torch.Generator | None = None) -> Adapted:
        """See Learner.adapt; nothing is random."""
        batch = self.pool.run(self.batch, episodes)
        params = self.pool.run(self._adapt, adapted.params, batch, adapted.steps)
        return Adapted(params, steps=adapted.steps + 1)

    def _adapt(self, params: Parameters, batch: Batch, step: int) -> Parameters:
        """One adaptation step of all tasks."""

        def adapt_chunk(tasks: slice) -> Parameters:
            return self.adaptation_step(tasks_of(params, tasks), batch.tasks(tasks), step)

        return concatenate(self.pool.map(adapt_chunk, self.pool.chunks(batch.obs)))

    def state_dict(self) -> dict[str, Tensor]:
        """See Learner.state_dict."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See Learner.load_state_dict."""
        self.optimizer.load_state_dict(state)
