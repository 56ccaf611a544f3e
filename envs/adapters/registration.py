"""Registers the families with Gymnasium, for `gymnasium.make` and `gymnasium.make_vec`."""

import gymnasium

from metarl.envs.adapters.gymnasium_single import TaskGymEnv
from metarl.envs.adapters.gymnasium_vector import TaskVectorEnv
from metarl.envs.registry import FAMILIES


def register_gymnasium_ids() -> None:
    """Register every entry of FAMILIES with Gymnasium; ids it knows already are left alone."""
    for family in FAMILIES.values():
        if family.gymnasium_id and family.gymnasium_id not in gymnasium.registry:
            gymnasium.register(
                id=family.gymnasium_id,
                entry_point=f"{TaskGymEnv.__module__}:{TaskGymEnv.__name__}",
                vector_entry_point=f"{TaskVectorEnv.__module__}:{TaskVectorEnv.__name__}",
                max_episode_steps=family.make().horizon,
                kwargs={"distribution": family.name},
            )
