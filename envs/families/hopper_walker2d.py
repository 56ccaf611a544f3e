"""Hopper and Walker2d: planar robots with one and two legs, whose build varies, go forward.

Source: Rothfuss et al. 2018 (ProMP, arXiv:1810.06784). Deviations of all robots: see RobotEnv.
"""

from torch import Tensor

from metarl.envs.family_entry import Family
from metarl.envs.physics.models import State
from metarl.envs.physics.robots import HOPPER, WALKER2D, Robot
from metarl.envs.physics.varied_robot import VariedRobot
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import LogUniform, Range, Task


class ForwardDynamics(VariedRobot):
    """A planar robot whose build varies is rewarded for going forward and staying upright.

        r = v_x + 1 − 1e-3 ‖a‖²

    An episode ends where Gymnasium's does. Task: that of VariedRobot.

    Source: Rothfuss et al. 2018, appendix D, after rand_param_envs. Deviation: what MuJoCo derives from masses and
    inertias is computed again from those of the task.

    Args:
        robot: HOPPER or WALKER2D.
        horizon: H.
    """

    def __init__(self, robot: Robot, horizon: int = 200) -> None:
        self.robot = robot
        super().__init__(horizon)

    def compute_reward(self, before: State, action: Tensor, after: State, params: Task) -> Tensor:
        """See RobotEnv.compute_reward."""
        return self.velocity(before, after)[..., 0] + 1 - 1e-3 * action.square().sum(-1)


def hopper_dynamics() -> TaskDistribution:
    """Hop forward with unknown masses, inertias, damping and friction. Source: Rothfuss et al. 2018, appendix D."""
    env = ForwardDynamics(HOPPER)
    return TaskDistribution(env, train=_factors(env, exponent=3), ood=_factors(env, exponent=4))


def walker2d_dynamics() -> TaskDistribution:
    """Walk forward with unknown masses, inertias, damping and friction. Source: Rothfuss et al. 2018, appendix D."""
    env = ForwardDynamics(WALKER2D)
    return TaskDistribution(env, train=_factors(env, exponent=3), ood=_factors(env, exponent=4))


def _factors(env: VariedRobot, exponent: float) -> dict[str, Range]:
    """Factors of 1.5^U(−exponent, exponent), of damping 1.3^U(−exponent, exponent)."""
    ranges: dict[str, Range] = {}
    for name in env.scaled:
        base = 1.3 if name == "dof_damping" else 1.5
        ranges[name] = LogUniform(base**-exponent, base**exponent, units="×", shape=env.shape_of(name))
    return ranges


FAMILIES = (
    Family("hopper-dynamics", hopper_dynamics, "metarl/HopperDynamics-v0"),
    Family("walker2d-dynamics", walker2d_dynamics, "metarl/Walker2dDynamics-v0"),
)
