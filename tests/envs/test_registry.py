"""The registry: names, families of the user's own, and what every registered family promises."""

import json
import sys
from pathlib import Path

import pytest
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from envs.registry import ALIASES, FAMILIES, make_distribution
from envs.rollout import BatchedEnv
from envs.task_distribution import TaskDistribution
from envs.task_space import Task, tasks_to_json

NUM_TASKS, NUM_EPISODES = 32, 8
LONGEST = 100  # steps of a rollout that looks for differences
PARAMETERS = [(name, parameter) for name, family in FAMILIES.items() for parameter in family.make().train]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_registered_name_makes_its_distribution(name: str) -> None:
    distribution = make_distribution(name)
    assert distribution.name == name
    assert FAMILIES[name].summary
    assert distribution.horizon == FAMILIES[name].make().horizon


def test_names_and_ids_are_unique() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())
    assert len({family.gymnasium_id for family in FAMILIES.values()}) == len(FAMILIES)


def test_an_alias_stands_for_its_preset() -> None:
    assert make_distribution("point-navigation").name == "point-navigation/finn"
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
        "from envs import TaskDistribution\n"
        "from envs.families.navigation import finn\n"
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


def exploring_actions(distribution: TaskDistribution, horizon: int) -> Tensor:
    """(H, M, E, A): every other episode holds one action throughout, which leads far."""
    space = distribution.action_space
    batch = (horizon, NUM_TASKS, NUM_EPISODES)
    if isinstance(space, Discrete):
        actions = torch.randint(int(space.n), batch, generator=rng(1))
    else:
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        actions = low + (high - low) * torch.rand((*batch, *space.shape), generator=rng(1))
    actions[:, :, ::2] = actions[:1, :, ::2].clone()
    return actions


def explore(distribution: TaskDistribution, tasks: Task) -> tuple[Tensor, Tensor]:
    """Obs (H+1, M, E, O) and reward (H, M, E) of the same actions and the same noise whatever the tasks."""
    horizon = min(distribution.horizon, LONGEST)
    env: BatchedEnv = distribution.bind(tasks, NUM_EPISODES)
    obs, rewards = [env.reset(rng(2))], []
    for action in exploring_actions(distribution, horizon):
        seen, reward, _ = env.step(action)
        obs.append(seen)
        rewards.append(reward)
    return torch.stack(obs), torch.stack(rewards)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_every_task_parameter_changes_the_trajectory_or_the_rewards(name: str, parameter: str) -> None:
    distribution = make_distribution(name)
    tasks = distribution.sample(NUM_TASKS, "train", rng(3))
    changed = {**tasks, parameter: distribution.sample(NUM_TASKS, "train", rng(4))[parameter]}
    before, after = explore(distribution, tasks), explore(distribution, changed)
    assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_tasks_and_seed_give_the_same_trajectory(name: str) -> None:
    distribution = make_distribution(name)
    tasks = distribution.sample(NUM_TASKS, "train", rng(3))
    first, second = explore(distribution, tasks), explore(distribution, tasks)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("split", ["train", "ood"])
def test_observations_are_float32_and_stay_in_the_observation_space(name: str, split: str) -> None:
    distribution = make_distribution(name)
    if split not in distribution.splits:
        pytest.skip("no such split")
    obs, reward = explore(distribution, distribution.sample(NUM_TASKS, split, rng(3)))
    space = distribution.observation_space
    assert obs.dtype == reward.dtype == torch.float32
    assert obs.shape[3:] == space.shape
    assert bool((obs >= torch.from_numpy(space.low)).all() and (obs <= torch.from_numpy(space.high)).all())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_task_is_one_of_training_and_is_written_and_read(name: str) -> None:
    distribution = make_distribution(name)
    default = distribution.default_task()
    for parameter, range_ in distribution.train.items():
        assert default[parameter].shape == (1, *range_.shape)
        assert range_.contains(default[parameter]).all(), parameter
    (written,) = tasks_to_json(default)
    read = distribution.parse_task(json.dumps(written))
    assert all(torch.equal(read[parameter], default[parameter]) for parameter in distribution.train)
