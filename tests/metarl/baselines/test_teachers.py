"""`metarl train distill`: where its teachers come from, what they cost, what the report says of the student."""

import copy
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO

from metarl.baselines.distillation_report import DistillationReport
from metarl.baselines.teachers import TEACHERS_FILE, load_teachers, read_summary
from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.envs.task_space import select_tasks
from metarl.errors import EXIT_BAD_INPUT
from metarl.evaluation.adaptation import adapt_to_tasks
from metarl.run.build import load_learner
from metarl.run.checkpoint import Checkpoint, Progress, read_checkpoint, write_checkpoint
from metarl.run.run_directory import RunDirectory
from tests.helpers.workbench import (
    ENV,
    EPISODES,
    ITERATIONS,
    RUN,
    TINY,
    Moment,
    complaint,
    metrics_of,
    run_with_signal,
    same_tensors,
    tensors_of,
    train,
)

pytest_plugins = ["tests.helpers.run_fixtures"]

NUM_TEACHERS = 4
STUDENT = Path("runs/student")


def distill_arguments(*flags: str) -> list[str]:
    tiny = [*TINY, "--hidden-sizes", "3", "--num-teachers", str(NUM_TEACHERS), "--teacher", RUN, "--name", "student"]
    return ["train", "distill", ENV, *tiny, *flags]


def distill(*flags: str) -> RunDirectory:
    """Train a tiny student below runs/."""
    assert main(distill_arguments(*flags)) == 0
    return RunDirectory.open(str(STUDENT))


def report_of(run: RunDirectory) -> dict[str, Any]:
    report = json.loads((run.path / "evaluation-test.json").read_text())["distillation"]
    assert isinstance(report, dict)
    return report


# ---------------------------------------------------------------------- teachers that are a run


def test_teachers_are_the_runs_policies_adapted_to_training_tasks(workplace: Path, without_figures: None) -> None:
    run = distill()
    teachers = load_teachers(run, make_distribution(ENV))
    distribution, learner, _ = load_learner(RunDirectory.open(RUN))
    generator = torch.Generator().manual_seed(2_000_000)
    tasks = distribution.sample(NUM_TEACHERS, "train", generator)
    adapted = adapt_to_tasks(learner, distribution, tasks, learner.adaptation_steps, EPISODES, generator).adapted
    assert torch.equal(teachers.tasks["goal"], tasks["goal"])
    assert same_tensors(teachers.params, adapted.params)


def test_what_the_teachers_cost_is_counted(workplace: Path, without_figures: None) -> None:
    run = distill()
    summary = read_summary(run)
    horizon = make_distribution(ENV).horizon
    assert summary.env_steps == NUM_TEACHERS * EPISODES * horizon * 2  # before and after one adaptation step
    assert metrics_of(run.path)[0]["env_steps"] == summary.env_steps
    teacher = RunDirectory.open(RUN).checkpoints.load("last").progress
    assert summary.training_env_steps == teacher.env_steps


def test_student_meets_only_tasks_of_teachers(workplace: Path, without_figures: None) -> None:
    run = distill("--num-teachers", "1")
    teachers = load_teachers(run, make_distribution(ENV))
    drawn = make_distribution(ENV).with_train_tasks(teachers.tasks).sample(50, "train", torch.Generator())
    assert torch.equal(drawn["goal"], teachers.tasks["goal"].expand(50, 2))


def test_teachers_states_need_no_query_of_the_student(workplace: Path, without_figures: None) -> None:
    run = distill("--states", "teacher", "--objective-steps", "last")
    before, first = (row["env_steps"] for row in metrics_of(run.path)[:2])
    assert first - before == 2 * EPISODES * make_distribution(ENV).horizon  # 2 tasks, the support batch alone
    teachers = load_teachers(run, make_distribution(ENV))
    assert teachers.episodes is not None
    assert len(teachers.episodes.obs) == NUM_TEACHERS


