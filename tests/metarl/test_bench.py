"""The benchmark measures what it says: the same work on both sides."""

from typing import Any

import pytest
import torch

from agents.maml import MAML, MAMLConfig
from agents.policy import PolicyConfig
from envs.families.navigation import pearl
from metarl.bench import _PlainLoop, bench
from metarl.cli import main
from metarl.train import sample_iteration


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return bench("point-navigation/pearl", num_tasks=2, episodes=3, hidden_size=4, repeats=1, num_threads=1)


def test_figures_are_positive_and_consistent(figures: dict[str, Any]) -> None:
    assert all(value > 0 for value in figures.values() if isinstance(value, (int, float)))
    assert (figures["env"], figures["horizon"], figures["hidden_sizes"]) == ("point-navigation/pearl", 20, [4, 4])
    assert figures["env_steps"] == 2 * 2 * 3 * 20  # support and query
    assert figures["env_steps_per_s"] == pytest.approx(figures["env_steps"] / figures["sampling_s"])
    assert figures["plain_env_steps_per_s"] == pytest.approx(figures["env_steps"] / figures["plain_sampling_s"])
    for outer in ("trpo", "ppo"):
        assert figures[f"iteration_{outer}_s"] > figures["sampling_s"] + figures[f"meta_update_{outer}_s"]
    for phase in ("sampling", "meta_gradient"):
        assert figures[f"{phase}_ratio"] == pytest.approx(figures[f"plain_{phase}_s"] / figures[f"{phase}_s"])


def test_table_shows_the_figures(
    figures: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metarl.cli.bench", lambda *arguments: figures)
    assert main(["bench", "point-navigation/pearl", "--num-tasks", "2", "--episodes", "3", "--hidden-size", "4"]) == 0
    text = capsys.readouterr().out
    assert "2 tasks × 3 episodes × 20 steps" in text
    assert f"{figures['env_steps_per_s']:,.0f}" in text
    assert f"{figures['iteration_ppo_s']:.2f} s" in text


def test_plain_loop_computes_the_same_meta_gradient() -> None:
    distribution, generator = pearl(), torch.Generator().manual_seed(0)
    config = MAMLConfig(policy=PolicyConfig(hidden_sizes=(5, 4)))
    learner = MAML(distribution.observation_space, distribution.action_space, config, generator)
    support, query, *_ = sample_iteration(distribution, learner, 3, 4, generator)
    assert query is not None
    expected = learner.meta_gradient(support, query)
    plain = _PlainLoop("metarl/PointNavigationPearl-v0", learner, 4).gradient([*support, query])
    assert plain.keys() == expected.keys()
    assert max(float(leaf.abs().max()) for leaf in expected.values()) > 1e-2
    for name, leaf in expected.items():
        torch.testing.assert_close(plain[name], leaf, rtol=1e-4, atol=1e-5, msg=name)
