"""Maze: random mazes with a hidden goal, of which the agent sees the walls near it."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.env_family import Polyline
from metarl.envs.families.canvas import Rendered
from metarl.envs.families.games.grid_game import GridGame, point_of, same_cell
from metarl.envs.family_entry import Between, Family, Horizon
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Choice, Range, Task


@dataclass(frozen=True)
class Openings(Range):
    """Mazes of n × n cells: a random spanning tree of passages and a few more of them.

    A value (n, n, 2) is 1 at [y, x, 0] where cell (x, y) is open to the cell above, at [y, x, 1] where it is to the
    one on the right, else 0; the border is closed. A maze is in the range if all cells are connected.

    The tree is the minimal spanning tree of independent random weights of the inner walls, grown from cell (0, 0) by
    Prim's algorithm.

    Args:
        size: n ≥ 2.
        extra: openings besides the n² − 1 of the tree, at most (n − 1)².
    """

    size: int
    extra: int = 3
    units: str = "1"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject what is no maze."""
        if not (self.size >= 2 and 0 <= self.extra <= (self.size - 1) ** 2):
            raise ValueError(f"Openings needs size >= 2 and 0 <= extra <= (size - 1)², got {self.size}, {self.extra}")
        object.__setattr__(self, "shape", (self.size, self.size, 2))

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample."""
        device = generator.device
        num_cells = self.size**2

        # Each inner wall stands between two neighbours: `one` is below or left of it, `other` above or right.
        cells = torch.arange(num_cells, device=device).reshape(self.size, self.size)
        one = torch.cat([cells[:-1].flatten(), cells[:, :-1].flatten()])
        other = torch.cat([cells[1:].flatten(), cells[:, 1:].flatten()])

        weight = torch.rand((num_tasks, len(one)), generator=generator, device=device, dtype=float_dtype())
        opened = _spanning_tree(weight, one, other, num_cells)

        # The extra openings are the closed walls with the smallest of new random numbers.
        order = torch.rand(weight.shape, generator=generator, device=device, dtype=float_dtype()).masked_fill(
            opened, math.inf
        )
        opened = opened.scatter(1, order.topk(self.extra, largest=False).indices, True)

        # A wall's place in a flat value: that of `one`, first upwards, then to the right.
        places = torch.where(other == one + 1, 2 * one + 1, 2 * one)
        openings = torch.zeros((num_tasks, 2 * num_cells), device=device, dtype=float_dtype())
        openings[:, places] = opened.float()
        return openings.reshape(num_tasks, *self.shape)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains; a flood from cell (0, 0) must reach all others."""
        inner = torch.ones_like(value, dtype=torch.bool)
        inner[:, -1, :, 0] = False
        inner[:, :, -1, 1] = False
        well_formed = ((value == 0) | ((value == 1) & inner)).flatten(1).all(dim=1)

        exits = _exits(value)
        _, open_above = exits[0]
        reached = torch.zeros_like(open_above)
        reached[:, 0] = True
        for _ in range(self.size**2 - 1):
            for shift, is_open in exits:
                reached = reached | (reached.roll(shift, dims=-1) & is_open)

        return well_formed & reached.all(dim=1)

    def __str__(self) -> str:
        return f"connected mazes of {self.size} × {self.size} cells, closed at the border"


