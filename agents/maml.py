"""MAML policy gradient: MAML-TRPO, ProMP, E-MAML, FOMAML, ANIL, Meta-SGD, per-step rates: one implementation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from metarl.agents.gradients.adaptation_path import ObjectiveAt, gradient_step
from metarl.agents.gradients.inner_rates import InnerRateMode, InnerRates, RateSchedule, without_rates
from metarl.agents.gradients.meta_objective import MetaObjective
from metarl.agents.gradients.objectives import (
    INNER_OBJECTIVES,
    Batch,
    ClippedSurrogate,
    Objective,
    OuterObjective,
    exploration_credit,
    likelihood_ratio,
    mean_over_steps,
)
from metarl.agents.gradients.outer_updates import OuterUpdate, ProximalUpdate, TrustRegionUpdate
from metarl.agents.gradients.processes import mean_over_tasks
from metarl.agents.gradients.trust_region import TrustRegionConfig
from metarl.agents.learner import Agent, GradientLearner, MetaBatch, Sampling
from metarl.agents.policies.cnn import require_written_out
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import Parameters
from metarl.agents.policies.validation import check_values
from metarl.envs.rollout import Episodes


@dataclass(frozen=True)
class MAMLConfig:
    """MAML policy gradient: MAML-TRPO, ProMP, E-MAML, FOMAML, ANIL, Meta-SGD, learned rates per step.

    Attributes:
        policy: the policy network.
        adaptation_steps: K, policy-gradient steps on a new task that training optimises for.
        inner_lr: rate of the inner step, plain SGD on advantages normalised per task and step.
        inner_lr_decay: factor by which the rate shrinks from one inner step to the next, the last time beyond step K;
            not with "meta-sgd".
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
            last step (E-MAML), standardised over tasks; 0 = none.
        objective_steps: "last": improve the return after step K; "all": the mean over the returns after steps
            1 … K, the support batches serving as queries of the step before them (multi-step loss of MAML++); "all+0":
            over k = 0 … K, so that the return before adaptation counts as well.
        outer: "trpo" (MAML-TRPO) or "ppo" (ProMP: clipped surrogate, Adam, inner KL penalty).
        outer_lr: ppo: Adam's rate.
        outer_lr_decay: ppo: factor by which Adam's rate shrinks from one meta-update to the next, however many follow.
        outer_lr_final: ppo: share of Adam's rate that is left at the end of the training; it shrinks geometrically with
            progress, so that a longer training shrinks it more slowly.
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
            = as many as hold 4000 steps on a CPU and a million on a GPU.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    adaptation_steps: int = 1
    inner_lr: float = 0.1
    inner_lr_decay: float = 1.0
    log_std_lr_factor: float = 1.0
    inner_lr_mode: InnerRateMode = "fixed"
    estimator: Literal["lvc", "dice", "plain"] = "lvc"
    first_order: bool = False
    adapted_layers: Literal["all", "head"] = "all"
    exploration_credit: float = 0.0
    objective_steps: Literal["last", "all", "all+0"] = "last"
    outer: Literal["trpo", "ppo"] = "trpo"
    outer_lr: float = 1e-3
    outer_lr_decay: float = 1.0
    outer_lr_final: float = 1.0
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
            positive=(
                "inner_lr",
                "inner_lr_decay",
                "log_std_lr_factor",
                "outer_lr",
                "outer_lr_decay",
                "outer_lr_final",
                "clip",
            ),
            not_negative=("inner_kl_penalty", "exploration_credit", "fvp_memory", "task_chunk"),
            probabilities=("gamma", "gae_lambda"),
        )

        if not 0 < self.fvp_fraction <= 1:
            raise ValueError(f"fvp_fraction must be above 0 and at most 1, got {self.fvp_fraction}")