def test_a_killed_run_goes_on_exactly(workplace: Path, without_figures: None, tmp_path: Path) -> None:
    assert main(distill_arguments("--name", "whole")) == 0
    moment = Moment("metarl.training.meta_iteration.sample_iteration", call=2)
    assert run_with_signal(distill_arguments(), moment, signal.SIGKILL, tmp_path / "output") == -signal.SIGKILL
    assert main(["train", "--resume", str(STUDENT)]) == 0
    whole = RunDirectory.open("runs/whole")
    assert same_tensors(tensors_of(STUDENT), tensors_of(whole.path))
    assert metrics_of(STUDENT) == metrics_of(whole.path)


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_damaged_teachers_are_made_again(damage: str, workplace: Path, without_figures: None) -> None:
    run = distill()
    path = run.path / TEACHERS_FILE
    before = copy.deepcopy(read_checkpoint(path).tensors)  # the tensors read are the file itself, mapped
    path.write_bytes(path.read_bytes()[:100]) if damage == "truncated" else path.unlink()
    assert main(["train", "--resume", str(run.path), "--iterations", str(ITERATIONS + 1)]) == 0
    assert same_tensors(read_checkpoint(path).tensors, before)


def test_a_student_adapts_without_its_teachers(
    workplace: Path, without_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = distill()
    (run.path / TEACHERS_FILE).unlink()
    shutil.rmtree("runs/run")
    capsys.readouterr()
    assert main(["evaluate", "student", "--num-tasks", "2", "--json"]) == 0
    captured = capsys.readouterr()
    assert "distillation" not in json.loads(captured.out)
    assert captured.err.startswith("metarl: no comparison with the teacher: unknown run 'run'")


# ---------------------------------------------------------------------- teachers of Stable-Baselines3


def test_experts_are_the_policies_that_sb3_trained(workplace: Path, without_figures: None) -> None:
    run = distill("--teacher", "ppo", "--expert-env-steps", "600", "--num-teachers", "2")
    distribution = make_distribution(ENV)
    teachers = load_teachers(run, distribution)
    models = [PPO.load(run.path / "experts" / f"task-00{task}" / "model.zip") for task in range(2)]
    obs = torch.randn(2, 5, 1, 2, generator=torch.Generator().manual_seed(0))
    for task, model in enumerate(models):
        expected = model.policy.get_distribution(obs[task, :, 0]).mode()
        found = teachers.act(torch.arange(2), obs).parameters()["mean"][task, :, 0]
        torch.testing.assert_close(found, expected)
    last = EPISODES * 2 * distribution.horizon
    assert read_summary(run).env_steps == sum(model.num_timesteps for model in models) + last
    report = report_of(run)
    assert (report["own_tasks"], report["num_tasks"], report["teacher"]) == (True, 2, "ppo")
    batch = 2 * EPISODES * distribution.horizon
    assert report["env_steps"] == (1 + 2 + 1 + 1) * batch  # experts, student before and after, random, oracle


# ---------------------------------------------------------------------- the report


def test_report_of_a_student_that_is_its_teacher(workplace: Path, without_figures: None) -> None:
    """The student's run gets the teacher's own parameters: it keeps everything."""
    run = distill("--hidden-sizes", "8")
    theirs = RunDirectory.open(RUN).checkpoints.load("best").tensors
    path = run.checkpoints.path("best")
    write_checkpoint(path, Checkpoint(read_checkpoint(path).tensors | theirs, Progress(iteration=1, best_validation=0)))
    assert main(["evaluate", str(run.path), "--num-tasks", "40", "--episodes", "20", "--out", str(run.path)]) == 0
    report = report_of(run)
    assert report["teacher_parameters"] == report["student_parameters"] == 8 * 2 + 8 + 2 * 8 + 2 + 2
    assert report["student_return"][-1] == pytest.approx(report["teacher_return"], rel=0.05)
    assert report["kept"][-1] == pytest.approx(1, abs=0.1)
    assert report["divergence"][-1] < report["divergence"][0]
    assert report["divergence"][-1] < 0.05


def test_report_is_in_normalised_scores(workplace: Path, without_figures: None) -> None:
    report = report_of(distill())
    distribution = make_distribution(ENV)
    tasks = select_tasks(distribution.sample(1000, "test"), slice(report["num_tasks"]))
    oracle = [-float(goal.norm()) for goal in tasks["goal"]]
    assert 0 < report["teacher_score"] < 0.3  # the teacher has hardly learned
    assert report["kept"] == [score / report["teacher_score"] for score in report["student_score"]]
    assert len(report["student_score"]) == len(report["divergence"]) == 2
    assert report["teacher_return"] < min(oracle)


def test_nothing_is_kept_of_a_teacher_that_is_no_better_than_random() -> None:
    report = DistillationReport("run", False, 3, 44, 19, -20.0, [-21.0, -20.5], -0.05, [-0.1, 0.2], [1.0, 0.5])
    assert report.kept is None
    assert report.lines()[1] == (
        "the adapted teacher is no better than random (normalised score −0.050); "
        "KL to the teacher 1.00 → 0.50 nats a step"
    )


def test_the_student_of_the_report_is_the_evaluated_one(workplace: Path, without_figures: None) -> None:
    """It is sampled once; what the comparison took besides is counted: the teachers, the random policy, the oracle."""
    evaluation = json.loads((distill().path / "evaluation-test.json").read_text())
    report = evaluation["distillation"]
    assert report["student_return"] == evaluation["return_mean"]
    batch = evaluation["num_tasks"] * EPISODES * make_distribution(ENV).horizon
    assert evaluation["total_env_steps"] == 2 * batch
    assert report["env_steps"] == (2 + 1 + 1) * batch


def test_a_report_of_before_steps_were_counted_is_read(workplace: Path, without_figures: None) -> None:
    data = report_of(distill())
    assert DistillationReport.from_json(data).to_json() == data
    del data["env_steps"]
    assert (
        DistillationReport.from_json(data).lines() == DistillationReport.from_json(data | {"env_steps": 1}).lines()[:2]
    )


def test_report_is_printed(workplace: Path, without_figures: None, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(distill())
    printed = capsys.readouterr().out
    assert "student of run on 3 of these tasks: 19 parameters, 43% of the teacher's 44" in printed
    assert f"({report['student_score'][-1]:.3f} of {report['teacher_score']:.3f})" in printed


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--teacher", ""], "distill needs a teacher: --teacher RUN"),
        (["--teacher", "nobody"], "unknown run 'nobody'; known are"),
        (["--states", "teacher"], "states 'teacher' need"),
        (["--num-teachers", "0"], "num_teachers must be at least 1"),
    ],
)
def test_bad_input_gets_one_line_and_no_run(
    flags: list[str], says: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(distill_arguments(*flags)) == EXIT_BAD_INPUT
    assert says in complaint(capsys)
    assert not STUDENT.exists()


def test_a_teacher_of_another_environment_is_refused(
    workplace: Path, without_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    train(workplace / "runs", "--name", "other", env="point-dynamics")
    capsys.readouterr()
    assert main(distill_arguments("--teacher", "other")) == EXIT_BAD_INPUT
    assert "is of point-dynamics, the student of point-navigation/pearl" in complaint(capsys)


def test_a_teacher_without_a_checkpoint_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs/run/checkpoints")
    assert main(distill_arguments()) == EXIT_BAD_INPUT
    assert "checkpoint" in complaint(capsys)
    assert not STUDENT.exists()


def test_teachers_act_as_they_did_when_they_were_made(workplace: Path, without_figures: None) -> None:
    """Their mean return in the summary is what they reach when played again."""
    run = distill("--num-teachers", "30")
    distribution = make_distribution(ENV)
    teachers = load_teachers(run, distribution)
    generator = torch.Generator().manual_seed(7)
    again = collect(distribution.bind(teachers.tasks, 50), teachers.policy, teachers.params, generator).returns.mean()
    assert read_summary(run).return_mean == pytest.approx(float(again), rel=0.05)
