"""Which of the user's own source files an environment is made of: a run keeps them beside its configuration."""

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from metarl.envs.env_family import EnvFamily
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Range

_OURS = __name__.partition(".")[0]


def user_sources(distribution: TaskDistribution) -> dict[str, Path]:
    """The source files of a distribution that belong neither to this project nor to an installed package.

    Beside the modules that define the environment, those that they import from the same package, or, where a module
    is in none, from its own folder.

    Args:
        distribution: made by its name, so that its modules are imported.

    Returns:
        Path below the folder of the user's outermost package → file, in order of the names.
    """
    found: dict[str, Path] = {}
    waiting = [name for name in _modules_of(distribution) if name in sys.modules]
    while waiting:
        module = sys.modules[waiting.pop()]
        file = _own_file(module)
        if file is None or str(file) in found:
            continue
        found[str(file)] = file
        folder = file.parents[max(module.__name__.count("."), 1) - 1]
        for name in _imported(module, file):
            other = _own_file(sys.modules[name])
            if other is not None and other.is_relative_to(folder):
                waiting.append(name)

    root = _common_folder(list(found.values()))
    return {str(found[name].relative_to(root)): found[name] for name in sorted(found)}


def _modules_of(distribution: TaskDistribution) -> Iterator[str]:
    """Names of the modules that define an environment, its ranges, and how tasks reach it."""
    name = distribution.name
    if ":" in name:
        yield name.partition(":")[0]

    env: EnvFamily = distribution.env
    yield type(env).__module__
    ranges: list[Range] = list(distribution.train.values())
    yield from (type(one).__module__ for one in ranges)

    if isinstance(env, GymnasiumFamily):
        spec = env.spec
        if ":" in spec.env_id:
            yield spec.env_id.partition(":")[0]
        yield from (_module_of(part) for part in (spec.keywords, spec.set_task, spec.make) if part is not None)


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


def _common_folder(files: list[Path]) -> Path:
    """The innermost folder that holds all of these files."""
    folders = [file.parent for file in files] or [Path()]
    common = folders[0]
    while not all(folder.is_relative_to(common) for folder in folders):
        common = common.parent
    return common
