"""Adaptation to one task, from whatever gives its episodes: K steps, the returns on the way, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.agents.learner import Adapted, MetaLearner
from metarl.agents.policies.parameters import Parameters, map_parameters
from metarl.agents.policies.reference import FixedActions
from metarl.envs.external.live_env import LiveEnv
from metarl.envs.rollout import ActingPolicy, Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import UserError, require_at_least
from metarl.evaluation.adaptation import adaptation_loop
from metarl.run.config import MAX_SEED

EpisodeSource = Callable[[ActingPolicy, Parameters, int, torch.Generator], Episodes]
"""(policy, P, E, generator) → E episodes of one task, (1, E, …): a simulation, or a live environment."""

ReportLine = Callable[[str], None]
"""Takes a line that says how far the adaptation is."""


@dataclass(frozen=True)
class AdaptationBudget:
    """How much experience a policy is adapted on and measured with.

    Attributes:
        steps: K, adaptation steps.
        episodes: E, episodes of each step.
        measure_episodes: episodes that only measure the adapted policy, as many with its exploration noise as without;
            0 = it is not measured.
        seed: seed of the rollouts.
    """

    steps: int
    episodes: int
    measure_episodes: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        require_at_least(self, steps=0, episodes=1, measure_episodes=0, seed=0)
        if self.seed > MAX_SEED:
            raise UserError(f"seed must be at most {MAX_SEED}, got {self.seed}")


@dataclass(frozen=True)
class AdaptationResult:
    """What `specialise` did.

    Attributes:
        params: the adapted policy's shared P.
        batches: episodes of the policies after k = 0 … K adaptation steps; the last only where it was measured.
        deterministic: episodes of the adapted policy without exploration noise; None where it was not measured.
        budget: what was asked for.
    """

    params: Parameters
    batches: list[Episodes]
    deterministic: Episodes | None
    budget: AdaptationBudget

    def to_json(self) -> dict[str, Any]:
        """Returns and environment steps as plain data; lists are over k."""
        return {"adaptation": self._adaptation_to_json(), "deterministic": self._deterministic_to_json()}

    def _adaptation_to_json(self) -> dict[str, Any]:
        """The policies after k = 0 … K adaptation steps, with their exploration noise."""
        budget = self.budget
        env_steps = [batch.env_steps for batch in self.batches]
        on_adaptation = sum(env_steps[: budget.steps])
        on_measurement = sum(env_steps) - on_adaptation
        if self.deterministic:
            on_measurement += self.deterministic.env_steps

        return {
            "steps": budget.steps,
            "episodes_per_step": budget.episodes,
            "seed": budget.seed,
            "episodes": [k * budget.episodes for k in range(len(env_steps))],
            "env_steps": [sum(env_steps[:k]) for k in range(len(env_steps))],
            "return_mean": [float(_returns(batch).mean()) for batch in self.batches],
            "return_std": [float(_returns(batch).std()) for batch in self.batches],
            **_success_rates(self.batches),
            "adaptation_episodes": budget.steps * budget.episodes,
            "adaptation_env_steps": on_adaptation,
            "measurement_env_steps": on_measurement,
        }

    def _deterministic_to_json(self) -> dict[str, Any] | None:
        """The adapted policy without exploration noise; None where it was not measured."""
        if self.deterministic is None:
            return None

        returns = _returns(self.deterministic)
        return {
            "episodes": self.budget.measure_episodes,
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "returns": returns.tolist(),
            **_success_rates([self.deterministic]),
        }


def specialise(
    learner: MetaLearner,
    source: EpisodeSource,
    budget: AdaptationBudget,
    generator: torch.Generator,
    report: ReportLine = lambda line: None,
) -> AdaptationResult:
    """Adapt to one task and measure the result; leaves the learner bit-identical.

    Args:
        learner: begins at its meta-trained parameters.
        source: gives episodes of the task.
        budget: how many of them.
        generator: drives the rollouts.
        report: takes a line after each batch.
    """

    def play(policy: ActingPolicy, adapted: Adapted, count: int, what: str) -> Episodes:
        episodes = source(policy, adapted.params, count, generator)
        report(_progress_line(what, episodes))
        return episodes

    def sample(adapted: Adapted) -> Episodes:
        return play(learner.policy, adapted, budget.episodes, f"k = {adapted.steps}")

    batches, adapted = adaptation_loop(learner, num_tasks=1, steps=budget.steps, sample=sample, last_batch=False)

    # What only measures comes after all adaptation, so that its size does not change the policy.
    deterministic = None
    if budget.measure_episodes:
        what = f"k = {budget.steps}"
        batches.append(play(learner.policy, adapted, budget.measure_episodes, what))
        noiseless = _Deterministic(learner.policy)
        deterministic = play(noiseless, adapted, budget.measure_episodes, f"{what}, deterministic")

    params = map_parameters(lambda leaf: leaf[0], adapted.params)
    return AdaptationResult(params, batches, deterministic, budget)


def simulated_episodes(distribution: TaskDistribution, task: Task) -> EpisodeSource:
    """Episodes of a stated task, leaves (1, …), side by side."""

    def source(policy: ActingPolicy, params: Parameters, count: int, generator: torch.Generator) -> Episodes:
        return collect(distribution.bind(task, count), policy, params, generator)

    return source


def live_episodes(env: LiveEnv) -> EpisodeSource:
    """Episodes of a live environment, one after another."""

    def source(policy: ActingPolicy, params: Parameters, count: int, generator: torch.Generator) -> Episodes:
        episodes = [collect(env, policy, params, generator) for _ in range(count)]
        return Episodes.concatenate(_agree_on_success(episodes), dim=1)

    return source


def _agree_on_success(episodes: list[Episodes]) -> list[Episodes]:
    """Fill in the failures: a live environment may speak of success only in the episodes where there is one."""
    if all(episode.success is None for episode in episodes):
        return episodes

    failure = torch.zeros_like(episodes[0].terminated)
    filled = []
    for episode in episodes:
        if episode.success is None:
            episode = replace(episode, success=failure)
        filled.append(episode)

    return filled


@dataclass(frozen=True)
class _Deterministic:
    """A policy without its exploration noise; an ActingPolicy."""

    policy: ActingPolicy

    def apply(self, params: Parameters, obs: torch.Tensor, memory: Any = None) -> tuple[FixedActions, Any]:
        """See ActingPolicy.apply."""
        distribution, memory = self.policy.apply(params, obs, memory)
        return FixedActions(distribution.mode()), memory


def _returns(batch: Episodes) -> NDArray[np.float64]:
    """Undiscounted return of each episode, (E,)."""
    returns: NDArray[np.float64] = batch.reward.double().sum(dim=-1)[0].cpu().numpy()
    return returns


def _success_rates(batches: list[Episodes]) -> dict[str, list[float]]:
    """Share of each batch's episodes that succeeded; nothing where the environment does not say."""
    rates = [float(batch.success.double().mean()) for batch in batches if batch.success is not None]
    return {"success_rate": rates} if rates and len(rates) == len(batches) else {}


def _progress_line(what: str, batch: Episodes) -> str:
    """Which policy it is, with the mean return and the size of its batch."""
    returns = _returns(batch)
    return f"{what}: return {returns.mean():.2f} ({len(returns)} episodes, {batch.env_steps:,} environment steps)"
