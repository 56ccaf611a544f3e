"""`metarl compare` on tiny runs: same tasks for all, nothing done twice, and what it refuses."""

import dataclasses
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor

from metarl.baselines.references import reference_episodes
from metarl.baselines.sb3 import TaskJob, learn_tasks
from metarl.cli.main import main
from metarl.comparison.comparer import Comparer
from metarl.envs.adapters.sb3 import TaskSB3VecEnv
from metarl.envs.registry import make_distribution
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Choice, Task, Uniform, num_tasks_of, tasks_to_json
from metarl.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, TrainingError
from metarl.run.checkpoint import read_checkpoint, write_checkpoint
from metarl.run.config import TrainConfig
from tests.helpers.without_figures import empty_figures
from tests.helpers.workbench import ENV, EPISODES, RUN, Moment, complaint, run_with_signal, train

pytest_plugins = ["tests.helpers.run_fixtures"]
pytestmark = pytest.mark.usefixtures("without_figures")  # test_comparison.py draws them

BUDGET = 1_000
SMALL = f"--num-tasks 2 --budget {BUDGET} --episodes {EPISODES} --num-threads 1".split()
DIRECTORY = Path("runs/comparison-point-navigation-pearl")


def arguments(*flags: str, runs: Sequence[str] = (RUN,), baselines: str = "ppo random oracle") -> list[str]:
    return ["compare", *runs, *SMALL, "--baselines", *baselines.split(), *flags]


def compare(*flags: str, runs: Sequence[str] = (RUN,), baselines: str = "ppo random oracle") -> dict[str, Any]:
    """Compare; returns comparison.json, in the newest directory without --out."""
    assert main(arguments(*flags, runs=runs, baselines=baselines)) == 0
    newest = max(Path("runs").glob("**/comparison.json"), key=lambda path: path.stat().st_mtime_ns)
    data = json.loads(newest.read_text())
    assert isinstance(data, dict)
    return data


