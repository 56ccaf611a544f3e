"""What the grid games share: cells, moves, observations and pictures of a square grid.

Cells have coordinates (x, y), (0, 0) at the lower left. Five actions in all games: 0 stay, 1 up, 2 right, 3 down,
4 left; a move against a wall leaves the agent where it is.
"""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.envs.env_family import Polyline
from metarl.envs.families.canvas import Canvas, Point
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task

Cell = tuple[int, int]

VIEW = 0.55  # half the side of pictures, in sides of the grid


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
        self.size = size
        self.start = start
        self.horizon = horizon
        self.plane_view = VIEW * size
        super().__init__()

    def cells_but_start(self) -> list[Cell]:
        """All cells but the start."""
        cells = [(x, y) for x in range(self.size) for y in range(self.size)]
        return [cell for cell in cells if cell != self.start]

    def start_like(self, cell: Tensor) -> Tensor:
        """The start, of the shape, type and device of a cell (*batch, 2)."""
        start = torch.empty_like(cell)
        start[..., 0] = self.start[0]
        start[..., 1] = self.start[1]
        return start

    def displacement(self, action: Tensor, like: Tensor) -> Tensor:
        """(Δx, Δy) of an action, (*batch, 2), −1, 0 or 1, of the type of a tensor."""
        increasing = torch.arange(2, 0, -1, device=action.device)  # 2, right, for x; 1, up, for y
        decreasing = increasing + 2  # 4, left, for x; 3, down, for y
        action = action.unsqueeze(-1)
        return (action == increasing).to(like.dtype) - (action == decreasing).to(like.dtype)

    def move(self, position: Tensor, action: Tensor) -> Tensor:
        """The cell (*batch, 2) to which an action leads; the outer walls hold."""
        return (position + self.displacement(action, position)).clamp(0, self.size - 1)

    def index(self, position: Tensor) -> Tensor:
        """Number of a cell, x + n·y, (*batch,) integers."""
        return torch.add(position[..., 0], position[..., 1], alpha=self.size).long()

    def position_of(self, index: Tensor) -> Tensor:
        """Inverse of `index`, (*batch, 2) integers."""
        return torch.stack([index % self.size, index // self.size], dim=-1)

    def one_hot(self, index: Tensor, classes: int, like: Tensor) -> Tensor:
        """(*batch, classes), of the type of a tensor."""
        zeros = torch.zeros((*index.shape, classes), dtype=like.dtype, device=index.device)
        return zeros.scatter_(-1, index.long().unsqueeze(-1), 1.0)

    def centred(self, position: Tensor) -> Tensor:
        """A position in the plane whose origin is the middle of the grid."""
        return position - (self.size - 1) / 2

    def plane_lines(self, task: Task) -> list[Polyline]:
        """See EnvFamily.plane_lines: the outer walls."""
        high = self.size / 2
        return [[(-high, -high), (high, -high), (high, high), (-high, high), (-high, -high)]]

    def canvas(self) -> Canvas:
        """The empty grid with its start."""
        middle = (self.size - 1) / 2
        canvas = Canvas(half_width=VIEW * self.size, centre=(middle, middle))

        low, high = -0.5, self.size - 0.5
        for k in range(self.size + 1):
            canvas.line([(low + k, low), (low + k, high)], "lightgrey", 1)
            canvas.line([(low, low + k), (high, low + k)], "lightgrey", 1)

        canvas.disc(self.start, 3, "grey")
        return canvas


def same_cell(cell: Tensor, other: Tensor) -> Tensor:
    """Whether two cells (*batch, 2) are the same, bool (*batch,)."""
    return (cell == other).all(dim=-1)


def action_towards(position: Tensor, target: Tensor) -> Tensor:
    """Action of a shortest path in a grid without inner walls: first along x, then along y, then stay."""
    right, up = (target - position).sign().long().unbind(-1)
    vertical = torch.where(up != 0, 2 - up, 0)
    return torch.where(right != 0, 3 - right, vertical)


def point_of(cell: Tensor) -> Point:
    """Where an unbatched cell lies in a picture."""
    x, y = cell.tolist()
    return x, y
