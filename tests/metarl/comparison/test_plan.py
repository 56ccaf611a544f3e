"""The plan of a comparison and its directory: what is pooled, what decides a result, and where it is found again."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from metarl.cli.main import main
from metarl.comparison.config import CompareConfig
from metarl.comparison.directory import ComparisonDirectory
from metarl.comparison.measurements import Measurement
from metarl.comparison.plan import Plan, make_plan, pool_seeds
from metarl.comparison.sb3_baselines import evaluation_schedule
from metarl.errors import EXIT_BAD_INPUT, UserError
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory
from tests.helpers.workbench import ENV, ITERATIONS, RUN, files_under

pytest_plugins = ["tests.helpers.run_fixtures"]

CONFIG = CompareConfig(runs=(RUN,), baselines=("random", "ppo"), num_tasks=2, budget=1_000, episodes=3)
DIRECTORY = Path("runs/comparison-point-navigation-pearl")


def plan_of(config: CompareConfig) -> Plan:
    return make_plan(dataclasses.replace(config, device="cpu"))


def run_of(name: str, agent: str = "maml", seed: int = 0, iterations: int = 10) -> RunDirectory:
    """A run that is nowhere on disk."""
    config = default_config(agent, ENV)
    return RunDirectory(Path("runs") / name, dataclasses.replace(config, seed=seed, name=name, iterations=iterations))


# ---------------------------------------------------------------------- the plan


def test_a_plan_writes_nothing(workplace: Path) -> None:
    before = files_under(workplace)
    plan = plan_of(CONFIG)
    assert files_under(workplace) == before
    assert (plan.env, plan.labels) == (ENV, ["maml", "random", "ppo"])
    assert plan.tasks["goal"].shape == (2, 2)


def test_what_decides_the_result_is_written_as_before(workplace: Path) -> None:
    """A comparison that was interrupted before an update of this program goes on after it."""
    settings = plan_of(CONFIG).settings()
    (path,) = settings.pop("runs")
    assert path == f"runs/{RUN}"
    assert list(settings.items()) == [
        ("baselines", ["random", "ppo"]),
        ("num_tasks", 2),
        ("budget", 1_000),
        ("sb3_settings", {}),
        ("seeds", 1),
        ("split", "test"),
        ("episodes", 3),
        ("steps", None),
        ("quick", False),
    ]


def test_a_measurement_is_found_under_the_name_of_before(workplace: Path) -> None:
    plan = plan_of(CONFIG)
    directory = ComparisonDirectory.open(plan)
    directory.measurements.save("random", plan.protocol(), Measurement([0.0], [[1.0, 2.0]], 5))
    (file,) = (DIRECTORY / "measurements").iterdir()
    assert file.name == "random-b3ac227a487d32c2.json"
    assert set(json.loads(file.read_text())) == {"agent", "settings", "measurement"}


def test_quick_is_fewer_tasks_and_steps(workplace: Path) -> None:
    whole = plan_of(dataclasses.replace(CONFIG, num_tasks=None, budget=None))
    quick = plan_of(dataclasses.replace(CONFIG, num_tasks=None, budget=None, quick=True))
    assert (whole.config.tasks_compared, whole.config.task_budget) == (20, 30_000)
    assert (quick.config.tasks_compared, quick.config.task_budget) == (6, 10_000)
    assert quick.training_env_steps == round(whole.training_env_steps / 5)
    assert whole.training_env_steps % ITERATIONS == 0


def test_baselines_are_taken_once_and_not_if_they_are_the_runs_own_agent(workplace: Path) -> None:
    plan = plan_of(dataclasses.replace(CONFIG, baselines=("ppo", "maml", "none", "ppo", "random")))
    assert plan.labels == ["maml", "ppo", "random"]


# ---------------------------------------------------------------------- pools


def test_runs_are_pooled_if_they_differ_in_their_seed_only() -> None:
    runs = [run_of("a"), run_of("b", agent="reptile"), run_of("c", seed=1), run_of("d", iterations=20)]
    pools = {label: [run.path.name for run in pool] for label, pool in pool_seeds(runs).items()}
    assert pools == {"maml (a)": ["a", "c"], "reptile": ["b"], "maml (d)": ["d"]}


def test_a_run_is_no_second_seed_of_itself() -> None:
    run = run_of("a")
    under_another_path = RunDirectory(Path("runs/../runs/a"), run.config)
    with pytest.raises(UserError, match=r"runs/\.\./runs/a is given twice"):
        pool_seeds([run, under_another_path])


def test_a_copy_of_a_run_is_no_second_seed(workplace: Path) -> None:
    shutil.copytree(Path("runs") / RUN, "runs/copy")
    with pytest.raises(UserError, match=r"runs/run and runs/copy have the same settings and the same seed, 0"):
        plan_of(dataclasses.replace(CONFIG, runs=(RUN, "copy")))


def test_a_copy_with_another_seed_in_its_configuration_is_no_second_seed(workplace: Path) -> None:
    """As a run of an earlier version may have, whose checkpoints do not tell the configuration."""
    shutil.copytree(Path("runs") / RUN, "runs/copy")
    run = RunDirectory.open(RUN)
    copy = RunDirectory(Path("runs/copy"), dataclasses.replace(run.config, seed=1))
    with pytest.raises(UserError, match=r"runs/run and runs/copy hold the same best policy: a copy is no second seed"):
        pool_seeds([run, copy])


def test_copies_are_not_evaluated_as_several_seeds(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(Path("runs") / RUN, "runs/copy")
    assert main(["evaluate", RUN, "copy", "--num-tasks", "2"]) == EXIT_BAD_INPUT
    said = capsys.readouterr()
    assert "have the same settings and the same seed, 0" in " ".join(said.err.split())
    assert said.out == ""


# ---------------------------------------------------------------------- the directory


def test_the_same_comparison_gets_its_directory_again_and_another_one_a_new_one(workplace: Path) -> None:
    first = ComparisonDirectory.open(plan_of(CONFIG))
    other = dataclasses.replace(CONFIG, seeds=2)
    assert first.path == DIRECTORY
    assert ComparisonDirectory.open(plan_of(CONFIG)).path == DIRECTORY
    assert ComparisonDirectory.open(plan_of(other)).path == DIRECTORY.with_name(f"{DIRECTORY.name}-2")
    assert ComparisonDirectory.open(plan_of(CONFIG)).path == DIRECTORY


def test_an_explicit_directory_is_taken_whatever_it_holds(workplace: Path) -> None:
    here = dataclasses.replace(CONFIG, out="here")
    ComparisonDirectory.open(plan_of(here))
    again = ComparisonDirectory.open(plan_of(dataclasses.replace(here, seeds=2)))
    assert again.path == Path("here")
    assert json.loads((again.path / "settings.json").read_text())["seeds"] == 2


def test_models_and_runs_lie_where_they_lay_before() -> None:
    directory = ComparisonDirectory(Path("here"))
    assert directory.trained == Path("here/trained")
    assert directory.sb3_model("ppo", 1, "task-000") == Path("here/sb3/ppo-seed1/task-000")


# ---------------------------------------------------------------------- Stable-Baselines3


def test_models_are_evaluated_before_any_step_and_then_from_one_episode_to_the_budget() -> None:
    schedule = evaluation_schedule(horizon=100, budget=30_000)
    assert (schedule[0], schedule[1], schedule[-1]) == (0, 100, 30_000)
    growth = np.diff(np.log(schedule[1:]))
    assert len(schedule) == 41
    assert growth.min() > 0.13
    assert growth.max() < 0.16


def test_a_budget_of_one_episode_is_evaluated_twice() -> None:
    assert evaluation_schedule(horizon=20, budget=20) == (0, 20)
