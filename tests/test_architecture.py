"""The house: imports go down the floors and from room to room without a circle, and no room is too full."""

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS = (
    ("metarl.api",),
    ("metarl.cli",),
    ("metarl.cli.flags",),
    ("metarl.benchmarks", "metarl.comparison"),
    ("metarl.reporting", "metarl.training"),
    ("metarl.training.logs", "metarl.training.machine"),
    ("metarl.baselines", "metarl.rendering", "metarl.deployment"),
    ("metarl.run",),
    ("metarl.evaluation",),
    ("metarl.errors", "metarl.console"),
    ("metarl.agents",),
    ("metarl.agents.gradients",),
    ("metarl.agents.policies",),
    ("metarl.envs.adapters", "metarl.envs.checks"),
    ("metarl.envs.registry",),
    ("metarl.envs.families.control", "metarl.envs.families.games", "metarl.envs.families.robots"),
    ("metarl.envs.families",),
    ("metarl.envs.external", "metarl.envs.physics"),
    ("metarl.envs",),
    ("metarl.envs.spaces", "metarl.envs.graphs"),
)
"""From the roof to the ground; a module belongs to the longest name that it begins with. Imports only go down, or stay
inside one room; rooms of one line may import each other in one direction."""

OUTSIDE = ("metarl", "metarl.__main__")
"""The Python API, which imports lazily, and `python -m metarl`."""

GROUND = ("metarl.errors", "metarl.console")

MAX_MODULES = 10


def module_name(path: Path) -> str:
    """The name under which a file is imported: `envs/` and `agents/` stand beside `metarl/` and are parts of it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return name if parts[0] == "metarl" else f"metarl.{name}"


FILES = {
    module_name(path): path for floor in ("metarl", "agents", "envs") for path in sorted((ROOT / floor).rglob("*.py"))
}
PACKAGES = [name for name, path in FILES.items() if path.name == "__init__.py"]
MODULES = [name for name in FILES if name not in PACKAGES and name not in OUTSIDE]


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
    """The project's files that a file imports."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names = imported_names(path.read_text(encoding="utf-8"), package)
    return {file for file in map(file_of, names) if file}


def file_of(imported: str) -> str | None:
    """The project's file that an imported name comes from: itself a module, or the module that holds it."""
    parent = imported.rpartition(".")[0]
    return imported if imported in FILES else parent if parent in FILES else None


def room_of(name: str) -> str:
    """The room that a module lies in."""
    rooms = [room for level in ROOMS for room in level if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len)


def level_of(room: str) -> int:
    """0 for the roof."""
    return next(level for level, rooms in enumerate(ROOMS) if room in rooms)


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_reader_finds_every_form_of_import() -> None:
    source = (
        "import a.b\nfrom c.d import e\ndef f():\n    from . import g\n    from .h import i\n    from ..j import k\n"
    )
    assert set(imported_names(source, "x.y")) == {"a.b", "c.d.e", "x.y.g", "x.y.h.i", "x.j.k"}

    navigation = "metarl.envs.families.navigation"
    assert {"metarl.envs.task_env", "metarl.agents.maml", "metarl.run.config", navigation} <= set(FILES)
    assert file_of(navigation) == file_of(f"{navigation}.finn") == navigation
    assert file_of("torch.nn") is None


def test_every_module_lies_in_its_room() -> None:
    assert room_of("metarl.envs.families.navigation") == "metarl.envs.families"
    assert room_of("metarl.envs.task_env") == "metarl.envs"
    assert room_of("metarl.run.config") == "metarl.run"
    assert {room_of(name) for name in MODULES} == {room for level in ROOMS for room in level}


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_go_down(name: str) -> None:
    own = room_of(name)
    for imported in imports_of(name):
        assert imported not in PACKAGES, f"{name} imports from the package {imported}, not from a module"
        room = room_of(imported)
        up = room != own and level_of(room) < level_of(own)
        assert not up, f"{name} imports {imported}, which lies above it"
        from_floor_below = own.startswith(("metarl.agents", "metarl.envs")) and room in GROUND
        assert not from_floor_below, f"{name} imports {imported} of the workbench"


