"""The task generator: distributions over parameterized environments, and batched rollouts over them."""

from metarl.envs.adapters.gymnasium_single import TaskGymEnv
from metarl.envs.adapters.gymnasium_vector import TaskVectorEnv
from metarl.envs.adapters.registration import register_gymnasium_ids
from metarl.envs.env_family import EnvFamily
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.rollout import BatchedEnv, Episodes, collect
from metarl.envs.task_distribution import SPLITS, TaskDistribution
from metarl.envs.task_env import BoundTaskEnv, TaskEnv
from metarl.envs.task_space import (
    Ball,
    BoxRing,
    Choice,
    Circle,
    Integers,
    LogUniform,
    Normal,
    Range,
    Simplex,
    Task,
    Uniform,
    tasks_to_json,
)

__all__ = [
    "FAMILIES",
    "SPLITS",
    "Ball",
    "BatchedEnv",
    "BoundTaskEnv",
    "BoxRing",
    "Choice",
    "Circle",
    "EnvFamily",
    "Episodes",
    "GymnasiumTasks",
    "Integers",
    "LogUniform",
    "Normal",
    "Range",
    "Simplex",
    "Task",
    "TaskDistribution",
    "TaskEnv",
    "TaskGymEnv",
    "TaskVectorEnv",
    "Uniform",
    "collect",
    "make_distribution",
    "tasks_to_json",
]

register_gymnasium_ids()
