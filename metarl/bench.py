"""Speed, measured side by side: batched over tasks × episodes against a plain loop over tasks.

The plain loop is what one would write first: Gymnasium's SyncVectorEnv for the episodes of one task, one task after
the other, and autograd with `create_graph=True` for its meta-gradient. Both sides do the same work: the sampling of
one MAML meta-iteration, and the gradient of the same outer objective.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.maml import MAML, MAMLConfig
from agents.objectives import Batch
from agents.policy import PolicyConfig
from envs.registry import FAMILIES, make_distribution
from envs.rollout import Episodes
from envs.task_space import select_tasks, tasks_to_json
from metarl.bench_envs import checked_families
from metarl.memory import peak_memory_mb
from metarl.train import MetaBatch, sample_iteration

PLAIN_TASKS = 4  # the plain loop is linear in tasks; this many are timed and scaled up


def bench(
    env: str,
    num_tasks: int,
    episodes: int,
    hidden_size: int,
    repeats: int,
    num_threads: int,
    fvp_fraction: float = 0.2,
    horizon: int | None = None,
    plain_loop: bool = True,
) -> dict[str, Any]:
    """Time one MAML meta-iteration, one inner step, and the plain loop in the same process.

    Args:
        env: a registered family.
        num_tasks: M.
        episodes: E.
        hidden_size: units of each of the two hidden layers.
        repeats: how often each is timed; medians are reported, after one untimed run.
        num_threads: CPU threads of the meta-update.
        fvp_fraction: share of the episodes on which Fisher products are estimated.
        horizon: H; by default the family's.
        plain_loop: whether to time the plain loop, which is slow, as well.

    Returns:
        figures in seconds, steps per second, megabytes, and ratios plain / batched.

    Raises:
        UserError: not a registered family.
    """
    (name,) = checked_families([env])
    distribution = make_distribution(name)
    distribution.env.horizon = horizon or distribution.horizon
    generator = torch.Generator().manual_seed(0)
    config = MAMLConfig(policy=PolicyConfig(hidden_sizes=(hidden_size, hidden_size)), fvp_fraction=fvp_fraction)
    learners = {
        outer: MAML(
            distribution.observation_space,
            distribution.action_space,
            replace(config, outer=outer),
            generator,
            num_threads,
        )
        for outer in ("trpo", "ppo")
    }
    learner = learners["trpo"]

    def sample() -> MetaBatch:
        tasks = distribution.sample(num_tasks, "train", generator)
        return sample_iteration(distribution, learner, tasks, episodes, generator)

    support, query, *_ = sample()
    assert query is not None
    env_steps = sum(batch.env_steps for batch in (*support, query))
    collected: list[float] = []
    sampling_and_adaptation = _median_seconds(lambda: collected.append(sample().collect_seconds), repeats)
    sampling = float(np.median(collected[1:]))  # the first one is the untimed warm-up
    gradient = _median_seconds(lambda: learner.meta_gradient(support, query), repeats)
    update = {
        outer: _median_seconds(_update_from_start(one, support, query), repeats) for outer, one in learners.items()
    }

    figures = {
        "env": name,
        "num_tasks": num_tasks,
        "episodes": episodes,
        "horizon": distribution.horizon,
        "hidden_sizes": [hidden_size, hidden_size],
        "num_threads": num_threads,
        "fvp_fraction": fvp_fraction,
        "env_steps": env_steps,
        "sampling_s": sampling,
        "env_steps_per_s": env_steps / sampling,
        "meta_gradient_s": gradient,
        "meta_update_trpo_s": update["trpo"],
        "meta_update_ppo_s": update["ppo"],
        "iteration_trpo_s": sampling_and_adaptation + update["trpo"],
        "iteration_ppo_s": sampling_and_adaptation + update["ppo"],
        "peak_memory_mb": peak_memory_mb(),
    }
    if not plain_loop:
        return figures

    plain = _PlainLoop(FAMILIES[name].gymnasium_id, learner, episodes)
    plain_tasks = min(PLAIN_TASKS, num_tasks)
    tasks = distribution.sample(plain_tasks, "train", generator)
    start = time.perf_counter()
    plain_steps = sum(plain.sample(tasks_to_json(select_tasks(tasks, slice(i, i + 1)))[0]) for i in range(plain_tasks))
    plain_sampling = (time.perf_counter() - start) * num_tasks / plain_tasks
    start = time.perf_counter()
    plain.gradient([batch.tasks(slice(0, plain_tasks)) for batch in (*support, query)])
    plain_gradient = (time.perf_counter() - start) * num_tasks / plain_tasks

    return figures | {
        "plain_sampling_s": plain_sampling,
        "plain_env_steps_per_s": plain_steps * num_tasks / plain_tasks / plain_sampling,
        "plain_meta_gradient_s": plain_gradient,
        "sampling_ratio": plain_sampling / sampling,
        "meta_gradient_ratio": plain_gradient / gradient,
    }


def _update_from_start(learner: MAML, support: list[Episodes], query: Episodes) -> Callable[[], None]:
    """The meta-update that these episodes were collected for: a second one would search in vain for a step."""
    start = learner.state_dict()

    def update() -> None:
        learner.load_state_dict(start)
        learner.meta_update(support, query)

    return update


def _median_seconds(function: Any, repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


class _PlainLoop:
    """One task at a time, no batching over tasks: the reference, with the same policy and inner step."""

    def __init__(self, gymnasium_id: str, learner: MAML, episodes: int) -> None:
        self._id, self._learner, self._episodes = gymnasium_id, learner, episodes
        self._generator = torch.Generator().manual_seed(0)

    def sample(self, task: dict[str, Any]) -> int:
        """Support and query rollouts of one task through SyncVectorEnv; returns environment steps."""
        envs = gymnasium.make_vec(self._id, self._episodes, vectorization_mode="sync", task=task)
        params = {name: leaf[0] for name, leaf in self._learner.begin(1).params.items()}
        steps = 0
        for _ in range(2):
            obs, _ = envs.reset(seed=0)
            running = np.ones(self._episodes, dtype=bool)
            while running.any():
                with torch.no_grad():
                    action = self._learner.policy.apply(params, torch.from_numpy(obs))[0].sample(self._generator)
                bounded = np.clip(action.numpy(), -1.0, 1.0) if action.is_floating_point() else action.numpy()
                obs, _, terminated, truncated, _ = envs.step(bounded)
                steps += int(running.sum())
                running &= ~(terminated | truncated)
        envs.close()
        return steps

    def gradient(self, batches: list[Episodes]) -> dict[str, Tensor]:
        """Second-order meta-gradient, task after task, by differentiating through the inner gradient."""
        learner, config = self._learner, self._learner.config
        meta = {n: leaf[0].clone().requires_grad_() for n, leaf in learner.begin(1).params.items()}
        num_tasks = len(batches[0].obs)
        total = {name: torch.zeros_like(leaf) for name, leaf in meta.items()}
        for task in range(num_tasks):
            support, query = (
                Batch.of(learner.policy, batch.tasks(slice(task, task + 1)), config.gamma, config.gae_lambda)
                for batch in batches
            )
            inner = torch.autograd.grad(_surrogate(learner, meta, support), list(meta.values()), create_graph=True)
            adapted = {
                name: leaf + config.inner_lr * step for (name, leaf), step in zip(meta.items(), inner, strict=True)
            }
            outer = torch.autograd.grad(_surrogate(learner, adapted, query), list(meta.values()))
            total = {name: total[name] + step / num_tasks for name, step in zip(meta, outer, strict=True)}
        return total


def _surrogate(learner: MAML, params: dict[str, Tensor], batch: Batch) -> Tensor:
    distribution, _ = learner.policy.apply(params, batch.obs)
    ratio = torch.exp(distribution.log_prob(batch.action) - batch.old_log_prob)
    return (batch.weight * ratio * batch.advantage).sum()
