"""Naive players of bandits, tables and grid games: what "where gradient adaptation does not pay" is measured against.

They explore uniformly, and then do what looks best in the means that they saw. On grid games they go where it paid, by
the moves that they have seen: nobody tells them how a grid hangs together. runs/reference/README.md shows their
returns on the first 100 test tasks beside those of MAML, which explored as long; this is where they come from.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.baselines.references import reference_episodes
from metarl.envs.families.games.dark_key_door import DarkKeyDoor
from metarl.envs.families.games.grid_game import GridGame
from metarl.envs.registry import make_distribution
from metarl.envs.task_env import State
from metarl.envs.task_space import Task, num_tasks_of, select_tasks

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PAGE = (Path(__file__).parents[3] / "runs" / "reference" / "README.md").read_text(encoding="utf-8")
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


# ---------------------------------------------------------------------- grid games


class GameTables(NamedTuple):
    """Grid games as tables of S states, the last of which is the end of the episode.

    Attributes:
        after: number of the state after each action, (M, S, A).
        reward: what it pays, (M, S, A).
        start: number of the state in which episodes start.
    """

    after: Integers
    reward: Floats
    start: int


def tables_of(env: GridGame, tasks: Task) -> GameTables:
    """What the environment itself does in each state: a cell, without the key and then with it where there is one."""
    has_key = isinstance(env, DarkKeyDoor)
    num_cells = env.size**2
    num_states = num_cells * (2 if has_key else 1)
    num_tasks = num_tasks_of(tasks)
    shape = (num_tasks, num_states, int(env.action_space.n))
    task, state, action = (index.flatten() for index in torch.meshgrid(*map(torch.arange, shape), indexing="ij"))

    def to_env(number: Tensor) -> State:
        position = env.position_of(number % num_cells).float()
        return {"position": position, "has_key": (number // num_cells).float()} if has_key else position

    def to_number(state: State) -> Tensor:
        return env.index(state["position"]) + num_cells * state["has_key"].long() if has_key else env.index(state)

    params = select_tasks(tasks, task)
    rng = torch.Generator()
    before = to_env(state)
    after = env.transition(before, action, rng, params)
    reward = env.reward(before, action, after, rng, params)
    ends = env.terminal(after, rng, params)

    # The end leads to itself and pays nothing.
    numbers = torch.where(ends, num_states, to_number(after)).reshape(shape).numpy()
    rewards = reward.double().reshape(shape).numpy()
    x, y = env.start
    return GameTables(
        np.pad(numbers, ((0, 0), (0, 1), (0, 0)), constant_values=num_states),
        np.pad(rewards, ((0, 0), (0, 1), (0, 0))),
        x + env.size * y,
    )


def naive_game(family: str, episodes: int) -> float:
    """Return of an episode planned in the moves that so many episodes of uniform actions have seen."""
    distribution = make_distribution(family)
    env = distribution.env
    assert isinstance(env, GridGame)
    tables = tables_of(env, distribution.sample(NUM_TASKS, "test"))
    tables = GameTables(tables.after.repeat(EXPLORATIONS, 0), tables.reward.repeat(EXPLORATIONS, 0), tables.start)

    rng = np.random.default_rng(0)
    seen = np.zeros(tables.reward.shape, dtype=bool)
    everyone = np.arange(len(seen))
    for _ in range(episodes):
        state = np.full(len(seen), tables.start)
        for _ in range(env.horizon):
            action = rng.integers(env.action_space.n, size=len(seen))
            seen[everyone, state, action] = True
            state = tables.after[everyone, state, action]
    return float(return_of_planning_in(seen, tables, env.horizon).mean())


def return_of_planning_in(seen: NDArray[np.bool_], tables: GameTables, horizon: int) -> Floats:
    """What the best plan by the moves that were seen, (N, S, A), truly earns in an episode, (N,).

    What was never tried pays nothing in the plan, and leads nowhere.
    """
    everyone = np.arange(len(seen))[:, None, None]
    believed = np.zeros(seen.shape[:-1])
    true = np.zeros(seen.shape[:-1])
    for _ in range(horizon):
        q = np.where(seen, tables.reward + believed[everyone, tables.after], 0.0)
        plan = q.argmax(axis=-1)[..., None]
        true_q = tables.reward + true[everyone, tables.after]
        believed = q.max(axis=-1)
        true = np.take_along_axis(true_q, plan, axis=-1)[..., 0]
    return true[:, tables.start]


# ---------------------------------------------------------------------- what they earn


def play(family: str, episodes: int) -> float:
    """What the naive player of a family earns in an episode after so many of exploration."""
    if family.startswith("bandit/"):
        return naive_bandit(family, episodes)
    return naive_mdp(episodes) if family == "tabular-mdp" else naive_game(family, episodes)


NUMBER = r"(-?[\d.]+)"
ROWS = re.findall(rf"^\| `([\w/-]+)` \| {NUMBER} \| {NUMBER} \| {NUMBER} after (\d+) episodes? \|$", PAGE, re.MULTILINE)
"""Of the page's table: family, MAML, the naive player after 60 episodes and after fewer, and how many these are."""


@pytest.mark.parametrize(("family", "maml", "naive", "naive_of_less", "few"), ROWS)
def test_the_page_says_what_they_earn(family: str, maml: str, naive: str, naive_of_less: str, few: str) -> None:
    assert play(family, 60) == pytest.approx(float(naive), abs=0.051)
    assert play(family, int(few)) == pytest.approx(float(naive_of_less), abs=0.051)
    assert float(maml) < float(naive_of_less) < float(naive), "the page says that gradient adaptation does not pay here"


def test_the_page_has_bandits_and_tables() -> None:
    assert {"bandit/bernoulli", "bandit/gaussian", "tabular-mdp"} <= {row[0] for row in ROWS}


@pytest.mark.parametrize(
    ("family", "episodes", "earned"),
    [
        ("grid-navigation", 60, 10.113),
        ("grid-navigation", 20, 8.651),
        ("dark-key-door", 60, 1.560),
        ("dark-key-door", 30, 1.440),
        ("maze", 60, 0.923),
        ("maze", 10, 0.699),
    ],
)
def test_random_walks_and_then_the_way_that_paid(family: str, episodes: int, earned: float) -> None:
    assert naive_game(family, episodes) == pytest.approx(earned, abs=0.0051)


@pytest.mark.parametrize("family", ["grid-navigation", "dark-key-door", "maze"])
def test_a_game_whose_moves_were_all_seen_is_played_as_the_oracle_does(family: str) -> None:
    distribution = make_distribution(family)
    tasks = distribution.sample(21, "test")
    env = distribution.env
    assert isinstance(env, GridGame)
    tables = tables_of(env, tasks)
    played = return_of_planning_in(np.ones(tables.reward.shape, dtype=bool), tables, env.horizon)

    oracle = reference_episodes(distribution, tasks, 1, torch.Generator().manual_seed(0))["oracle"]
    assert played == pytest.approx(oracle.returns[:, 0].double().numpy(), abs=1e-4)


def test_planning_in_the_true_model_is_the_oracle() -> None:
    """Value iteration of the family itself, on the same tasks."""
    distribution = make_distribution("tabular-mdp")
    tasks = distribution.sample(3, "test")
    optimal = distribution.env.values(tasks, distribution.horizon)[:, 0].amax(dim=-1)  # type: ignore[attr-defined]
    true = {name: value.double().numpy() for name, value in tasks.items()}
    value = value_of_planning_in(true["transition"], true["reward"], true, distribution.horizon)
    assert value == pytest.approx(optimal.numpy(), rel=1e-5)
