"""Family names and presets → TaskDistribution; and families from the user's own module."""

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from metarl.envs.external.yaml_file import from_yaml
from metarl.envs.families import (
    bandit,
    classic_control,
    driving,
    frozen_lake,
    gridworld,
    highway,
    locomotion,
    metaworld,
    minigrid,
    navigation,
    tabular_mdp,
)
from metarl.envs.task_distribution import TaskDistribution

CONSTRAINTS = {"metaworld": "constraints-metaworld.txt"}
"""Extra → file of tested versions, where it is not constraints.txt: Meta-World pins an older mujoco."""


@dataclass(frozen=True)
class Family:
    """An entry of the registry.

    Attributes:
        name: "family" or "family/preset"; the presets of one family differ in reward or range, so results do too.
        factory: builds the distribution.
        gymnasium_id: id for `gymnasium.make` and `gymnasium.make_vec`; "" for families of other packages.
        package: module that it needs besides, "" for none.
        extra: optional dependency of this project that installs it.
    """

    name: str
    factory: Callable[[], TaskDistribution]
    gymnasium_id: str = ""
    package: str = ""
    extra: str = ""

    def make(self) -> TaskDistribution:
        """Build the distribution.

        Raises:
            ValueError: a package that it needs is not installed; says how to.
        """
        if not self.available:
            raise ValueError(f"{self.name} needs the package {self.package}: {self.how_to_install}")
        return self.factory()

    @property
    def how_to_install(self) -> str:
        """The command that installs what it needs."""
        constraints = CONSTRAINTS.get(self.extra, "constraints.txt")
        return f"python -m pip install -e '.[{self.extra}]' -c {constraints}"

    @property
    def available(self) -> bool:
        """Whether the package that it needs is installed."""
        return not self.package or importlib.util.find_spec(self.package) is not None

    @property
    def summary(self) -> str:
        """First line of the factory's docstring."""
        return (self.factory.__doc__ or "").strip().splitlines()[0]


FAMILIES = {
    family.name: family
    for family in (
        Family("point-navigation/finn", navigation.finn, "metarl/PointNavigation-v0"),
        Family("point-navigation/pearl", navigation.pearl, "metarl/PointNavigationPearl-v0"),
        Family("point-navigation/pearl-sparse", navigation.pearl_sparse, "metarl/PointNavigationPearlSparse-v0"),
        Family("point-dynamics", navigation.point_dynamics, "metarl/PointDynamics-v0"),
        Family("cart-pole", classic_control.cart_pole, "metarl/CartPole-v0"),
        Family("cart-pole/mirrored", classic_control.cart_pole_mirrored, "metarl/MirroredCartPole-v0"),
        Family("pendulum", classic_control.pendulum, "metarl/Pendulum-v0"),
        Family("pendulum/dynamics", classic_control.pendulum_dynamics, "metarl/PendulumDynamics-v0"),
        Family("mountain-car", classic_control.mountain_car, "metarl/MountainCar-v0"),
        Family("mountain-car-continuous", classic_control.mountain_car_continuous, "metarl/MountainCarContinuous-v0"),
        Family("acrobot", classic_control.acrobot, "metarl/Acrobot-v0"),
        Family("driving/lane-keeping", driving.lane_keeping, "metarl/LaneKeeping-v0"),
        Family("driving/racing-line", driving.racing_line, "metarl/RacingLine-v0"),
        Family("bandit/bernoulli", bandit.bernoulli, "metarl/BernoulliBandit-v0"),
        Family("bandit/gaussian", bandit.gaussian, "metarl/GaussianBandit-v0"),
        Family("tabular-mdp", tabular_mdp.tabular_mdp, "metarl/TabularMDP-v0"),
        Family("grid-navigation", gridworld.grid_navigation, "metarl/GridNavigation-v0"),
        Family("dark-key-door", gridworld.dark_key_door, "metarl/DarkKeyDoor-v0"),
        Family("maze", gridworld.maze, "metarl/Maze-v0"),
        Family("half-cheetah-direction", locomotion.half_cheetah_direction, "metarl/HalfCheetahDirection-v0"),
        Family(
            "half-cheetah-direction/promp",
            locomotion.half_cheetah_direction_promp,
            "metarl/HalfCheetahDirectionProMP-v0",
        ),
        Family("half-cheetah-velocity/finn", locomotion.half_cheetah_velocity_finn, "metarl/HalfCheetahVelocity-v0"),
        Family(
            "half-cheetah-velocity/promp", locomotion.half_cheetah_velocity_promp, "metarl/HalfCheetahVelocityProMP-v0"
        ),
        Family("half-cheetah-dynamics", locomotion.half_cheetah_dynamics, "metarl/HalfCheetahDynamics-v0"),
        Family("ant-direction", locomotion.ant_direction, "metarl/AntDirection-v0"),
        Family("ant-direction/circle", locomotion.ant_direction_circle, "metarl/AntDirectionCircle-v0"),
        Family("ant-velocity", locomotion.ant_velocity, "metarl/AntVelocity-v0"),
        Family("ant-goal", locomotion.ant_goal, "metarl/AntGoal-v0"),
        Family("humanoid-direction", locomotion.humanoid_direction, "metarl/HumanoidDirection-v0"),
        Family("hopper-dynamics", locomotion.hopper_dynamics, "metarl/HopperDynamics-v0"),
        Family("walker2d-dynamics", locomotion.walker2d_dynamics, "metarl/Walker2dDynamics-v0"),
        Family("frozen-lake", frozen_lake.frozen_lake),
        Family("highway", highway.highway, package="highway_env", extra="driving"),
        Family("minigrid/crossing", minigrid.crossing, package="minigrid", extra="minigrid"),
        Family("minigrid/four-rooms", minigrid.four_rooms, package="minigrid", extra="minigrid"),
        Family("metaworld/ml1-reach", metaworld.ml1_reach, package="metaworld", extra="metaworld"),
        Family("metaworld/ml1-push", metaworld.ml1_push, package="metaworld", extra="metaworld"),
        Family("metaworld/ml1-pick-place", metaworld.ml1_pick_place, package="metaworld", extra="metaworld"),
        Family("metaworld/ml10", metaworld.ml10, package="metaworld", extra="metaworld"),
    )
}

