"""MAML policy gradient: MAML-TRPO, ProMP, E-MAML, FOMAML, ANIL, Meta-SGD, per-step rates: one implementation."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.agents.gradients import objectives
from metarl.agents.gradients.adaptation_path import (
    AdaptationPath,
    ObjectiveAt,
    Rates,
    Trajectory,
    as_leaves,
    gradient_step,
)
from metarl.agents.gradients.forward_pass import Outputs
from metarl.agents.gradients.objectives import Batch, mean_over_steps
from metarl.agents.gradients.parallel import ChunkPool, task_slices
from metarl.agents.gradients.processes import mean_over_tasks, num_processes, sum_over_processes
from metarl.agents.gradients.trust_region import LinearMap, TrustRegionConfig, trpo_step
from metarl.agents.learner import Adapted
from metarl.agents.policies.distributions import ActionDistribution
from metarl.agents.policies.mlp import LOG_STD, MLPPolicy, PolicyConfig
from metarl.agents.policies.optimizer import TrainedParameters
from metarl.agents.policies.parameters import (
    Parameters,
    concatenate,
    expand_to_tasks,
    flatten,
    map_parameters,
    tasks_of,
    unflatten_like,
)
from metarl.agents.policies.validation import check_values
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task


@dataclass(frozen=True)
class MAMLConfig:
    """MAML policy gradient: MAML-TRPO, ProMP, E-MAML, FOMAML, ANIL, Meta-SGD, learned rates per step.

    Attributes:
        policy: the policy network.
        adaptation_steps: K, policy-gradient steps on a new task that training optimises for.
        inner_lr: rate of the inner step, plain SGD on advantages normalised per task and step.
        inner_lr_decay: factor by which the rate shrinks from one inner step to the next; not with "meta-sgd".
        log_std_lr_factor: factor on the inner rate of the policy's log standard deviation; above 1, exploration
            noise shrinks faster as the policy adapts.
        inner_lr_mode: "fixed"; "meta-sgd" learns a rate for every single parameter, shared by the steps (Li et al.
            2017); "per-step" learns one for every tensor and step (LSLR of MAML++, Antoniou et al. 2019);
            "meta-sgd-per-step" learns one for every single parameter and step.
        estimator: inner surrogate: "lvc" likelihood ratio (ProMP's low-variance curvature), "dice" unbiased,
            "plain" log-likelihood, which drops the credit to pre-update sampling.
        first_order: FOMAML: ignore how the inner step depends on the meta-parameters.
        adapted_layers: "all"; "head" adapts the last layer and a Gaussian's log standard deviation only (ANIL); the
            layers below are meta-learned and shared by all tasks.
        exploration_credit: weight of the credit that the actions of the support batches get for the return after the
            last step (E-MAML), standardised over tasks; 0: none.
        objective_steps: "last": improve the return after step K; "all": the mean over the returns after steps
            1 … K, the support batches serving as queries of the step before them (multi-step loss of MAML++).
        outer: "trpo" (MAML-TRPO) or "ppo" (ProMP: clipped surrogate, Adam, inner KL penalty).
        outer_lr: ppo: Adam's rate.
        outer_lr_decay: ppo: factor by which Adam's rate shrinks from one meta-update to the next.
        outer_epochs: ppo: gradient steps on each batch.
        clip: ppo: clip range ε of the likelihood ratio.
        inner_kl_penalty: ppo: weight η of the KL between each support batch's policy and its new counterpart.
        trust_region: trpo: bounds on the change of the policies after step K, and iterations.
        gamma: discount γ.
        gae_lambda: λ of the advantages; 1 gives returns minus baseline.
        fvp_fraction: trpo: share of each task's episodes on which Fisher products are estimated.
        fvp_memory: trpo: megabytes for derivatives that are kept from one Fisher product to the next; the rest is
            computed anew each time, with the same result.
        task_chunk: tasks that are handled at once: small chunks stay in a CPU's cache and spread over its cores; 0
            takes as many as hold 4,000 steps on a CPU and a million on a GPU.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    adaptation_steps: int = 1
    inner_lr: float = 0.1
    inner_lr_decay: float = 1.0
    log_std_lr_factor: float = 1.0
    inner_lr_mode: Literal["fixed", "meta-sgd", "per-step", "meta-sgd-per-step"] = "fixed"
    estimator: Literal["lvc", "dice", "plain"] = "lvc"
    first_order: bool = False
    adapted_layers: Literal["all", "head"] = "all"
    exploration_credit: float = 0.0
    objective_steps: Literal["last", "all"] = "last"
    outer: Literal["trpo", "ppo"] = "trpo"
    outer_lr: float = 1e-3
    outer_lr_decay: float = 1.0
    outer_epochs: int = 5
    clip: float = 0.3
    inner_kl_penalty: float = 5e-4
    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    gamma: float = 0.99
    gae_lambda: float = 1.0
    fvp_fraction: float = 0.2
    fvp_memory: float = 512
    task_chunk: int = 0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(
            self,
            at_least_one=("adaptation_steps", "outer_epochs"),
            positive=("inner_lr", "inner_lr_decay", "log_std_lr_factor", "outer_lr", "outer_lr_decay", "clip"),
            not_negative=("inner_kl_penalty", "exploration_credit", "fvp_memory", "task_chunk"),
            probabilities=("gamma", "gae_lambda"),
        )
        if not 0 < self.fvp_fraction <= 1:
            raise ValueError(f"fvp_fraction must be above 0 and at most 1, got {self.fvp_fraction}")


_RATE = "inner_lr."  # prefix of learned rates among the meta-parameters


class MAML:
    """Model-agnostic meta-learning of a policy, batched over tasks.

    Inner step, for each task:  θ_{k+1} = θ_k + α_k ∇ J_inner(θ_k; support_k)
    Outer:                      maximise over θ_0  mean over tasks of J_outer(θ_K; query)

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", algorithm 3; Rothfuss et al. 2019, "ProMP"; exploration
        credit: Stadie et al. 2018, "Some Considerations on Learning to Explore via Meta-RL" (E-MAML), in the scale
        of the normalised advantages; head only: Raghu et al. 2020, "Rapid Learning or Feature Reuse?" (ANIL).

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
        config: MAMLConfig,
        generator: torch.Generator,
        num_threads: int = 1,
    ) -> None:
        self.config = config
        self.policy = MLPPolicy(observation_space, action_space, config.policy)
        self.adaptation_steps = config.adaptation_steps
        self.support_batches, self.collects_query = config.adaptation_steps, True
        initial = self.policy.init(generator)
        self._adapted_names = set(self.policy.head_names if config.adapted_layers == "head" else initial)
        self._trained = TrainedParameters(initial | self._initial_rates(initial))
        self._meta = self._trained.values
        self._pool = ChunkPool(num_threads)
        self._objective = objectives.INNER_OBJECTIVES[config.estimator]

    # ------------------------------------------------------------------ adaptation

    def begin(self, num_tasks: int) -> Adapted:
        """See MetaLearner.begin."""
        start = map_parameters(torch.clone, self._policy_part(self._meta))  # a meta-update writes in place
        return Adapted(expand_to_tasks(start, num_tasks), steps=0)

    def adapt(self, adapted: Adapted, episodes: Episodes) -> Adapted:
        """See MetaLearner.adapt."""
        batch, rates = self._batch(episodes), self._rates(self._meta, adapted.steps)

        def of_chunk(tasks: slice) -> Parameters:
            params = tasks_of(adapted.params, tasks)
            gradient = ObjectiveAt(self.policy, params, batch.tasks(tasks), self._objective).gradient
            return gradient_step(params, gradient, rates)

        parts = self._pool.map(of_chunk, self._chunks(batch))
        return Adapted(concatenate(parts), adapted.steps + 1)

    def _initial_rates(self, parameters: Parameters) -> Parameters:
        """Learned rates, leaves (1, …) shared by the steps or (K, …) one for each; … is 1s or the parameter's shape."""
        mode, steps = self.config.inner_lr_mode, range(self.adaptation_steps)
        if mode == "fixed":
            return {}
        rates = {}
        for name, leaf in ((name, parameters[name]) for name in parameters if name in self._adapted_names):
            shape = leaf.shape if mode in ("meta-sgd", "meta-sgd-per-step") else (1,) * leaf.ndim
            scheduled = [self._fixed_rate(name, step) for step in (steps if mode != "meta-sgd" else [0])]
            rates[_RATE + name] = torch.stack([leaf.new_full(shape, rate) for rate in scheduled])
        return rates

    def _fixed_rate(self, name: str, step: int) -> float:
        """Rate of a parameter at a step before any is learned."""
        factor = self.config.log_std_lr_factor if name == LOG_STD else 1.0
        return factor * self.config.inner_lr * self.config.inner_lr_decay**step

    def _rates(self, meta: Parameters, step: int) -> Rates:
        """Inner rates of a step; steps beyond those trained use the last learned ones."""
        if self.config.inner_lr_mode == "fixed":
            return {name: self._fixed_rate(name, step) for name in self._adapted_names}
        return self._learned_rates(meta, step)

    def _learned_rates(self, leaves: Parameters, step: int) -> Parameters:
        """What leaves shaped as the meta-parameters hold for the learned rates of a step; none if rates are fixed."""
        learned = {name: leaves[_RATE + name] for name in self._adapted_names if _RATE + name in leaves}
        return {name: leaf[min(step, len(leaf) - 1)] for name, leaf in learned.items()}

    # ------------------------------------------------------------------ meta-update

    def meta_update(
        self,
        support: list[Episodes],
        query: Episodes | None,
        progress: float = 0.0,
        tasks: Task | None = None,
        importance: Tensor | None = None,
    ) -> dict[str, float]:
        """See MetaLearner.meta_update; the trust region's KL weighs all tasks the same."""
        assert query is not None
        return self._update(self._batches(support, query), importance)

    def _update(self, batches: list[Batch], importance: Tensor | None) -> dict[str, float]:
        """Improve the meta-parameters on support batches and query; returns metrics."""
        batches = [*batches[:-1], batches[-1].weighted(importance)]
        metrics = self._ppo_update(batches) if self.config.outer == "ppo" else self._trpo_update(batches)
        with torch.no_grad():
            entropy = mean_over_tasks(mean_over_steps(batches[-1], self._behaviour(batches[-1]).entropy()))
        return metrics | {"entropy": float(entropy)}

    def meta_gradient(self, support: list[Episodes], query: Episodes, importance: Tensor | None = None) -> Parameters:
        """Gradient of the outer objective (to be maximised) at the current meta-parameters, by leaf."""
        batches = self._batches(support, query)
        _, gradient, _ = self._value_and_gradient([*batches[:-1], batches[-1].weighted(importance)])
        return gradient

    def _trpo_update(self, batches: list[Batch]) -> dict[str, float]:
        value, gradient, trajectory = self._value_and_gradient(batches)
        flat_gradient = flatten(gradient.values())
        start = flatten(self._meta.values())

        def evaluate(candidate: Tensor) -> tuple[float, float]:
            surrogate, kl = self._surrogate_and_kl(unflatten_like(candidate, self._meta), batches)
            return surrogate - value, kl

        fisher_product = self._fisher_product(batches, trajectory)
        step = trpo_step(start, flat_gradient, fisher_product, evaluate, self.config.trust_region)
        if step.accepted:
            self._trained.assign(unflatten_like(step.parameters, self._meta))
        return {
            "surrogate": value,
            "surrogate_improvement": step.improvement,
            "kl": step.kl,
            "gradient_norm": float(flat_gradient.norm()),
            "line_search_trials": float(step.trials),
            "step_accepted": float(step.accepted),
        }

    def _ppo_update(self, batches: list[Batch]) -> dict[str, float]:
        before, first_value, first_norm = self.state_dict(), 0.0, 0.0
        updates = self._trained.adam_steps // self.config.outer_epochs
        lr = self.config.outer_lr * self.config.outer_lr_decay**updates
        for epoch in range(self.config.outer_epochs):
            try:
                value, gradient, _ = self._value_and_gradient(batches)
            except FloatingPointError:
                self.load_state_dict(before)
                raise
            if epoch == 0:
                first_value, first_norm = value, float(flatten(gradient.values()).norm())
            self._trained.ascend(gradient, lr)
        last_value, kl = self._surrogate_and_kl(self._meta, batches)
        return {
            "surrogate": first_value,
            "surrogate_improvement": last_value - first_value,
            "kl": kl,
            "gradient_norm": first_norm,
        }

    def _value_and_gradient(self, batches: list[Batch]) -> tuple[float, Parameters, Trajectory]:
        """Outer objective (mean over tasks), its gradient by leaf, and the trajectory of the adaptation.

        Raises:
            FloatingPointError: the gradient is not finite.
        """
        num_tasks = len(batches[0].obs) * num_processes()

        def of_chunk(tasks: slice) -> tuple[Tensor, Trajectory]:
            chunk = [batch.tasks(tasks) for batch in batches]
            path = self._path(self._meta, chunk, second_order=not self.config.first_order)
            outputs = [as_leaves(output) for output in path.outputs]
            total = self._score([self.policy.distribution(output) for output in outputs], chunk).sum() / num_tasks
            leaves = [leaf for output in outputs for leaf in output.values()]
            slopes = iter(torch.autograd.grad(total, leaves, allow_unused=True))
            cotangents = [{name: next(slopes) for name in output} for output in outputs]
            gradient = self._vjp(path, [None if None in u.values() else u for u in cotangents])
            return torch.cat([total.detach().reshape(1), gradient]), path.trajectory

        sums, parts = zip(*self._pool.map(of_chunk, self._chunks(batches[-1])), strict=True)
        summed = sum_over_processes(torch.stack(sums).sum(dim=0))
        gradient = summed[1:]
        if not bool(torch.isfinite(gradient).all()):
            raise FloatingPointError("the meta-gradient is not finite")
        return float(summed[0]), unflatten_like(gradient, self._meta), Trajectory.concatenate(parts)

    def _score(self, policies: list[ActionDistribution], batches: list[Batch]) -> Tensor:
        """Outer objective of each task given its policies after 0 … K steps, times its importance, (M,)."""
        config = self.config
        scored = list(zip(policies, batches, strict=True))[1 if config.objective_steps == "all" else -1 :]
        surrogates = [self._surrogate(batch, policy) for policy, batch in scored]
        total = torch.stack(surrogates).mean(dim=0)
        before = list(zip(policies[:-1], batches[:-1], strict=True))  # none where a student is matched unadapted
        if before and config.outer == "ppo" and config.inner_kl_penalty > 0:
            kls = [mean_over_steps(batch, self._behaviour(batch).kl(policy)) for policy, batch in before]
            total = total - config.inner_kl_penalty * torch.stack(kls).mean(dim=0)
        if before and config.exploration_credit > 0:
            credits = [
                self._surrogate(replace(batch, advantage=batch.credit[:, None, None]), policy)
                for policy, batch in before
            ]
            total = total + config.exploration_credit * torch.stack(credits).mean(dim=0)
        return batches[-1].importance * total

    def _surrogate(self, batch: Batch, policy: ActionDistribution) -> Tensor:
        if self.config.outer == "ppo":
            return objectives.clipped_surrogate(batch, policy, self.config.clip)
        return objectives.likelihood_ratio(batch, policy)

    def _surrogate_and_kl(self, meta: Parameters, batches: list[Batch]) -> tuple[float, float]:
        """Outer objective and mean KL from the adapted policies that collected the query, over all tasks."""

        def of_chunk(tasks: slice) -> Tensor:
            chunk = [batch.tasks(tasks) for batch in batches]
            with torch.no_grad():
                policies = self._policies(meta, chunk)
                kl = mean_over_steps(chunk[-1], self._behaviour(chunk[-1]).kl(policies[-1]))
                return torch.stack([self._score(policies, chunk).sum(), kl.sum()])

        totals = sum_over_processes(torch.stack(self._pool.map(of_chunk, self._chunks(batches[-1]))).sum(dim=0))
        surrogate, kl = (totals / (len(batches[0].obs) * num_processes())).tolist()
        return surrogate, kl

    def _fisher_product(self, batches: list[Batch], trajectory: Trajectory) -> LinearMap:
        """v ↦ F v for the mean KL of the adapted policies: Gauss-Newton, Jᵀ F_π J with J through the adaptation.

        Equal to the Hessian of the mean KL at the parameters that collected the query, where the KL's own gradient
        vanishes. With `fvp_fraction` below 1 it is estimated on the first episodes of each task, support batches
        included: θ_0 … θ_K stay those of all the episodes.

        The derivatives at θ_0 … θ_K are prepared once and serve every product, as far as `fvp_memory` goes; those of
        the other chunks of tasks are prepared anew each time. The products are the same.

        Source: Martens 2010, "Deep learning via Hessian-free optimization", section 4.2 (Gauss-Newton products).
        """
        num_tasks = len(batches[0].obs) * num_processes()
        sampled = [batch.first_episodes(self.config.fvp_fraction) for batch in batches]

        def prepare(tasks: slice) -> tuple[AdaptationPath, Batch]:
            chunk = [batch.tasks(tasks) for batch in sampled]
            return self._path(self._meta, chunk, not self.config.first_order, trajectory.tasks(tasks)), chunk[-1]

        def product(path: AdaptationPath, query: Batch, vector: Tensor) -> Tensor:
            change = unflatten_like(vector, self._meta)
            start = expand_to_tasks(self._policy_part(change), len(query.obs))
            steps = range(len(batches) - 1)
            pushed = path.jvp(start, [self._learned_rates(change, step) for step in steps])
            information = self._behaviour(query).fisher_product(pushed)
            weight = query.weight.unsqueeze(-1)
            pulled = {name: (leaf * weight).sum_to_size(pushed[name].shape) for name, leaf in information.items()}
            return self._vjp(path, [*(None for _ in steps), pulled])

        chunks = self._chunks(sampled[-1])
        kept = self._pool.map(prepare, chunks[: self._num_kept(sampled, chunks)])

        def total(vector: Tensor) -> Tensor:
            def of_chunk(index: int) -> Tensor:
                return product(*(kept[index] if index < len(kept) else prepare(chunks[index])), vector)

            parts = torch.stack(self._pool.map(of_chunk, range(len(chunks))))
            return sum_over_processes(parts.sum(dim=0)) / num_tasks

        return total

    def _num_kept(self, batches: list[Batch], chunks: list[slice]) -> int:
        """How many chunks' prepared paths fit into `fvp_memory`."""
        passes = 4 * (len(batches) - 1) + 2  # arrays of hidden units for a support batch and for the query
        obs = batches[-1].tasks(chunks[0]).obs
        size = obs[..., 0].numel() * sum(self.policy.sizes[1:-1]) * passes * obs.element_size()
        return min(len(chunks), int(self.config.fvp_memory * 1e6) // max(size, 1))

    # ------------------------------------------------------------------ small parts

    def _path(
        self, meta: Parameters, batches: list[Batch], second_order: bool = False, known: Trajectory | None = None
    ) -> AdaptationPath:
        """Adaptation from the meta-parameters through the support batches, then the network on the query."""
        start = expand_to_tasks(self._policy_part(meta), len(batches[0].obs))
        rates = [self._rates(meta, step) for step in range(len(batches) - 1)]
        return AdaptationPath(self.policy, start, rates, batches, self._objective, second_order, known)

    def _policies(self, meta: Parameters, batches: list[Batch]) -> list[ActionDistribution]:
        """Adapt from the meta-parameters and act on every batch: the policies after 0 … K steps."""
        return [self.policy.distribution(outputs) for outputs in self._path(meta, batches).outputs]

    def _vjp(self, path: AdaptationPath, cotangents: list[Outputs | None]) -> Tensor:
        """The path's gradient by the meta-parameters, flat, summed over its tasks."""
        start, by_rates = path.vjp(cotangents)
        gradient = {name: leaf.sum(dim=0) for name, leaf in start.items()}
        for name, rate in self._meta.items():
            if name not in gradient:
                gradient[name] = torch.zeros_like(rate)
        for step, rates in enumerate(by_rates):
            for name, total in self._learned_rates(gradient, step).items():  # views: what is added lands in `gradient`
                total += rates[name].sum(dim=0).sum_to_size(total.shape)
        return flatten(gradient[name] for name in self._meta)

    def _behaviour(self, batch: Batch) -> ActionDistribution:
        return self.policy.distribution(batch.behaviour)

    def _batch(self, episodes: Episodes) -> Batch:
        return Batch.of(self.policy, episodes, self.config.gamma, self.config.gae_lambda)

    def _batches(self, support: list[Episodes], query: Episodes) -> list[Batch]:
        """Support batches and query made ready; with exploration credit, what the support batches earned for it.

        The credit of a task's support batches is its return after the last step minus the mean of the other tasks',
        over the standard deviation: a baseline that does not depend on the task's own samples.
        """
        batches = [self._batch(episodes) for episodes in (*support, query)]
        if self.config.exploration_credit == 0:
            return batches
        returns = query.returns.mean(dim=1)
        num_tasks, mean = len(returns) * num_processes(), mean_over_tasks(returns)
        others = (num_tasks * mean - returns) / max(num_tasks - 1, 1)
        credit = (returns - others) / (mean_over_tasks((returns - mean).square()).sqrt() + 1e-8)
        return [replace(batch, credit=credit) for batch in batches]

    def _chunks(self, batch: Batch) -> list[slice]:
        return task_slices(batch.obs, self.config.task_chunk)

    def _policy_part(self, meta: Parameters) -> Parameters:
        return {name: leaf for name, leaf in meta.items() if not name.startswith(_RATE)}

    # ------------------------------------------------------------------ persistence

    def state_dict(self) -> dict[str, Tensor]:
        """See MetaLearner.state_dict."""
        return self._trained.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See MetaLearner.load_state_dict."""
        self._trained.load_state_dict(state)