class Maze(GridGame):
    """A random maze with a hidden goal; the agent sees the walls near it.

        r = −0.01 each step, and 1 more at the goal, which ends the episode

    Each episode starts in the corner (0, 0). State: the cell (x, y). Observation: the cell, one-hot (n²,) at x + n·y;
    whether it is open above, to the right, below and to the left (4,); and the same of the cells above, to the right,
    below and to the left, where an opening lets the agent see them, else 0 (16,). Actions: see `grid_game.py`. Task:
    "openings" (n, n, 2), see Openings; "goal" (2,), any cell but the start.

    The best return is 1 − 0.01 d with a shortest path of d steps.

    Source: this project.

    Args:
        size: n.
        horizon: H.
    """

    def __init__(self, size: int = 5, horizon: int = 60) -> None:
        super().__init__(size, (0, 0), horizon)
        self.observation_space = Box(0.0, 1.0, (size**2 + 20,), np.float32)

    def _side_offsets(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the openings around a cell stand in flat openings, counted from 2·index of the cell.

        Returns:
            Offsets of the openings above, right, below and left of the cell (4,); and of those of its neighbours above,
            right, below and left (4, 4).
        """
        # Made by arange, on the device itself: a captured step must not move numbers there.
        to_next = torch.arange(self.size, 0, 1 - self.size, device=device)  # index from a cell to that above, right
        above_right = torch.arange(2, device=device)

        # The openings below and left of a cell are those above and right of its neighbours there.
        sides = torch.cat([above_right, above_right - 2 * to_next])
        neighbours = torch.cat([to_next, -to_next]).unsqueeze(1)
        return sides, 2 * neighbours + sides

    def _openings_at(self, places: Tensor, params: Task) -> Tensor:
        """Values of flat openings at places (*batch, k); negative places are beyond the border and closed."""
        openings = params["openings"].flatten(-3)
        return openings.gather(-1, places % openings.shape[-1])

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial."""
        return self.start_like(params["goal"])

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        sides, _ = self._side_offsets(state.device)

        # Where the agent stays (action 0) the wall does not matter: the displacement is 0.
        wall = 2 * self.index(state) + sides[action - 1]
        is_open = self._openings_at(wall.unsqueeze(-1), params)
        return torch.addcmul(state, self.displacement(action, state), is_open)

    def observation(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        index = self.index(state)
        sides, next_sides = self._side_offsets(state.device)
        places = 2 * index.unsqueeze(-1) + torch.cat([sides, next_sides.flatten()])
        openings = self._openings_at(places, params)

        # A neighbour's walls are seen through the opening that leads to it.
        own = openings[..., :4]
        neighbours = openings[..., 4:].reshape(*index.shape, 4, 4)
        seen = (neighbours * own.unsqueeze(-1)).flatten(-2)
        return torch.cat([self.one_hot(index, self.size**2, state), own, seen], dim=-1)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return self.terminal(next_state, rng, params).to(next_state.dtype) - 0.01

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        return same_cell(state, params["goal"])

    def get_default_params(self, **kwargs: Any) -> Task:
        """One winding corridor, row by row, with the goal half-way."""
        openings = torch.zeros(self.size, self.size, 2, dtype=float_dtype())
        openings[:, :-1, 1] = 1.0
        for y in range(self.size - 1):
            end_of_row = -1 if y % 2 == 0 else 0
            openings[y, end_of_row, 0] = 1.0
        return {"openings": openings, "goal": torch.full((2,), float(self.size // 2), dtype=float_dtype())}

    def distances(self, params: Task) -> Tensor:
        """Steps from each cell to the goal, (*batch, n²), by value iteration.

        d(c) = 0 at the goal, else 1 + min d(c') over the cells c' to which c is open.
        """
        goal = params["goal"]
        at_goal = self.one_hot(self.index(goal), self.size**2, goal) > 0
        distance = torch.full_like(at_goal, math.inf, dtype=goal.dtype).masked_fill(at_goal, 0.0)

        exits = _exits(params["openings"])
        for _ in range(self.size**2 - 1):
            for shift, is_open in exits:
                from_neighbour = torch.where(is_open, distance.roll(shift, dims=-1), math.inf)
                distance = torch.minimum(distance, from_neighbour + 1)

        return distance

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "reached"

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """A shortest path to the goal: optimal."""
        distance = self.distances(params)
        here = self._observed_index(obs).unsqueeze(-1)

        onwards = []
        for shift, is_open in _exits(params["openings"]):
            from_neighbour = torch.where(is_open, distance.roll(shift, dims=-1), math.inf)
            onwards.append(from_neighbour.gather(-1, here))

        # The exits come in the order of the actions up, right, down and left, 1 … 4.
        return 1 + torch.cat(onwards, dim=-1).argmin(dim=-1)

    def _observed_index(self, obs: Tensor) -> Tensor:
        """Number of the agent's cell, (*batch,)."""
        return obs[..., : self.size**2].argmax(dim=-1)

    def plane_position(self, obs: Tensor) -> Tensor:
        """See EnvFamily.plane_position."""
        return self.centred(self.position_of(self._observed_index(obs)))

    def plane_goal(self, tasks: Task) -> Tensor:
        """See EnvFamily.plane_goal."""
        return self.centred(tasks["goal"])

    def _walls(self, params: Task) -> list[Polyline]:
        """Walls above and to the right of the cells of one maze, in coordinates of cells."""
        walls: list[Polyline] = []
        for y, row in enumerate(params["openings"].tolist()):
            for x, (open_above, open_right) in enumerate(row):
                if not open_above:
                    walls.append([(x - 0.5, y + 0.5), (x + 0.5, y + 0.5)])
                if not open_right:
                    walls.append([(x + 0.5, y - 0.5), (x + 0.5, y + 0.5)])
        return walls

    def plane_lines(self, task: Task) -> list[Polyline]:
        """See EnvFamily.plane_lines: all walls."""
        middle = (self.size - 1) / 2
        lines = super().plane_lines(task)
        for wall in self._walls(task):
            lines.append([(x - middle, y - middle) for x, y in wall])
        return lines

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of the maze: walls black, the agent blue, the goal a red cross, the start a grey dot."""
        canvas = self.canvas()

        # The walls of the cells leave out the border below and on the left.
        low, high = -0.5, self.size - 0.5
        canvas.line([(low, high), (low, low), (high, low)], "black", 3)
        for wall in self._walls(params):
            canvas.line(wall, "black", 3)

        canvas.disc(point_of(state), 12, "royalblue")
        canvas.cross(point_of(params["goal"]), 10, "red")
        return render_state, canvas.image()


def _spanning_tree(weight: Tensor, one: Tensor, other: Tensor, num_cells: int) -> Tensor:
    """Which walls the minimal spanning trees open, by Prim's algorithm from cell 0.

    Args:
        weight: of each wall in each maze, (M, W).
        one: the cell on one side of each wall, (W,).
        other: the cell on the other side, (W,).
        num_cells: n².

    Returns:
        Bool (M, W).
    """
    opened = torch.zeros_like(weight, dtype=torch.bool)
    reached = torch.arange(num_cells, device=weight.device).expand(len(weight), -1) == 0

    for _ in range(num_cells - 1):
        frontier = reached[:, one] ^ reached[:, other]
        chosen = weight.masked_fill(~frontier, math.inf).argmin(dim=1, keepdim=True)
        opened = opened.scatter(1, chosen, True)
        reached = reached.scatter(1, one[chosen], True).scatter(1, other[chosen], True)

    return opened


def _exits(openings: Tensor) -> list[tuple[int, Tensor]]:
    """For each direction up, right, down, left: whether a cell is open there, and how to look there.

    Args:
        openings: (*batch, n, n, 2).

    Returns:
        Pairs of a shift and whether each cell is open there, bool (*batch, n²). Rolling values (…, n²) by the shift
        brings each cell its neighbour's; over the border from the opposite side, where no opening leads.
    """
    size = openings.shape[-2]
    up, right = openings.flatten(-3, -2).gt(0).unbind(-1)
    down = up.roll(size, dims=-1)
    left = right.roll(1, dims=-1)
    return [(-size, up), (-1, right), (size, down), (1, left)]


def maze(size: Annotated[int, Between(3, 30)] = 5, horizon: Horizon = 60) -> TaskDistribution:
    """Random 5 × 5 mazes with a hidden goal, seen from near, H = 60."""
    env = Maze(size, horizon)
    goals = Choice(env.cells_but_start(), "cells")
    return TaskDistribution(env, train={"openings": Openings(env.size), "goal": goals})


FAMILIES = (Family("maze", maze, "metarl/Maze-v0"),)
