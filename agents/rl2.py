"""RL²: a recurrent policy whose adaptation to a task is what it remembers of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from gymnasium.spaces import Box
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.agents.gradients.parallel import ChunkPool, task_slices
from metarl.agents.gradients.processes import mean_over_tasks, num_processes, sum_over_processes
from metarl.agents.learner import Adapted, Agent, Learner, MetaBatch, Preset, Sampling
from metarl.agents.policies.memory.base import REWARD_SCALE, Distribution, MemoryPolicy, RecurrentConfig
from metarl.agents.policies.memory.make import make_memory_policy
from metarl.agents.policies.optimizer import MetaOptimizer
from metarl.agents.policies.parameters import (
    Parameters,
    check_finite,
    concatenate,
    expand_to_tasks,
    flatten,
    map_parameters,
    unflatten_like,
)
from metarl.agents.policies.validation import check_values
from metarl.envs.rollout import Episodes
from metarl.envs.spaces.action_map import PolicySpace


@dataclass(frozen=True)
class RL2Config:
    """RL²: a recurrent policy, trained by PPO to earn most in whole trials of several episodes, adapts in its memory.

    Attributes:
        policy: the policy network.
        trial_episodes: n, episodes of a trial; the memory is kept from one to the next, and empty before the first.
        outer_lr: Adam's rate.
        annealing: "linear": Adam's rate falls linearly to 0 at the end of training; "none".
        outer_epochs: passes over the trials of each meta-iteration.
        minibatches: parts that the trials are divided into, with a step of Adam for each; trials stay whole.
        clip: clip range ε of the likelihood ratio.
        value_weight: weight of the squared error of the value function, in units of the scale of returns.
        entropy_bonus: weight of the policy's entropy.
        entropy_annealing: "linear": that weight falls linearly to 0 at the end of training; "none".
        max_gradient_norm: longer gradients are scaled down to this norm; 0 = they are not.
        gamma: discount γ, over the steps of the whole trial.
        gae_lambda: λ of the advantages.
        raw_advantages: advantages keep their mean and scale, instead of 0 and 1 over the trials of a meta-iteration.
        raw_rewards: the policy sees rewards as they are, not divided by their root mean square over the training.
        truncation: steps after which no gradient flows back through the memory; 0 = it flows through whole trials.
    """

    policy: RecurrentConfig = field(default_factory=RecurrentConfig)
    trial_episodes: int = 2
    outer_lr: float = 1e-3
    annealing: Literal["linear", "none"] = "linear"
    outer_epochs: int = 8
    minibatches: int = 4
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_bonus: float = 0.01
    entropy_annealing: Literal["linear", "none"] = "none"
    max_gradient_norm: float = 0.5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    raw_advantages: bool = False
    raw_rewards: bool = False
    truncation: int = 0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(
            self,
            at_least_one=("trial_episodes", "outer_epochs", "minibatches"),
            positive=("outer_lr", "clip"),
            not_negative=("value_weight", "entropy_bonus", "max_gradient_norm", "truncation"),
            probabilities=("gamma", "gae_lambda"),
        )


@dataclass(frozen=True)
class Trials:
    """N whole trials of at most T steps: the episodes of each one after another, without gaps, then padding.

    Attributes:
        obs: (N, T, O).
        action: (N, T, A), or (N, T) integers.
        reward: (N, T), 0 in the padding.
        begins: 1 at the first step of each episode, (N, T).
        mask: 1 where a step was really taken, (N, T).
        behaviour: parameters of the distribution each action was sampled from, leaves (N, T, …).
        weight: importance of each trial's task, (N,).
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    begins: Tensor
    mask: Tensor
    behaviour: dict[str, Tensor]
    weight: Tensor

    @classmethod
    def of(cls, batches: Sequence[Episodes], importance: Tensor | None = None) -> "Trials":
        """Trials from the batches of their first, second, … episodes, each (M, E, H, …); N = M · E."""
        mask = torch.cat([batch.mask for batch in batches], dim=2).flatten(0, 1)

        # Steps really taken come first, in their order, so that the memory never meets a gap.
        order = torch.sort(mask, dim=1, descending=True, stable=True).indices
        whole = bool(mask.all())

        def packed(values: Sequence[Tensor]) -> Tensor:
            joined = torch.cat(list(values), dim=2).flatten(0, 1)
            if whole:
                return joined
            index = order.reshape(*order.shape, *(1,) * (joined.ndim - 2)).expand(joined.shape)
            return joined.gather(1, index)

        episodes_per_task = mask.shape[0] // len(batches[0].mask)
        weight = mask.new_ones(mask.shape[0])
        if importance is not None:
            weight = importance.to(mask).repeat_interleave(episodes_per_task)
        behaviour = {}
        for name in batches[0].behaviour:
            behaviour[name] = packed([batch.behaviour[name] for batch in batches])

        return cls(
            obs=packed([batch.obs for batch in batches]),
            action=packed([batch.action for batch in batches]),
            reward=packed([batch.reward for batch in batches]),
            begins=packed([_first_steps(batch) for batch in batches]),
            mask=packed([batch.mask for batch in batches]),
            behaviour=behaviour,
            weight=weight,
        )

    def some(self, index: Tensor | slice) -> "Trials":
        """Some of the trials."""
        behaviour = {name: leaf[index] for name, leaf in self.behaviour.items()}
        fields = {name: leaf[index] for name, leaf in vars(self).items() if name != "behaviour"}
        return Trials(**fields, behaviour=behaviour)


