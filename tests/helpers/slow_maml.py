"""Adaptation and MAML policy gradient in plain loops over tasks, episodes and steps: what the batched code must equal.

It shares no computation with `agents`: distributions are those of torch.distributions, the baseline is numpy's least
squares, and terminated episodes are cut instead of masked.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from metarl.agents.fine_tuning import AdaptationConfig
from metarl.agents.gradients.objectives import as_leaves
from metarl.agents.maml import MAMLConfig
from metarl.agents.policies.parameters import Parameters, flatten
from metarl.envs.rollout import Episodes


def to_distribution(outputs: Parameters) -> Any:
    """The policy's distribution as one of torch.distributions."""
    if "logits" in outputs:
        return Categorical(logits=outputs["logits"])
    return Independent(Normal(outputs["mean"], outputs["log_std"].exp()), 1)


def act(params: Parameters, obs: Tensor) -> Any:
    """A tanh network of one task on obs (T, O)."""
    layers = sum(name.endswith(".weight") for name in params)
    x = obs
    for layer in range(layers):
        x = x @ params[f"layer{layer}.weight"] + params[f"layer{layer}.bias"]
        if layer < layers - 1:
            x = torch.tanh(x)
    if "log_std" in params:
        return to_distribution({"mean": x, "log_std": params["log_std"]})
    return to_distribution({"logits": x})


# ---------------------------------------------------------------------- episodes and advantages


@dataclass(frozen=True)
class Episode:
    """The T steps really taken in one episode: obs (T, O), action (T, …), advantage (T,)."""

    obs: Tensor
    action: Tensor
    behaviour: Any
    advantage: Tensor


def cut(values: Tensor, episodes: Episodes, task: int) -> list[Tensor]:
    """Values (M, E, H, …) of one task, by episode, without the masked steps."""
    return [values[task, e][episodes.mask[task, e] > 0] for e in range(episodes.mask.shape[1])]


