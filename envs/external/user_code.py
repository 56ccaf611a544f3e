"""Which of the user's own source files an environment is made of: a run keeps them beside its configuration."""

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium

from metarl.envs.env_family import EnvFamily
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Range

_OURS = __name__.partition(".")[0]


def user_sources(distribution: TaskDistribution) -> dict[str, Path]:
    """The source files of a distribution that belong neither to this project nor to an installed package.

    Beside the modules that define the environment, those that they import from the folder that their outermost package
    lies in, or, where a module is in none, from its own folder; and the packages that hold any of these.

    Args:
        distribution: made by its name, so that its modules are imported.

    Returns:
        Path below the folder of the outermost package, which it includes → file, in order of the names.
    """
    found: dict[str, Path] = {}
    waiting = [name for name in _modules_of(distribution) if name in sys.modules]
    while waiting:
        module = sys.modules[waiting.pop()]
        file = _own_file(module)
        if file is None or file in found.values():
            continue
        folder = _folder_on_path(module, file)
        found[str(file.relative_to(folder))] = file

        for name in [*_imported(module, file), *_packages_of(module)]:
            other = _own_file(sys.modules[name])
            if other is not None and other.is_relative_to(folder):
                waiting.append(name)
    return {name: found[name] for name in sorted(found)}


def kept_copies(kept: Path, sources: Mapping[str, Path]) -> dict[Path, Path]:
    """The copy that a run kept of each source file, where it kept one.

    Older runs named files below the innermost folder that holds them all, without the names of packages around it.

    Args:
        kept: folder of the copies.
        sources: as `user_sources` gives them.

    Returns:
        source file → its copy.
    """
    copies = {file.relative_to(kept) for file in kept.rglob("*.py")}
    names = [Path(name) for name in sources]
    left_off = 0
    for count in range(max((len(name.parts) for name in names), default=0)):
        shorter = {Path(*name.parts[count:]) for name in names if len(name.parts) > count}
        if copies <= shorter:
            left_off = count
            break

    pairs = {}
    for name, source in zip(names, sources.values(), strict=True):
        copy = Path(*name.parts[left_off:])
        if copy in copies:
            pairs[source] = kept / copy
    return pairs


def _modules_of(distribution: TaskDistribution) -> Iterator[str]:
    """Names of the modules that define an environment, its ranges, and how tasks reach it."""
    name = distribution.name
    if ":" in name:
        yield name.partition(":")[0]

    env: EnvFamily = distribution.env
    yield from _modules_of_class(type(env))
    ranges: list[Range] = list(distribution.train.values())
    yield from (type(range_).__module__ for range_ in ranges)

    if isinstance(env, GymnasiumFamily):
        spec = env.spec
        if ":" in spec.env_id:
            yield spec.env_id.partition(":")[0]
        yield from (_module_of(part) for part in (spec.keywords, spec.set_task, spec.make) if part is not None)

        # Gymnasium imports an environment by its entry point when it is first made.
        yield from _modules_of_id(spec.env_id)
        for kind in env.live_classes:
            yield from _modules_of_class(kind)


def _modules_of_class(kind: type) -> Iterator[str]:
    """Where a class and those that it is derived from are defined."""
    yield from (base.__module__ for base in kind.__mro__)


def _modules_of_id(env_id: str) -> Iterator[str]:
    """Where the entry point of a registered environment and those of its wrappers are defined."""
    registered = gymnasium.registry.get(env_id.rpartition(":")[2])
    if registered is None:
        return
    entry_points = [registered.entry_point, *(wrapper.entry_point for wrapper in registered.additional_wrappers)]
    for entry_point in entry_points:
        if isinstance(entry_point, str):
            yield entry_point.partition(":")[0]
        elif entry_point is not None:
            yield _module_of(entry_point)


def _module_of(value: Any) -> str:
    """Where a function or an object's class is defined; of a partial, its function."""
    function = getattr(value, "func", value)
    return str(getattr(function, "__module__", None) or type(function).__module__)


def _own_file(module: ModuleType) -> Path | None:
    """A module's source file, where the user wrote it."""
    name = getattr(module, "__file__", None)
    if not name or not name.endswith(".py") or module.__name__.partition(".")[0] == _OURS:
        return None

    file = Path(name).resolve()
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    standard = file.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    return None if installed or standard or not file.is_file() else file


def _imported(module: ModuleType, file: Path) -> Iterator[str]:
    """Names of the modules that a source file imports, as far as they have been imported."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(start, module.__package__ or "") if node.level else start
            # What is imported from a package may be a module itself.
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in sys.modules)


def _packages_of(module: ModuleType) -> Iterator[str]:
    """Names of the packages that a module lies in: their code ran before its own."""
    parts = module.__name__.split(".")
    names = (".".join(parts[:count]) for count in range(1, len(parts)))
    yield from (name for name in names if name in sys.modules)


def _folder_on_path(module: ModuleType, file: Path) -> Path:
    """The folder that a module was imported from: that of its outermost package, or its own."""
    packages = module.__name__.split(".")
    if file.name != "__init__.py":
        packages.pop()

    folder = file.parent
    for package in reversed(packages):
        if folder.name != package:
            break
        folder = folder.parent
    return folder
