"""Adaptation to one task, from whatever gives its episodes: K steps, the returns on the way, and what came of it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from metarl.agents.learner import Adapted, Learner
from metarl.agents.policies.parameters import Parameters, map_parameters
from metarl.agents.policies.reference import FixedActions
from metarl.console import counted, format_number
from metarl.deployment.live_record import LiveRecord
from metarl.envs.external.live_env import LiveEnv
from metarl.envs.rollout import ActingPolicy, Episodes, ObservingPolicy, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.errors import UserError, require_at_least
from metarl.evaluation.adaptation import adaptation_loop
from metarl.run.config import MAX_SEED

EpisodeSource = Callable[[ActingPolicy, Adapted, int, torch.Generator], Episodes]
"""(policy, adapted, E, generator) → E episodes of one task, (1, E, …): a simulation, or a live environment."""

ReportLine = Callable[[str], None]
"""Takes a line that says how far the adaptation is."""

Pause = Callable[[str], None]
"""Waits until the next episode may begin; takes a line that says which one it is."""

SavePolicy = Callable[[int, Parameters], None]
"""Takes k and shared P: the policy after k adaptation steps."""

Keep = Literal["auto", "best", "last"]
"""Which policy an adaptation gives: that after the last step, or an earlier one that clearly earned more; that with the
highest measured return; or that after the last step in any case."""

CHANCE = 2.0
"""Standard errors by which two mean returns may differ by chance."""


@dataclass(frozen=True)
class AdaptationBudget:
    """How much experience a policy is adapted on and measured with.

    Attributes:
        steps: K, adaptation steps.
        episodes: E, episodes of each step.
        measure_episodes: episodes that only measure the adapted policy, as many with its exploration noise as without;
            0 = it is not measured.
        seed: seed of the rollouts.
        keep: "auto" gives the policy after the last step, or an earlier one that earned more by two standard errors,
            where both were measured; "best" that of the k = 0 … K with the highest mean return, the last one only
            where it was measured; "last" that after the last step.
        noise_scale: factor on the exploration noise, in which the actions are taken; 1 = as trained.
    """

    steps: int
    episodes: int
    measure_episodes: int
    seed: int = 0
    keep: Keep = "auto"
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        require_at_least(self, steps=0, episodes=1, measure_episodes=0, seed=0)
        if self.keep not in get_args(Keep):
            raise UserError(f"keep must be 'auto', 'best' or 'last', got {self.keep!r}")
        if not (math.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise UserError(f"noise_scale must be above 0, got {self.noise_scale}: nothing is learned without noise")
        if self.seed > MAX_SEED:
            raise UserError(f"seed must be at most {MAX_SEED}, got {self.seed}")

    @property
    def total_episodes(self) -> int:
        """Episodes of adaptation and measurement together."""
        return self.steps * self.episodes + 2 * self.measure_episodes


@dataclass(frozen=True)
class AdaptationResult:
    """What `specialise` did.

    Attributes:
        params: shared P of the policy that is kept.
        memory: what that policy remembers of the task, leaves (1, …); None where that is nothing.
        kept: k of that policy.
        batches: episodes of the policies after k = 0 … K adaptation steps; the last only where it was measured.
        deterministic: episodes of the kept policy without exploration noise; None where it was not measured.
        budget: what was asked for.
    """

    params: Parameters
    memory: Any
    kept: int
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
            "keep": budget.keep,
            "kept_step": self.kept,
            "noise_scale": budget.noise_scale,
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


@dataclass(frozen=True)
class _Player:
    """Plays episodes of the task, and reports each batch of them; see `specialise`."""

    learner: Learner
    source: EpisodeSource
    noise_scale: float
    generator: torch.Generator
    report: ReportLine

    def play(self, policy: ActingPolicy, adapted: Adapted, count: int, what: str) -> Episodes:
        """Episodes (1, count, …) of a policy, which the report calls `what`."""
        episodes = self.source(policy, _side_by_side(adapted, count), count, self.generator)
        self.report(_progress_line(what, episodes))
        return episodes

    def explore(self, adapted: Adapted, count: int) -> Episodes:
        """Episodes (1, count, …) with exploration noise, in which the learner can adapt.

        Raises:
            UserError: see `check_carries_memory`.
        """
        policy = _with_noise(self.learner.policy, self.noise_scale)
        episodes = self.play(policy, adapted, count, f"k = {adapted.steps}")
        if self.learner.adapts_in_memory:
            check_carries_memory(self.learner, adapted, episodes)
        return _at_full_noise(episodes, self.noise_scale)


def specialise(
    learner: Learner,
    source: EpisodeSource,
    budget: AdaptationBudget,
    generator: torch.Generator,
    report: ReportLine = lambda line: None,
    save_policy: SavePolicy = lambda steps, params: None,
) -> AdaptationResult:
    """Adapt to one task and measure the result; leaves the learner bit-identical.

    Args:
        learner: begins at its meta-trained parameters.
        source: gives episodes of the task.
        budget: how many of them.
        generator: drives the rollouts.
        report: takes a line after each batch.
        save_policy: takes the policy after each adaptation step, before its first episode.
    """
    player = _Player(learner, source, budget.noise_scale, generator, report)
    policies: list[Adapted] = []

    def add_policy(adapted: Adapted) -> None:
        policies.append(adapted)
        save_policy(adapted.steps, _shared(adapted.params))

    def sample(adapted: Adapted) -> Episodes:
        add_policy(adapted)
        return player.explore(adapted, budget.episodes)

    batches, adapted = adaptation_loop(learner, num_tasks=1, steps=budget.steps, sample=sample, last_batch=False)
    add_policy(adapted)

    # What only measures comes after all adaptation, so that its size does not change the policy.
    if budget.measure_episodes:
        batches.append(player.explore(adapted, budget.measure_episodes))
    kept = _step_to_keep(batches, budget, remembers=adapted.memory is not None)

    deterministic = None
    if budget.measure_episodes:
        what = f"k = {kept}, deterministic"
        deterministic = player.play(without_noise(learner.policy), policies[kept], budget.measure_episodes, what)

    params = _shared(policies[kept].params)
    memory = _of_one_trial(policies[kept].memory)
    return AdaptationResult(params, memory, kept, batches, deterministic, budget)


def _shared(params: Parameters) -> Parameters:
    """Shared P of the only task."""
    return map_parameters(lambda leaf: leaf[0], params)


def _side_by_side(adapted: Adapted, count: int) -> Adapted:
    """The same policy in several episodes at once; each goes on from what the only trial left in the memory."""
    if adapted.memory is None or count == 1:
        return adapted
    memory = pytree.tree_map(lambda leaf: leaf.expand(leaf.shape[0], count, *leaf.shape[2:]), adapted.memory)
    return replace(adapted, memory=memory)


def _of_one_trial(memory: Any) -> Any:
    """What the only trial of the only task left in the memory, leaves (1, …)."""
    return None if memory is None else pytree.tree_map(lambda leaf: leaf[0].detach().cpu(), memory)


def check_carries_memory(learner: Learner, adapted: Adapted, episodes: Episodes) -> None:
    """Refuse a learner whose adaptation is more than its memory: a policy that runs alone would leave that out.

    Raises:
        UserError: names the learner.
    """
    after = learner.adapt(_side_by_side(adapted, episodes.mask.shape[1]), episodes)
    next_episode = getattr(learner.policy, "next_episode", None)
    carried = episodes.memory if next_episode is None else next_episode(episodes.memory)

    same_memory = after.memory is not None and _same(after.memory, carried)
    if not (same_memory and _same(after.params, adapted.params)):
        raise UserError(
            f"{type(learner).__name__} does more between episodes than its policy's next_episode(memory): "
            "a policy that runs alone could not do the same"
        )


def _same(one: Any, other: Any) -> bool:
    """Whether two trees hold equal tensors."""
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _step_to_keep(batches: list[Episodes], budget: AdaptationBudget, remembers: bool) -> int:
    """Which k is kept; of policies that earned the same, that of most steps.

    Args:
        batches: episodes of the policies after k = 0 … steps.
        budget: says by which rule.
        remembers: whether the policy learns in its memory, and so goes on with all that it has seen.
    """
    if budget.keep == "last" or not batches or (budget.keep == "auto" and remembers):
        return budget.steps

    returns = [_returns(batch) for batch in batches]
    means = [float(values.mean()) for values in returns]
    if budget.keep == "best":
        return max(range(len(means)), key=lambda step: (means[step], step))
    if len(batches) <= budget.steps:
        return budget.steps  # the last one was not measured

    deviations, counts = [float(values.std()) for values in returns], [len(values) for values in returns]
    better = clearly_better(means, deviations, counts)
    return budget.steps if better is None else better


def clearly_better(means: Sequence[float], deviations: Sequence[float], counts: Sequence[int]) -> int | None:
    """The policy before the last that earned most, where it earned more than the last one by more than chance.

    Args:
        means: mean return of the policy after k = 0 … K steps.
        deviations: standard deviations over episodes.
        counts: episodes of each.

    Returns:
        its k; None where there is none.
    """
    last = len(means) - 1
    if last < 1:
        return None
    best = max(range(last), key=lambda step: (means[step], step))
    error = math.sqrt(sum(deviations[step] ** 2 / counts[step] for step in (best, last)))
    return best if means[best] - means[last] > CHANCE * error else None


def simulated_episodes(distribution: TaskDistribution, task: Task) -> EpisodeSource:
    """Episodes of a stated task, leaves (1, …), side by side."""

    def source(policy: ActingPolicy, adapted: Adapted, count: int, generator: torch.Generator) -> Episodes:
        return collect(distribution.bind(task, count), policy, adapted, generator)

    return source


def live_episodes(
    env: LiveEnv, total: int, record: LiveRecord | None = None, pause: Pause | None = None
) -> EpisodeSource:
    """Episodes of a live environment, one after another.

    Args:
        env: the environment.
        total: how many there will be, for the line that `pause` is given.
        record: holds the episodes that were played before, which are not played again, and takes each new one as it
            ends; None: nothing is saved.
        pause: called between two episodes that are played.
    """
    recorded = record.num_episodes if record else 0
    begun = 0

    def next_episode(policy: ActingPolicy, adapted: Adapted, generator: torch.Generator) -> Episodes:
        nonlocal begun
        begun += 1
        if record and begun <= recorded:
            return record.load_episode(begun, generator)

        # Whoever starts the program has put the robot into its place for the first one.
        if pause and begun > recorded + 1:
            pause(f"episode {begun} of {total}")
        env.episode = begun - 1  # its reset counts on
        episode = collect(env, policy, adapted, generator)
        if record:
            record.save_episode(begun, episode, generator)
        return episode

    def source(policy: ActingPolicy, adapted: Adapted, count: int, generator: torch.Generator) -> Episodes:
        episodes = [next_episode(policy, adapted, generator) for _ in range(count)]
        return Episodes.concatenate(_agree_on_success(episodes), dim=1)

    return source


def pause_for(length: float | str | Pause, report: ReportLine = lambda line: None) -> Pause | None:
    """How to wait between two episodes.

    Args:
        length: seconds; "enter" waits for the Enter key; or a function of one's own, which is returned.
        report: takes the line that asks for Enter.

    Returns:
        None where there is no pause.

    Raises:
        UserError: it is none of these.
    """
    if callable(length):
        return length
    if length == "enter":
        return lambda coming: _wait_for_enter(coming, report)

    try:
        seconds = float(length)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UserError(f"pause must be a number of seconds, at least 0, or 'enter', got {length!r}")
    return (lambda coming: time.sleep(seconds)) if seconds else None


def _wait_for_enter(coming: str, report: ReportLine) -> None:
    """Ask for the Enter key and wait for it.

    Raises:
        UserError: standard input is closed.
    """
    report(f"{coming}: press Enter to begin")
    try:
        input()
    except EOFError:
        raise UserError("a pause until Enter needs standard input, which is closed") from None


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
class _ScaledNoise:
    """A Gaussian policy that acts with its noise times a factor; an ActingPolicy.

        a = μ + scale · σ ε,  ε ~ N(0, 1)

    Its distribution's parameters stay those of the policy (μ, σ).
    """

    policy: ActingPolicy
    scale: float

    def apply(self, params: Parameters, obs: torch.Tensor, memory: Any = None) -> tuple["_ScaledActions", Any]:
        """See ActingPolicy.apply."""
        distribution, memory = self.policy.apply(params, obs, memory)
        return _ScaledActions(distribution, self.scale), memory


@dataclass(frozen=True)
class _ScaledActions:
    """Actions of a distribution, drawn towards its mode."""

    distribution: Any
    scale: float

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """Draw one action each, (M, E, A)."""
        mode: torch.Tensor = self.distribution.mode()
        noise: torch.Tensor = self.distribution.sample(generator) - mode
        return mode + self.scale * noise

    def parameters(self) -> dict[str, torch.Tensor]:
        """Those of the distribution itself."""
        parameters: dict[str, torch.Tensor] = self.distribution.parameters()
        return parameters


def _with_noise(policy: ActingPolicy, scale: float) -> ActingPolicy:
    """The policy, with its exploration noise times a factor."""
    return policy if scale == 1 else _ScaledNoise(policy, scale)


def _at_full_noise(episodes: Episodes, scale: float) -> Episodes:
    """Episodes whose actions deviate from the mean as much as the policy itself would have them deviate.

    Learning sees the scaled noise as a property of the environment, as it sees the clipping of actions: it takes the
    actions that the policy drew (μ + σ ε), which the environment got as μ + scale · σ ε. So the likelihood ratios are
    1, and as advantages are normalised, a step is as long as in training: the gradient of the return under the scaled
    noise, up to a positive factor. Importance weights instead would have a variance without bound.
    """
    if scale == 1:
        return episodes
    mean = episodes.behaviour["mean"]
    return replace(episodes, action=mean + (episodes.action - mean) / scale)


@dataclass(frozen=True)
class _Deterministic:
    """A policy without its exploration noise; an ActingPolicy."""

    policy: ActingPolicy

    def apply(self, params: Parameters, obs: torch.Tensor, memory: Any = None) -> tuple[FixedActions, Any]:
        """See ActingPolicy.apply."""
        distribution, memory = self.policy.apply(params, obs, memory)
        return FixedActions(distribution.mode()), memory


class _DeterministicLearning(_Deterministic):
    """The same of a policy that learns in its memory; an ObservingPolicy."""

    def observe(self, memory: Any, action: torch.Tensor, reward: torch.Tensor, terminated: torch.Tensor) -> Any:
        """See ObservingPolicy.observe."""
        policy: Any = self.policy
        return policy.observe(memory, action, reward, terminated)


def without_noise(policy: ActingPolicy) -> ActingPolicy:
    """The policy without its exploration noise."""
    return _DeterministicLearning(policy) if isinstance(policy, ObservingPolicy) else _Deterministic(policy)


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
    mean = format_number(returns.mean(), ".2f")
    return f"{what}: return {mean} ({counted(len(returns), 'episode')}, {batch.env_steps:,} environment steps)"
