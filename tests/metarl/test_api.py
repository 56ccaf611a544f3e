"""The workbench from Python gives what the commands give, and refuses what they refuse."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.cli.flags.values import parse_seeds
from metarl.cli.main import main
from metarl.run.config import TrainConfig, from_yaml
from metarl.run.presets import default_config
from tests.helpers.workbench import ENV, RUN, metrics_of, same_tensors, tensors_of

pytest_plugins = ["tests.helpers.run_fixtures"]

SIZE: dict[str, Any] = {
    "iterations": 3,
    "num_tasks": 2,
    "episodes": 3,
    "eval_tasks": 2,
    "test_tasks": 3,
    "eval_interval": 1,
    "checkpoint_interval": 1,
    "adaptation_steps": 1,
    "hidden_sizes": [8],
    "num_threads": 1,
    "normalize_obs": "off",
    "outer": "ppo",
}
"""As `TINY` of the workbench's helpers."""


def test_a_run_trained_from_python_is_the_one_of_the_command(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    run = metarl.train("maml", ENV, quiet=True, name="mine", **SIZE)
    assert same_tensors(tensors_of(run.path), tensors_of(trained_run))
    assert torch.get_num_threads() == threads

    metrics = run.metrics()
    assert metrics["eval/return_k1"].tolist() == [row["eval/return_k1"] for row in metrics_of(trained_run)]
    recorded = json.loads((trained_run / "evaluation-test.json").read_text())
    assert run.evaluate(num_tasks=3).evaluation.return_mean.tolist() == recorded["return_mean"]
    assert metarl.Run("mine").config == run.config


def test_a_run_is_continued(workplace: Path, without_figures: None) -> None:
    run = metarl.train(resume=RUN, iterations=4, quiet=True)
    assert run.metrics()["iteration"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="unknown setting of a run that is resumed 'seed'"):
        metarl.train(resume=RUN, seed=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden_sizes": [8]}, "unknown setting 'hiden_sizes' \\(did you mean 'hidden_sizes'"),
        ({"hidden_sizes": ["x"]}, "hidden_sizes\\[0\\]: must be a whole number, got 'x'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"iterations": "many"}, "iterations: must be a whole number, got 'many'"),
        ({"seed": object()}, "neither a number"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        metarl.train("maml", "pendulum", **settings)
    with pytest.raises(ValueError, match="unknown setting 'baseline'"):
        metarl.compare(["run"], baseline=["ppo"])
    assert list(tmp_path.iterdir()) == []


def test_seeds_of_numpy_are_whole_numbers() -> None:
    from metarl.run.config import with_settings

    changed = with_settings(default_config("maml", "pendulum"), {"seed": np.arange(3)[2], "max_kl": 0.2})
    assert changed.seed == 2
    assert changed.learner.trust_region.max_kl == 0.2


def test_the_api_is_lazy() -> None:
    script = "import metarl, sys; print('torch' in sys.modules, 'pandas' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]


# ---------------------------------------------------------------------- --config, --seeds


def test_a_runs_configuration_makes_the_same_run_again(workplace: Path, without_figures: None) -> None:
    config = workplace / "runs" / RUN / "config.yaml"
    assert main(["train", "--config", str(config), "--name", "again", "--num-threads", "1"]) == 0
    again = workplace / "runs" / "again"
    assert same_tensors(tensors_of(again), tensors_of(workplace / "runs" / RUN))

    command = ["train", "maml", "--config", str(config), "--seeds", "3,5", "--name", "both", "--iterations", "1"]
    assert main(command) == 0
    configs = [from_yaml((workplace / "runs" / f"both-seed{seed}" / "config.yaml").read_text()) for seed in (3, 5)]
    assert [(one.seed, one.iterations) for one in configs] == [(3, 1), (5, 1)]
    assert isinstance(configs[0], TrainConfig)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--config nowhere.yaml", "there is none at 'nowhere.yaml'"),
        ("--config runs/run/metrics.jsonl", "runs/run/metrics.jsonl: not YAML"),
        ("reptile --config runs/run/config.yaml", "is of maml point-navigation/pearl, and cannot be that of reptile"),
        ("--config runs/run/config.yaml --resume run", "does not go with --resume"),
        ("--seeds 4-1", "seeds must ascend"),
        ("--seeds one", "seeds must be such as 0-4"),
        ("--seeds 1,1", "seeds must differ"),
    ],
)
def test_what_they_refuse(flags: str, message: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in (workplace / "runs").iterdir())
    assert main(["train", *flags.split()]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in (workplace / "runs").iterdir()) == before


def test_seeds_are_read_as_lists_and_ranges() -> None:
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("7, 1-2") == [7, 1, 2]


def test_options_of_the_environment_hold_for_all_that_is_done_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    horizon = 3  # no pole falls as early, so that every return is 3
    run = metarl.train("maml", "cart-pole", quiet=True, env_options={"horizon": horizon}, **SIZE)
    assert run.path.name == "maml-cart-pole-horizon-3-seed0"
    assert run.config.env == from_yaml((run.path / "config.yaml").read_text()).env == "cart-pole@horizon=3"
    assert set(run.metrics()["eval/return_k1"]) == {3.0}
    assert (
        metarl.train(resume=run.path, iterations=4, quiet=True).metrics()["env_steps"].iloc[-1]
        == 4 * 2 * 2 * 3 * horizon
    )

    assert run.evaluate(num_tasks=2, split="ood").evaluation.return_mean.tolist() == [3.0, 3.0]
    comparison = metarl.compare([run], baselines=["random", "oracle"], num_tasks=2, budget=20, quiet=True)
    assert comparison.to_json()["env"] == "cart-pole@horizon=3"
    assert {curve.returns.max() for curve in comparison.curves} == {3.0}

    policy = run.adapt(metarl.envs.make_distribution("cart-pole").default_task(), episodes=2)
    policy.save(tmp_path / "policy")
    assert json.loads((tmp_path / "policy" / "policy.json").read_text())["horizon"] == horizon
    assert "cart-pole@horizon=3" in run.report().read_text()


def test_options_are_flags_and_make_another_environment(
    workplace: Path, capsys: pytest.CaptureFixture[str], without_figures: None
) -> None:
    short = ["--set", "env.horizon=9", "--set", "env.goal_tolerance=0.5", "--name", "short"]
    assert main(["train", "--config", f"runs/{RUN}/config.yaml", *short, "--iterations", "1"]) == 0
    assert metarl.Run("short").config.env == f"{ENV}@horizon=9,goal_tolerance=0.5"
    assert metarl.Run("short").evaluate(num_tasks=2).evaluation.env_steps.max() <= 9 * 3

    for command, said in {
        f"compare {RUN} short": "runs of different environments cannot be compared",
        "train --resume short --set env.horizon=10": "only --iterations may be changed, not ['set']",
        f"train maml {ENV} --set horizon=9": "--set takes an option of the environment, such as env.horizon=50",
        f"train maml {ENV} --set env.horizon=1 --set env.horizon=2": "--set gives env.horizon twice",
        f"train maml {ENV} --set env.size=9": "has no option 'size'; it has horizon=20, goal_tolerance=0.0",
    }.items():
        assert main(command.split()) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown setting of a run that is resumed 'env_options'"):
        metarl.train(resume="short", env_options={"horizon": 9})