def curves_of(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {curve["label"]: curve for curve in data["curves"]}


def without_seconds(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "seconds"}


# ---------------------------------------------------------------------- what is compared


@pytest.fixture(scope="module")
def everything(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A comparison with baselines of every kind, that no test changes: its directory and its JSON."""
    place = tmp_path_factory.mktemp("comparison")
    out = place / "all"
    every = "reptile multitask distill ppo ppo-pretrained random untrained oracle"
    with pytest.MonkeyPatch.context() as patch:
        empty_figures(patch.setattr)
        assert main(arguments("--out", str(out), runs=[str(trained_run)], baselines=every)) == 0
    return out, json.loads((out / "comparison.json").read_text())


def test_every_kind_of_agent_is_there(everything: tuple[Path, dict[str, Any]]) -> None:
    kinds = {label: curve["kind"] for label, curve in curves_of(everything[1]).items()}
    assert kinds == {
        **dict.fromkeys(["maml", "reptile", "multitask", "distill"], "meta-learner"),
        **dict.fromkeys(["ppo", "ppo-pretrained"], "baseline"),
        **dict.fromkeys(["random", "untrained", "oracle"], "reference"),
    }


def test_meta_learner_is_measured_as_evaluate_does(
    everything: tuple[Path, dict[str, Any]], trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = curves_of(everything[1])["maml"]
    capsys.readouterr()
    assert main(["evaluate", str(trained_run), "--num-tasks", "2", "--episodes", str(EPISODES), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert np.mean(curve["returns"], axis=(0, 2)).tolist() == pytest.approx(report["return_mean"])
    assert curve["env_steps"] == report["env_steps"]
    assert curve["training_env_steps"] == report["training_env_steps"]


def test_references_act_on_the_same_tasks(everything: tuple[Path, dict[str, Any]]) -> None:
    distribution = make_distribution(ENV)
    tasks = distribution.sample(2, "test")
    episodes = reference_episodes(distribution, tasks, EPISODES, torch.Generator().manual_seed(0))
    for name, curve in curves_of(everything[1]).items():
        if name in episodes:
            expected = episodes[name].returns.double().mean(dim=1).tolist()
            assert curve["returns"] == [[pytest.approx(expected)]]


def test_baselines_trained_here_get_the_steps_of_the_run(everything: tuple[Path, dict[str, Any]]) -> None:
    out, data = everything
    curves = curves_of(data)
    spent = curves["maml"]["training_env_steps"]
    for agent in ("reptile", "multitask"):
        lines = (out / "trained" / f"{agent}-seed0" / "metrics.jsonl").read_text().splitlines()
        before_last, last = (json.loads(line)["env_steps"] for line in lines[-2:])
        assert before_last < spent <= last == curves[agent]["training_env_steps"]
    assert curves["ppo-pretrained"]["training_env_steps"] == spent


def test_a_student_is_charged_for_its_teacher(everything: tuple[Path, dict[str, Any]]) -> None:
    out, data = everything
    lines = (out / "trained" / "distill-seed0" / "metrics.jsonl").read_text().splitlines()
    curves = curves_of(data)
    own = json.loads(lines[-1])["env_steps"]
    assert curves["distill"]["training_env_steps"] == own + curves["maml"]["training_env_steps"]


def test_sb3_learns_each_task_within_the_budget_and_leaves_its_own_files(
    everything: tuple[Path, dict[str, Any]],
) -> None:
    out, data = everything
    for label in ("ppo", "ppo-pretrained"):
        curve = curves_of(data)[label]
        assert curve["env_steps"][0] == 0
        assert BUDGET <= curve["env_steps"][-1] < 2 * BUDGET
        for task in range(2):
            directory = out / "sb3" / f"{label}-seed0" / f"task-{task:03d}"
            assert PPO.load(directory / "model.zip").num_timesteps == curve["env_steps"][-1]
            assert "train/loss" in (directory / "progress.csv").read_text()


def test_sb3s_own_evaluation_of_the_saved_zip_gives_the_return_of_the_curve(
    everything: tuple[Path, dict[str, Any]],
) -> None:
    out, data = everything
    tasks = tasks_to_json(make_distribution(ENV).sample(2, "test"))
    for label in ("ppo", "ppo-pretrained"):
        for number, task in enumerate(tasks):
            model = PPO.load(out / "sb3" / f"{label}-seed0" / f"task-{number:03d}" / "model.zip")
            theirs, _ = evaluate_policy(model, TaskSB3VecEnv(ENV, EPISODES, task=task), n_eval_episodes=EPISODES)
            assert theirs == pytest.approx(curves_of(data)[label]["returns"][0][-1][number], rel=1e-4)


def test_pretrained_starts_from_one_model_and_scratch_from_another(everything: tuple[Path, dict[str, Any]]) -> None:
    curves = curves_of(everything[1])
    before = {label: curves[label]["returns"][0][0] for label in ("ppo", "ppo-pretrained")}
    assert before["ppo"] != before["ppo-pretrained"]


@pytest.mark.slow
def test_several_processes_find_the_same(workplace: Path) -> None:
    one = compare(baselines="ppo")
    several = compare("--num-threads", "2", "--out", "runs/several", baselines="ppo")
    assert curves_of(several)["ppo"]["returns"] == curves_of(one)["ppo"]["returns"]


def test_runs_that_differ_in_their_seed_only_are_pooled(workplace: Path) -> None:
    train(workplace / "runs", "--name", "second", "--seed", "1")
    data = compare(runs=[RUN, "second"], baselines="random")
    assert np.shape(curves_of(data)["maml"]["returns"]) == (2, 2, 2)


def test_settings_of_one_agent_are_told_apart_by_their_runs(workplace: Path) -> None:
    train(workplace / "runs", "--name", "wider", "--hidden-sizes", "9")
    data = compare(runs=[RUN, "wider"], baselines="none")
    assert list(curves_of(data)) == ["maml (run)", "maml (wider)"]


def test_baselines_take_several_seeds_and_each_task_a_seed_of_its_own(workplace: Path) -> None:
    data = compare("--seeds", "2", baselines="ppo")
    first, second = curves_of(data)["ppo"]["returns"]
    assert first != second

    models = [PPO.load(path) for path in sorted(DIRECTORY.glob("sb3/ppo-seed*/task-*/model.zip"))]
    assert len({model.seed for model in models}) == len(models) > 2


def test_settings_of_sb3_can_be_changed(workplace: Path) -> None:
    data = compare("--sb3-settings", '{"ppo": {"n_steps": 50, "gamma": 0.5}}', baselines="ppo")
    assert PPO.load(DIRECTORY / "sb3/ppo-seed0/task-000/model.zip").gamma == 0.5
    assert np.diff(curves_of(data)["ppo"]["env_steps"]).tolist() == [50 * 20]


@pytest.mark.parametrize("algorithm", ["a2c", "sac", "td3", "ddpg"])
def test_every_algorithm_of_continuous_actions_can_be_compared(algorithm: str, workplace: Path) -> None:
    data = compare("--budget", "600", baselines=algorithm)
    curve = curves_of(data)[algorithm]
    assert curve["env_steps"][0] == 0
    assert 600 <= curve["env_steps"][-1] < 700
    assert curve["returns"][0][0] != curve["returns"][0][-1]  # it has learned something, be it wrong


class Corridor(TaskEnv):
    """A step to the left or to the right; where the goal lies is hidden."""

    observation_space = Box(-20, 20, (1,))
    action_space = Discrete(2)
    horizon = 20

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """In the middle."""
        assert params is not None
        return torch.zeros(*params["goal"].shape, 1)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """One step."""
        return state + (2 * action - 1).unsqueeze(-1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task | None = None
    ) -> Tensor:
        """Minus the distance."""
        assert params is not None
        return -(next_state[..., 0] - params["goal"]).abs()


def corridor() -> TaskDistribution:
    return TaskDistribution(Corridor(), {"goal": Uniform(-5, 5)})


def two_ends() -> TaskDistribution:
    return TaskDistribution(Corridor(), {"goal": Choice([-3.0, 3.0])})


def test_a_family_of_two_tasks_is_compared_on_each_once(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(workplace / "runs", "--name", "two", env=f"{__name__}:two_ends")
    data = compare("--budget", "600", "--num-tasks", "20", runs=["two"], baselines="dqn random")
    said = " ".join(capsys.readouterr().out.split())
    assert "return on 2 distinct tasks, not held out" in said
    assert "on {'goal': -3.0}: maml" in said and "on {'goal': 3.0}: maml" in said

    assert (data["num_tasks"], data["held_out"], data["intervals_over"]) == (2, False, "episodes on these tasks")
    curves = curves_of(data)
    assert {np.array(curve["returns"]).shape[-1] for curve in curves.values()} == {2}
    # The batch after the last step of each of two tasks, and nothing else, only measures.
    assert curves["maml"]["evaluation_env_steps"] == 2 * EPISODES * Corridor.horizon

    evaluated = ["evaluate", "runs/two", "--num-tasks", "20", "--episodes", str(EPISODES), "--device", "cpu", "--json"]
    assert main(evaluated) == 0
    alone = json.loads(capsys.readouterr().out)
    ours = next(agent for agent in data["agents"] if agent["agent"] == "maml")["equal"]
    assert [ours["low"], ours["high"]] == pytest.approx(alone["return_ci95"][-1])


def test_equal_policies_of_several_seeds_differ_by_their_episodes(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On all tasks that there are, the spread of the seeds tells what other episodes would change."""
    for seed in ("0", "1"):
        train(workplace / "runs", "--name", f"two-{seed}", "--seed", seed, env=f"{__name__}:two_ends")
    files = [workplace / f"runs/two-{seed}/checkpoints/best.safetensors" for seed in (0, 1)]
    first, second = (read_checkpoint(file) for file in files)
    write_checkpoint(files[1], dataclasses.replace(second, tensors=first.tensors))

    capsys.readouterr()
    assert main(["evaluate", "two-0", "two-1", "--num-tasks", "20", "--device", "cpu", "--json"]) == 0
    for low, high in json.loads(capsys.readouterr().out)["return_ci95"]:
        assert low < high

    data = compare("--num-tasks", "20", "--seeds", "2", runs=["two-0", "two-1"], baselines="untrained")
    of_first, of_second = curves_of(data)["maml"]["returns"]
    assert of_first != of_second
    subject = next(agent for agent in data["agents"] if agent["agent"] == "maml")
    assert subject["equal"]["low"] < subject["equal"]["high"]
    alone = compare("--num-tasks", "20", runs=["two-1"], baselines="none")
    assert curves_of(alone)["maml"]["returns"] == [of_first]  # alone, it meets the random numbers of the first


def test_on_a_sample_of_tasks_all_seeds_have_the_same_random_numbers(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(workplace / "runs", "--name", "second", "--seed", "1")
    capsys.readouterr()
    flags = ["--num-tasks", "2", "--device", "cpu", "--json"]
    assert main(["evaluate", RUN, "second", *flags]) == 0
    pooled = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "second", *flags]) == 0
    assert pooled["returns_by_seed"][1] == json.loads(capsys.readouterr().out)["returns"]

    for command in (["evaluate", RUN, "second", "--num-tasks", "2"], arguments(runs=[RUN, "second"], baselines="none")):
        assert main(command) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "2 tasks, fewer than 20: " in said and "two seeds: where seeds differ as much as tasks do" in said


def thirty_places() -> TaskDistribution:
    return TaskDistribution(Corridor(), {"goal": Choice([float(place) for place in range(-15, 15)])}, held_out=True)


def test_a_list_that_is_shorter_than_asked_for_is_said_to_be(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 30 goals a fifth is held out for the test: an evaluation of 100 would else pass for one of a few."""
    places = thirty_places()
    count = num_tasks_of(places.sample(100, "test"))
    assert 1 < count < 20
    train(workplace / "runs", "--name", "places", env=f"{__name__}:thirty_places")
    capsys.readouterr()

    compared = arguments("--num-tasks", "100", runs=["places"], baselines="random")
    for command in (["evaluate", "places", "--num-tasks", "100"], compared):
        assert main(command) == 0
        assert f"{count} test tasks, all of the frozen list" in " ".join(capsys.readouterr().out.split())

    assert main(["evaluate", "places", "--num-tasks", str(count)]) == 0
    assert "all of the frozen list" not in " ".join(capsys.readouterr().out.split())


def test_discrete_actions_are_compared_with_dqn_and_refused_to_sac(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(workplace / "runs", "--name", "discrete", env=f"{__name__}:corridor")
    data = compare("--budget", "600", runs=["discrete"], baselines="dqn random")
    assert curves_of(data)["dqn"]["returns"][0][0] != curves_of(data)["dqn"]["returns"][0][-1]
    capsys.readouterr()
    assert main(arguments(runs=["discrete"], baselines="sac")) == EXIT_BAD_INPUT
    assert "'sac' cannot act in Discrete(2); those that can: ppo, a2c, dqn" in complaint(capsys)


@pytest.mark.parametrize(
    ("normalize_obs", "baselines", "said"),
    [("on", ["ppo", "random"], True), ("auto", ["ppo"], False), ("off", ["ppo"], False), ("on", ["random"], False)],
)
def test_it_says_what_stable_baselines3_sees(normalize_obs: Any, baselines: list[str], said: bool) -> None:
    """On a family of this project in torch, which 'auto' leaves as it is."""
    run = SimpleNamespace(config=TrainConfig(env="point-navigation/finn", normalize_obs=normalize_obs))
    plan = SimpleNamespace(labels=["maml", *baselines], pools={"maml": [run]}, distribution=SimpleNamespace(env=None))
    notes = Comparer(plan, None, None)._notes()  # type: ignore[arg-type]
    assert [note.startswith("where maml normalises") and "ppo of Stable-Baselines3" in note for note in notes] == [
        True
    ] * said


def test_json_is_all_that_stands_on_standard_output(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(arguments("--json", baselines="random")) == 0
    assert json.loads(capsys.readouterr().out)["agents"][1]["agent"] == "random"


# ---------------------------------------------------------------------- going on


def test_what_is_done_is_not_done_again(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare()
    for work in ("metarl.comparison.meta_learners.adaptation_episodes", "metarl.baselines.sb3.learn_task"):
        monkeypatch.setattr(work, lambda *arguments: pytest.fail("done again"))
    assert without_seconds(compare()) == without_seconds(first)


def test_other_settings_get_another_directory_and_an_explicit_one_is_extended(workplace: Path) -> None:
    compare(baselines="random")
    compare(baselines="random oracle")
    assert (DIRECTORY.with_name(DIRECTORY.name + "-2") / "comparison.json").is_file()
    compare("--out", str(DIRECTORY), baselines="random oracle")
    assert len(list((DIRECTORY / "measurements").glob("maml-*.json"))) == 1


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(
            signal.SIGINT,
            Moment("metarl.training.meta_iteration.sample_iteration", call=1),
            marks=pytest.mark.slow,
        ),
        (signal.SIGHUP, Moment("metarl.baselines.sb3.learn_task", call=2)),
        pytest.param(
            signal.SIGUSR1,
            Moment("metarl.comparison.measurements.MeasurementStore.save", call=3, after=True),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["while a baseline is trained", "between two tasks of SB3", "after a measurement"],
)
def test_an_interrupted_comparison_ends_as_one_that_was_not(
    number: signal.Signals, moment: Moment, workplace: Path, tmp_path: Path
) -> None:
    baselines = "multitask ppo random"
    whole = compare("--out", "runs/whole", baselines=baselines)
    command = arguments("--out", "runs/broken", baselines=baselines)
    assert run_with_signal(command, moment, number, tmp_path / "output") == EXIT_INTERRUPTED
    assert "the same command goes on" in (tmp_path / "output").read_text()
    assert without_seconds(compare("--out", "runs/broken", baselines=baselines)) == without_seconds(whole)


def test_a_measurement_that_cannot_be_read_is_measured_again(workplace: Path) -> None:
    first = compare(baselines="random")
    for file in (DIRECTORY / "measurements").iterdir():
        file.write_text(file.read_text()[:30])
    assert without_seconds(compare(baselines="random")) == without_seconds(first)


# ---------------------------------------------------------------------- what goes wrong


def jobs_of(env: str, tmp_path: Path) -> list[TaskJob]:
    return [TaskJob("ppo", env, {"goal": [0.0, 1.0]}, 0, (1,), 1, str(tmp_path / f"task-{n}")) for n in range(2)]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_task_that_fails_is_named_in_one_line(processes: int, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        list(learn_tasks(jobs_of("tests.helpers.broken_families:failing", tmp_path), processes))
    assert str(error.value).startswith(f"Stable-Baselines3's ppo failed in {tmp_path / 'task-'}")
    assert str(error.value).endswith("LookupError: no such arm")


def test_a_process_that_dies_ends_the_comparison_and_not_in_a_hang(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="BrokenProcessPool: A process in the process pool was terminated"):
        list(learn_tasks(jobs_of("tests.helpers.broken_families:dying", tmp_path), 2))


def test_a_file_into_a_pipe_shows_how_far_it_is(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metarl.training.progress.PlainReporter.INTERVAL", 0.0)
    compare(baselines="ppo ppo-pretrained")
    shown = capsys.readouterr().out
    assert "1/2 tasks" in shown
    assert "2/2 tasks" in shown
    assert "steps of pretraining" in shown


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "runs", "says"),
    [
        ("", [], "compare needs a run"),
        ("", ["nothing"], "unknown run 'nothing'"),
        ("", [RUN, RUN], "is given twice"),
        ("--baselines dqn", [RUN], "'dqn' cannot act in Box"),
        ("--baselines pppo", [RUN], "unknown baseline 'pppo'"),
        ("--budget 19", [RUN], "at least one episode, 20 environment steps"),
        ("--num-tasks 0", [RUN], "num_tasks must be at least 1"),
        ("--num-tasks 1001", [RUN], "num_tasks must be at most 1000"),
        ("--sb3-settings {ppo}", [RUN], "sb3_settings: not JSON: "),
        ("--sb3-settings [1]", [RUN], "sb3_settings must look like"),
        ('--sb3-settings {"maml":{}}', [RUN], "unknown baseline 'maml'"),
        ('--sb3-settings {"ppo":{"learning_rate":"fast"}}', [RUN], "sb3_settings of ppo: "),
        ('--sb3-settings {"ppo":{"n_steps":0}}', [RUN], "sb3_settings of ppo: "),
        ('--sb3-settings {"ppo":{"gama":1}}', [RUN], "has no argument 'gama' (did you mean 'gamma'?)"),
        ("--seeds 0", [RUN], "seeds must be at least 1"),
        ("--split train", [RUN], "split"),
        ("--device cuda:9", [RUN], "device 'cuda:9' is not there"),
        ("--out README.md", [RUN], "README.md exists already"),
    ],
)
def test_bad_input_gets_one_line(
    flags: str, runs: list[str], says: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("README.md").touch()
    assert main(["compare", *runs, *flags.split()]) == EXIT_BAD_INPUT
    assert says in complaint(capsys)
    assert not list(Path("runs").glob("comparison*"))


def test_runs_of_two_environments_are_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(workplace / "runs", "--name", "other", env="point-dynamics")
    capsys.readouterr()
    assert main(["compare", RUN, "other"]) == EXIT_BAD_INPUT
    assert "runs of different environments cannot be compared" in complaint(capsys)


def test_a_run_without_a_checkpoint_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(workplace / "runs" / RUN / "checkpoints")
    assert main(["compare", RUN]) == EXIT_BAD_INPUT
    assert "checkpoint" in complaint(capsys)


def test_a_run_that_holds_only_its_best_policy_is_compared_and_teaches(workplace: Path) -> None:
    """As every reference run does; baselines get the steps that its metrics count."""
    for path in (workplace / "runs" / RUN / "checkpoints").glob("iteration-*"):
        path.unlink()
    curves = curves_of(compare("--quick", baselines="distill"))
    assert sorted(curves) == ["distill", "maml"]


def without_oracle() -> TaskDistribution:
    """A family whose best actions nobody knows."""

    class Unknown(type(make_distribution(ENV).env)):  # type: ignore[misc]
        oracle_action = TaskEnv.oracle_action

    return TaskDistribution(Unknown(horizon=20), {"goal": Uniform(-0.5, 0.5, shape=(2,))})


def test_a_family_without_oracle_is_compared_without_and_refuses_it_where_asked_for(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(workplace / "runs", "--name", "mine", env=f"{__name__}:without_oracle")
    capsys.readouterr()
    assert main(arguments(runs=["mine"], baselines="random oracle")) == EXIT_BAD_INPUT
    assert "has no oracle; leave it out of --baselines" in complaint(capsys)
