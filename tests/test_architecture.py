"""Imports only go down the three floors, files import each other without a cycle, and packages only hand on names."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"envs": {"envs"}, "agents": {"agents", "envs"}, "metarl": {"metarl", "agents", "envs"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for floor in MAY_IMPORT for path in sorted((ROOT / floor).rglob("*.py"))}
PACKAGES = [name for name, path in FILES.items() if path.name == "__init__.py"]


def imported_names(source: str, package: str) -> Iterator[str]:
    """Every dotted name that a file of a package imports, wherever in the file: "a.b" for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def imports_of(name: str) -> set[str]:
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return set(imported_names(path.read_text(encoding="utf-8"), package))


def file_of(imported: str) -> str | None:
    """The project's file that an imported name comes from: itself a module, or the module that holds it."""
    parent = imported.rpartition(".")[0]
    return imported if imported in FILES else parent if parent in FILES else None


def test_the_reader_finds_every_form_of_import() -> None:
    source = (
        "import a.b\nfrom c.d import e\ndef f():\n    from . import g\n    from .h import i\n    from ..j import k\n"
    )
    assert set(imported_names(source, "x.y")) == {"a.b", "c.d.e", "x.y.g", "x.y.h.i", "x.j.k"}
    assert {"envs.task_env", "envs.registry", "envs.families.navigation"} <= set(FILES)
    assert file_of("envs.families.navigation") == file_of("envs.families.navigation.finn") == "envs.families.navigation"
    assert file_of("torch.nn") is None


@pytest.mark.parametrize("name", FILES)
def test_imports_only_go_down(name: str) -> None:
    floors = {imported.partition(".")[0] for imported in imports_of(name)} & set(MAY_IMPORT)
    assert floors <= MAY_IMPORT[name.partition(".")[0]]


def test_no_two_files_import_each_other_in_a_circle() -> None:
    graph = {name: {file for file in map(file_of, imports_of(name)) if file} for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_hands_on_names_and_defines_nothing(name: str) -> None:
    docstring, *statements = ast.parse(FILES[name].read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    found = [ast.unparse(node) for node in statements if not isinstance(node, ast.Import | ast.ImportFrom)]
    extra = [code for code in found if not code.startswith("__all__ = [")]
    assert extra == (["register_gymnasium_ids()"] if name == "envs" else [])
