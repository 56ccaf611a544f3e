"""The registry: names, and families of the user's own; what every registered family promises is in test_families."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from metarl.envs import families
from metarl.envs.registry import ALIASES, FAMILIES, MODULES, make_distribution
from metarl.envs.task_distribution import TaskDistribution


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.available])
def test_a_registered_name_makes_its_distribution(name: str) -> None:
    distribution = make_distribution(name)
    assert distribution.name == name
    assert FAMILIES[name].summary
    assert distribution.horizon == FAMILIES[name].make().horizon


def test_names_and_ids_are_unique() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())
    ids = [family.gymnasium_id for family in FAMILIES.values() if family.gymnasium_id]
    assert len(set(ids)) == len(ids) > 10


def test_every_file_with_families_is_gathered_and_ends_in_them() -> None:
    folder = Path(families.__file__).parent
    gathered = []
    for path in sorted(folder.glob("*.py")):
        module = importlib.import_module(f"{families.__name__}.{path.stem}")
        if hasattr(module, "FAMILIES"):
            gathered.append(module)
            assert ast.unparse(ast.parse(path.read_text(encoding="utf-8")).body[-1]).startswith("FAMILIES = ")
    assert {module.__name__ for module in gathered} == {module.__name__ for module in MODULES}
    assert [family for module in MODULES for family in module.FAMILIES] == list(FAMILIES.values())


def test_an_alias_stands_for_its_preset() -> None:
    assert make_distribution("point-navigation").name == "point-navigation/finn"
    assert ALIASES["half-cheetah-velocity"] == "half-cheetah-velocity/finn"
    assert set(ALIASES.values()) <= set(FAMILIES)
    assert not set(ALIASES) & set(FAMILIES)


def test_an_unknown_name_is_answered_with_the_nearest_and_all_known() -> None:
    with pytest.raises(ValueError, match=r"unknown environment 'point-navigaton/fin' \(did you mean") as error:
        make_distribution("point-navigaton/fin")
    assert "'point-navigation/finn'" in str(error.value)
    assert all(name in str(error.value) for name in FAMILIES)
    with pytest.raises(ValueError, match=r"unknown environment 'zzz'; known are"):
        make_distribution("zzz")


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module of a user's own."""
    (tmp_path / "my_tasks.py").write_text(
        "from metarl.envs import TaskDistribution\n"
        "from metarl.envs.families.navigation import finn\n"
        "class Mine(TaskDistribution):\n"
        "    def __init__(self):\n"
        "        super().__init__(finn().env, finn().train)\n"
        "ready = finn()\n"
        "number = 3\n"
        "def wrong():\n"
        "    return 'no distribution'\n"
        "def needs_more(size):\n"
        "    return finn()\n"
    )
    (tmp_path / "broken_tasks.py").write_text("raise RuntimeError('half written')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_tasks", "broken_tasks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "my_tasks"


@pytest.mark.parametrize("attribute", ["Mine", "ready"])
def test_a_users_own_distribution_is_loaded_from_its_module(user_module: str, attribute: str) -> None:
    distribution = make_distribution(f"{user_module}:{attribute}")
    assert isinstance(distribution, TaskDistribution)
    assert distribution.name == f"{user_module}:{attribute}"
    assert distribution.horizon == 100


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Mine", r"cannot import module 'no_such_module': ModuleNotFoundError"),
        (":Mine", r"cannot import module ''"),
        ("broken_tasks:Mine", r"cannot import module 'broken_tasks': RuntimeError: half written"),
        ("my_tasks:Yours", r"module 'my_tasks' has no attribute 'Yours'"),
        ("my_tasks:", r"module 'my_tasks' has no attribute ''"),
        ("my_tasks:number", r"'number' is not a TaskDistribution and does not make one"),
        ("my_tasks:wrong", r"'wrong' is not a TaskDistribution and does not make one"),
        ("my_tasks:needs_more", r"TypeError: .*missing 1 required positional argument: 'size'"),
    ],
)
def test_a_module_that_gives_no_distribution_is_rejected(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_distribution(name)
    assert f"environment {name!r}" in str(error.value)
