"""Classical strategies for tabular Markov decision processes, batched over tasks: they plan once an episode."""

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.agents.policies.reference import FixedActions
from metarl.envs.env_family import EnvFamily
from metarl.envs.families.tabular_mdp import TabularMDP

Memory = dict[str, Tensor]
"""What was seen, leaves (M, E, …): "moves" (S, A, S), counts of transitions; "visits" (S, A), counts of actions; "paid"
(S, A), the sum of their rewards; "last", the pair s·A + a of the step before; "time", steps of this episode; "plan"
(H, S, A), the value of each action with so many steps taken."""

Plan = Callable[[Memory, int, torch.Generator], Tensor]
"""(memory, H, generator) → values (…, H, S, A), by which an episode is played."""

OPTIMISTIC_SAMPLES = 6
"""Samples of which OPSRL believes the best. On 1,000 tasks of 10 episodes 4, 6 and 10 earn 142.9, 144.5 and 144.3."""

UCRL2_SCALE = 0.4
"""Factor on UCRL2's confidence sets. On 1,000 tasks of 10 episodes 0.1, 0.3, 0.4, 0.5 and 1, that of the proof, earn
142.0, 144.7, 145.0, 141.2 and 119.8."""

UCRL2_RISK = 0.05
"""δ, the probability with which UCRL2's confidence sets may fail."""


class MDPStrategy:
    """A strategy as an ActingPolicy without parameters, whose memory counts transitions and rewards of a trial.

    All believe at first that transitions are Dirichlet(1) and mean rewards N(0, 1), as those did whose means are
    published (Duan et al. 2016, with TabulaRL's defaults): tasks have N(1, 1), and with that PSRL earns 134 instead of
    138 in 10 episodes.

    Args:
        name: one of `MDP_STRATEGIES`.
        env: the tabular Markov decision process.
        generator: draws what a strategy believes at the beginning of an episode.

    Raises:
        ValueError: the family is no tabular Markov decision process.
    """

    def __init__(self, name: str, env: EnvFamily, generator: torch.Generator) -> None:
        if not isinstance(env, TabularMDP):
            raise ValueError(f"{name} plays tabular Markov decision processes only")
        self.num_states = env.num_states
        self.num_actions = env.num_actions
        self.horizon = env.horizon
        self.generator = generator
        self._plan = _PLANS[name]

    def apply(
        self, params: dict[str, Tensor], obs: Tensor, memory: Memory | None = None
    ) -> tuple[FixedActions, Memory]:
        """See ActingPolicy.apply; the observation is the state, one-hot."""
        memory = self._nothing(obs) if memory is None else memory
        state = obs.argmax(dim=-1)

        begins = memory["time"] == 0
        if bool(begins.any()):
            memory = memory | {"plan": self._plan(memory, self.horizon, self.generator)}
        if not bool(begins.all()):
            memory = memory | {"moves": self._moves(memory, state, ~begins)}

        # The row of the plan for this time and state.
        row = (memory["time"].long() * self.num_states + state)[..., None, None]
        values = memory["plan"].flatten(-3, -2).gather(-2, row.expand(*row.shape[:-1], self.num_actions)).squeeze(-2)
        action = values.argmax(dim=-1)
        return FixedActions(action), memory | {"last": state * self.num_actions + action}

    def observe(self, memory: Memory, action: Tensor, reward: Tensor, terminated: Tensor) -> Memory:
        """See ObservingPolicy.observe."""
        pair = torch.nn.functional.one_hot(memory["last"], self.num_states * self.num_actions).to(reward)
        taken = pair.reshape(*pair.shape[:-1], self.num_states, self.num_actions)
        return memory | {
            "visits": memory["visits"] + taken,
            "paid": memory["paid"] + taken * reward[..., None, None],
            "time": memory["time"] + 1,
        }

    @staticmethod
    def next_episode(memory: Memory) -> Memory:
        """The memory with which the next episode of a trial begins."""
        return memory | {"time": torch.zeros_like(memory["time"])}

    def _nothing(self, obs: Tensor) -> Memory:
        """The memory at the beginning of a trial."""
        batch = obs.shape[:-1]
        states, actions = self.num_states, self.num_actions
        return {
            "moves": obs.new_zeros((*batch, states, actions, states)),
            "visits": obs.new_zeros((*batch, states, actions)),
            "paid": obs.new_zeros((*batch, states, actions)),
            "last": torch.zeros(batch, dtype=torch.int64, device=obs.device),
            "time": obs.new_zeros(batch),
            "plan": obs.new_zeros((*batch, self.horizon, states, actions)),
        }

    def _moves(self, memory: Memory, state: Tensor, goes_on: Tensor) -> Tensor:
        """Counts of transitions with the one that led here, where the episode goes on."""
        moves = memory["moves"].flatten(-3).clone()
        index = memory["last"] * self.num_states + state
        moves.scatter_add_(-1, index.unsqueeze(-1), goes_on.unsqueeze(-1).to(moves))
        return moves.view_as(memory["moves"])


