"""Grid navigation: a small grid with a hidden goal."""

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
from metarl.envs.task_space import Choice, Task


class GridNavigation(GridGame):
    """A 5 × 5 grid with a hidden goal that rewards the agent as long as it is there.

        r = 1 where the cell after the step is the goal, −0.1 elsewhere

    Each episode starts in the corner (0, 0), H = 15, and never ends early. State: the cell (x, y). Observation: the
    cell, one-hot (25,), at x + 5y. Actions: see `grid_game.py`. Task: "goal" (2,), one of 21 cells: all but the start
    and the three cells next to it, diagonal included, as the authors' code has it.

    The best return is H + 1 − d − 0.1 (d − 1) with the d = x + y steps of a shortest path to the goal.

    Source: Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning", section
    5.1, and the authors' code. A trial there is 4 episodes of a task, 60 steps, each of which counts; here an agent
    adapts after each `--episodes` of them, so that with `--episodes 4` one adaptation step has seen such a trial.
    Deviation: the observation there is (x, y) itself.

    Args:
        size: n, cells along each side.
        horizon: H.
    """

    def __init__(self, size: int = 5, horizon: int = 15) -> None:
        super().__init__(size, (0, 0), horizon)
        self.observation_space = Box(0.0, 1.0, (size**2,), np.float32)

    def goals(self) -> list[Cell]:
        """Cells not next to the start."""
        return [(x, y) for x, y in self.cells_but_start() if max(x, y) > 1]

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial."""
        return self.start_like(params["goal"])

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        return self.move(state, action)

    def observation(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        return self.one_hot(self.index(state), self.size**2, state)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return 1.1 * same_cell(next_state, params["goal"]).to(next_state.dtype) - 0.1

    def get_default_params(self, **kwargs: Any) -> Task:
        """The goal in the middle."""
        return {"goal": torch.full((2,), float(self.size // 2), dtype=float_dtype())}

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """A shortest path to the goal, and stay there: optimal."""
        return action_towards(self.position_of(obs.argmax(dim=-1)), params["goal"])

    def optimum(self, num_episodes: int) -> tuple[float, ...]:
        """See EnvFamily.optimum; known for 5 × 5 cells and H = 15.

        4 is the most that a first episode can earn (a dynamic programme over walks and the goals that are left). A walk
        that meets 14 new goals in steps 2 … 15 and leaves those of two edges earns it and loses nothing afterwards.
        """
        if (self.size, self.horizon) != (5, 15):
            return ()
        steps = [x + y for x, y in self.goals()]
        known = sum(self.horizon + 1 - d - 0.1 * (d - 1) for d in steps) / len(steps)
        return (4.0, *[known] * (num_episodes - 1))

    def plane_position(self, obs: Tensor) -> Tensor:
        """See EnvFamily.plane_position."""
        return self.centred(self.position_of(obs.argmax(dim=-1)))

    def plane_goal(self, tasks: Task) -> Tensor:
        """See EnvFamily.plane_goal."""
        return self.centred(tasks["goal"])

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of the grid: the agent in blue, the goal as a red cross, the start as a grey dot."""
        canvas = self.canvas()
        canvas.disc(point_of(state), 12, "royalblue")
        canvas.cross(point_of(params["goal"]), 10, "red")
        return render_state, canvas.image()


def grid_navigation(size: Annotated[int, Between(3, 30)] = 5, horizon: Horizon = 15) -> TaskDistribution:
    """5 × 5 grid with a hidden goal, H = 15, 21 goals, which the splits share (VariBAD paper)."""
    env = GridNavigation(size, horizon)
    return TaskDistribution(env, train={"goal": Choice(env.goals(), "cells")})


FAMILIES = (Family("grid-navigation", grid_navigation, "metarl/GridNavigation-v0"),)
