"""MiniGrid: the layout is the task; needs the extra `minigrid`."""

import importlib
from typing import Any

import gymnasium

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.task_space import Choice, Integers

CROSSING = "MiniGrid-SimpleCrossingS9N1-v0"
LAYOUTS = 1_000_000


def without_mission(env_id: str, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The environment with the agent's view alone as its observation: the mission is text, and always the same."""
    wrappers: Any = importlib.import_module("minigrid.wrappers")
    env = gymnasium.make(env_id, disable_env_checker=True, max_episode_steps=-1, render_mode=render_mode)
    made: gymnasium.Env[Any, Any] = wrappers.ImgObsWrapper(env)
    return made


def crossing(horizon: Horizon = 60) -> GymnasiumTasks:
    """MiniGrid's SimpleCrossing (9 × 9, one wall with a gap): 42 hidden layouts, some of them held out, H = 60.

    Task: whether the wall is "vertical", its place ("wall", 2, 4 or 6) and that of the "gap" in it (1 … 7): the layouts
    that the environment's own seeds give, each once.
    """
    return GymnasiumTasks(
        CROSSING,
        train={"vertical": Integers(0, 1, "1"), "wall": Choice([2, 4, 6], "cells"), "gap": Integers(1, 7, "cells")},
        horizon=horizon,
        make=crossing_of,
        held_out=True,
    )


def crossing_of(vertical: int, wall: int, gap: int, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The environment with this wall instead of a random one."""
    env = without_mission(CROSSING, render_mode)
    inner: Any = env.unwrapped
    draw_any = inner._gen_grid
    material = importlib.import_module("minigrid.core.world_object").Wall

    def draw(width: int, height: int) -> None:
        # Agent, goal and outer walls are the environment's own; the wall inside is taken away and built anew.
        draw_any(width, height)
        for column in range(1, width - 1):
            for row in range(1, height - 1):
                if isinstance(inner.grid.get(column, row), material):
                    inner.grid.set(column, row, None)

        for place in range(1, width - 1):
            if place != gap:
                column, row = (wall, place) if vertical else (place, wall)
                inner.grid.set(column, row, material())

    inner._gen_grid = draw
    return env


def four_rooms(horizon: Horizon = 100) -> GymnasiumTasks:
    """MiniGrid's FourRooms: gaps, goal and start are hidden and fixed over a task, H = 100."""
    return _layouts("MiniGrid-FourRooms-v0", horizon)


def _layouts(env_id: str, horizon: int) -> GymnasiumTasks:
    """Tasks are seeds of the layout, each of one split; ood: other seeds, no other layouts."""
    return GymnasiumTasks(
        env_id,
        train={"seed": Integers(0, LAYOUTS - 1, "1")},
        ood={"seed": Integers(LAYOUTS, 2 * LAYOUTS - 1, "1")},
        horizon=horizon,
        seed_parameter="seed",
        held_out=True,
        make=without_mission,
        keywords=_EnvId(env_id),
    )


class _EnvId:
    """The id as the only argument, whatever the task."""

    def __init__(self, env_id: str) -> None:
        self.env_id = env_id

    def __call__(self, task: object) -> dict[str, Any]:
        return {"env_id": self.env_id}


FAMILIES = (
    Family("minigrid/crossing", crossing, package="minigrid", extra="minigrid"),
    Family("minigrid/four-rooms", four_rooms, package="minigrid", extra="minigrid"),
)
