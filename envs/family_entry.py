"""Family: the registry's entry for one named distribution; each file in `families/` ends in a tuple of them."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from metarl.envs.extras import how_to_install
from metarl.envs.task_distribution import TaskDistribution


@dataclass(frozen=True)
class Family:
    """A named TaskDistribution that `make_distribution`, the command line and Gymnasium know.

    Attributes:
        name: "family" or "family/preset"; the presets of one family differ in reward or range, so results do too.
        factory: builds the distribution; the first line of its docstring is what `metarl envs` shows.
        gymnasium_id: id for `gymnasium.make` and `gymnasium.make_vec`; "" for families of other packages.
        package: module that it needs besides; "" = none.
        extra: optional dependency of this project that installs the package.
        alias: another name for this entry, such as the family's name without a preset; "" = none.
    """

    name: str
    factory: Callable[[], TaskDistribution]
    gymnasium_id: str = ""
    package: str = ""
    extra: str = ""
    alias: str = ""

    def make(self) -> TaskDistribution:
        """Build the distribution.

        Raises:
            ValueError: a package that it needs is not installed; the message says how to install it.
        """
        if not self.available:
            raise ValueError(f"{self.name} needs the package {self.package}: {self.how_to_install}")
        return self.factory()

    @property
    def how_to_install(self) -> str:
        """The command that installs what it needs."""
        return how_to_install(self.extra)

    @property
    def available(self) -> bool:
        """Whether the package that it needs is installed."""
        return not self.package or importlib.util.find_spec(self.package) is not None

    @property
    def summary(self) -> str:
        """First line of the factory's docstring."""
        return (self.factory.__doc__ or "").strip().splitlines()[0]
