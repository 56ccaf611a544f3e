"""Reptile: move the initialisation towards what adaptation makes of it."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from metarl.agents.fine_tuning import AdaptationConfig, FixedRateLearner
from metarl.agents.learner import Agent, MetaBatch, Sampling
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import (
    Parameters,
    check_finite,
    expand_to_tasks,
    flatten,
    map_parameters,
    unflatten_like,
)
from metarl.agents.policies.validation import check_values
from metarl.envs.rollout import Episodes


@dataclass(frozen=True)
class ReptileConfig:
    """Reptile: first-order; moves the initialisation towards the mean of the adapted parameters.

    Attributes:
        policy: the policy network.
        adaptation: the inner loop, in training and on new tasks.
        outer: "interpolate": θ ← θ + ε · mean displacement; "adam": Adam takes the displacement as its gradient.
        outer_lr: ε, or Adam's rate.
        annealing: "linear": ε falls linearly to 0 at the end of training; "none".
        collect_query: also collect episodes after the last step in training; only to see their return, at their cost.
        task_chunk: tasks that are handled at once; 0 = as many as hold 4000 steps on a CPU and a million on a GPU.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    outer: Literal["interpolate", "adam"] = "interpolate"
    outer_lr: float = 0.5
    annealing: Literal["linear", "none"] = "linear"
    collect_query: bool = False
    task_chunk: int = 0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(self, positive=("outer_lr",), not_negative=("task_chunk",))


class Reptile(FixedRateLearner[ReptileConfig]):
    """Reptile for policies, batched over tasks.

        θ ← θ + ε · mean over tasks of (φ_K − θ),    φ_K = θ after K adaptation steps

    It needs no batch after step K, so it collects none unless asked.

    Source: Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms", algorithm 2 (batched) and
        section 3 (the displacement as a gradient for Adam). Deviation: supervised there; here the inner loop takes
        policy-gradient steps, each on episodes of its own.
    """

    def setup(self, initial: Parameters) -> Parameters:
        """See GradientLearner.setup."""
        meta = super().setup(initial)
        steps = self.config.adaptation.adaptation_steps
        self.sampling = Sampling(steps, support=steps, query=self.config.collect_query)
        return meta

    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """See Learner.update."""
        displacement = self.pool.run(self.displacement, meta_batch.support, meta_batch.importance)
        flat = flatten(displacement.values())
        check_finite(flat, "the adapted parameters are")

        rate = self.annealed_lr(meta_batch.progress)
        with self.optimizer.all_or_nothing():
            if self.config.outer == "adam":
                self.optimizer.ascend(displacement, rate)
            else:
                moved = {name: leaf + rate * displacement[name] for name, leaf in self.meta_parameters.items()}
                self.optimizer.assign(moved)
        return {"displacement_norm": float(flat.norm()), "outer_lr": rate}

    def displacement(self, support: list[Episodes], importance: Tensor | None = None) -> Parameters:
        """Mean over tasks of φ_K − θ, each times its importance (M,), by leaf."""
        batches = [self.batch(episodes) for episodes in support]

        def sum_of_chunk(tasks: slice) -> Tensor:
            chunk = [batch.tasks(tasks) for batch in batches]
            start = expand_to_tasks(self.meta_parameters, len(chunk[0].obs))
            params = start
            for step, batch in enumerate(chunk):
                params = self.adaptation_step(params, batch, step)

            moved = {name: params[name] - leaf for name, leaf in start.items()}
            if importance is not None:
                moved = _weighted(moved, importance[tasks])
            return flatten(leaf.sum(dim=0) for leaf in moved.values())

        return unflatten_like(self.pool.mean(sum_of_chunk, batches[0].obs), self.meta_parameters)


def _weighted(params: Parameters, weight: Tensor) -> Parameters:
    """Leaves (M, …) times the weight (M,) of their task."""
    return map_parameters(lambda leaf: weight.to(leaf).reshape(-1, *(1,) * (leaf.ndim - 1)) * leaf, params)


AGENT = Agent("reptile", ReptileConfig, Reptile)
