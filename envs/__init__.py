"""The task generator: distributions over parameterized environments, and batched rollouts over them."""

from envs.env_family import EnvFamily
from envs.families.external import GymnasiumTasks
from envs.gymnasium_adapters import TaskGymEnv, TaskVectorEnv, register_gymnasium_ids
from envs.registry import FAMILIES, make_distribution
from envs.rollout import BatchedEnv, Episodes, collect
from envs.task_distribution import SPLITS, TaskDistribution
from envs.task_env import BoundTaskEnv, TaskEnv
from envs.task_space import (
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
