"""Meta-World's ML1 and ML10: a robot arm manipulates objects; needs the extra `metaworld`.

Training and test tasks are the benchmark's own. Success, as Meta-World defines it, is reported beside the return.

Source: Yu et al. 2019, "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning".
"""

import functools
import importlib
from typing import Annotated, Any

import gymnasium

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.external.worker_pool import TaskValues
from metarl.envs.family_entry import Between, Family
from metarl.envs.task_space import Integers

HORIZON = 500
"""As many steps as an environment of the benchmark takes before it wants a reset."""

Horizon = Annotated[int, Between(1, HORIZON)]
BENCHMARK_SEED = 0
NUM_GOALS = 50  # of each environment, in training and in test


@functools.cache
def benchmark(name: str) -> tuple[list[tuple[str, Any]], list[list[Any]]]:
    """Environments of a benchmark, those of training first, as (name, class), and the tasks of each."""
    metaworld: Any = importlib.import_module("metaworld")
    made = metaworld.ML10(seed=BENCHMARK_SEED) if name == "ML10" else metaworld.ML1(f"{name}-v3", seed=BENCHMARK_SEED)

    environments = []
    goals = []
    for classes, tasks in ((made.train_classes, made.train_tasks), (made.test_classes, made.test_tasks)):
        for env_name, env_class in classes.items():
            environments.append((env_name, env_class))
            goals.append([task for task in tasks if task.env_name == env_name])

    return environments, goals


def make(name: str, environment: int, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """A fresh environment of a benchmark."""
    _, env_class = benchmark(name)[0][environment]
    env: gymnasium.Env[Any, Any] = env_class(render_mode=render_mode)
    return env


class Benchmark:
    """How a task {"environment", "goal"} of a benchmark reaches an environment.

    Args:
        name: "ML10", or the one environment of an ML1, such as "reach".
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def keywords(self, task: TaskValues) -> dict[str, Any]:
        """Arguments of `make`."""
        return {"name": self.name, "environment": int(task["environment"])}

    def set_task(self, env: gymnasium.Env[Any, Any], task: TaskValues) -> None:
        """Set the goal and the objects."""
        goal = benchmark(self.name)[1][int(task["environment"])][int(task["goal"])]
        env.unwrapped.set_task(goal)  # type: ignore[attr-defined]


def ml1_reach(horizon: Horizon = HORIZON) -> GymnasiumTasks:
    """Meta-World ML1 reach: 50 training and 50 test goals of the benchmark's own, H = 500."""
    return _tasks("reach", horizon, train_environments=1, test_environments=1)


def ml1_push(horizon: Horizon = HORIZON) -> GymnasiumTasks:
    """Meta-World ML1 push: 50 training and 50 test goals of the benchmark's own, H = 500."""
    return _tasks("push", horizon, train_environments=1, test_environments=1)


def ml1_pick_place(horizon: Horizon = HORIZON) -> GymnasiumTasks:
    """Meta-World ML1 pick-place: 50 training and 50 test goals of the benchmark's own, H = 500."""
    return _tasks("pick-place", horizon, train_environments=1, test_environments=1)


def ml10(horizon: Horizon = HORIZON) -> GymnasiumTasks:
    """Meta-World ML10: 10 training and 5 test environments with 50 goals each, H = 500."""
    return _tasks("ML10", horizon, train_environments=10, test_environments=5)


def _tasks(name: str, horizon: int, train_environments: int, test_environments: int) -> GymnasiumTasks:
    benchmark_tasks = Benchmark(name)
    last = train_environments + test_environments - 1

    # The test split holds other environments; their goals have the same numbers.
    return GymnasiumTasks(
        f"Meta-World {name}",
        train={"environment": Integers(0, train_environments - 1, "1"), "goal": Integers(0, NUM_GOALS - 1, "1")},
        test={"environment": Integers(train_environments, last, "1")},
        horizon=horizon,
        make=make,
        keywords=benchmark_tasks.keywords,
        set_task=benchmark_tasks.set_task,
    )


FAMILIES = (
    Family("metaworld/ml1-reach", ml1_reach, package="metaworld", extra="metaworld"),
    Family("metaworld/ml1-push", ml1_push, package="metaworld", extra="metaworld"),
    Family("metaworld/ml1-pick-place", ml1_pick_place, package="metaworld", extra="metaworld"),
    Family("metaworld/ml10", ml10, package="metaworld", extra="metaworld"),
)
