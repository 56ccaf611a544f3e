"""TaskDistribution: frozen splits, sampling, and tasks read from text, JSON and mappings."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.envs.families.navigation import PointNavigation, finn, pearl, point_dynamics
from metarl.envs.registry import FAMILIES
from metarl.envs.task_distribution import FROZEN_SIZE, TaskDistribution
from metarl.envs.task_space import Choice, Range, Uniform, tasks_to_json

FROZEN_GOALS = {
    "validation": [[-0.40117085, 0.00582033], [0.24689186, 0.06144267], [-0.40965676, -0.15006262]],
    "test": [[0.17454273, 0.49239361], [-0.41026980, 0.07593560], [0.36252517, 0.18710536]],
    "ood": [[-0.94405627, -0.81724817], [-0.57701516, 0.55957663], [0.80744559, 0.59723502]],
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dynamics_task(**changed: Any) -> dict[str, Any]:
    return {"goal": [0.3, 0.2], "gain": 1.0, "rotation": 0.0, "wind": [0.0, 0.0], "drag": 0.8, **changed}


@pytest.mark.parametrize("horizon", [0, -1, "x", 2.5, True, None])
def test_a_family_without_a_length_of_its_episodes_is_refused(horizon: Any) -> None:
    env = PointNavigation()
    env.horizon = horizon
    with pytest.raises(ValueError, match=r"PointNavigation\.horizon must be a whole number of at least 1, got"):
        TaskDistribution(env, {"goal": Uniform(-1, 1, shape=(2,))})


@pytest.mark.parametrize("split", FROZEN_GOALS)
def test_frozen_splits_never_change(split: str) -> None:
    assert torch.allclose(finn().sample(3, split)["goal"], torch.tensor(FROZEN_GOALS[split]), atol=1e-7)


@pytest.mark.parametrize("split", FROZEN_GOALS)
def test_a_short_frozen_list_starts_the_longer_one(split: str) -> None:
    distribution = point_dynamics()
    short, long = distribution.sample(5, split), distribution.sample(FROZEN_SIZE, split, rng(7))
    assert all(torch.equal(short[name], long[name][:5]) for name in distribution.train)


def test_splits_share_no_task_in_a_continuous_space() -> None:
    distribution = finn()
    drawn = [distribution.sample(1000, split, rng())["goal"] for split in distribution.splits]
    goals = {tuple(goal) for split in drawn for goal in split.tolist()}
    assert len(goals) == 4 * 1000


def test_validation_and_test_come_from_the_training_ranges_and_ood_does_not() -> None:
    for family in (family for family in FAMILIES.values() if family.available):
        distribution = family.make()
        for split in distribution.splits:
            tasks = distribution.sample(FROZEN_SIZE, split, rng())
            inside = torch.stack([range_.contains(tasks[name]) for name, range_ in distribution.train.items()])
            outside_share = float((~inside.all(dim=0)).float().mean())
            assert outside_share == pytest.approx(1.0 if split == "ood" else 0.0, abs=0.01), (family.name, split)


def test_training_tasks_follow_the_generator() -> None:
    distribution = finn()
    first = distribution.sample(4, "train", rng(3))["goal"]
    assert torch.equal(first, distribution.sample(4, "train", rng(3))["goal"])
    assert not torch.equal(first, distribution.sample(4, "train", rng(4))["goal"])
    generator = rng(3)
    distribution.sample(4, "train", generator)
    assert not torch.equal(first, distribution.sample(4, "train", generator)["goal"])


def test_frozen_splits_leave_the_generator_alone() -> None:
    generator = rng(3)
    before = generator.get_state()
    finn().sample(4, "test", generator)
    assert torch.equal(generator.get_state(), before)


def test_ood_keeps_the_training_range_of_a_parameter_it_does_not_name() -> None:
    ranges: dict[str, Range] = {"goal": Uniform(-1.0, 1.0, shape=(2,)), "mass": Uniform(1.0, 2.0)}
    distribution = TaskDistribution(PointNavigation(), ranges, ood={"mass": Uniform(2.0, 3.0)})
    tasks = distribution.sample(100, "ood")
    assert ranges["goal"].contains(tasks["goal"]).all()
    assert (tasks["mass"] >= 2.0).all()


def test_without_ood_ranges_there_is_no_ood_split() -> None:
    distribution = TaskDistribution(PointNavigation(), {"goal": Choice([[0.1, 0.2]])}, name="two-goals")
    assert distribution.splits == ("train", "validation", "test")
    with pytest.raises(ValueError, match=r"two-goals has no split 'ood'; its splits are train, validation, test"):
        distribution.sample(1, "ood")


@pytest.mark.parametrize(
    ("num_tasks", "split", "message"),
    [
        (0, "train", r"num_tasks must be at least 1, got 0"),
        (FROZEN_SIZE + 1, "test", rf"num_tasks must be at most {FROZEN_SIZE} in split 'test', got {FROZEN_SIZE + 1}"),
        (1, "tset", r"no split 'tset'; its splits are train, validation, test, ood"),
    ],
)
def test_sampling_rejects_bad_arguments(num_tasks: int, split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finn().sample(num_tasks, split, rng())


def test_sampling_the_training_split_needs_a_generator() -> None:
    with pytest.raises(ValueError, match=r"needs a generator"):
        finn().sample(1)


def test_a_distribution_needs_parameters_and_ood_ranges_of_known_names() -> None:
    with pytest.raises(ValueError, match=r"at least one task parameter"):
        TaskDistribution(PointNavigation(), {})
    with pytest.raises(ValueError, match=r"ood ranges name \['gaol'\], but the task parameters are \['goal'\]"):
        TaskDistribution(PointNavigation(), {"goal": Uniform(-1, 1, shape=(2,))}, ood={"gaol": Uniform(1, 2)})


@pytest.mark.parametrize(
    "task",
    [
        "goal=0.3,0.2 gain=1 rotation=0 wind=0,0 drag=0.8",
        "drag=0.8; gain=1; goal=0.3,0.2; rotation=0; wind=0,0",
        json.dumps(dynamics_task()),
        dynamics_task(),
        dynamics_task(gain=[1.0], goal=(0.3, 0.2)),
        dynamics_task(gain=np.float64(1.0), goal=np.array([0.3, 0.2])),
        dynamics_task(gain=torch.tensor(1.0), goal=torch.tensor([0.3, 0.2], dtype=torch.float64)),
    ],
    ids=str,
)
def test_every_form_of_a_task_reads_the_same(task: Any) -> None:
    expected = {"goal": [0.3, 0.2], "gain": 1.0, "rotation": 0.0, "wind": [0.0, 0.0], "drag": 0.8}
    parsed = point_dynamics().parse_task(task)
    assert list(parsed) == list(expected)
    for name, value in expected.items():
        assert torch.equal(parsed[name], torch.tensor([value])), name


def test_a_task_written_as_json_reads_back_the_same() -> None:
    distribution = point_dynamics()
    tasks = distribution.sample(20, "test")
    for i, written in enumerate(tasks_to_json(tasks)):
        read = distribution.parse_task(json.dumps(written))
        assert all(torch.equal(read[name], tasks[name][i : i + 1]) for name in tasks)


@pytest.mark.parametrize("goal", [[0.9, 0.0], [-0.5, 0.5]])
def test_a_task_may_come_from_the_ood_range(goal: list[float]) -> None:
    assert torch.equal(finn().parse_task({"goal": goal})["goal"], torch.tensor([goal]))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("", r"names the parameters \[\]; .* needs \['goal'\]"),
        ("goal", r"malformed at 'goal'"),
        ("goal=", r"malformed at 'goal='"),
        ("=0.3,0.2", r"malformed at '=0.3,0.2'"),
        ("goal=0.3,x", r"malformed at 'goal=0.3,x'"),
        ("goal=0.3, 0.2", r"malformed at 'goal=0.3,'"),
        ("goal=0.3,0.2 goal=0.1,0.1", r"malformed at 'goal=0.1,0.1'"),
        ("gaol=0.3,0.2", r"names the parameters \['gaol'\]; .* needs \['goal'\]"),
        ('{"goal": [0.3, 0.2]', r"is not valid JSON"),
        ('{"goal": null}', r"'goal' must be numbers, got None"),
        ('{"goal": "0.3,0.2"}', r"'goal' must be numbers, got '0.3,0.2'"),
        ('{"goal": [NaN, 0]}', r"'goal' = \[nan, 0\] is outside its range"),
        ({"goal": [0.3, 0.2], "gain": 1.0}, r"names the parameters \['gain', 'goal'\]"),
        ({"goal": [0.3, 0.2], 1: 1.0}, r"names the parameters \['1', 'goal'\]"),
        ({}, r"names the parameters \[\]"),
        ({"goal": 0.3}, r"'goal' must have shape \(2,\), got 0.3 of shape \(\)"),
        ({"goal": [0.3]}, r"'goal' must have shape \(2,\)"),
        ({"goal": [[0.3, 0.2]]}, r"'goal' must have shape \(2,\)"),
        ({"goal": [0.3, [0.2]]}, r"'goal' must be numbers"),
        ({"goal": [10**400, 0.2]}, r"'goal' must be numbers"),
        ({"goal": [1.01, 0.0]}, r"'goal' = \[1.01, 0.0\] is outside its range: uniform in .* or uniform in "),
        ({"goal": [math.inf, 0.0]}, r"outside its range"),
    ],
    ids=str,
)
def test_a_bad_task_is_rejected_with_its_field(task: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finn().parse_task(task)


def test_the_ood_range_is_needed_to_accept_a_task_outside_training() -> None:
    below = torch.tensor([math.cos(-1.0), math.sin(-1.0)])
    assert torch.equal(pearl().parse_task({"goal": below})["goal"], below.unsqueeze(0))
    training_only = TaskDistribution(pearl().env, pearl().train)
    with pytest.raises(ValueError, match=r"outside its range: uniform on the circle of radius 1, 0°–180°"):
        training_only.parse_task({"goal": below})


def test_the_default_task_is_the_familys_or_else_always_the_same() -> None:
    def goal_of(env: PointNavigation) -> Tensor:
        return TaskDistribution(env, finn().train).default_task()["goal"]

    class WithoutDefault(PointNavigation):
        def get_default_params(self, **kwargs: Any) -> Any:
            return None

    assert torch.equal(goal_of(PointNavigation(default_goal=(0.1, 0.4))), torch.tensor([[0.1, 0.4]]))
    goal = goal_of(WithoutDefault())
    assert torch.equal(goal, goal_of(WithoutDefault()))
    assert finn().train["goal"].contains(goal).all()
