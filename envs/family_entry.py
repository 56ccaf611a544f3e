"""Family: the registry's entry for one named distribution; each file in `families/` ends in a tuple of them.

What builds a distribution may take arguments, its options: `cart-pole@horizon=50` is cart-pole with another horizon.
"""

import difflib
import importlib.util
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from metarl.envs.extras import how_to_install
from metarl.envs.task_distribution import TaskDistribution

TRUTHS = {"true": True, "false": False}


@dataclass(frozen=True)
class Between:
    """The numbers that an option may be, as in `Annotated[int, Between(3, 20)]`.

    Attributes:
        low: the smallest.
        high: the largest.
    """

    low: float
    high: float


Horizon = Annotated[int, Between(1, 100_000)]
"""H, the steps of an episode, as an option of a family."""


@dataclass(frozen=True)
class Option:
    """An argument of what builds a distribution.

    Attributes:
        name: its name.
        kind: int, float, bool, str, or a Literal of texts.
        default: its value where it is not given; `inspect.Parameter.empty` where it must be.
        between: the numbers that are allowed; None: all.
    """

    name: str
    kind: Any
    default: Any
    between: Between | None = None

    def read(self, value: object) -> Any:
        """A value of its kind, from text as well.

        Raises:
            ValueError: it is none; says what is allowed.
        """
        text = str(value).lower() if isinstance(value, bool) else str(value)
        allowed, read = self._form()
        try:
            found = read(text)
            if self.between is not None and not self.between.low <= found <= self.between.high:
                raise ValueError
        except (ValueError, KeyError, OverflowError):
            raise ValueError(f"{self.name} must be {allowed}, got {text!r:.80}") from None
        return found

    def write(self, value: object) -> str:
        """The text of a value, as it stands in a name."""
        return str(value).lower() if isinstance(value, bool) else str(value)

    def __str__(self) -> str:
        """As it is listed: "horizon=100"."""
        if self.default is inspect.Parameter.empty:
            return f"{self.name}=…"
        return f"{self.name}={self.write(self.default)}"

    def _form(self) -> tuple[str, Callable[[str], Any]]:
        """What is allowed, in words, and what reads it."""
        if typing.get_origin(self.kind) is Literal:
            names = typing.get_args(self.kind)
            return f"one of {', '.join(names)}", {name: name for name in names}.__getitem__
        if self.kind is bool:
            return "true or false", TRUTHS.__getitem__
        if self.kind is str:
            return "text", str

        limits = f" from {self.between.low:,} to {self.between.high:,}" if self.between else ""
        return (f"a whole number{limits}", int) if self.kind is int else (f"a number{limits}", _finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def options_of(make: Callable[..., object]) -> dict[str, Option]:
    """The options of what builds a distribution: its arguments that are numbers, truth values or texts."""
    try:
        described = getattr(make, "__init__", make) if isinstance(make, type) else make
        hints = typing.get_type_hints(described, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a user's own may name what is not there
        hints = {}

    options = {}
    for name, parameter in inspect.signature(make).parameters.items():
        kind = hints.get(name, type(parameter.default))
        limits = [limit for limit in getattr(kind, "__metadata__", ()) if isinstance(limit, Between)]
        kind = getattr(kind, "__origin__", kind) if limits else kind
        if kind in (int, float, bool, str) or typing.get_origin(kind) is Literal:
            options[name] = Option(name, kind, parameter.default, limits[0] if limits else None)
    return options


def read_options(name: str, make: Callable[..., object], given: Mapping[str, object]) -> dict[str, Any]:
    """Arguments for what builds a distribution.

    Args:
        name: the distribution, for messages.
        make: what builds it.
        given: option → value, or its text.

    Raises:
        ValueError: an unknown option, or a value that is not allowed; says what is.
    """
    options = options_of(make)
    for key in given:
        if key not in options:
            known = f"it has {', '.join(map(str, options.values()))}" if options else "it has none"
            raise ValueError(f"{name} has no option {key!r}{did_you_mean(key, options)}; {known}")

    try:
        return {key: options[key].read(value) for key, value in given.items()}
    except ValueError as error:
        raise ValueError(f"option of {name}: {error}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)' where a known name is near, else ''."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


@dataclass(frozen=True)
class Family:
    """A named TaskDistribution that `make_distribution`, the command line and Gymnasium know.

    Attributes:
        name: "family" or "family/preset"; the presets of one family differ in reward or range, so results do too.
        factory: builds the distribution; the first line of its docstring is what `metarl envs` shows, its arguments
            are the family's options.
        gymnasium_id: id for `gymnasium.make` and `gymnasium.make_vec`; "" for families of other packages.
        package: module that it needs besides; "" = none.
        extra: optional dependency of this project that installs the package.
        alias: another name for this entry, such as the family's name without a preset; "" = none.
    """

    name: str
    factory: Callable[..., TaskDistribution]
    gymnasium_id: str = ""
    package: str = ""
    extra: str = ""
    alias: str = ""

    def make(self, options: Mapping[str, object] | None = None) -> TaskDistribution:
        """Build the distribution.

        Args:
            options: option → value, or its text.

        Raises:
            ValueError: a package that it needs is not installed; the message says how to install it. Or an option is
                unknown, or a value is not allowed; the message says what is.
        """
        if not self.available:
            raise ValueError(f"{self.name} needs the package {self.package}: {self.how_to_install}")

        arguments = read_options(self.name, self.factory, options or {})
        try:
            return self.factory(**arguments)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @property
    def options(self) -> dict[str, Option]:
        """The options by name."""
        return options_of(self.factory)

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