class MAML(GradientLearner[MAMLConfig]):
    """Model-agnostic meta-learning of a policy, batched over tasks.

    Inner step, for each task:  θ_{k+1} = θ_k + α_k ∇ J_inner(θ_k; support_k)
    Outer:                      maximise over θ_0  mean over tasks of J_outer(θ_K; query)

    It begins at θ_0, adapts by inner steps, and updates θ_0 and the learned α through them. The parts that the
    variants differ in stand in `metarl.agents.gradients`: the rates α (`inner_rates`), J_inner and J_outer
    (`objectives`), the derivatives of J_outer through the adaptation (`meta_objective`) and the steps taken along
    them (`outer_updates`).

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", algorithm 3; Rothfuss et al. 2019, "ProMP"; exploration
        credit: Stadie et al. 2018, "Some Considerations on Learning to Explore via Meta-RL" (E-MAML), in the scale
        of the normalised advantages; head only: Raghu et al. 2020, "Rapid Learning or Feature Reuse?" (ANIL).

    Attributes:
        inner_rates: α.
        objective: the outer objective as a function of the meta-parameters.
        outer_update: the step that a meta-update takes.
    """

    def setup(self, initial: Parameters) -> Parameters:
        """See GradientLearner.setup; learned inner rates are meta-trained beside the policy."""
        config = self.config
        require_written_out(self.policy, type(self).__name__)
        self.sampling = Sampling(config.adaptation_steps, support=config.adaptation_steps, query=True)

        adapted = list(initial) if config.adapted_layers == "all" else list(self.policy.head_names)
        schedule = RateSchedule(config.inner_lr, config.inner_lr_decay, config.log_std_lr_factor)
        self.inner_rates = InnerRates(schedule, config.inner_lr_mode, adapted, config.adaptation_steps)

        self.objective = MetaObjective(
            self.policy,
            self.inner_rates,
            INNER_OBJECTIVES[config.estimator],
            self._outer_objective(),
            second_order=not config.first_order,
            pool=self.pool,
        )
        self.outer_update = self._outer_update()
        return initial | self.inner_rates.initial(initial)

    def _outer_objective(self) -> OuterObjective:
        """TRPO bounds the KL of the adapted policies; PPO penalises that of the policies on the way."""
        config = self.config
        return OuterObjective(
            self.policy,
            self.surrogate(),
            every_step=config.objective_steps != "last",
            before_adaptation=config.objective_steps == "all+0",
            inner_kl_penalty=config.inner_kl_penalty if config.outer == "ppo" else 0.0,
            exploration_credit=config.exploration_credit,
        )

    def _outer_update(self) -> OuterUpdate:
        config = self.config
        if config.outer == "ppo":
            return ProximalUpdate(
                self.objective, config.outer_lr, config.outer_lr_decay, config.outer_epochs, config.outer_lr_final
            )
        return TrustRegionUpdate(self.objective, config.trust_region, config.fvp_fraction, config.fvp_memory)

    # ------------------------------------------------------------------ begin and adapt

    @property
    def initial_policy(self) -> Parameters:
        """See GradientLearner.initial_policy."""
        return without_rates(self.meta_parameters)

    def batch(self, episodes: Episodes) -> Batch:
        """See GradientLearner.batch."""
        return Batch.of(self.policy, episodes, self.config.gamma, self.config.gae_lambda)

    def adaptation_step(self, params: Parameters, batch: Batch, step: int) -> Parameters:
        """See GradientLearner.adaptation_step."""
        gradient = ObjectiveAt(self.policy, params, batch, self.objective.inner_objective).gradient
        return gradient_step(params, gradient, self.inner_rates.at(self.meta_parameters, step))

    # ------------------------------------------------------------------ update

    def kept_bytes(self, num_tasks: int, episodes: int, horizon: int) -> int:
        """See Learner.kept_bytes: the derivatives that are kept from one Fisher product to the next."""
        config = self.config
        if config.outer != "trpo":
            return 0

        steps = num_tasks * max(1, round(config.fvp_fraction * episodes)) * horizon
        arrays = 4 * self.sampling.support + 2
        everything: int = torch.float32.itemsize * steps * arrays * sum(self.policy.sizes[1:-1])
        return min(everything, int(config.fvp_memory * 1e6))

    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """See Learner.update; the trust region's KL weighs all tasks the same."""
        assert meta_batch.query is not None
        batches = self.batches(meta_batch.support, meta_batch.query)
        return self.improve(batches, meta_batch.importance, meta_batch.progress)

    def improve(self, batches: Sequence[Batch], importance: Tensor | None, progress: float = 0.0) -> dict[str, float]:
        """Improve the meta-parameters on support batches and query; returns metrics.

        Args:
            batches: support batches and query.
            importance: weights of the tasks, (M,).
            progress: share of the training that is done, 0 … 1.

        Raises:
            FloatingPointError: a gradient is not finite; the meta-parameters are as they were.
        """
        *support, query = batches
        with self.optimizer.all_or_nothing():
            metrics = self.outer_update(self.optimizer, [*support, query.weighted(importance)], progress)

        with torch.no_grad():
            entropy = mean_over_steps(query, self.policy.distribution(query.behaviour).entropy())
        return metrics | {"entropy": float(mean_over_tasks(entropy))}

    def meta_gradient(self, support: list[Episodes], query: Episodes, importance: Tensor | None = None) -> Parameters:
        """Gradient of the outer objective (to be maximised) at the current meta-parameters, by leaf."""
        *support_batches, query_batch = self.batches(support, query)
        batches = [*support_batches, query_batch.weighted(importance)]
        _, gradient, _ = self.objective.value_and_gradient(self.meta_parameters, batches)
        return gradient

    def batches(self, support: list[Episodes], query: Episodes) -> list[Batch]:
        """Support batches and query made ready; with exploration credit, what the support batches earned for it."""
        episodes = (*support, query)
        if self.pool.graphs is None:
            batches = self.pool.map(self.batch, episodes)
        else:
            batches = [self.pool.run(self.batch, part) for part in episodes]
        if self.config.exploration_credit == 0:
            return batches

        credit = exploration_credit(query)
        return [replace(batch, credit=credit) for batch in batches]

    def surrogate(self) -> Objective:
        """What the outer objective rewards on one batch. A subclass may reward something else."""
        return ClippedSurrogate(self.config.clip) if self.config.outer == "ppo" else likelihood_ratio


AGENT = Agent("maml", MAMLConfig, MAML)