def _first_steps(batch: Episodes) -> Tensor:
    """1 at the first step of each episode, (M, E, H)."""
    first = torch.zeros_like(batch.mask)
    first[..., 0] = 1
    return first


pytree.register_dataclass(Trials)  # so that functions of trials can be captured


def trial_advantages(
    reward: Tensor, value: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns over whole trials.

        δ_t = r_t + γ V_{t+1} − V_t,   A_t = δ_t + γλ A_{t+1},   R_t = A_t + V_t

    A trial is one Markov decision process: an episode's end inside it is a step like any other, and its last state is
    worth nothing.

    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".

    Args:
        reward: (N, T).
        value: V, (N, T).
        mask: (N, T), 1 first and 0 where the trial is over.
        gamma: γ.
        gae_lambda: λ.

    Returns:
        A and R, (N, T), 0 where the trial is over.
    """
    value = value * mask
    advantage = torch.zeros_like(value)
    following = torch.zeros_like(value[:, 0])
    next_value = torch.zeros_like(following)

    for time in reversed(range(value.shape[1])):
        delta = reward[:, time] + gamma * next_value - value[:, time]
        following = (delta + gamma * gae_lambda * following) * mask[:, time]
        advantage[:, time] = following
        next_value = value[:, time]
    return advantage, advantage + value


class RL2(Learner):
    """RL²: PPO on whole trials, for a policy that sees actions, rewards and ends of episodes, and remembers.

        maximise over θ  E over tasks, trials of [Σ_t γ^t r_t],    a_t ~ π_θ(· | o_0, a_0, r_0, …, o_t)

    Adapting to a task is carrying the memory on from one episode to the next; no parameter changes.

    Source: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning"; Wang et al. 2016,
        "Learning to reinforcement learn". Deviations: PPO instead of TRPO, Adam without weight decay.

    Attributes:
        config: hyper-parameters.
        policy: the recurrent policy.
        optimizer: holds the meta-parameters and steps them.
        pool: unrolls chunks of trials, on a GPU as CUDA graphs.

    Args:
        observation_space: Box (O,).
        action_space: Box (A,) or Discrete.
        config: hyper-parameters.
        generator: draws the initial parameters; they lie on its device.
        num_threads: CPU threads that share the chunks of trials; changes no result.
    """

    policy: MemoryPolicy

    def __init__(
        self,
        observation_space: Box,
        action_space: PolicySpace,
        config: RL2Config,
        generator: torch.Generator,
        num_threads: int = 1,
    ) -> None:
        self.config = config
        self.policy = make_memory_policy(observation_space, action_space, config.policy)
        steps = config.trial_episodes - 1
        self.sampling = Sampling(steps, support=steps, query=True, pooled=False)

        self.pool = ChunkPool(num_threads)
        params = self.policy.init(generator)
        self._reward_scale = params.pop(REWARD_SCALE)
        self._rewards = torch.zeros(2, dtype=torch.float64)  # how many there were, and the sum of their squares
        self.optimizer = MetaOptimizer(params)

    # ------------------------------------------------------------------ begin and adapt

    @property
    def params(self) -> Parameters:
        """Shared P; all but the scale of rewards is the optimizer's own."""
        return self.optimizer.parameters | {REWARD_SCALE: self._reward_scale}

    def begin(self, num_tasks: int, generator: torch.Generator | None = None) -> Adapted:
        """See Learner.begin; nothing is remembered."""
        start = map_parameters(torch.clone, self.params)  # a meta-update writes in place
        return Adapted(expand_to_tasks(start, num_tasks))

    def adapt(self, adapted: Adapted, episodes: Episodes, generator: torch.Generator | None = None) -> Adapted:
        """See Learner.adapt: carry the memory on to the next episode of each trial."""
        return Adapted(adapted.params, self.policy.next_episode(episodes.memory), steps=adapted.steps + 1)

    # ------------------------------------------------------------------ update

    def update(self, meta_batch: MetaBatch) -> dict[str, float]:
        """See Learner.update."""
        trials = Trials.of(meta_batch.batches, meta_batch.importance)
        value_scale = self._scale_of_values(trials)
        before, value = self._unroll_all(trials)
        config = self.config
        values = value * value_scale
        advantage, returns = self.pool.run(
            trial_advantages, trials.reward, values, trials.mask, config.gamma, config.gae_lambda, fuse=False
        )
        if not config.raw_advantages:
            advantage = _normalized(advantage, trials.mask)
        old_log_prob = self.policy.distribution(trials.behaviour).log_prob(trials.action)
        targets = _Targets(advantage, returns / value_scale, old_log_prob)

        left = 1 - meta_batch.progress
        lr = config.outer_lr * (left if config.annealing == "linear" else 1)
        bonus = config.entropy_bonus * (left if config.entropy_annealing == "linear" else 1)
        with self.optimizer.all_or_nothing():
            metrics = self._improve(trials, targets, lr, bonus)
            kl = self._kl_since(trials, before)

        self._note_rewards(trials)
        explained = _explained_variance(value, targets.returns, trials.mask)
        return metrics | {"kl": kl, "explained_variance": explained, "outer_lr": lr}

    def _improve(self, trials: Trials, targets: "_Targets", lr: float, entropy_bonus: float) -> dict[str, float]:
        """All epochs over all minibatches; returns the metrics of the first pass, as means over its minibatches."""
        # The order is drawn from how far training is, so that a run that was resumed goes on with the same one.
        shuffle = torch.Generator().manual_seed(self.optimizer.adam_steps)
        num_trials = len(trials.mask)
        parts = min(self.config.minibatches, num_trials)
        first_pass: list[dict[str, float]] = []

        for epoch in range(self.config.outer_epochs):
            order = torch.randperm(num_trials, generator=shuffle).to(trials.mask.device)
            for index in order.tensor_split(parts):
                metrics = self._step(trials.some(index), targets.some(index), lr, entropy_bonus)
                if epoch == 0:
                    first_pass.append(metrics)

        means = {}
        for name in first_pass[0]:
            means[name] = sum(metrics[name] for metrics in first_pass) / len(first_pass)
        return means

    def _step(self, trials: Trials, targets: "_Targets", lr: float, entropy_bonus: float) -> dict[str, float]:
        """One step of Adam on a minibatch of whole trials."""
        bonus = trials.reward.new_tensor(entropy_bonus)
        summed, terms = self.pool.run(self._gradient, self.params, trials, targets, bonus, fuse=False)
        gradient = sum_over_processes(summed) / num_processes()
        check_finite(gradient, "the gradient is")

        norm = float(gradient.norm())
        limit = self.config.max_gradient_norm
        if limit and norm > limit:
            gradient = gradient * (limit / norm)
        self.optimizer.ascend(unflatten_like(-gradient, self.optimizer.parameters), lr)

        named = dict(zip(("surrogate", "value_error", "entropy"), terms.tolist(), strict=True))
        return named | {"gradient_norm": norm}

    def _gradient(
        self, params: Parameters, trials: Trials, targets: "_Targets", entropy_bonus: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flat gradient of the loss of a minibatch by all of P but the scale of rewards, and the loss's terms."""
        taken = trials.mask.sum()

        def of_chunk(chunk: slice) -> tuple[Tensor, Tensor]:
            own = {name: leaf.detach().clone() for name, leaf in params.items()}
            learned = [leaf.requires_grad_() for name, leaf in own.items() if name != REWARD_SCALE]
            loss, terms = self._loss(own, trials.some(chunk), targets.some(chunk), taken, entropy_bonus)
            return flatten(torch.autograd.grad(loss, learned)), terms

        parts = self.pool.map(of_chunk, _chunks(trials))
        gradients, terms = (torch.stack(list(values)).sum(dim=0) for values in zip(*parts, strict=True))
        return gradients, terms

    def _loss(
        self, params: Parameters, trials: Trials, targets: "_Targets", taken: Tensor, entropy_bonus: Tensor
    ) -> tuple[Tensor, Tensor]:
        """PPO's loss on a chunk of a minibatch: clipped surrogate, squared error of values, entropy.

        Args:
            params: P.
            trials: the chunk.
            targets: its targets.
            taken: steps of the whole minibatch, of which all terms are means.
            entropy_bonus: weight of the entropy.

        Returns:
            The loss, and its three terms without their weights, (3,).
        """
        clip = self.config.clip
        distribution, value = self._unroll(params, trials)
        weight = trials.mask * trials.weight.unsqueeze(1) / taken

        ratio = torch.exp((distribution.log_prob(trials.action) - targets.old_log_prob) * trials.mask)
        clipped = ratio.clamp(1 - clip, 1 + clip)
        surrogate = (weight * torch.minimum(ratio * targets.advantage, clipped * targets.advantage)).sum()
        value_error = (weight * (value - targets.returns).square()).sum()
        entropy = (weight * distribution.entropy()).sum()

        loss = -surrogate + self.config.value_weight * value_error - entropy_bonus * entropy
        return loss, torch.stack([surrogate, value_error, entropy]).detach()

    def _unroll(self, params: Parameters, trials: Trials) -> tuple[Distribution, Tensor]:
        """Distributions and values at every step of the trials."""
        return self.policy.unroll(
            params, trials.obs, trials.action, trials.reward, trials.begins, self.config.truncation
        )

    def _unroll_all(self, trials: Trials) -> tuple[dict[str, Tensor], Tensor]:
        """Parameters of the distributions, leaves (N, T, …), and values, (N, T), of all trials; builds no graph."""
        return self.pool.run(self._outputs, self.params, trials, fuse=False)

    def _outputs(self, params: Parameters, trials: Trials) -> tuple[dict[str, Tensor], Tensor]:
        """See `_unroll_all`."""

        def of_chunk(chunk: slice) -> tuple[dict[str, Tensor], Tensor]:
            with torch.no_grad():
                distribution, value = self._unroll(params, trials.some(chunk))
            # Some parameters are the same for all steps.
            mean = next(iter(distribution.parameters().values()))
            parameters = {name: leaf.expand_as(mean) for name, leaf in distribution.parameters().items()}
            return parameters, value

        parts = self.pool.map(of_chunk, _chunks(trials))
        distributions, values = zip(*parts, strict=True)
        return concatenate(distributions), torch.cat(values)

    def _kl_since(self, trials: Trials, before: dict[str, Tensor]) -> float:
        """Mean KL(before ‖ now) over the steps of the trials."""
        now, _ = self._unroll_all(trials)
        kl = self.policy.distribution(before).kl(self.policy.distribution(now)) * trials.mask
        return float(mean_over_tasks(kl.sum(dim=1)) / mean_over_tasks(trials.mask.sum(dim=1)))

    # ------------------------------------------------------------------ scales

    def _scale_of_values(self, trials: Trials) -> Tensor:
        """What a value of 1 stands for: the reward's scale over as many steps as the discount lets count."""
        horizon = float(trials.mask.shape[1])
        if self.config.gamma < 1:
            horizon = min(horizon, 1 / (1 - self.config.gamma))
        return self._reward_scale * horizon

    def _note_rewards(self, trials: Trials) -> None:
        """Bring the scale of rewards up to date, for the trials to come."""
        if self.config.raw_rewards:
            return
        own = torch.stack([trials.mask.sum(), trials.reward.square().sum()]).double()
        total = self._rewards + sum_over_processes(own).cpu()
        scale = (total[1] / total[0]).sqrt()

        # Where nothing was earned yet, there is no scale to divide by.
        if scale > 0:
            self._rewards = total
            self._reward_scale = scale.to(self._reward_scale)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Tensor]:
        """See Learner.state_dict."""
        scales = {"rewards": self._rewards.clone(), REWARD_SCALE: self._reward_scale.clone()}
        return self.optimizer.state_dict() | scales

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See Learner.load_state_dict."""
        own = {"rewards", REWARD_SCALE}
        missing = own - state.keys()
        if missing:
            raise ValueError(f"the state is not this learner's: {', '.join(sorted(missing))} missing")
        self.optimizer.load_state_dict({name: leaf for name, leaf in state.items() if name not in own})
        self._rewards = state["rewards"].cpu().clone()
        self._reward_scale = state[REWARD_SCALE].to(self._reward_scale.device, copy=True)


@dataclass(frozen=True)
class _Targets:
    """What a meta-update holds fixed of each step, (N, T).

    Attributes:
        advantage: of the action that was taken.
        returns: what the value should have been, in units of the scale of values.
        old_log_prob: log-probability of the action when it was taken.
    """

    advantage: Tensor
    returns: Tensor
    old_log_prob: Tensor

    def some(self, index: Tensor | slice) -> "_Targets":
        """Those of some trials."""
        return _Targets(self.advantage[index], self.returns[index], self.old_log_prob[index])


pytree.register_dataclass(_Targets)

CHUNK_STEPS = 8000
"""Steps of the trials that a CPU unrolls at once: what is kept of them for the derivative stays near its cores."""


def _chunks(trials: Trials) -> list[slice]:
    """The trials in chunks; a GPU takes as many as hold GPU_CHUNK_STEPS steps."""
    return task_slices(trials.obs.unsqueeze(1), 0, CHUNK_STEPS)


def _normalized(values: Tensor, mask: Tensor) -> Tensor:
    """Values (N, T) with mean 0 and standard deviation 1 over the steps of the trials of all processes."""
    count = mean_over_tasks(mask.sum(dim=1))
    mean = mean_over_tasks((values * mask).sum(dim=1)) / count
    centred = (values - mean) * mask
    variance = mean_over_tasks(centred.square().sum(dim=1)) / count
    return centred / (variance.sqrt() + 1e-8)


def _explained_variance(value: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Share of the variance of the returns that the values explain: 1 is all, 0 no more than their mean does."""
    taken = mask > 0
    error = (returns - value)[taken].var(unbiased=False)
    total = returns[taken].var(unbiased=False)
    return float(1 - error / total.clamp(min=1e-12))


AGENT = Agent("rl2", RL2Config, RL2, {"default": Preset("GRU of 64 units, 2 episodes a trial, PPO", {})})
