"""highway-env's motorway with varied traffic and desired speed; needs the extra `driving`."""

import functools
from typing import Any

from metarl.envs.external.env_spec import number
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.external.worker_pool import TaskValues
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.task_space import Integers, Uniform

SPEED_SPAN = 5.0  # m/s, half of the range over which the reward for speed rises


def configuration(task: TaskValues, horizon: int) -> dict[str, Any]:
    """highway-env's argument `config`."""
    speed = number(task["desired_speed"], whole=False)
    return {
        "config": {
            "lanes_count": number(task["lanes"], whole=True),
            "vehicles_density": number(task["density"], whole=False),
            "reward_speed_range": [speed - SPEED_SPAN, speed + SPEED_SPAN],
            "duration": horizon,
        }
    }


def highway(horizon: Horizon = 20) -> GymnasiumTasks:
    """highway-env's motorway with varied lanes, density of vehicles and desired speed, H = 20; ood: dense traffic."""
    train = {
        "lanes": Integers(2, 5, "1"),
        "density": Uniform(0.5, 1.5, "1"),
        "desired_speed": Uniform(20.0, 30.0, "m/s"),
    }

    return GymnasiumTasks(
        "highway_env:highway-fast-v0",
        train=train,
        ood={"density": Uniform(1.5, 2.0, "1")},
        horizon=horizon,
        keywords=functools.partial(configuration, horizon=horizon),
    )


FAMILIES = (Family("highway", highway, package="highway_env", extra="driving"),)
