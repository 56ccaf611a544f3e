"""MAML-TRPO as one would write it first, one task after the other: the reference that `metarl bench` measures.

Gymnasium's SyncVectorEnv collects the episodes of one task; every derivative is autograd's, by `create_graph=True`.
Nothing is shared with the learner but the policy, the advantages, and the conjugate gradient and line search on the
flat vector of parameters.
"""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.gradients.objectives import Batch, mean_over_steps
from metarl.agents.gradients.trust_region import LinearMap, trpo_step
from metarl.agents.maml import MAML
from metarl.agents.policies.parameters import Parameters, flatten, unflatten_like
from metarl.envs.rollout import Episodes

TaskBatches = list[Batch]
"""Support batch and query of one task."""


class PlainLoop:
    """The work of a MAML learner with one inner step, without batching over tasks.

    Args:
        gymnasium_id: of the environment.
        learner: gives the policy, the meta-parameters and the hyper-parameters.
        episodes: E.
    """

    def __init__(self, gymnasium_id: str, learner: MAML, episodes: int) -> None:
        self._gymnasium_id = gymnasium_id
        self._learner = learner
        self._episodes = episodes
        self._generator = torch.Generator().manual_seed(0)

    @property
    def meta(self) -> Parameters:
        """The learner's meta-parameters, as leaves of new graphs."""
        return {name: leaf[0].clone().requires_grad_() for name, leaf in self._learner.begin(1).params.items()}

    def sample(self, task: dict[str, Any]) -> int:
        """Support and query rollouts of one task through SyncVectorEnv; returns environment steps."""
        envs = gymnasium.make_vec(self._gymnasium_id, self._episodes, vectorization_mode="sync", task=task)
        params = {name: leaf.detach() for name, leaf in self.meta.items()}

        env_steps = 0
        for _ in range(2):  # before and after the inner step
            # SyncVectorEnv begins anew by itself: only the first episode of each environment counts.
            obs, _ = envs.reset(seed=0)
            running = np.ones(self._episodes, dtype=bool)
            while running.any():
                obs, _, terminated, truncated, _ = envs.step(self._act(params, obs))
                env_steps += int(running.sum())
                running &= ~(terminated | truncated)

        envs.close()
        return env_steps

    @torch.no_grad()
    def _act(self, params: Parameters, obs: NDArray[Any]) -> NDArray[Any]:
        """Sampled actions, (E, *action), within their bounds."""
        distribution, _ = self._learner.policy.apply(params, torch.from_numpy(obs))
        action = distribution.sample(self._generator)
        return np.clip(action.numpy(), -1.0, 1.0) if action.is_floating_point() else action.numpy()

    def tasks(self, batches: list[Episodes]) -> list[TaskBatches]:
        """The batches of support and query, made ready task by task."""
        config = self._learner.config

        def of_task(task: int) -> TaskBatches:
            alone = [batch.tasks(slice(task, task + 1)) for batch in batches]
            return [Batch.of(self._learner.policy, episodes, config.gamma, config.gae_lambda) for episodes in alone]

        return [of_task(task) for task in range(len(batches[0].obs))]

    def adapted(self, meta: Parameters, support: Batch, create_graph: bool = False) -> Parameters:
        """The parameters after the inner step."""
        gradient = torch.autograd.grad(self._surrogate(meta, support), list(meta.values()), create_graph=create_graph)
        rate = self._learner.config.inner_lr
        return {name: leaf + rate * derivative for (name, leaf), derivative in zip(meta.items(), gradient, strict=True)}

    def gradient(self, tasks: list[TaskBatches]) -> Parameters:
        """Second-order meta-gradient, by differentiating through the inner gradient."""
        meta = self.meta

        total = {name: torch.zeros_like(leaf) for name, leaf in meta.items()}
        for support, query in tasks:
            objective = self._surrogate(self.adapted(meta, support, create_graph=True), query)
            gradient = torch.autograd.grad(objective, list(meta.values()))
            # The mean over tasks, added up so that the graph of each is freed before the next is built.
            for (name, leaf), derivative in zip(total.items(), gradient, strict=True):
                total[name] = leaf + derivative / len(tasks)
        return total

    def fisher_product(self, tasks: list[TaskBatches]) -> LinearMap:
        """v ↦ F v: the Hessian of the mean KL, of which each task keeps the graph of the gradient."""
        meta = self.meta
        fraction = self._learner.config.fvp_fraction

        gradients = []
        for support, query in tasks:
            # The policy that collected the query, differentiated through a gradient of some of the support episodes.
            estimate = self.adapted(meta, support.first_episodes(fraction), create_graph=True)
            reached = self.adapted(meta, support)
            params = {name: leaf + (reached[name] - leaf).detach() for name, leaf in estimate.items()}

            kl = self._kl(params, query.first_episodes(fraction))
            gradients.append(flatten(torch.autograd.grad(kl, list(meta.values()), create_graph=True)))

        def product(vector: Tensor) -> Tensor:
            parts = [
                torch.autograd.grad(gradient @ vector, list(meta.values()), retain_graph=True) for gradient in gradients
            ]
            return torch.stack([flatten(part) for part in parts]).mean(dim=0)

        return product

    def updated(self, tasks: list[TaskBatches], line_search_trials: int) -> Tensor:
        """The flat meta-parameters after one MAML-TRPO update with at most so many trial steps."""
        gradient = self.gradient(tasks)
        start = self.meta
        before, _ = self._surrogate_and_kl(start, tasks)

        def evaluate(candidate: Tensor) -> tuple[float, float]:
            params = {name: leaf.requires_grad_() for name, leaf in unflatten_like(candidate, start).items()}
            surrogate, kl = self._surrogate_and_kl(params, tasks)
            return surrogate - before, kl

        with torch.no_grad():
            flat = flatten(start.values())
        # As many trials as the learner's own line search took: both sides do the same work.
        config = replace(self._learner.config.trust_region, line_search_steps=line_search_trials)
        fisher = self.fisher_product(tasks)
        return trpo_step(flat, flatten(gradient.values()), fisher, evaluate, config).parameters

    def _surrogate_and_kl(self, meta: Parameters, tasks: list[TaskBatches]) -> tuple[float, float]:
        surrogate = kl = 0.0
        for support, query in tasks:
            params = self.adapted(meta, support)
            with torch.no_grad():
                surrogate += float(self._surrogate(params, query)) / len(tasks)
                kl += float(self._kl(params, query)) / len(tasks)
        return surrogate, kl

    def _surrogate(self, params: Parameters, batch: Batch) -> Tensor:
        distribution, _ = self._learner.policy.apply(params, batch.obs)
        ratio = torch.exp(distribution.log_prob(batch.action) - batch.old_log_prob)
        return (batch.weight * ratio * batch.advantage).sum()

    def _kl(self, params: Parameters, query: Batch) -> Tensor:
        policy = self._learner.policy
        distribution, _ = policy.apply(params, query.obs)
        return mean_over_steps(query, policy.distribution(query.behaviour).kl(distribution)).sum()
