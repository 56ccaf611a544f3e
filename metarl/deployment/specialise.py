"""Adaptation to one task, from whatever gives its episodes: K steps, the returns on the way, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.agents.learner import MetaLearner
from metarl.agents.policies.parameters import Parameters, map_parameters
from metarl.agents.policies.reference import FixedActions
from metarl.envs.external.live_env import LiveEnv
from metarl.envs.rollout import ActingPolicy, Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import UserError, require_at_least
from metarl.run.config import MAX_SEED

Experience = Callable[[ActingPolicy, Parameters, int, torch.Generator], Episodes]
"""(policy, P, E, generator) → E episodes of one task, (1, E, …)."""

Report = Callable[[str], None]
"""Takes a line that says how far the adaptation is."""


@dataclass(frozen=True)
class Effort:
    """How a policy is adapted and measured.

    Attributes:
        steps: K, adaptation steps.
        episodes: E, episodes of each step.
        measure_episodes: episodes that only measure the adapted policy, as many with its exploration noise as without;
            0: it is not measured.
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
        effort: what was asked for.
    """

    params: Parameters
    batches: list[Episodes]
    deterministic: Episodes | None
    effort: Effort

    def to_json(self) -> dict[str, Any]:
        """Returns and environment steps as plain data; lists are over k."""
        effort, spent = self.effort, [batch.env_steps for batch in self.batches]
        on_adaptation = sum(spent[: effort.steps])
        final = self.deterministic
        return {
            "adaptation": {
                "steps": effort.steps,
                "episodes_per_step": effort.episodes,
                "seed": effort.seed,
                "episodes": [k * effort.episodes for k in range(len(spent))],
                "env_steps": [sum(spent[:k]) for k in range(len(spent))],
                "return_mean": [float(_returns(batch).mean()) for batch in self.batches],
                "return_std": [float(_returns(batch).std()) for batch in self.batches],
                **_success_rates(self.batches),
                "adaptation_episodes": effort.steps * effort.episodes,
                "adaptation_env_steps": on_adaptation,
                "measurement_env_steps": sum(spent) - on_adaptation + (final.env_steps if final else 0),
            },
            "deterministic": None
            if final is None
            else {
                "episodes": effort.measure_episodes,
                "return_mean": float(_returns(final).mean()),
                "return_std": float(_returns(final).std()),
                "returns": _returns(final).tolist(),
                **_success_rates([final]),
            },
        }


def specialise(
    learner: MetaLearner,
    experience: Experience,
    effort: Effort,
    generator: torch.Generator,
    report: Report = lambda line: None,
) -> AdaptationResult:
    """Adapt to one task and measure the result; leaves the learner bit-identical.

    Args:
        learner: begins at its meta-trained parameters.
        experience: gives episodes of the task.
        effort: how much of it.
        generator: drives the rollouts.
        report: takes a line after each batch.
    """
    adapted = learner.begin(1)
    batches: list[Episodes] = []
    for k in range(effort.steps):
        batches.append(experience(learner.policy, adapted.params, effort.episodes, generator))
        report(_line(f"k = {k}", batches[-1]))
        adapted = learner.adapt(adapted, batches[-1])
    final = None
    if effort.measure_episodes:
        batches.append(experience(learner.policy, adapted.params, effort.measure_episodes, generator))
        report(_line(f"k = {effort.steps}", batches[-1]))
        final = experience(_Deterministic(learner.policy), adapted.params, effort.measure_episodes, generator)
        report(_line(f"k = {effort.steps}, deterministic", final))
    return AdaptationResult(map_parameters(lambda leaf: leaf[0], adapted.params), batches, final, effort)


def task_experience(distribution: TaskDistribution, task: Task) -> Experience:
    """Episodes of a stated task, leaves (1, …), side by side."""

    def experience(policy: ActingPolicy, params: Parameters, count: int, generator: torch.Generator) -> Episodes:
        return collect(distribution.bind(task, count), policy, params, generator)

    return experience


def live_experience(env: LiveEnv) -> Experience:
    """Episodes of a live environment, one after another."""

    def experience(policy: ActingPolicy, params: Parameters, count: int, generator: torch.Generator) -> Episodes:
        parts = [collect(env, policy, params, generator) for _ in range(count)]
        if any(part.success is not None for part in parts):
            # An environment may speak of success only where there is one.
            nothing = torch.zeros_like(parts[0].terminated)
            parts = [replace(part, success=nothing if part.success is None else part.success) for part in parts]
        return Episodes.concatenate(parts, dim=1)

    return experience


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
    shares = [float(batch.success.double().mean()) for batch in batches if batch.success is not None]
    return {"success_rate": shares} if shares and len(shares) == len(batches) else {}


def _line(what: str, batch: Episodes) -> str:
    returns = _returns(batch)
    return f"{what}: return {returns.mean():.2f} ({len(returns)} episodes, {batch.env_steps:,} environment steps)"
