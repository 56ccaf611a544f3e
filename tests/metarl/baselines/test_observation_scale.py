"""Stable-Baselines3 on observations normalised as a run of this project normalises them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from metarl.agents.policies.observations import ObservationNormalizer
from metarl.agents.sb3 import ObservationScale, ScaledVecEnv
from metarl.baselines.sb3 import TaskJob, learn_task
from metarl.comparison import sb3_baselines
from metarl.comparison.sb3_baselines import job_settings, observation_scale
from metarl.envs.adapters.sb3 import make_sb3_vec_env
from metarl.envs.task_distribution import TaskDistribution
from tests.helpers.reach import _reach

IN_1024THS = ObservationScale((0.0, 0.0), (1 / 1024, 1 / 1024))


def plain() -> TaskDistribution:
    """Positions in metres."""
    return _reach(1.0)


def in_1024ths() -> TaskDistribution:
    """The same, each number 1024 times as large: a power of two loses no digit."""
    return _reach(1024.0)


def job(name: str, scale: ObservationScale | None, directory: Path) -> TaskJob:
    schedule = (0, 200)
    return TaskJob(
        "ppo", f"{__name__}:{name}", {"target": 0.5}, 1, schedule, 2, str(directory), observation_scale=scale
    )


def test_units_that_are_normalised_away_change_nothing(tmp_path: Path) -> None:
    normalised = learn_task(job("in_1024ths", IN_1024THS, tmp_path / "one"))
    expected = learn_task(job("plain", None, tmp_path / "two"))
    raw = learn_task(job("in_1024ths", None, tmp_path / "three"))
    assert normalised.returns == expected.returns
    assert raw.returns != expected.returns


def test_the_last_observation_of_an_episode_is_normalised_too() -> None:
    env = ScaledVecEnv(make_sb3_vec_env(in_1024ths(), 2, seed=3), IN_1024THS)
    twin = make_sb3_vec_env(plain(), 2, seed=3)
    np.testing.assert_array_equal(env.reset(), twin.reset())
    ended = 0
    for _ in range(9):
        obs, _, _, infos = env.step(np.full((2, 1), 0.3, np.float32))
        expected, _, _, of_twin = twin.step(np.full((2, 1), 0.3, np.float32))
        np.testing.assert_array_equal(obs, expected)
        for info, one in zip(infos, of_twin, strict=True):
            ended += "terminal_observation" in info
            np.testing.assert_array_equal(info.get("terminal_observation"), one.get("terminal_observation"))
    assert ended == 2
    assert env.observation_space.contains(np.asarray(obs)[0])


def test_it_is_what_the_networks_of_a_run_see(monkeypatch: pytest.MonkeyPatch) -> None:
    normalizer = ObservationNormalizer(3)
    learner = SimpleNamespace(policy=SimpleNamespace(observations=normalizer))
    monkeypatch.setattr(sb3_baselines, "load_learner", lambda run, which: SimpleNamespace(learner=learner))
    plan: Any = SimpleNamespace(runs=["one"])
    assert observation_scale(plan) is None

    normalizer.activate()
    seen = torch.tensor([[5.0, -1e6, 1.0], [7.0, 1e6, 1.0]], dtype=torch.float64)
    normalizer.merge(torch.cat([torch.tensor([2.0]), seen.sum(dim=0), seen.square().sum(dim=0)]))
    scale = observation_scale(plan)
    assert scale is not None
    obs = torch.tensor([[6.5, 3e5, 1.0], [300.0, 0.0, 1.0]])
    np.testing.assert_array_equal(scale(obs.numpy()), normalizer(obs).numpy())
    assert Box(-10, 10, (3,)).contains(scale(obs.numpy())[1])


def test_measurements_of_before_are_those_without(tmp_path: Path) -> None:
    assert "observation_scale" not in job_settings(job("plain", None, tmp_path))
    kept = job_settings(job("plain", IN_1024THS, tmp_path))["observation_scale"]
    assert kept == {"shift": (0.0, 0.0), "factor": (1 / 1024, 1 / 1024)}
