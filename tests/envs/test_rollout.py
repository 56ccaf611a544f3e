"""`collect` against a plain Python loop over tasks, episodes and steps."""

import dataclasses
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.agents.policies.distributions import Categorical, DiagonalGaussian
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes, _check_finite, _finite_tasks, collect
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task
from tests.helpers.agent_builders import seeded

LENGTHS = [1, 3, 6, 9]  # steps to termination; the last episode is truncated
NUM_TASKS, NUM_EPISODES, HORIZON = len(LENGTHS), 2, 6


class Countdown(TaskEnv):
    """x' = 0.5 x + a, n' = n + 1, r = x' n' − a; the episode ends after "length" steps."""

    observation_space = Box(-100.0, 100.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    horizon = HORIZON

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial."""
        assert params is not None
        start = torch.linspace(-1.0, 1.0, params["length"].shape[-1]).expand(params["length"].shape)
        return torch.stack([start, torch.zeros_like(start)], dim=-1)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        return torch.stack([0.5 * state[..., 0] + action[..., 0], state[..., 1] + 1], dim=-1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        return next_state[..., 0] * next_state[..., 1] - action[..., 0]

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.terminal."""
        assert params is not None
        return state[..., 1] == params["length"]  # said once only: who does not listen plays on


class Breaking(Countdown):
    """Countdown whose state or reward is not finite at the "broken" step of a task."""

    broken_reward = False

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        assert params is not None
        after = super().transition(state, action, rng, params)
        breaks = (after[..., 1:] == params["broken"].unsqueeze(-1)) & (not self.broken_reward)
        broken = after.clone()
        broken[..., 0] = torch.nan
        return torch.where(breaks, broken, after)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        assert params is not None
        if not self.broken_reward:
            return next_state[..., 1]
        return torch.where(next_state[..., 1] == params["broken"], torch.inf, 1.0)


@dataclass
class Around:
    """Gaussian of a fixed spread around a mean (M, E, 1)."""

    mean: Tensor
    spread: float

    def sample(self, generator: torch.Generator) -> Tensor:
        """See ActionDistribution.sample."""
        return self.mean + self.spread * torch.randn(self.mean.shape, generator=generator)

    def parameters(self) -> dict[str, Tensor]:
        """See ActionDistribution.parameters."""
        return {"mean": self.mean}


@dataclass
class Recurrent:
    """a = w₀ x + w₁ h + spread · ε, where the memory h sums the observations x."""

    spread: float = 0.0

    def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple[Around, Tensor]:
        """See ActingPolicy.apply."""
        memory = obs[..., :1] + (0 if memory is None else memory)
        weights = params["w"].unsqueeze(-2)
        return Around(weights[..., :1] * obs[..., :1] + weights[..., 1:] * memory, self.spread), memory


WEIGHTS = torch.tensor([[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6], [0.7, 0.1]])
TASKS = {"length": torch.tensor([float(length) for length in LENGTHS])}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def collected(spread: float = 0.0, seed: int = 0, weights: Tensor = WEIGHTS) -> Episodes:
    return collect(Countdown().bind(TASKS, NUM_EPISODES), Recurrent(spread), {"w": weights}, rng(seed))


def plain_episode(length: int, start: float, weights: list[float]) -> list[tuple[list[float], float, float]]:
    """(observation, action, reward) of each step, and the last observation as a step without the rest."""
    x, n, memory, steps = start, 0, 0.0, []
    while n < min(length, HORIZON):
        memory += x
        action = weights[0] * x + weights[1] * memory
        following = 0.5 * x + action
        steps.append(([x, n], action, following * (n + 1) - action))
        x, n = following, n + 1
    return [*steps, ([x, n], 0.0, 0.0)]


@pytest.mark.parametrize("shared", [False, True])
def test_collect_equals_a_plain_loop(shared: bool) -> None:
    weights = WEIGHTS[:1].expand(NUM_TASKS, 2) if shared else WEIGHTS
    episodes = collected(weights=WEIGHTS[:1] if shared else WEIGHTS)
    for m, length in enumerate(LENGTHS):
        for e, start in enumerate((-1.0, 1.0)):
            *steps, last = plain_episode(length, start, weights[m].tolist())
            for t, (obs, action, reward) in enumerate(steps):
                assert episodes.obs[m, e, t].tolist() == pytest.approx(obs, abs=1e-5)
                assert episodes.action[m, e, t].tolist() == pytest.approx([action], abs=1e-5)
                assert episodes.behaviour["mean"][m, e, t].tolist() == pytest.approx([action], abs=1e-5)
                assert float(episodes.reward[m, e, t]) == pytest.approx(reward, abs=1e-5)
            assert episodes.last_obs[m, e].tolist() == pytest.approx(last[0], abs=1e-5)
            assert float(episodes.returns[m, e]) == pytest.approx(sum(step[2] for step in steps), abs=1e-4)


def test_shapes() -> None:
    episodes, batch = collected(), (NUM_TASKS, NUM_EPISODES)
    assert episodes.obs.shape == (*batch, HORIZON, 2)
    assert episodes.action.shape == episodes.behaviour["mean"].shape == (*batch, HORIZON, 1)
    assert episodes.reward.shape == episodes.mask.shape == (*batch, HORIZON)
    assert episodes.terminated.shape == batch
    assert episodes.last_obs.shape == (*batch, 2)


def test_steps_after_termination_are_masked_zero_and_not_counted() -> None:
    episodes = collected()
    taken = [min(length, HORIZON) for length in LENGTHS]
    assert episodes.mask[:, 0].tolist() == [[1.0] * n + [0.0] * (HORIZON - n) for n in taken]
    assert torch.equal(episodes.mask[:, 0], episodes.mask[:, 1])
    assert episodes.env_steps == NUM_EPISODES * sum(taken)
    assert episodes.terminated.tolist() == [[True] * 2, [True] * 2, [True] * 2, [False] * 2]
    for values in (episodes.obs, episodes.action, episodes.behaviour["mean"], episodes.reward.unsqueeze(-1)):
        assert (values[episodes.mask == 0] == 0).all()


def test_more_steps_than_a_float_can_count_are_counted() -> None:
    episodes = collected()
    many = 2**24 + 1
    long = Episodes(**{**vars(episodes), "mask": torch.ones(1).expand(1, 1, many)})
    assert long.env_steps == many


def test_the_seed_determines_the_episodes() -> None:
    def leaves(episodes: Episodes) -> list[Tensor]:
        named = [getattr(episodes, f.name) for f in fields(episodes) if f.name not in OPTIONAL]
        return [*named, episodes.behaviour["mean"]]

    first, same, other = (leaves(collected(spread=0.3, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[1], other[1])


def test_episodes_hold_no_graph() -> None:
    episodes = collected(weights=WEIGHTS.clone().requires_grad_())
    assert not episodes.action.requires_grad
    assert not episodes.behaviour["mean"].requires_grad


def test_a_slice_of_tasks_slices_every_field() -> None:
    episodes = collected(spread=0.3)
    part = episodes.tasks(slice(1, 3))
    for f in fields(episodes):
        if f.name not in OPTIONAL:
            assert torch.equal(getattr(part, f.name), getattr(episodes, f.name)[1:3]), f.name
    assert torch.equal(part.behaviour["mean"], episodes.behaviour["mean"][1:3])
    assert part.env_steps == NUM_EPISODES * (3 + 6)


OPTIONAL = ("behaviour", "success")  # compared apart, and None here


def collect_breaking(broken: list[float], broken_reward: bool = False) -> Episodes:
    env = Breaking()
    env.broken_reward = broken_reward
    tasks = {**TASKS, "broken": torch.tensor(broken)}
    return collect(env.bind(tasks, NUM_EPISODES), Recurrent(), {"w": torch.zeros(1, 2)}, rng())


@pytest.mark.parametrize("broken_reward", [False, True])
@pytest.mark.parametrize(
    ("broken", "task"),
    [
        ([0.0, 0.0, 2.0, 1.0], 2),  # the first of two
        ([0.0, 3.0, 0.0, 0.0], 1),  # at its last step: only last_obs and the last reward show it
        ([0.0, 0.0, 0.0, 6.0], 3),  # at the horizon
    ],
)
def test_a_value_that_is_not_finite_stops_with_its_task(broken: list[float], task: int, broken_reward: bool) -> None:
    step = int(broken[task]) if task == 2 else int(max(broken))
    kind, number = ("reward", "inf") if broken_reward else ("observation", "nan in entry 0")
    with pytest.raises(FloatingPointError, match=rf"task {task} of the batch") as error:
        collect_breaking(broken, broken_reward)
    message = str(error.value)
    assert message.startswith("environment Breaking on the task {")
    assert f"'broken': {broken[task]}" in message
    assert f"gave a{'n' * (kind == 'observation')} {kind} that is not finite at step {step} of episode 0" in message
    assert message.endswith(f": {number}")


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    episodes = collect_breaking([0.0, 0.0, 0.0, 0.0])
    large = dataclasses.replace(episodes, reward=torch.full_like(episodes.reward, 3e38))
    _check_finite(Breaking().bind(TASKS, NUM_EPISODES), large, _finite_tasks(large))


def test_a_policy_that_breaks_is_not_taken_for_its_environment() -> None:
    env = Breaking().bind({**TASKS, "broken": torch.zeros(4)}, NUM_EPISODES)
    with pytest.raises(FloatingPointError, match=r"was given an action that is not finite at step 1 of episode 0: nan"):
        collect(env, Recurrent(), {"w": torch.full((1, 2), torch.nan)}, rng())


@pytest.mark.parametrize("broken_reward", [False, True])
def test_a_value_that_is_not_finite_after_termination_means_nothing(broken_reward: bool) -> None:
    episodes = collect_breaking([2.0, 4.0, 0.0, 0.0], broken_reward)
    assert episodes.returns.isfinite().all()
    assert episodes.obs.isfinite().all()


class Choosy:
    """Refuses numbers that are not finite, as sampling from a categorical does; may earn its failure itself."""

    def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple[Any, Any]:
        """See ActingPolicy.apply."""
        if not bool(obs.isfinite().all()) or "own" in params or (memory is not None and memory.max() > params["last"]):
            raise RuntimeError("probability tensor contains nan")
        return Around(torch.zeros(*obs.shape[:-1], 1), 0.1), memory

    def observe(self, memory: Any, action: Tensor, reward: Tensor, terminated: Tensor) -> Any:
        """Its memory is the last reward."""
        return reward


@pytest.mark.parametrize(
    ("broken_reward", "fault"),
    [
        (False, r"task 2 of the batch, gave an observation that is not finite at step 2 of episode 0: nan in entry 0"),
        (True, r"task 2 of the batch, gave a reward that is not finite at step 2 of episode 0: inf"),
    ],
)
def test_a_policy_that_fails_on_what_is_not_finite_is_not_blamed(broken_reward: bool, fault: str) -> None:
    env = Breaking()
    env.broken_reward = broken_reward
    tasks = {**TASKS, "broken": torch.tensor([0.0, 0.0, 2.0, 0.0])}
    with pytest.raises(FloatingPointError, match=fault):
        collect(env.bind(tasks, NUM_EPISODES), Choosy(), {"last": torch.tensor(1e9)}, rng())


def test_a_policy_that_fails_by_itself_is() -> None:
    env = Breaking().bind({**TASKS, "broken": torch.zeros(4)}, NUM_EPISODES)
    with pytest.raises(RuntimeError, match="probability tensor"):
        collect(env, Choosy(), {"own": torch.zeros(1)}, rng())


class BreakingAtReset(Breaking):
    """Not even its first observation is finite."""

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial."""
        return super().initial(rng, params) / 0


def test_the_first_observation_is_blamed_too() -> None:
    env = BreakingAtReset().bind({**TASKS, "broken": torch.zeros(4)}, NUM_EPISODES)
    with pytest.raises(FloatingPointError, match="gave an observation that is not finite at the reset of episode 0"):
        collect(env, Choosy(), {"last": torch.tensor(1e9)}, rng())


@pytest.mark.parametrize("what", ["actions", "memory"])
def test_a_policy_of_other_episodes_than_there_are_is_refused(what: str) -> None:
    """One action or memory for all would be played in all of them, silently."""

    class OneForAll:
        def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple[DiagonalGaussian, Tensor]:
            few = obs[:1] if what == "actions" else obs
            return DiagonalGaussian(few[..., :2], torch.zeros(2)), obs[:1]

    env = make_distribution("point-navigation")
    bound = env.bind(env.sample(3, "train", seeded(0)), 2)
    with pytest.raises(ValueError, match=rf"policy's {what} must be of tasks × episodes = \(3, 2\), got .*\(1, 2"):
        collect(bound, OneForAll(), {}, seeded(1))


@pytest.mark.parametrize(
    ("env", "answer", "said"),
    [
        (
            "point-navigation/finn",
            lambda obs: DiagonalGaussian(obs[..., :1], torch.zeros(1)),
            r"\(3, 2, 2\), got .*2, 1",
        ),
        ("point-navigation/finn", lambda obs: Categorical(obs), r"action space Box.*: \(3, 2, 2\), got \(3, 2\)"),
        ("bandit/bernoulli/n10-k5", lambda obs: DiagonalGaussian(obs, torch.zeros(1)), r"\(3, 2\), got \(3, 2, 1\)"),
        (
            "bandit/bernoulli/n10-k5",
            lambda obs: Categorical(obs.expand(3, 2, 3)),
            r"logits must be of 5 actions, .*2, 3",
        ),
        (
            "bandit/bernoulli/n10-k5",
            lambda obs: Categorical(obs.expand(3, 2, 6)),
            r"logits must be of 5 actions, .*2, 6",
        ),
    ],
    ids=["small", "discrete", "continuous", "few", "many"],
)
def test_actions_of_another_size_are_refused(env: str, answer: Any, said: str) -> None:
    """An environment would broadcast the small ones, and play some arms never."""

    class Mistaken:
        def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple[Any, None]:
            return answer(obs), None

    distribution = make_distribution(env)
    bound = distribution.bind(distribution.sample(3, "train", seeded(0)), 2)
    with pytest.raises(ValueError, match=said):
        collect(bound, Mistaken(), {}, seeded(1))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(3, 2, 2), "not a Tensor"),
        ((1, 2, 3), "not 3 values"),
        ((torch.zeros(3, 2, 2), None), r"a Tensor has no method sample\(\)"),
    ],
    ids=["tensor", "three", "no-distribution"],
)
def test_an_answer_that_is_no_distribution_and_memory_is_refused(answer: Any, said: str) -> None:
    class Mistaken:
        def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> Any:
            return answer

    distribution = make_distribution("point-navigation/finn")
    bound = distribution.bind(distribution.sample(3, "train", seeded(0)), 2)
    expected = r"Mistaken.apply\(\) must return a pair, \(distribution, memory\), (and )?"
    with pytest.raises(ValueError, match=expected + said):
        collect(bound, Mistaken(), {}, seeded(1))
