"""Reptile: move the initialisation towards what adaptation makes of it."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.agents.fine_tuning import AdaptationConfig, FixedRateLearner
from metarl.agents.gradients.parallel import task_slices
from metarl.agents.gradients.processes import num_processes, sum_over_processes
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import Parameters, expand_to_tasks, flatten, unflatten_like
from metarl.agents.policies.validation import check_values
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task


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
        task_chunk: tasks that are handled at once; 0: as many as hold 4,000 steps on a CPU and a million on a GPU.
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


class Reptile(FixedRateLearner):
    """Reptile for policies, batched over tasks.

        θ ← θ + ε · mean over tasks of (φ_K − θ),    φ_K = θ after K adaptation steps

    It needs no batch after step K, so it collects none unless asked.

    Source: Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms", algorithm 2 (batched) and
        section 3 (the displacement as a gradient for Adam). Deviation: supervised there; here the inner loop takes
        policy-gradient steps, each on episodes of its own.

    Args:
        observation_space: Box (O,).
        action_space: Box (A,) or Discrete.
        config: hyper-parameters.
        generator: draws the initial parameters; they lie on its device.
        num_threads: CPU threads that share the chunks of a meta-update; changes no result.
    """

    def __init__(
        self,
        observation_space: Box,
        action_space: Box | Discrete,
        config: ReptileConfig,
        generator: torch.Generator,
        num_threads: int = 1,
    ) -> None:
        spaces = observation_space, action_space
        super().__init__(*spaces, config.policy, config.adaptation, config.task_chunk, generator, num_threads)
        self.config = config
        self.support_batches, self.collects_query = self.adaptation_steps, config.collect_query

    def meta_update(
        self,
        support: list[Episodes],
        query: Episodes | None,
        progress: float = 0.0,
        tasks: Task | None = None,
        importance: Tensor | None = None,
    ) -> dict[str, float]:
        """See MetaLearner.meta_update."""
        displacement = self.displacement(support, importance)
        flat = flatten(displacement.values())
        if not bool(torch.isfinite(flat).all()):
            raise FloatingPointError("the adapted parameters are not finite")
        rate = self.config.outer_lr * (1 - progress if self.config.annealing == "linear" else 1.0)
        if self.config.outer == "adam":
            self._trained.ascend(displacement, rate)
        else:
            start = self._trained.values
            self._trained.assign({name: leaf + rate * displacement[name] for name, leaf in start.items()})
        return {"displacement_norm": float(flat.norm()), "outer_lr": rate}

    def displacement(self, support: list[Episodes], importance: Tensor | None = None) -> Parameters:
        """Mean over tasks of φ_K − θ, each times its importance (M,), by leaf."""
        num_tasks = len(support[0].obs) * num_processes()

        def of_chunk(tasks: slice) -> Tensor:
            start = expand_to_tasks(self._trained.values, len(batches[0].tasks(tasks).obs))
            params = start
            for step, batch in enumerate(batches):
                params = self._adaptation.step(params, batch.tasks(tasks), step)
            moved = {name: params[name] - leaf for name, leaf in start.items()}
            if importance is not None:
                moved = {n: importance[tasks].to(v).reshape(-1, *(1,) * (v.ndim - 1)) * v for n, v in moved.items()}
            return flatten(leaf.sum(dim=0) for leaf in moved.values())

        batches = [self._adaptation.batch(episodes) for episodes in support]
        parts = self._pool.map(of_chunk, task_slices(batches[0].obs, self._task_chunk))
        mean = sum_over_processes(torch.stack(parts).sum(dim=0)) / num_tasks
        return unflatten_like(mean, self._trained.values)
