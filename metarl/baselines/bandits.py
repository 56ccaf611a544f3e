"""Classical strategies for Bernoulli bandits, batched over tasks: what a learned exploration is held against."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gymnasium.spaces import Discrete
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.agents.policies.reference import FixedActions
from metarl.envs.env_family import EnvFamily
from metarl.envs.families.bandit import BernoulliBandit

Memory = dict[str, Tensor]
"""Counts of each arm, "wins" and "losses", (M, E, k), and "time", the pulls so far, (M, E)."""

Score = Callable[[Memory, torch.Generator], Tensor]
"""What a strategy thinks an arm is worth, (M, E, k), from the memory; the arm of the highest score is pulled."""

GITTINS_GRID = 100
"""Rates of a known arm that an arm is compared with, evenly spaced in [0, 1]: the resolution of the Gittins index."""

UCB1_WEIGHT = 0.1
"""c of UCB1, which Duan et al. 2016 tune without saying what they chose. With 0.1 their six means of 10 and 100 pulls
of 5, 10 and 50 arms come out; with 0.2, 100 pulls of 50 arms earn 67 instead of 84."""

EPSILON = 0.05
"""Share of ε-greedy's pulls that are random; not tuned."""


@dataclass(frozen=True)
class ScoredActions:
    """Pulls the arm of the highest score, (M, E).

    Attributes:
        memory: what was seen so far.
        score: of the arms.
    """

    memory: Memory
    score: Score

    def sample(self, generator: torch.Generator) -> Tensor:
        """One arm each, integers (M, E)."""
        return FixedActions(self.score(self.memory, generator).argmax(dim=-1)).sample(generator)

    def parameters(self) -> dict[str, Tensor]:
        """None."""
        return {}


class BanditStrategy:
    """A strategy as an ActingPolicy without parameters, whose memory counts what each arm paid.

    All believe at first that an arm's rate is uniform in [0, 1].

    Args:
        name: one of `BANDIT_STRATEGIES`.
        env: the bandit.

    Raises:
        ValueError: the family is no Bernoulli bandit.
    """

    def __init__(self, name: str, env: EnvFamily) -> None:
        if not isinstance(env, BernoulliBandit):
            raise ValueError(f"{name} plays Bernoulli bandits only")
        assert isinstance(env.action_space, Discrete)
        self.num_arms = int(env.action_space.n)
        self.score = _score_of(name, env.horizon)

    def apply(
        self, params: dict[str, Tensor], obs: Tensor, memory: Memory | None = None
    ) -> tuple[ScoredActions, Memory]:
        """See ActingPolicy.apply."""
        if memory is None:
            nothing = obs.new_zeros((*obs.shape[:-1], self.num_arms))
            memory = {"wins": nothing, "losses": nothing, "time": nothing[..., 0]}
        return ScoredActions(memory, self.score), memory

    @staticmethod
    def next_episode(memory: Memory) -> Memory:
        """An episode is a whole trial: the next one begins with nothing."""
        return pytree.tree_map(torch.zeros_like, memory)  # type: ignore[no-any-return]

    def observe(self, memory: Memory, action: Tensor, reward: Tensor, terminated: Tensor) -> Memory:
        """See ObservingPolicy.observe."""
        pulled = torch.nn.functional.one_hot(action, self.num_arms).to(reward)
        paid = reward.unsqueeze(-1)
        return {
            "wins": memory["wins"] + pulled * paid,
            "losses": memory["losses"] + pulled * (1 - paid),
            "time": memory["time"] + 1,
        }


# ---------------------------------------------------------------------- scores


def _mean(memory: Memory) -> Tensor:
    """Expected rate of each arm."""
    return (memory["wins"] + 1) / (memory["wins"] + memory["losses"] + 2)


def _greedy(memory: Memory, generator: torch.Generator) -> Tensor:
    return _mean(memory)


def _epsilon_greedy(memory: Memory, generator: torch.Generator) -> Tensor:
    mean = _mean(memory)
    explores = torch.rand(mean.shape[:-1], generator=generator, device=mean.device) < EPSILON
    anything = torch.rand(mean.shape, generator=generator, device=mean.device)
    return torch.where(explores.unsqueeze(-1), anything, mean)


def _ucb1(memory: Memory, generator: torch.Generator) -> Tensor:
    pulls = memory["wins"] + memory["losses"] + 1
    time = memory["time"].unsqueeze(-1) + 1
    return _mean(memory) + UCB1_WEIGHT * (2 * time.log() / pulls).sqrt()


def _thompson(memory: Memory, generator: torch.Generator) -> Tensor:
    """A rate drawn from what is believed of each arm, Beta(1 + wins, 1 + losses)."""
    won = torch._standard_gamma(memory["wins"] + 1, generator=generator)
    lost = torch._standard_gamma(memory["losses"] + 1, generator=generator)
    drawn: Tensor = won / (won + lost)
    return drawn


class _Gittins:
    """The Gittins index of the pulls that are left, from a table."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.table = gittins_table(horizon)

    def __call__(self, memory: Memory, generator: torch.Generator) -> Tensor:
        left = (self.horizon - memory["time"]).long().clamp(min=1).unsqueeze(-1)
        table = self.table.to(memory["wins"].device)
        return table[left - 1, memory["wins"].long(), memory["losses"].long()]


def gittins_table(horizon: int) -> Tensor:
    """Finite-horizon Gittins indices of an arm whose rate is uniform in [0, 1] at first.

    The index is the rate of a known arm at which it makes no difference, with h pulls left, whether this arm is tried
    first or never. What is tried and then left is never tried again.

    Args:
        horizon: n.

    Returns:
        Index at h − 1, wins, losses, (n, n, n); right where h + wins + losses ≤ n, elsewhere without meaning.
    """
    known = torch.linspace(0, 1, GITTINS_GRID).reshape(-1, 1, 1)
    table = torch.zeros(horizon, horizon, horizon)
    value = torch.zeros(GITTINS_GRID, horizon + 1, horizon + 1)

    for left in range(1, horizon + 1):
        # With so many pulls left there were no more than these before.
        size = horizon - left + 1
        count = torch.arange(float(size))
        mean = (count[:, None] + 1) / (count[:, None] + count[None, :] + 2)

        after_win = value[:, 1 : size + 1, :size]
        after_loss = value[:, :size, 1 : size + 1]
        tried = mean * (1 + after_win) + (1 - mean) * after_loss
        never = known * left
        table[left - 1, :size, :size] = _crossing(tried - never)
        value = torch.maximum(tried, never)
    return table


def _crossing(gain: Tensor) -> Tensor:
    """Where in [0, 1] a gain that falls along its first axis, (G, …), is 0, by linear interpolation; (…)."""
    last = ((gain > 0).sum(dim=0, keepdim=True) - 1).clamp(0, len(gain) - 2)
    above = gain.gather(0, last)
    below = gain.gather(0, last + 1)
    return ((last + above / (above - below)) / (len(gain) - 1)).squeeze(0)


_SIMPLE: dict[str, Score] = {
    "thompson": _thompson,
    "ucb1": _ucb1,
    "epsilon-greedy": _epsilon_greedy,
    "greedy": _greedy,
}
BANDIT_STRATEGIES = ("gittins", *_SIMPLE)
"""Names of the strategies, those of `metarl compare --baselines`."""


def _score_of(name: str, horizon: int) -> Score:
    return _Gittins(horizon) if name == "gittins" else _SIMPLE[name]
