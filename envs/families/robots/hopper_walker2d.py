"""Hopper and Walker2d: planar robots with one and two legs, whose build varies, go forward.

Source: Rothfuss et al. 2018 (ProMP, arXiv:1810.06784). Deviations of all robots: see RobotEnv.
"""

from torch import Tensor

from metarl.envs.family_entry import Family, Horizon
from metarl.envs.physics.models import State
from metarl.envs.physics.robots import HOPPER, WALKER2D, Robot
from metarl.envs.physics.varied_robot import VariedRobot
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import LogBoxRing, LogUniform, Range, Task


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


def hopper_dynamics(horizon: Horizon = 200) -> TaskDistribution:
    """Hop forward with unknown masses, inertias, damping and friction. Source: Rothfuss et al. 2018, appendix D."""
    env = ForwardDynamics(HOPPER, horizon)
    return TaskDistribution(env, train=_factors(env), ood=_wider_factors(env))


def walker2d_dynamics(horizon: Horizon = 200) -> TaskDistribution:
    """Walk forward with unknown masses, inertias, damping and friction. Source: Rothfuss et al. 2018, appendix D."""
    env = ForwardDynamics(WALKER2D, horizon)
    return TaskDistribution(env, train=_factors(env), ood=_wider_factors(env))


def _factors(env: VariedRobot) -> dict[str, Range]:
    """Factors of 1.5^U(−3, 3), of damping 1.3^U(−3, 3)."""
    return {
        name: LogUniform(_base(name) ** -3, _base(name) ** 3, units="×", shape=env.shape_of(name))
        for name in env.scaled
    }


def _wider_factors(env: VariedRobot) -> dict[str, Range]:
    """Exponents within ±4 of which at least one of each parameter lies beyond ±3. A choice of this project."""
    return {
        name: LogBoxRing(_base(name) ** 3, _base(name) ** 4, units="×", shape=env.shape_of(name)) for name in env.scaled
    }


def _base(name: str) -> float:
    return 1.3 if name == "dof_damping" else 1.5


FAMILIES = (
    Family("hopper-dynamics", hopper_dynamics, "metarl/HopperDynamics-v0"),
    Family("walker2d-dynamics", walker2d_dynamics, "metarl/Walker2dDynamics-v0"),
)