def discounted(values: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """S_t = x_t + discount · S_{t+1}."""
    sums = np.zeros(len(values) + 1)
    for t in reversed(range(len(values))):
        sums[t] = values[t] + discount * sums[t + 1]
    return sums[:-1]


def baseline_values(obs: Sequence[Tensor], targets: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Ridge regression of one task's targets on the baseline's features, as least squares with extra rows √ridge·I.

    The intercept has no extra row, so it is not shrunk.
    """
    rows = []
    for episode in obs:
        for t, o in enumerate(np.clip(episode.double().numpy(), -10, 10)):
            time = t / 100
            rows.append([*o, *o**2, time, time**2, time**3, 1.0])
    features = np.array(rows)

    size = features.shape[1] - 1
    shrinkage = np.concatenate([np.sqrt(1e-5) * np.eye(size), np.zeros((size, 1))], axis=1)
    augmented = np.concatenate([features, shrinkage])
    target = np.concatenate([*targets, np.zeros(size)])
    weights = np.linalg.lstsq(augmented, target, rcond=None)[0]
    return np.split(features @ weights, np.cumsum([len(episode) for episode in obs])[:-1])


def steady_return(rewards: Sequence[NDArray[np.float64]], gamma: float) -> list[NDArray[np.float64]]:
    """What the mean reward on every step would return, up to the end of the longest episode, by episode."""
    mean = np.concatenate(rewards).mean()
    longest = discounted(np.full(max(len(reward) for reward in rewards), mean), gamma)
    return [longest[: len(reward)] for reward in rewards]


def generalized_advantage(
    reward: NDArray[np.float64], value: NDArray[np.float64], gamma: float, gae_lambda: float
) -> NDArray[np.float64]:
    """A_t = δ_t + γλ A_{t+1} of one episode; the value after its last step counts as zero."""
    advantage = np.zeros(len(reward))
    next_value = next_advantage = 0.0
    for t in reversed(range(len(reward))):
        delta = reward[t] + gamma * next_value - value[t]
        advantage[t] = delta + gamma * gae_lambda * next_advantage
        next_value, next_advantage = value[t], advantage[t]
    return advantage


def task_advantages(
    episodes: Episodes, task: int, gamma: float, gae_lambda: float, normalized: bool = True
) -> list[NDArray[np.float64]]:
    """Advantages of one task, by episode."""
    obs = cut(episodes.obs, episodes, task)
    rewards = [reward.double().numpy() for reward in cut(episodes.reward, episodes, task)]
    steady = steady_return(rewards, gamma)
    deviations = [discounted(reward, gamma) - s for reward, s in zip(rewards, steady, strict=True)]
    values = [v + s for v, s in zip(baseline_values(obs, deviations), steady, strict=True)]
    advantages = [generalized_advantage(r, v, gamma, gae_lambda) for r, v in zip(rewards, values, strict=True)]
    if normalized:
        together = np.concatenate(advantages)
        advantages = [(a - together.mean()) / (together.std() + 1e-8) for a in advantages]
    return advantages


def task_episodes(episodes: Episodes, task: int, gamma: float, gae_lambda: float) -> list[Episode]:
    """The episodes of one task with their advantages."""
    obs, action = cut(episodes.obs, episodes, task), cut(episodes.action, episodes, task)
    behaviour = {name: cut(leaf, episodes, task) for name, leaf in episodes.behaviour.items()}
    return [
        Episode(
            obs=obs[e],
            action=action[e],
            behaviour=to_distribution({name: leaf[e] for name, leaf in behaviour.items()}),
            advantage=torch.from_numpy(advantage),
        )
        for e, advantage in enumerate(task_advantages(episodes, task, gamma, gae_lambda))
    ]


# ---------------------------------------------------------------------- objectives of one task

Term = Callable[[Tensor, Episode], Tensor]
"""(log π(a|o) (T,), episode) -> what each step adds to the objective, (T,)."""


def ratio(log_prob: Tensor, episode: Episode) -> Tensor:
    return torch.exp(log_prob - episode.behaviour.log_prob(episode.action))


def plain(log_prob: Tensor, episode: Episode) -> Tensor:
    return log_prob * episode.advantage


def lvc(log_prob: Tensor, episode: Episode) -> Tensor:
    return ratio(log_prob, episode) * episode.advantage


def dice(log_prob: Tensor, episode: Episode) -> Tensor:
    terms, product = [], torch.ones(())
    for factor, advantage in zip(ratio(log_prob, episode), episode.advantage, strict=True):
        terms.append((product * factor - product) * advantage)
        product = product * factor
    return torch.stack(terms)


def clipped(clip: float) -> Term:
    def term(log_prob: Tensor, episode: Episode) -> Tensor:
        r = ratio(log_prob, episode)
        return torch.minimum(r * episode.advantage, r.clamp(1 - clip, 1 + clip) * episode.advantage)

    return term


ESTIMATORS: dict[str, Term] = {"lvc": lvc, "dice": dice, "plain": plain}


def objective(params: Parameters, episodes: Sequence[Episode], term: Term) -> Tensor:
    """Mean of a term over all the steps of a task."""
    terms = [term(act(params, episode.obs).log_prob(episode.action), episode) for episode in episodes]
    return torch.cat(terms).mean()


def mean_kl(params: Parameters, episodes: Sequence[Episode]) -> Tensor:
    """Mean KL(behaviour ‖ policy) over all the steps of a task."""
    return torch.cat([kl_divergence(episode.behaviour, act(params, episode.obs)) for episode in episodes]).mean()


# ---------------------------------------------------------------------- adaptation without meta-gradient


def adapted_by_loop(config: AdaptationConfig, start: Parameters, batches: Sequence[Episodes], task: int) -> Parameters:
    """φ_K of one task: a step on each batch, of which PPO takes several small ones."""
    params = start
    ppo = config.inner_objective == "ppo"
    for step, batch in enumerate(batches):
        episodes = task_episodes(batch, task, config.gamma, config.gae_lambda)
        for _ in range(config.inner_epochs if ppo else 1):
            term = clipped(config.inner_clip) if ppo else lvc
            gradient = gradient_of(functools.partial(objective, episodes=episodes, term=term), params)
            rate = config.inner_lr * config.inner_lr_decay**step
            params = {
                name: leaf + rate * (config.log_std_lr_factor if name == "log_std" else 1.0) * gradient[name]
                for name, leaf in params.items()
            }
    return params


# ---------------------------------------------------------------------- meta-learning


def head_of(params: Parameters) -> set[str]:
    """Names of the last layer's parameters and of the standard deviation: all that ANIL adapts."""
    last = max(name.partition(".")[0] for name in params if name.startswith("layer"))
    return {f"{last}.weight", f"{last}.bias", "log_std"}


def exploration_credits(query: Episodes) -> list[float]:
    """What each task's support batches are credited with: its return less the other tasks', standardised (E-MAML)."""
    returns = [
        float(np.mean([reward.double().sum() for reward in cut(query.reward, query, task)]))
        for task in range(len(query.obs))
    ]
    others = [np.mean(returns[:task] + returns[task + 1 :]) for task in range(len(returns))]
    return [float((own - rest) / (np.std(returns) + 1e-8)) for own, rest in zip(returns, others, strict=True)]


class SlowMAML:
    """The outer objective of MAML, MAML-TRPO and ProMP as a function of the meta-parameters, task by task."""

    def __init__(self, config: MAMLConfig, support: Sequence[Episodes], query: Episodes) -> None:
        self.config = config
        self.tasks = [
            [task_episodes(batch, task, config.gamma, config.gae_lambda) for batch in (*support, query)]
            for task in range(len(query.obs))
        ]
        self.credits = exploration_credits(query)

    def rate(self, meta: Parameters, name: str, step: int) -> Tensor | float:
        """Inner rate of one parameter; learned ones are stored as "inner_lr.*" with the step leading."""
        if self.config.inner_lr_mode == "fixed":
            factor = self.config.log_std_lr_factor if name == "log_std" else 1.0
            return factor * self.config.inner_lr * self.config.inner_lr_decay**step
        learned = meta[f"inner_lr.{name}"]
        return learned[-1] if step >= len(learned) else learned[step]

    def inner_step(self, meta: Parameters, params: Parameters, episodes: Sequence[Episode], step: int) -> Parameters:
        """θ_{k+1} = θ_k + α_k ∇ J_inner(θ_k) of one task; first order takes the gradient for a constant."""
        leaves = [leaf if leaf.requires_grad else leaf.detach().requires_grad_() for leaf in params.values()]
        value = objective(dict(zip(params, leaves, strict=True)), episodes, ESTIMATORS[self.config.estimator])
        gradient = torch.autograd.grad(value, leaves, create_graph=not self.config.first_order)
        stepped = dict(params)
        for (name, leaf), g in zip(params.items(), gradient, strict=True):
            if self.config.adapted_layers == "all" or name in head_of(params):
                stepped[name] = leaf + self.rate(meta, name, step) * g
        return stepped

    def trajectory(self, meta: Parameters, task: int) -> list[Parameters]:
        """θ_0 … θ_K of one task."""
        path = [{name: leaf for name, leaf in meta.items() if not name.startswith("inner_lr.")}]
        for step, episodes in enumerate(self.tasks[task][:-1]):
            path.append(self.inner_step(meta, path[-1], episodes, step))
        return path

    def task_terms(self, path: Sequence[Parameters], task: int) -> list[Tensor]:
        """What each θ_k adds to the outer objective of a task."""
        config, batches = self.config, self.tasks[task]
        last = len(path) - 1
        outer = clipped(config.clip) if config.outer == "ppo" else lvc
        terms = []
        for k, (params, batch) in enumerate(zip(path, batches, strict=True)):
            term = torch.zeros(())
            if config.objective_steps == "all" and k > 0:
                term = term + objective(params, batch, outer) / last
            elif k == last:
                term = term + objective(params, batch, outer)
            if config.outer == "ppo" and k < last:
                term = term - config.inner_kl_penalty * mean_kl(params, batch) / last
            if k < last:
                credited = [replace(e, advantage=torch.full_like(e.advantage, self.credits[task])) for e in batch]
                term = term + config.exploration_credit * objective(params, credited, outer) / last
            terms.append(term)
        return terms

    def outer_objective(self, meta: Parameters) -> Tensor:
        """Mean over tasks of the outer objective."""
        totals = [torch.stack(self.task_terms(self.trajectory(meta, t), t)).sum() for t in range(len(self.tasks))]
        return torch.stack(totals).mean()

    def query_kl(self, meta: Parameters) -> Tensor:
        """Mean over tasks of the KL from the policies that collected the query to the adapted ones."""
        kls = [mean_kl(self.trajectory(meta, t)[-1], batches[-1]) for t, batches in enumerate(self.tasks)]
        return torch.stack(kls).mean()


def value_of(function: Callable[[Parameters], Tensor], at: Parameters) -> float:
    """Value as a number."""
    return float(function(at).detach())


def gradient_of(function: Callable[[Parameters], Tensor], at: Parameters) -> Parameters:
    """Gradient by autograd; zero for a leaf that has no influence."""
    leaves = as_leaves(at)
    gradient = torch.autograd.grad(function(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, gradient, strict=True))


def hvp(function: Callable[[Parameters], Tensor], at: Parameters, vector: Tensor) -> Tensor:
    """Hessian times a flat vector by differentiating twice backward."""
    leaves = as_leaves(at)
    values = list(leaves.values())
    gradient = flatten(torch.autograd.grad(function(leaves), values, create_graph=True))
    return flatten(torch.autograd.grad(gradient.dot(vector), values, allow_unused=True, materialize_grads=True))


def finite_differences(function: Callable[[Parameters], Tensor], at: Parameters, width: float = 1e-5) -> Parameters:
    """Gradient by central differences, one element at a time."""
    gradient = {}
    for name, leaf in at.items():
        slopes = torch.zeros(leaf.numel())
        for i in range(leaf.numel()):
            moved = []
            for sign in (1, -1):
                shifted = leaf.clone()
                shifted.view(-1)[i] += sign * width
                moved.append(value_of(function, {**at, name: shifted}))
            slopes[i] = (moved[0] - moved[1]) / (2 * width)
        gradient[name] = slopes.reshape(leaf.shape)
    return gradient
