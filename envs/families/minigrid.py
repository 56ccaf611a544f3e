"""MiniGrid: the layout that a seed gives is the task; needs the extra `minigrid`."""

import importlib
from typing import Any

import gymnasium

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.family_entry import Family
from metarl.envs.task_space import Integers

LAYOUTS = 1_000_000


def without_mission(env_id: str, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The environment with the agent's view alone as its observation: the mission is text, and always the same."""
    wrappers: Any = importlib.import_module("minigrid.wrappers")
    env = gymnasium.make(env_id, disable_env_checker=True, max_episode_steps=-1, render_mode=render_mode)
    made: gymnasium.Env[Any, Any] = wrappers.ImgObsWrapper(env)
    return made


def crossing() -> GymnasiumTasks:
    """MiniGrid's SimpleCrossing (9 × 9, one wall with a gap): the layout is hidden and fixed over a task, H = 60."""
    return _layouts("MiniGrid-SimpleCrossingS9N1-v0", horizon=60)


def four_rooms() -> GymnasiumTasks:
    """MiniGrid's FourRooms: gaps, goal and start are hidden and fixed over a task, H = 100."""
    return _layouts("MiniGrid-FourRooms-v0", horizon=100)


def _layouts(env_id: str, horizon: int) -> GymnasiumTasks:
    """Tasks are seeds of the layout; ood: seeds that training never meets."""
    return GymnasiumTasks(
        env_id,
        train={"seed": Integers(0, LAYOUTS - 1, "1")},
        ood={"seed": Integers(LAYOUTS, 2 * LAYOUTS - 1, "1")},
        horizon=horizon,
        seed_parameter="seed",
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
