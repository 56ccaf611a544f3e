"""Naive players of bandits and tables: what "where gradient adaptation does not pay" is measured against.

They explore uniformly, and then do what looks best in the means that they saw. runs/reference/README.md shows their
returns on the first 100 test tasks beside those of MAML, which explored as long; this is where they come from.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from metarl.envs.registry import make_distribution

Floats = NDArray[np.float64]

PAGE = Path(__file__).parents[3] / "runs" / "reference" / "README.md"
NUM_TASKS = 100
EXPLORATIONS = 10
"""Of each task, so that the means are those of the players and not of their luck."""


def tasks_of(family: str) -> dict[str, Floats]:
    """The first 100 test tasks, each as often as it is explored, leaves (N, …)."""
    tasks = make_distribution(family).sample(NUM_TASKS, "test")
    return {name: np.repeat(value.double().numpy(), EXPLORATIONS, axis=0) for name, value in tasks.items()}


def naive_bandit(family: str, episodes: int) -> float:
    """Expected return of an episode of the arm with the highest mean in so many episodes of uniform pulls."""
    rng = np.random.default_rng(0)
    means = tasks_of(family)["mean"]
    num_arms = means.shape[-1]
    horizon = make_distribution(family).horizon

    pulls = rng.multinomial(episodes * horizon, np.full(num_arms, 1 / num_arms), size=len(means))
    if family == "bandit/bernoulli":
        paid = rng.binomial(pulls, means).astype(float)
    else:
        paid = rng.normal(pulls * means, np.sqrt(pulls))
    chosen = (paid / np.maximum(pulls, 1)).argmax(axis=-1)
    return float(horizon * means[np.arange(len(means)), chosen].mean())


def naive_mdp(episodes: int) -> float:
    """Expected return of an episode planned in the model that so many episodes of uniform actions counted.

    What was never tried pays nothing there, and leads nowhere.
    """
    rng = np.random.default_rng(0)
    tasks = tasks_of("tabular-mdp")
    horizon = make_distribution("tabular-mdp").horizon
    moves, paid = uniform_episodes(tasks, episodes, horizon, rng)

    visits = moves.sum(axis=-1)
    transition = moves / np.maximum(visits, 1)[..., None]
    reward = paid / np.maximum(visits, 1)
    return float(value_of_planning_in(transition, reward, tasks, horizon).mean())


def uniform_episodes(
    tasks: dict[str, Floats], episodes: int, horizon: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Counts of transitions (N, S, A, S), and the rewards of each pair in sum, (N, S, A)."""
    cumulative = tasks["transition"].cumsum(axis=-1)
    num_tasks, num_states, num_actions, _ = cumulative.shape
    everyone = np.arange(num_tasks)
    moves = np.zeros(cumulative.shape)
    paid = np.zeros(cumulative.shape[:-1])

    for _ in range(episodes):
        state = np.zeros(num_tasks, dtype=int)
        for _ in range(horizon):
            action = rng.integers(num_actions, size=num_tasks)
            uniform = rng.random((num_tasks, 1))
            after = np.minimum((cumulative[everyone, state, action] < uniform).sum(axis=-1), num_states - 1)
            moves[everyone, state, action, after] += 1
            paid[everyone, state, action] += rng.normal(tasks["reward"][everyone, state, action])
            state = after
    return moves, paid


def value_of_planning_in(transition: Floats, reward: Floats, tasks: dict[str, Floats], horizon: int) -> Floats:
    """What the best plan of a model, P (N, S, A, S) and R (N, S, A), truly earns in an episode from state 0, (N,)."""
    believed = np.zeros(reward.shape[:-1])
    true = np.zeros(reward.shape[:-1])
    for _ in range(horizon):
        q = reward + (transition @ believed[:, None, :, None])[..., 0]
        plan = q.argmax(axis=-1)[..., None]
        true_q = tasks["reward"] + (tasks["transition"] @ true[:, None, :, None])[..., 0]
        believed = q.max(axis=-1)
        true = np.take_along_axis(true_q, plan, axis=-1)[..., 0]
    return true[:, 0]


@pytest.mark.parametrize("family", ["bandit/bernoulli", "bandit/gaussian", "tabular-mdp"])
def test_the_page_says_what_they_earn(family: str) -> None:
    number = r"(-?[\d.]+)"
    row = rf"^\| `{family}` \| {number} \| {number} \| {number} after (\d+) episodes? \|$"
    found = re.search(row, PAGE.read_text(), re.MULTILINE)
    assert found is not None
    maml, naive, naive_of_less = (float(value) for value in found.groups()[:3])
    few = int(found[4])

    def play(episodes: int) -> float:
        return naive_mdp(episodes) if family == "tabular-mdp" else naive_bandit(family, episodes)

    assert play(60) == pytest.approx(naive, abs=0.051)
    assert play(few) == pytest.approx(naive_of_less, abs=0.051)
    assert maml < naive_of_less < naive, "the page says that gradient adaptation does not pay here"


def test_planning_in_the_true_model_is_the_oracle() -> None:
    """Value iteration of the family itself, on the same tasks."""
    distribution = make_distribution("tabular-mdp")
    tasks = distribution.sample(3, "test")
    optimal = distribution.env.values(tasks, distribution.horizon)[:, 0].amax(dim=-1)  # type: ignore[attr-defined]
    true = {name: value.double().numpy() for name, value in tasks.items()}
    value = value_of_planning_in(true["transition"], true["reward"], true, distribution.horizon)
    assert value == pytest.approx(optimal.numpy(), rel=1e-5)
