"""Dark key door: a dark room with an invisible key and an invisible door."""

from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.families.canvas import Rendered
from metarl.envs.families.games.grid_game import Cell, GridGame, action_towards, point_of, same_cell
from metarl.envs.family_entry import Between, Family, Horizon
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State
from metarl.envs.task_space import Choice, Task


class DarkKeyDoor(GridGame):
    """A dark room of 9 × 9 cells with an invisible key and an invisible door that only opens with it.

        r = 1 when the key is first reached, 1 when the door is reached with the key, which ends the episode; else 0

    Each episode starts in the middle (4, 4), H = 50. State, dict: "position", the cell (*batch, 2); "has_key", 0 or 1.
    Observation: x one-hot (9,), y one-hot (9,), has_key. Actions: see `grid_game.py`. Task: "key" (2,) and "door"
    (2,): cells. Keys lie on the 40 cells where x + y is odd, doors on the 40 others without the start, so that neither
    is where the other or the agent is: 1,600 tasks.

    The best return, 2, needs |start − key|₁ + |key − door|₁ steps, at most 22: the corners are doors, so that a key is
    at most 7 steps away from the start, and then the opposite corner 15 from there.

    Source: Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation", Dark Key-to-Door.
    Choices of this project: has_key is observed, so that an agent without memory can play; key and door lie on the two
    colours of a chessboard; the start is the same in each episode; the door ends it.

    Args:
        size: n, cells along each side.
        horizon: H.
    """

    def __init__(self, size: int = 9, horizon: int = 50) -> None:
        super().__init__(size, (size // 2, size // 2), horizon)
        self.observation_space = Box(0.0, 1.0, (2 * size + 1,), np.float32)

    def cells_of(self, parity: int) -> list[Cell]:
        """Cells but the start where x + y, counted from the start, is even (0) or odd (1)."""
        return [cell for cell in self.cells_but_start() if (sum(cell) - sum(self.start)) % 2 == parity]

    def initial(self, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.initial."""
        position = self.start_like(params["key"])
        return {"position": position, "has_key": torch.zeros_like(position[..., 0])}

    def transition(self, state: State, action: Tensor, rng: torch.Generator, params: Task) -> State:
        """See TaskEnv.transition."""
        position = self.move(state["position"], action)
        has_key = state["has_key"]
        at_key = same_cell(position, params["key"]).to(has_key)
        return {"position": position, "has_key": torch.maximum(has_key, at_key)}

    def observation(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        position = state["position"]
        place = self.one_hot(position, self.size, position).flatten(-2)
        return torch.cat([place, state["has_key"].unsqueeze(-1)], dim=-1)

    def reward(self, state: State, action: Tensor, next_state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        opened = self.terminal(next_state, rng, params)
        reward: Tensor = next_state["has_key"] - state["has_key"] + opened
        return reward

    def terminal(self, state: State, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.terminal."""
        has_key: Tensor = state["has_key"] > 0
        return has_key & same_cell(state["position"], params["door"])

    def get_default_params(self, **kwargs: Any) -> Task:
        """Key and door in opposite directions."""
        x, y = self.start
        return {
            "key": torch.tensor([x - 3.0, y - 2.0], dtype=float_dtype()),
            "door": torch.tensor([x + 3.0, y + 1.0], dtype=float_dtype()),
        }

    def ending(self, obs: Tensor) -> str:
        """See EnvFamily.ending."""
        return "opened"

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """A shortest path to the key, then one to the door: optimal."""
        target = torch.where(obs[..., -1:] > 0, params["door"], params["key"])
        return action_towards(self._observed_position(obs), target)

    def _observed_position(self, obs: Tensor) -> Tensor:
        """The agent's cell, (*batch, 2) integers."""
        return obs[..., :-1].reshape(*obs.shape[:-1], 2, self.size).argmax(dim=-1)

    def plane_position(self, obs: Tensor) -> Tensor:
        """See EnvFamily.plane_position."""
        return self.centred(self._observed_position(obs))

    def plane_goal(self, tasks: Task) -> Tensor:
        """See EnvFamily.plane_goal: the door."""
        return self.centred(tasks["door"])

    def render_image(self, state: State, render_state: Any, params: Task) -> Rendered:
        """Picture of the room: the agent in blue, the key in gold on the floor or on the agent, the door in brown."""
        agent = point_of(state["position"])
        has_key = bool(state["has_key"] > 0)

        canvas = self.canvas()
        canvas.rectangle(point_of(params["door"]), 0.25, 0.4, "peru")
        canvas.disc(agent, 9, "royalblue")
        canvas.disc(agent if has_key else point_of(params["key"]), 5, "gold")
        return render_state, canvas.image()


def dark_key_door(size: Annotated[int, Between(3, 30)] = 9, horizon: Horizon = 50) -> TaskDistribution:
    """Dark 9 × 9 room with an invisible key and door, H = 50, 1,600 tasks, 960 of them to train on (AD paper)."""
    env = DarkKeyDoor(size, horizon)
    keys = Choice(env.cells_of(parity=1), "cells")
    doors = Choice(env.cells_of(parity=0), "cells")
    return TaskDistribution(env, train={"key": keys, "door": doors}, held_out=True)


FAMILIES = (Family("dark-key-door", dark_key_door, "metarl/DarkKeyDoor-v0"),)
