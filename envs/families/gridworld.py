"""Grid games: a hidden goal, a dark room with a key and a door, and random mazes.

Cells have coordinates (x, y), (0, 0) at the lower left. Five actions in all games: 0 stay, 1 up, 2 right, 3 down,
4 left; a move against a wall leaves the agent where it is.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.env_family import Polyline
from metarl.envs.families.canvas import Canvas
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Choice, Range, Task

Cell = tuple[int, int]
Picture = tuple[Any, NDArray[np.uint8]]


class GridGame(TaskEnv):
    """A square grid of n × n cells without inner walls.

    Args:
        size: n.
        start: cell in which each episode starts.
        horizon: H.
    """

    action_space = Discrete(5)
    render_fps = 5
    plane_cell = 1.0

    def __init__(self, size: int, start: Cell, horizon: int) -> None:
        self.size, self.start, self.horizon = size, start, horizon
        super().__init__()

    def cells(self) -> list[Cell]:
        """All cells but the start."""
        every = [(x, y) for x in range(self.size) for y in range(self.size)]
        return [cell for cell in every if cell != self.start]

    def start_like(self, cell: Tensor) -> Tensor:
        """The start, of the shape, type and device of a cell (*batch, 2)."""
        start = torch.empty_like(cell)
        start[..., 0], start[..., 1] = self.start
        return start

    def displacement(self, action: Tensor, like: Tensor) -> Tensor:
        """(Δx, Δy) of an action, (*batch, 2), −1, 0 or 1."""
        forth = torch.arange(2, 0, -1, device=action.device)  # right for x, up for y
        direction = action.unsqueeze(-1)
        return (direction == forth).to(like.dtype) - (direction == forth + 2).to(like.dtype)

    def moved(self, position: Tensor, action: Tensor) -> Tensor:
        """The cell (*batch, 2) to which an action leads; the outer walls hold."""
        return (position + self.displacement(action, position)).clamp(0, self.size - 1)

    def index(self, position: Tensor) -> Tensor:
        """Number of a cell, x + n·y, (*batch,) integers."""
        return torch.add(position[..., 0], position[..., 1], alpha=self.size).long()

    def position_of(self, index: Tensor) -> Tensor:
        """Inverse of `index`, (*batch, 2) integers."""
        return torch.stack([index % self.size, index // self.size], dim=-1)

    def one_hot(self, index: Tensor, classes: int, like: Tensor) -> Tensor:
        """(*batch, classes)."""
        return (index.unsqueeze(-1) == torch.arange(classes, device=index.device)).to(like.dtype)

    def centred(self, position: Tensor) -> Tensor:
        """In the plane, the middle of the grid being the origin."""
        return position - (self.size - 1) / 2

    def plane_lines(self, task: Task) -> list[Polyline]:
        """See TaskEnv.plane_lines: the outer walls."""
        high = self.size / 2
        return [[(-high, -high), (high, -high), (high, high), (-high, high), (-high, -high)]]

    def canvas(self) -> Canvas:
        """The empty grid with its start."""
        canvas = Canvas(half_width=0.55 * self.size, centre=((self.size - 1) / 2, (self.size - 1) / 2))
        low, high = -0.5, self.size - 0.5
        for k in range(self.size + 1):
            canvas.line([(low + k, low), (low + k, high)], "lightgrey", 1)
            canvas.line([(low, low + k), (high, low + k)], "lightgrey", 1)
        canvas.disc(self.start, 3, "grey")
        return canvas


def _same(cell: Tensor, other: Tensor) -> Tensor:
    """Whether two cells (*batch, 2) are the same, bool (*batch,)."""
    return (cell == other).all(dim=-1)


def _towards(position: Tensor, target: Tensor) -> Tensor:
    """Action of a shortest path in an open grid: first along x, then along y, then stay."""
    right, up = (target - position).sign().long().unbind(-1)
    return torch.where(right != 0, 3 - right, torch.where(up != 0, 2 - up, 0))


def _cell(cell: Tensor) -> tuple[float, float]:
    x, y = cell.tolist()
    return x, y


class GridNavigation(GridGame):
    """A 5 × 5 grid with a hidden goal that pays as long as the agent is there.

        r = 1 where the cell after the step is the goal, −0.1 elsewhere

    Each episode starts in the corner (0, 0), H = 15, and never ends early. State: the cell (x, y). Observation: the
    cell, one-hot (25,), at x + 5y. Task: "goal" (2,), one of 21 cells: all but the start and the three cells next to
    it, diagonal included, as the authors' code has it.

    The best return is H + 1 − d − 0.1 (d − 1) with the d = x + y steps of a shortest path to the goal.

    Source: Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning", section
    5.1, and the authors' code. A trial there is 4 episodes of a task, 60 steps, each of which counts; here an agent
    adapts after each `--episodes` of them, so that with `--episodes 4` one adaptation step has seen such a trial.
    Deviation: the observation there is (x, y) itself.
    """

    def __init__(self, size: int = 5, horizon: int = 15) -> None:
        super().__init__(size, (0, 0), horizon)
        self.observation_space = Box(0.0, 1.0, (size**2,), np.float32)

    def goals(self) -> list[Cell]:
        """Cells not next to the start."""
        return [(x, y) for x, y in self.cells() if max(x, y) > 1]

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial."""
        assert params is not None
        return self.start_like(params["goal"])

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        return self.moved(state, action)

    def observation(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.observation."""
        return self.one_hot(self.index(state), self.size**2, state)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        assert params is not None
        return 1.1 * _same(next_state, params["goal"]).to(next_state.dtype) - 0.1

    def get_default_params(self, **kwargs: Any) -> Task:
        """The goal in the middle."""
        return {"goal": torch.full((2,), float(self.size // 2))}

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """A shortest path to the goal, and stay there: optimal."""
        return _towards(self.position_of(obs.argmax(dim=-1)), params["goal"])

    def plane_position(self, obs: Tensor) -> Tensor:
        """See TaskEnv.plane_position."""
        return self.centred(self.position_of(obs.argmax(dim=-1)))

    def plane_goal(self, tasks: Task) -> Tensor:
        """See TaskEnv.plane_goal."""
        return self.centred(tasks["goal"])

    def render_image(self, state: Tensor, render_state: Any, params: Task | None = None) -> Picture:
        """Picture of the grid: the agent in blue, the goal as a red cross, the start as a grey dot."""
        assert params is not None
        canvas = self.canvas()
        canvas.disc(_cell(state), 12, "royalblue")
        canvas.cross(_cell(params["goal"]), 10, "red")
        return render_state, canvas.image()


class DarkKeyDoor(GridGame):
    """A dark room of 9 × 9 cells with an invisible key and an invisible door that only opens with it.

        r = 1 when the key is first reached, 1 when the door is reached with the key, which ends the episode; else 0

    Each episode starts in the middle (4, 4), H = 50. State, dict: "position", the cell (*batch, 2); "has_key", 0 or 1.
    Observation: x one-hot (9,), y one-hot (9,), has_key. Task: "key" (2,) and "door" (2,): cells. Keys lie on the 40
    cells where x + y is odd, doors on the 40 others without the start, so that neither is where the other or the
    agent is: 1,600 tasks.

    The best return, 2, needs |start − key|₁ + |key − door|₁ steps, at most 24.

    Source: Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation", Dark Key-to-Door.
    Chosen here: has_key is observed, so that an agent without memory can play; key and door lie on the two colours of
    a chessboard; the start is the same in each episode; the door ends it.
    """

    def __init__(self, size: int = 9, horizon: int = 50) -> None:
        super().__init__(size, (size // 2, size // 2), horizon)
        self.observation_space = Box(0.0, 1.0, (2 * size + 1,), np.float32)

    def cells_of(self, parity: int) -> list[Cell]:
        """Cells but the start where x + y, counted from the start, is even (0) or odd (1)."""
        return [cell for cell in self.cells() if (sum(cell) - sum(self.start)) % 2 == parity]

    def initial(self, rng: torch.Generator, params: Task | None = None) -> State:
        """See TaskEnv.initial."""
        assert params is not None
        position = self.start_like(params["key"])
        return {"position": position, "has_key": torch.zeros_like(position[..., 0])}

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task | None = None) -> State:
        """See TaskEnv.transition."""
        assert params is not None
        position, has_key = self.moved(state["position"], action), state["has_key"]
        return {"position": position, "has_key": torch.maximum(has_key, _same(position, params["key"]).to(has_key))}

    def observation(self, state: State, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.observation."""
        position = state["position"]
        place = self.one_hot(position, self.size, position).flatten(-2)
        return torch.cat([place, state["has_key"].unsqueeze(-1)], dim=-1)

    def reward(
        self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        opened = self.terminal(next_state, rng, params)
        reward: Tensor = next_state["has_key"] - state["has_key"] + opened
        return reward

    def terminal(self, state: State, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.terminal."""
        assert params is not None
        has_key: Tensor = state["has_key"] > 0
        return has_key & _same(state["position"], params["door"])

    def get_default_params(self, **kwargs: Any) -> Task:
        """Key and door in opposite directions."""
        x, y = self.start
        return {"key": torch.tensor([x - 3.0, y - 2.0]), "door": torch.tensor([x + 3.0, y + 1.0])}

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """A shortest path to the key, then one to the door: optimal."""
        target = torch.where(obs[..., -1:] > 0, params["door"], params["key"])
        return _towards(self._position(obs), target)

    def _position(self, obs: Tensor) -> Tensor:
        return obs[..., :-1].reshape(*obs.shape[:-1], 2, self.size).argmax(dim=-1)

    def plane_position(self, obs: Tensor) -> Tensor:
        """See TaskEnv.plane_position."""
        return self.centred(self._position(obs))

    def plane_goal(self, tasks: Task) -> Tensor:
        """See TaskEnv.plane_goal: the door."""
        return self.centred(tasks["door"])

    def render_image(self, state: State, render_state: Any, params: Task | None = None) -> Picture:
        """Picture of the room: the agent in blue, the key in gold on the floor or on the agent, the door in brown."""
        assert params is not None
        canvas, here = self.canvas(), _cell(state["position"])
        x, y = _cell(params["door"])
        canvas.polygon([(x - 0.25, y - 0.4), (x + 0.25, y - 0.4), (x + 0.25, y + 0.4), (x - 0.25, y + 0.4)], "peru")
        canvas.disc(here, 9, "royalblue")
        canvas.disc(here if bool(state["has_key"] > 0) else _cell(params["key"]), 5, "gold")
        return render_state, canvas.image()


def _exits(openings: Tensor) -> list[tuple[int, Tensor]]:
    """For each direction up, right, down, left: whether a cell is open there, and how to look there.

    Rolling values (…, n²) by the shift brings each cell its neighbour's; over the border from the opposite side, where
    no opening leads.

    Returns [(shift, open: bool (*batch, n²)), …].
    """
    size = openings.shape[-2]
    up, right = openings.flatten(-3, -2).gt(0).unbind(-1)
    return [(-size, up), (-1, right), (size, up.roll(size, dims=-1)), (1, right.roll(1, dims=-1))]


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
        device, num_cells = generator.device, self.size**2
        cells = torch.arange(num_cells, device=device).reshape(self.size, self.size)
        one = torch.cat([cells[:-1].flatten(), cells[:, :-1].flatten()])  # (W,), the cells below or left of each wall
        other = torch.cat([cells[1:].flatten(), cells[:, 1:].flatten()])
        walls = torch.where(other == one + 1, 2 * one + 1, 2 * one)  # places in a flat value
        weight = torch.rand((num_tasks, len(walls)), generator=generator, device=device)
        opened = torch.zeros_like(weight, dtype=torch.bool)
        reached = cells.flatten().expand(num_tasks, -1) == 0
        for _ in range(num_cells - 1):
            frontier = reached[:, one] ^ reached[:, other]
            chosen = weight.masked_fill(~frontier, math.inf).argmin(dim=1, keepdim=True)
            opened = opened.scatter(1, chosen, True)
            reached = reached.scatter(1, one[chosen], True).scatter(1, other[chosen], True)
        more = torch.rand(weight.shape, generator=generator, device=device).masked_fill(opened, math.inf)
        opened = opened.scatter(1, more.topk(self.extra, largest=False).indices, True)
        openings = torch.zeros((num_tasks, 2 * num_cells), device=device)
        openings[:, walls] = opened.float()
        return openings.reshape(num_tasks, *self.shape)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains; the flood starts in cell (0, 0)."""
        inner = torch.ones_like(value, dtype=torch.bool)
        inner[:, -1, :, 0] = inner[:, :, -1, 1] = False
        well_formed = ((value == 0) | ((value == 1) & inner)).flatten(1).all(dim=1)
        exits = _exits(value)
        reached = torch.zeros_like(exits[0][1])
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
    below and to the left, where an opening lets the agent see them, else 0 (16,). Task: "openings" (n, n, 2), see
    Openings; "goal" (2,), any cell but the start.

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
        """Where the walls above, right, below, left of cell 0, and of each of its neighbours, stand in flat openings.

        Returns (4,) and (4, 4). Those of another cell stand 2·index further on.
        """
        forth = torch.arange(self.size, 0, 1 - self.size, device=device)  # cells from one to the next above, right
        above_right = torch.arange(2, device=device)
        sides = torch.cat([above_right, above_right - 2 * forth])
        return sides, 2 * torch.cat([forth, -forth]).unsqueeze(1) + sides

    def _openings_at(self, index: Tensor, params: Task) -> Tensor:
        """Flat openings at (*batch, k); negative places are beyond the border and closed."""
        openings = params["openings"].flatten(-3)
        return openings.gather(-1, index % openings.shape[-1])

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial."""
        assert params is not None
        return self.start_like(params["goal"])

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        assert params is not None
        sides, _ = self._side_offsets(state.device)
        wall = 2 * self.index(state) + sides[action - 1]  # of no account where the agent stays
        is_open = self._openings_at(wall.unsqueeze(-1), params)
        return torch.addcmul(state, self.displacement(action, state), is_open)

    def observation(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.observation."""
        assert params is not None
        index = self.index(state)
        sides, next_sides = self._side_offsets(state.device)
        walls = 2 * index.unsqueeze(-1) + torch.cat([sides, next_sides.flatten()])
        openings = self._openings_at(walls, params)
        here, beyond = openings[..., :4], openings[..., 4:].reshape(*index.shape, 4, 4)
        seen = (beyond * here.unsqueeze(-1)).flatten(-2)
        return torch.cat([self.one_hot(index, self.size**2, state), here, seen], dim=-1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """See TaskEnv.reward."""
        return self.terminal(next_state, rng, params).to(next_state.dtype) - 0.01

    def terminal(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.terminal."""
        assert params is not None
        return _same(state, params["goal"])

    def get_default_params(self, **kwargs: Any) -> Task:
        """One winding corridor, row by row, with the goal half-way."""
        openings = torch.zeros(self.size, self.size, 2)
        openings[:, :-1, 1] = 1.0
        for y in range(self.size - 1):
            openings[y, -1 if y % 2 == 0 else 0, 0] = 1.0
        return {"openings": openings, "goal": torch.full((2,), float(self.size // 2))}

    def distances(self, params: Task) -> Tensor:
        """Steps from each cell to the goal, (*batch, n²), by value iteration.

        d(c) = 0 at the goal, else 1 + min d(c') over the cells c' to which c is open.
        """
        goal, exits = params["goal"], _exits(params["openings"])
        at_goal = self.one_hot(self.index(goal), self.size**2, goal) > 0
        distance = torch.full_like(at_goal, math.inf, dtype=goal.dtype).masked_fill(at_goal, 0.0)
        for _ in range(self.size**2 - 1):
            for shift, is_open in exits:
                onwards = torch.where(is_open, distance.roll(shift, dims=-1), math.inf)
                distance = torch.minimum(distance, onwards + 1)
        return distance

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """A shortest path to the goal: optimal."""
        distance, here = self.distances(params), obs[..., : self.size**2].argmax(dim=-1, keepdim=True)
        onwards = [
            torch.where(is_open, distance.roll(shift, dims=-1), math.inf).gather(-1, here)
            for shift, is_open in _exits(params["openings"])
        ]
        return 1 + torch.cat(onwards, dim=-1).argmin(dim=-1)

    def plane_position(self, obs: Tensor) -> Tensor:
        """See TaskEnv.plane_position."""
        return self.centred(self.position_of(obs[..., : self.size**2].argmax(dim=-1)))

    def plane_goal(self, tasks: Task) -> Tensor:
        """See TaskEnv.plane_goal."""
        return self.centred(tasks["goal"])

    def _walls(self, params: Task) -> list[Polyline]:
        """Walls above and to the right of the cells of one maze, in coordinates of cells."""
        walls: list[Polyline] = []
        for y, row in enumerate(params["openings"].tolist()):
            for x, (up, right) in enumerate(row):
                walls += [] if up else [[(x - 0.5, y + 0.5), (x + 0.5, y + 0.5)]]
                walls += [] if right else [[(x + 0.5, y - 0.5), (x + 0.5, y + 0.5)]]
        return walls

    def plane_lines(self, task: Task) -> list[Polyline]:
        """See TaskEnv.plane_lines: all walls."""
        middle = (self.size - 1) / 2
        inner = [[(x - middle, y - middle) for x, y in wall] for wall in self._walls(task)]
        return super().plane_lines(task) + inner

    def render_image(self, state: Tensor, render_state: Any, params: Task | None = None) -> Picture:
        """Picture of the maze: walls black, the agent blue, the goal a red cross, the start a grey dot."""
        assert params is not None
        canvas, low, high = self.canvas(), -0.5, self.size - 0.5
        canvas.line([(low, high), (low, low), (high, low)], "black", 3)
        for wall in self._walls(params):
            canvas.line(wall, "black", 3)
        canvas.disc(_cell(state), 12, "royalblue")
        canvas.cross(_cell(params["goal"]), 10, "red")
        return render_state, canvas.image()


def grid_navigation() -> TaskDistribution:
    """5 × 5 grid with a hidden goal, H = 15, 21 goals, which the splits share (VariBAD paper)."""
    env = GridNavigation()
    return TaskDistribution(env, train={"goal": Choice(env.goals(), "cells")})


def dark_key_door() -> TaskDistribution:
    """Dark 9 × 9 room with an invisible key and door, H = 50, 1,600 tasks, some in several splits (AD paper)."""
    env = DarkKeyDoor()
    return TaskDistribution(
        env, train={"key": Choice(env.cells_of(parity=1), "cells"), "door": Choice(env.cells_of(parity=0), "cells")}
    )


def maze() -> TaskDistribution:
    """Random 5 × 5 mazes with a hidden goal, seen from near, H = 60."""
    env = Maze()
    return TaskDistribution(env, train={"openings": Openings(env.size), "goal": Choice(env.cells(), "cells")})
