"""The registry: names, and families of the user's own; what every registered family promises is in test_families."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
import torch

from metarl.envs import families
from metarl.envs.registry import (
    ALIASES,
    FAMILIES,
    MODULES,
    base_name,
    is_registered,
    make_distribution,
    split_options,
    summary_of,
    with_options,
)
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
    for path in sorted(folder.rglob("*.py")):
        below = path.relative_to(folder).with_suffix("").parts
        module = importlib.import_module(".".join((families.__name__, *below)))
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
        "def of_a_length(horizon=6, hard: bool = False, *, kind: str = 'a'):\n"
        "    return finn(2 * horizon if hard else horizon)\n"
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


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.available])
def test_every_family_has_a_horizon_as_its_option(name: str) -> None:
    option = "num_pulls" if name.startswith("bandit") else "horizon"
    distribution = make_distribution(f"{name}@{option}=7")
    assert distribution.horizon == 7
    assert distribution.name == f"{name}@{option}=7"
    assert FAMILIES[name].options[option].default == make_distribution(name).horizon != 7

    # The tasks themselves are those of every horizon.
    before = make_distribution(name).sample(2, "test")
    assert all(torch.equal(value, before[key]) for key, value in distribution.sample(2, "test").items())


@pytest.mark.parametrize(
    ("name", "parameter", "shape"),
    [
        ("bandit/gaussian@num_arms=3", "mean", (2, 3)),
        ("tabular-mdp@num_states=4,num_actions=3", "transition", (2, 4, 3, 4)),
        ("maze@size=4", "openings", (2, 4, 4, 2)),
    ],
)
def test_options_that_decide_the_size_of_a_task(name: str, parameter: str, shape: tuple[int, ...]) -> None:
    assert make_distribution(name).sample(2, "test")[parameter].shape == shape


def test_the_goals_of_a_smaller_grid_lie_in_it() -> None:
    goals = make_distribution("grid-navigation@size=3").sample(9, "test")["goal"].tolist()
    assert sorted(goals) == [[0, 2], [1, 2], [2, 0], [2, 1], [2, 2]]  # all cells of 3 × 3 but those next to (0, 0)


def test_one_environment_has_one_name() -> None:
    name = with_options("point-navigation@goal_tolerance=0.50,horizon=050", {"horizon": "40"})
    assert name == "point-navigation@horizon=40,goal_tolerance=0.5"  # in the order of the signature
    assert make_distribution(name).name == "point-navigation/finn@horizon=40,goal_tolerance=0.5"
    assert with_options(name, {"horizon": 100, "goal_tolerance": 0.01}) == "point-navigation"
    assert with_options("cart-pole", {}) == "cart-pole"

    assert base_name(name) == "point-navigation"
    assert is_registered(name)

    # A summary does not speak of another horizon beside that of the options.
    assert "H = 40" in summary_of(name)
    assert "H = 100" in summary_of("point-navigation")
    assert summary_of(name).endswith("Here with goal_tolerance = 0.5.")
    assert summary_of("cart-pole@horizon=50").endswith("H = 50; ood: all but the force wider.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cart-pole@horzon=3", r"no option 'horzon' \(did you mean 'horizon'\?\); it has horizon=200$"),
        ("cart-pole@horizon=0", r"horizon must be a whole number from 1 to 100,000, got '0'$"),
        ("cart-pole@horizon=2.5", r"must be a whole number .*got '2.5'"),
        ("grid-navigation@size=2", r"size must be a whole number from 3 to 30, got '2'"),
        ("point-navigation@goal_tolerance=nan", r"goal_tolerance must be a number from 0 to 1, got 'nan'"),
        ("ant-goal@may_fall=1", r"may_fall must be true or false, got '1'"),
        ("cart-pole@horizon", r"options are written as in 'cart-pole@horizon=50', not 'horizon'"),
        ("cart-pole@horizon=3,horizon=4", r"options are written as in"),
        ("carpole@horizon=3", r"unknown environment 'carpole' \(did you mean"),
        ("my_env.yaml@horizon=3", r"my_env.yaml has no options"),
    ],
)
def test_an_option_that_is_not_allowed_is_answered_with_what_is(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_distribution(name)


def test_a_file_with_the_sign_in_its_name_is_a_file() -> None:
    assert split_options("runs@home/my_env.yaml") == ("runs@home/my_env.yaml", {})


def test_a_users_own_distribution_has_its_arguments_as_options(user_module: str) -> None:
    name = with_options(f"{user_module}:of_a_length", {"hard": True, "horizon": 4})
    assert name == f"{user_module}:of_a_length@horizon=4,hard=true"
    assert make_distribution(name).horizon == 8
    assert make_distribution(name).name == name
    with pytest.raises(ValueError, match=r"no option 'size'; it has horizon=6, hard=false, kind=a"):
        with_options(f"{user_module}:of_a_length", {"size": 4})
    with pytest.raises(ValueError, match=r"a value must not contain ','"):
        with_options(f"{user_module}:of_a_length", {"kind": "a,b"})
    with pytest.raises(ValueError, match=r"ready has no options"):
        make_distribution(f"{user_module}:ready@horizon=4")