ALIASES = {
    "point-navigation": "point-navigation/finn",
    "half-cheetah-velocity": "half-cheetah-velocity/finn",
}


def make_distribution(name: str) -> TaskDistribution:
    """Build a distribution by its registered name, from a YAML file, or from the user's own "package.module:Attribute".

    The attribute is a TaskDistribution, or a class or function that gives one when called without arguments. A name
    that ends in .yaml is a file for `metarl.envs.external.yaml_file.from_yaml`.

    Raises:
        ValueError: unknown name, module that cannot be imported, an attribute that is no TaskDistribution, a malformed
            file, or a package that is not installed.
    """
    if is_env_file(name):
        return from_yaml(name)
    if ":" in name:
        distribution = _load_from_module(name)
    else:
        family = FAMILIES.get(ALIASES.get(name, name))
        if family is None:
            raise ValueError(
                f"unknown environment {name!r}{did_you_mean(name, FAMILIES)}; known are {', '.join(FAMILIES)}, "
                "and your own as 'package.module:MyDistribution'"
            )
        name, distribution = family.name, family.make()
    distribution.name = name
    return distribution


def is_env_file(name: str) -> bool:
    """Whether it is the name of a YAML file rather than of an environment."""
    return name.endswith((".yaml", ".yml"))


def env_label(name: str) -> str:
    """How an environment is called in titles: a file by its name alone."""
    return Path(name).name if is_env_file(name) else name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)' where a known name is near, else ''."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _load_from_module(name: str) -> TaskDistribution:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"environment {name!r}: cannot import module {module_name!r}: {type(error).__name__}: {error}"
        ) from error
    target = getattr(module, attribute, None)
    if target is None:
        raise ValueError(f"environment {name!r}: module {module_name!r} has no attribute {attribute!r}")
    if isinstance(target, TaskDistribution):
        return target
    made: object = None
    if callable(target):
        try:
            made = target()
        except Exception as error:
            raise ValueError(f"environment {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(made, TaskDistribution):
        raise ValueError(f"environment {name!r}: {attribute!r} is not a TaskDistribution and does not make one")
    return made