# ---------------------------------------------------------------------- planning


def values_of(transition: Tensor, reward: Tensor, horizon: int) -> Tensor:
    """Values (…, H, S, A) of acting optimally to the end of the episode, by value iteration.

    Q_t(s, a) = R(s, a) + Σ_s' P(s' | s, a) · max_a' Q_{t+1}(s', a'),  Q_H = 0.

    Args:
        transition: P, (…, S, A, S).
        reward: R, (…, S, A).
        horizon: H.
    """

    def mean(following: Tensor) -> Tensor:
        return (transition * following[..., None, None, :]).sum(dim=-1)

    return _iterate(reward, mean, horizon)


def _iterate(reward: Tensor, mean: Callable[[Tensor], Tensor], horizon: int) -> Tensor:
    """Values (…, H, S, A) by value iteration, from the end of the episode to its beginning.

    Args:
        reward: R, (…, S, A).
        mean: values of the next states, (…, S), → what each action expects of them, (…, S, A).
        horizon: H.
    """
    following = torch.zeros_like(reward[..., 0])
    values = []
    for _ in range(horizon):
        value = reward + mean(following)
        following = value.amax(dim=-1)
        values.append(value)
    return torch.stack(values[::-1], dim=-3)


def _sampled(memory: Memory, horizon: int, generator: torch.Generator) -> Tensor:
    """PSRL: plan for a process drawn from the belief: P ~ Dirichlet(1 + counts), R ~ N(mean, 1 / (1 + visits))."""
    drawn = torch._standard_gamma(memory["moves"] + 1, generator=generator)
    noise = torch.randn(memory["paid"].shape, generator=generator, device=drawn.device, dtype=drawn.dtype)
    reward = _mean_reward(memory) + noise / (memory["visits"] + 1).sqrt()
    return values_of(drawn / drawn.sum(dim=-1, keepdim=True), reward, horizon)


def _mean_reward(memory: Memory) -> Tensor:
    """Expected R where all begin as N(0, 1) and rewards have unit noise; see `MDPStrategy` for why not N(1, 1)."""
    return memory["paid"] / (memory["visits"] + 1)


def _best_of_samples(memory: Memory, horizon: int, generator: torch.Generator) -> Tensor:
    """OPSRL: of each value the largest in several draws."""
    best = _sampled(memory, horizon, generator)
    for _ in range(OPTIMISTIC_SAMPLES - 1):
        best = torch.maximum(best, _sampled(memory, horizon, generator))
    return best


def _optimistic(memory: Memory, horizon: int, generator: torch.Generator) -> Tensor:
    """UCRL2: the best values that any process within the confidence sets around the observed means has.

    Source: Jaksch et al. 2010, "Near-optimal Regret Bounds for Reinforcement Learning"; their extended value iteration
    for the finite horizon, the sets scaled by a factor as Duan et al. 2016 do.
    """
    visits = memory["visits"]
    states, actions = visits.shape[-2:]
    tried = visits.clamp(min=1)
    time = visits.sum(dim=(-2, -1), keepdim=True) + 1
    width = 4 * (2 * states * actions * time / UCRL2_RISK).log() / tried
    reward = memory["paid"] / tried + UCRL2_SCALE * width.sqrt()
    slack = UCRL2_SCALE * (states * width).sqrt()

    known = memory["moves"].sum(dim=-1, keepdim=True)
    uniform = torch.full_like(memory["moves"], 1 / states)
    transition = torch.where(known > 0, memory["moves"] / known.clamp(min=1), uniform)

    return _iterate(reward, lambda following: best_mean(transition, following, slack), horizon)


def best_mean(transition: Tensor, value: Tensor, slack: Tensor) -> Tensor:
    """Largest mean of a value under distributions at most so far from the given ones in the 1-norm, (…, S, A).

    Half of the distance goes to the best state; the worst states lose it.

    Args:
        transition: (…, S, A, S).
        value: (…, S).
        slack: the distance, (…, S, A).
    """
    order = value.argsort(dim=-1, descending=True)
    ranked = value.gather(-1, order)[..., None, None, :]
    index = order[..., None, None, :].expand_as(transition)
    probability = transition.gather(-1, index)

    first = (probability[..., :1] + slack.unsqueeze(-1) / 2).clamp(max=1)
    probability = torch.cat([first, probability[..., 1:]], dim=-1)
    before = probability.cumsum(dim=-1) - probability
    probability = torch.minimum(probability, (1 - before).clamp(min=0))
    return (probability * ranked).sum(dim=-1)


_PLANS: dict[str, Plan] = {"psrl": _sampled, "opsrl": _best_of_samples, "ucrl2": _optimistic}
MDP_STRATEGIES = tuple(_PLANS)
"""Names of the strategies, those of `metarl compare --baselines`."""
