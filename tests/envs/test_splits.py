"""Every family's held-out tasks: none is met in training, or the family says that it has too few to hold some out."""

import contextlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from metarl.envs.families.games.dark_key_door import dark_key_door
from metarl.envs.families.navigation import PointNavigation
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Choice, Integers, LogBoxRing, LogUniform, Task, Uniform, num_tasks_of

TRAINING_DRAWS = 10_000
COINCIDENCES = 0.005
"""Of one float32 parameter there are 2^24 values, and two draws may be the same number."""


def rows(tasks: Task) -> list[bytes]:
    """Each task as bytes, which are equal where the tasks are."""
    flat = torch.cat([value.reshape(len(value), -1).double() for value in tasks.values()], dim=1)
    return [row.tobytes() for row in flat.numpy()]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.available])
def test_no_held_out_task_is_met_in_training_or_the_family_says_so(name: str) -> None:
    distribution = make_distribution(name)
    trained = set(rows(distribution.sample(TRAINING_DRAWS, "train", torch.Generator().manual_seed(1))))
    for split in distribution.splits[1:]:
        held_out = rows(distribution.sample(1000, split))
        assert len(set(held_out)) == len(held_out), f"{split} holds a task twice"
        met = sum(row in trained for row in held_out)
        if distribution.shares_tasks(split):
            assert met == len(held_out) == distribution.num_distinct_tasks
        else:
            assert met <= COINCIDENCES * len(held_out), f"{met} of {len(held_out)} {split} tasks are met in training"


@pytest.mark.parametrize("name", ["hopper-dynamics", "walker2d-dynamics"])
def test_every_ood_parameter_of_hopper_and_walker_lies_outside_the_training_range(name: str) -> None:
    distribution = make_distribution(name)
    for parameter, value in distribution.sample(1000, "ood").items():
        # On the edge itself, a decimal written as float32 belongs to both.
        assert distribution.train[parameter].contains(value).float().mean() <= 0.002, parameter
        assert distribution.ood[parameter].contains(value).all(), parameter


def test_the_splits_of_few_tasks_are_a_partition() -> None:
    distribution = dark_key_door()
    train = distribution.sample(20_000, "train", torch.Generator().manual_seed(0))
    splits = [set(rows(train)), *(set(rows(distribution.sample(1000, split))) for split in ("validation", "test"))]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]
    assert [len(split) / 1600 for split in splits] == pytest.approx([0.6, 0.2, 0.2], abs=0.04)


def test_a_family_too_small_to_hold_tasks_out_is_refused() -> None:
    distribution = TaskDistribution(PointNavigation(), {"goal": Choice([[0.1, 0.2]])}, name="one-goal", held_out=True)
    with pytest.raises(ValueError, match=r"one-goal has too few tasks to hold some of them out: no .* task was found"):
        for split in ("validation", "test"):
            distribution.sample(1, split)


def test_a_family_of_few_tasks_gives_each_once() -> None:
    distribution = TaskDistribution(PointNavigation(), {"goal": Choice([[0.1, 0.2], [0.3, 0.4], [0.1, 0.2]])})
    assert distribution.num_distinct_tasks == 2
    assert num_tasks_of(distribution.sample(100, "test")) == 2
    assert distribution.exhausts("test", 2) and not distribution.exhausts("test", 1)
    assert distribution.shares_tasks("validation")


def test_tasks_are_counted_where_they_can_be() -> None:
    many = TaskDistribution(PointNavigation(), {"goal": Choice([[0.0, 0.0], [1.0, 0.0]]), "seed": Integers(0, 9)})
    assert many.num_distinct_tasks == 20
    endless = TaskDistribution(PointNavigation(), {"goal": Uniform(-1, 1, shape=(2,)), "seed": Integers(0, 9)})
    assert endless.num_distinct_tasks is None
    assert not endless.shares_tasks("test")


def test_scales_outside_a_range_fill_the_ring_in_logarithms() -> None:
    inside, ring = LogUniform(0.5, 2.0, shape=(3,)), LogBoxRing(2.0, 4.0, shape=(3,))
    values = ring.sample(4000, torch.Generator().manual_seed(0))
    assert not inside.contains(values).any()
    assert ring.contains(values).all()
    assert not ring.contains(torch.ones(1, 3)).any()
    # Uniform in the ring: the share whose largest |log| is below log 3 is that of the volumes.
    largest = values.log().abs().amax(dim=1)
    expected = (np.log(3) ** 3 - np.log(2) ** 3) / (np.log(4) ** 3 - np.log(2) ** 3)
    assert float((largest < np.log(3)).float().mean()) == pytest.approx(expected, abs=0.03)


LISTS = """
import hashlib, torch
from metarl.envs.task_space import Ball, BoxRing, Circle, LogBoxRing, LogUniform, Normal, Simplex, Uniform
ranges = [Uniform(-1, 1, shape=(3,)), LogUniform(0.1, 7, shape=(5,)), Normal(1, 2, shape=(7,)), Simplex(5, rows=(3,)),
          Ball(3.0), Ball(2.0, dim=3), Circle(1.5), BoxRing(0.5, 1.0), BoxRing(1, 2, dim=5),
          LogBoxRing(2, 4, shape=(6,))]
for one in ranges:
    drawn = one.sample(1003, torch.Generator().manual_seed(7))
    print(type(one).__name__, hashlib.sha256(drawn.numpy().tobytes()).hexdigest())
"""


def test_frozen_lists_are_the_same_on_a_cpu_without_wide_instructions() -> None:
    """Torch as on this CPU, and in another process as on one without AVX2."""
    narrow = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", LISTS], env=narrow, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(LISTS, {})
    assert done.stdout.splitlines() == here.getvalue().splitlines()