def test_no_two_files_import_each_other_in_a_circle() -> None:
    assert_no_circle({name: imports_of(name) for name in FILES})


def test_no_two_rooms_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        others = {room_of(imported) for imported in imports_of(name)} - {room_of(name)}
        graph.setdefault(room_of(name), set()).update(others)
    assert_no_circle(graph)


def registered_agents() -> dict[str, str]:
    """Module of each agent of the registry → the agent's name, the first word of its `AGENT = Agent("name", …)`."""
    found = {}
    for module in imports_of("metarl.agents.registry"):
        code = FILES[module].read_text(encoding="utf-8")
        for name in re.findall(r'^AGENT = Agent\(\s*"([^"]+)"', code, flags=re.MULTILINE):
            found[module] = name
    return found


MAY_NAME_AGENTS = {
    "metarl.run.presets": "settings of each agent for each environment",
    "metarl.run.config": "which agent trains where none is named",
    "metarl.comparison.config": "which baselines there are where none are named",
}
MAY_IMPORT_AGENTS = {
    "metarl.benchmarks.iteration": "times MAML's update beside the plain loop",
    "metarl.benchmarks.plain_loop": "MAML without batching, to be compared with",
    "metarl.benchmarks.rollouts": "times the update of a policy with memory",
}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(("metarl.agents", "metarl.envs"))])
def test_an_agent_is_one_file_and_the_workbench_asks_for_none(name: str) -> None:
    agents = registered_agents()
    imported = imports_of(name) & set(agents)
    assert not imported or name in MAY_IMPORT_AGENTS

    constants = [node.value for node in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(node, ast.Constant)]
    named = set(agents.values()) & {value for value in constants if isinstance(value, str)}
    assert not named or name in MAY_NAME_AGENTS


def test_the_agents_of_the_registry_are_found() -> None:
    assert set(registered_agents().values()) >= {"maml", "reptile", "multitask", "distill", "rl2"}


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@pytest.mark.parametrize("kind", [COMPREHENSIONS, ast.IfExp], ids=["comprehensions", "conditional expressions"])
@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_folded_into_its_own_kind(name: str, kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    for outer in ast.walk(tree):
        if isinstance(outer, kind):
            inner = [node for node in ast.walk(outer) if isinstance(node, kind) and node is not outer]
            assert not inner, ast.unparse(outer)


MAX_LINES = 46
MAY_BE_LONG = {"metarl.deployment.meta_policy.adapt": "what users call; each of its 13 arguments is explained"}


@pytest.mark.parametrize("name", MODULES)
def test_no_function_is_too_long_to_be_read_on_one_screen(name: str) -> None:
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and f"{name}.{node.name}" not in MAY_BE_LONG:
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_LINES, node.name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_is_too_full(package: str) -> None:
    inside = [name for name in FILES if name.rpartition(".")[0] == package]
    modules = [name for name in inside if name not in PACKAGES]
    assert len(modules) <= MAX_MODULES


def test_the_workbench_shows_its_architecture_in_the_listing() -> None:
    entries = [path for path in (ROOT / "metarl").iterdir() if path.name != "__pycache__"]
    assert len([path for path in entries if path.is_dir()]) <= 12
    assert len([path for path in entries if path.suffix == ".py"]) <= 4


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "metarl"])
def test_a_package_hands_on_names_and_defines_nothing(name: str) -> None:
    docstring, *statements = ast.parse(FILES[name].read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    found = [ast.unparse(node) for node in statements if not isinstance(node, ast.Import | ast.ImportFrom)]
    extra = [code for code in found if not code.startswith("__all__ = [")]
    assert extra == (["register_gymnasium_ids()"] if name == "metarl.envs" else [])


def test_every_folder_is_in_the_distribution() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    data_only = {"metarl.reference_runs"}
    assert set(settings["tool"]["setuptools"]["packages"]) - data_only == {*PACKAGES}
