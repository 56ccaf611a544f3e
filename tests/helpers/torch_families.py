"""The registered families that are written in torch alone."""

from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.registry import FAMILIES

TORCH_FAMILIES = [
    name for name, family in FAMILIES.items() if family.gymnasium_id and not isinstance(family.make().env, RobotEnv)
]
