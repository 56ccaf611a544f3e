"""Walking through grid games by hand, and searching them in plain Python."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from metarl.agents.policies.reference import OraclePolicy
from metarl.envs.families.games.grid_game import Cell, GridGame
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from tests.helpers.family_play import rng

STAY, UP, RIGHT, DOWN, LEFT = range(5)
MOVES = {STAY: (0, 0), UP: (0, 1), RIGHT: (1, 0), DOWN: (0, -1), LEFT: (-1, 0)}
Node = TypeVar("Node")


def cell(x: float, y: float) -> Tensor:
    return torch.tensor([float(x), float(y)])


def as_cell(value: Tensor) -> Cell:
    return int(value[0]), int(value[1])


def walk(env: GridGame, params: Task, *actions: int) -> tuple[list[Cell], list[float], list[bool], list[Tensor]]:
    """Cells, rewards, ends and observations after each action of one unbatched episode."""
    state = env.initial(rng(), params)
    cells, rewards, ends, observations = [], [], [], []
    for action in actions:
        state, obs, reward, terminated = env.step(state, torch.tensor(action), rng(), params)
        cells.append(as_cell(state["position"] if isinstance(state, dict) else state))
        rewards.append(round(float(reward), 6))
        ends.append(bool(terminated))
        observations.append(obs)
    return cells, rewards, ends, observations


def steps_from(start: Node, onwards: Callable[[Node], Iterable[Node]]) -> dict[Node, int]:
    """Steps to everything that can be reached, by breadth-first search."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for following in onwards(node):
            if following not in steps:
                steps[following] = steps[node] + 1
                queue.append(following)
    return steps


def oracle_episodes(distribution: TaskDistribution, tasks: Task) -> Episodes:
    return collect(distribution.bind(tasks, 1), OraclePolicy(distribution.env), tasks, rng())


def lengths(episodes: Episodes) -> list[int]:
    return [int(steps) for steps in episodes.mask[:, 0].sum(dim=-1)]


def grid(size: int) -> list[Cell]:
    """All cells."""
    return [(x, y) for x in range(size) for y in range(size)]


def open_cells(size: int, here: Cell) -> list[Cell]:
    """Where the five actions lead in a grid without inner walls."""
    moved = [(here[0] + dx, here[1] + dy) for dx, dy in MOVES.values()]
    return [(x, y) for x, y in moved if 0 <= x < size and 0 <= y < size]
