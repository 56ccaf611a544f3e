"""Training on images from the command line to the exported policy, and what the estimate of memory counts."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import metarl
from metarl.agents.maml import MAMLConfig
from metarl.cli.main import main
from metarl.run.build import build
from metarl.run.config import TrainConfig
from metarl.run.presets import default_config
from metarl.training.machine.memory import iteration_bytes
from tests.helpers.camera import SIZE

pytest_plugins = ["tests.helpers.run_fixtures"]
COUNTS = {"num-tasks": 2, "episodes": 2, "eval-tasks": 2, "test-tasks": 2, "adaptation-steps": 1, "hidden-sizes": 4}
SMALL = [text for name, value in COUNTS.items() for text in (f"--{name}", str(value))]


@pytest.mark.parametrize("agent", ["multitask", "reptile"])
def test_a_run_on_images_goes_on_and_is_exported(agent: str, tmp_path: Path, without_figures: None) -> None:
    run = tmp_path / "run"
    where = ["--run-dir", str(tmp_path), "--name", "run", "--num-threads", "1", "--iterations", "1"]
    assert main(["train", agent, "tests.helpers.camera:camera", *where, *SMALL]) == 0
    assert main(["train", "--resume", str(run), "--iterations", "2"]) == 0

    policy = metarl.load(run, device="cpu").adapt_to("wanted=0.8", episodes=2, steps=1, measure_episodes=1)
    policy.save(tmp_path / "policy", onnx=False)
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE), np.uint8)
    obs = torch.from_numpy(images.reshape(3, -1)).float()
    distribution, _ = policy.network.apply(policy.params, obs)
    program = torch.export.load(tmp_path / "policy/policy.pt2").module()
    torch.testing.assert_close(program(obs)[1], distribution.parameters()["logits"], rtol=1e-4, atol=1e-5)
    loaded = metarl.load_policy(tmp_path / "policy")
    assert np.array_equal(loaded.predict(images)[0], policy.predict(images)[0])
    again, _ = loaded.network.apply(loaded.params, obs)
    assert torch.equal(again.logits, distribution.parameters()["logits"])


def test_maml_refuses_images_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--run-dir", str(tmp_path / "runs")]
    assert main(["train", "maml", "tests.helpers.camera:camera", *place, *SMALL]) == 2
    assert "train reptile or multitask on images" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def needed(config: TrainConfig, horizon: int = 100) -> int:
    distribution, learner = build(config, torch.Generator())
    distribution.env.horizon = horizon
    return iteration_bytes(config, distribution, learner)


def test_memory_grows_with_the_steps_and_not_with_their_square() -> None:
    config = TrainConfig(env="point-navigation", num_threads=1, device="cpu")
    assert 1.5 < needed(config, 20_000) / needed(config, 10_000) < 2.5


def test_memory_counts_the_network_and_the_derivatives_that_are_kept() -> None:
    config = TrainConfig(env="point-navigation", num_threads=1, device="cpu")
    wide = replace(config, learner=MAMLConfig(policy=replace(config.learner.policy, hidden_sizes=(1000, 1000))))
    units = 4 * 4000 * 2000  # two arrays of a chunk's units, at the least
    assert needed(wide) > needed(config) + 2 * units
    assert needed(wide) > needed(replace(wide, learner=replace(wide.learner, fvp_memory=1))) + 3e8


def test_memory_counts_whole_trials_of_what_learns_in_its_memory() -> None:
    short = default_config("rl2", "grid-navigation")
    long = replace(short, learner=replace(short.learner, trial_episodes=40))
    one_short, one_long = (needed(replace(config, num_tasks=1), 15) for config in (short, long))
    one_trial = 4 * 40 * 15 * 64 * 12  # gates and their derivatives of a trial, at the least
    assert one_long > one_trial
    assert 8 < one_long / one_short < 11

    # Of many tasks a chunk of so many steps is unrolled at once, which stays; what is kept grows with the episodes.
    middle = replace(short, learner=replace(short.learner, trial_episodes=22))
    first, second, third = (needed(config, 15) for config in (short, middle, long))
    assert third - second == pytest.approx(second - first, rel=0.02)


def test_memory_counts_the_tensors_of_cuda_graphs() -> None:
    config = TrainConfig(env="point-navigation", num_threads=1, device="cpu")
    distribution, learner = build(config, torch.Generator())
    graphs, fused, eager = (
        iteration_bytes(replace(config, device="cuda", cuda_graphs=kind), distribution, learner)
        for kind in ("auto", "fused", "off")
    )
    assert fused == graphs
    steps = config.num_tasks * config.episodes * distribution.horizon
    assert graphs - eager > 4 * 2 * steps * 4 * 10  # four copies of two batches of ten numbers a step

    assert needed(config) == needed(replace(config, cuda_graphs="off"))


PEAK = """
import resource, sys
import torch
from metarl.run.build import build
from metarl.run.config import TrainConfig
from metarl.training.curriculum import make_curriculum
from metarl.training.machine.memory import iteration_bytes
from metarl.training.meta_iteration import run_meta_iteration

torch.set_num_threads(1)
config = TrainConfig(env="point-navigation", num_threads=1, device="cpu", num_tasks=int(sys.argv[1]))
generator = torch.Generator().manual_seed(0)
distribution, learner = build(config, generator)
distribution.env.horizon = int(sys.argv[2])
curriculum = make_curriculum(config, learner)
run_meta_iteration(learner, distribution, curriculum, config.num_tasks, config.episodes, 0.0, generator)
print(iteration_bytes(config, distribution, learner), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(num_tasks: int, horizon: int) -> tuple[int, int]:
    """The estimate for a meta-iteration, and the most memory that a process held which ran it, bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(num_tasks), str(horizon)], capture_output=True, text=True, check=True
    )
    estimate, held = done.stdout.split()
    return int(estimate), int(held)


@pytest.mark.slow
@pytest.mark.parametrize(("num_tasks", "horizon"), [(160, 100), (10, 10_000)])
def test_memory_is_estimated_as_it_is_taken(num_tasks: int, horizon: int) -> None:
    """Beside a tiny iteration, whose process holds Python, PyTorch and what their first use leaves."""
    estimate, held = peak(num_tasks, horizon)
    _, nothing = peak(2, 5)
    assert 0.5 < estimate / (held - nothing) < 3
