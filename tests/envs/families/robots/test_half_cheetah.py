"""Half-cheetah: rewards worked out by hand; its physics is compared with Gymnasium's in test_robot_env."""

import torch

from metarl.envs.families.robots.half_cheetah import HalfCheetahVelocity
from tests.helpers.family_play import rng


def test_the_reward_falls_with_the_distance_from_the_speed_asked_for() -> None:
    """r = −|v_x − v*| − 0.05 ‖a‖², by hand."""
    env = HalfCheetahVelocity()
    positions = torch.zeros(3, 9, dtype=torch.float64), torch.zeros(3, 9, dtype=torch.float64)
    positions[1][:, 0] = torch.tensor([0.05, 0.10, -0.05])  # 1, 2 and −1 m/s in 0.05 s
    before, after = ({"qpos": qpos} for qpos in positions)
    reward = env.reward(before, torch.full((3, 6), 2.0), after, rng(), {"velocity": torch.tensor([1.0, 1.5, 1.0])})
    torch.testing.assert_close(reward, torch.tensor([-0.3, -0.8, -2.3]))
