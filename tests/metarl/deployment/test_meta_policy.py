"""`metarl adapt` and `metarl.load`: from a run to a policy for one task, which changes nothing else."""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from stable_baselines3.common.evaluation import evaluate_policy

import metarl
from metarl.cli.main import main
from metarl.deployment import export
from metarl.errors import UserError
from metarl.run.build import load_learner
from metarl.run.run_directory import RunDirectory
from tests.helpers.workbench import ENV, EPISODES, ITERATIONS, RUN, complaint, files_under, train

pytest_plugins = ["tests.helpers.run_fixtures"]

GOAL = "goal=0.6,0.8"
FAST = ["--no-onnx"]
"""Most tests look at nothing that needs the ONNX file."""

ROBOT = """\
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Robot(gymnasium.Env):
    \"\"\"Point navigation to a goal that only this file knows, with actions in metres.\"\"\"

    observation_space, action_space = Box(-5, 5, (2,)), Box(-0.1, 0.1, (2,))

    def __init__(self, ends_after=7, breaks_after=10**9):
        self.ends_after, self.breaks_after = ends_after, breaks_after

    def reset(self, seed=None, options=None):
        with open("log", "a") as log:
            log.write(f"reset {seed}\\n")
        self.position, self.time = np.zeros(2), 0
        return self.position, {}

    def step(self, action):
        with open("log", "a") as log:
            log.write("step\\n")
        self.time += 1
        if self.time > self.breaks_after:
            raise RuntimeError("the arm\\ncame off")
        self.position = self.position + action
        over = self.time == self.ends_after
        distance = np.linalg.norm(self.position - [0.6, 0.8])
        return self.position, -distance, False, over, {"success": True} if over else {}

    def close(self):
        with open("log", "a") as log:
            log.write("close\\n")


def breaking():
    return Robot(breaks_after=3)


def blind():
    robot = Robot()
    robot.observation_space = Box(-5, 5, (3,))
    return robot


def switched():
    robot = Robot()
    robot.action_space = Discrete(2)
    return robot
"""


def adapt(capsys: pytest.CaptureFixture[str], out: str, *flags: str, run: str = RUN) -> dict[str, Any]:
    """What `metarl adapt RUN --out OUT --json` prints: one JSON object and nothing else."""
    assert main(["adapt", run, "--out", out, "--json", *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert isinstance(report, dict)
    return report


def onnx_actions(directory: str | Path, obs: Any) -> Any:
    session = onnxruntime.InferenceSession(Path(directory) / "policy.onnx", providers=["CPUExecutionProvider"])
    return session.run(["action"], {"obs": obs})[0]


@pytest.fixture
def robot(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace with my_robot.py; what it is asked to do goes to the file `log`."""
    (workplace / "my_robot.py").write_text(ROBOT)
    monkeypatch.syspath_prepend(workplace)
    return workplace


# ---------------------------------------------------------------------- a stated task


def test_the_curve_is_that_of_evaluate(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    effort = ["--steps", "2", "--episodes", "4", "--seed", "3"]
    report = adapt(capsys, "policy", "--task", GOAL, *effort, *FAST)
    assert main(["evaluate", RUN, "--task", GOAL, "--num-tasks", "1", "--json", *effort]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    curve = report["adaptation"]
    assert curve["return_mean"] == pytest.approx(evaluated["return_mean"], rel=1e-6)
    assert curve["env_steps"] == evaluated["env_steps"] == [0, 80, 160]
    assert curve["episodes"] == evaluated["episodes"]
    assert curve["adaptation_env_steps"] == 160
    assert curve["measurement_env_steps"] == 160
    assert len(set(curve["return_mean"])) == 3


def test_the_parameters_are_those_of_the_adaptation(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No step gives the run's own parameters, one step others, the same seed the same, another seed others."""
    written = {}
    for name, *flags in (
        ("none", "--steps", "0"),
        ("one", "--steps", "1"),
        ("again", "--steps", "1"),
        ("unmeasured", "--steps", "1", "--measure-episodes", "0"),
        ("other", "--steps", "1", "--seed", "1"),
    ):
        adapt(capsys, name, "--task", GOAL, *flags, *FAST)
        written[name] = load_file(f"{name}/policy.safetensors")
    _, learner, _ = load_learner(RunDirectory.open(RUN))
    start = {name: leaf[0].numpy() for name, leaf in learner.begin(1).params.items()}

    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)

    assert same(written["none"], start)
    assert not same(written["one"], start)
    assert same(written["one"], written["again"])
    assert same(written["one"], written["unmeasured"])
    assert not same(written["one"], written["other"])


def test_the_run_stays_as_it_was(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_under(robot / "runs")
    adapt(capsys, "policy", "--task", GOAL)
    adapt(capsys, "live", "--env", "my_robot:Robot", *FAST)
    assert files_under(robot / "runs") == before
    assert main(["adapt", RUN, "--task", GOAL, "--out", f"runs/{RUN}/policy"]) == 2
    assert "lies in the run, which stays as it is" in complaint(capsys)
    assert files_under(robot / "runs") == before


def test_the_table_and_the_card_say_the_same(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("task.json").write_text('{"goal": [0.6, 0.8]}')
    assert main(["adapt", RUN, "--task-file", "task.json", "--out", "place/policy", *FAST]) == 0
    shown = capsys.readouterr().out
    card = Path("place/policy/README.md").read_text()
    description = json.loads(Path("place/policy/policy.json").read_text())
    assert description["task"]["goal"] == pytest.approx([0.6, 0.8])
    for mean in description["adaptation"]["return_mean"]:
        text = f"{mean:.2f}".replace("-", "−")
        assert text in shown
        assert f"| {text} |" in card
    parent = description["parent"]
    assert (parent["run"], parent["agent"], parent["env"]) == (f"runs/{RUN}", "maml", ENV)
    assert parent["iteration"] in range(ITERATIONS + 1)
    best = Path(parent["run"]) / "checkpoints" / parent["checkpoint"]
    assert hashlib.sha256(best.read_bytes()).hexdigest() == parent["checkpoint_sha256"]
    assert "written to place/policy: README.md, policy.json, policy.pt2, policy.safetensors" in shown
    capsys.readouterr()


def test_the_exported_policy_earns_what_is_reported(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In Gymnasium's own loop over the registered environment; SB3's evaluate_policy sees the same."""
    report = adapt(capsys, "policy", "--task", GOAL)
    env = gymnasium.make("metarl/PointNavigationPearl-v0", task={"goal": [0.6, 0.8]})
    (obs, _), total, over = env.reset(seed=0), 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(onnx_actions("policy", obs[None])[0])
        total, over = total + float(reward), terminated or truncated
    assert total == pytest.approx(report["deterministic"]["return_mean"], abs=1e-4)
    assert report["deterministic"]["return_std"] == pytest.approx(0, abs=1e-6)
    mean, _ = evaluate_policy(metarl.load_policy("policy"), env, n_eval_episodes=2, warn=False)
    assert mean == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("agent", "env", "flags"),
    [
        ("reptile", "bandit/bernoulli", ()),
        pytest.param("multitask", "cart-pole/mirrored", (), marks=pytest.mark.slow),
        ("distill", ENV, ("--teacher", f"runs/{RUN}")),
    ],
)
def test_every_agent(
    workplace: Path, capsys: pytest.CaptureFixture[str], without_figures: None, agent: str, env: str, flags: Any
) -> None:
    run = train(workplace / "others", *flags, agent=agent, env=env)
    capsys.readouterr()
    distribution = metarl.load(run)._distribution
    task = {name: value[0].tolist() for name, value in distribution.sample(1, "test").items()}
    report = adapt(capsys, "policy", "--task", json.dumps(task), "--episodes", "2", run=str(run))
    assert report["parent"]["agent"] == agent
    assert report["adaptation"]["episodes_per_step"] == 2
    obs = np.random.default_rng(0).normal(size=(9, *distribution.observation_space.shape)).astype(np.float32)
    predicted, _ = metarl.load_policy("policy").predict(obs)
    np.testing.assert_allclose(onnx_actions("policy", obs), predicted, atol=1e-5)
    assert all(distribution.action_space.contains(action) for action in predicted)


def test_a_run_of_a_file_acts_in_the_environments_own_units(
    workplace: Path, capsys: pytest.CaptureFixture[str], without_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pendulum's torque reaches ±2; the live environment of the same id takes the same policy."""
    Path("my_env.yaml").write_text("env_id: Pendulum-v1\nhorizon: 8\nnum_workers: 0\ntask: {g: {uniform: [5, 15]}}\n")
    run = train(workplace / "others", "--env-file", "my_env.yaml")
    Path("my_env.yaml").unlink()
    capsys.readouterr()
    stated = adapt(capsys, "stated", "--task", "g=9", "--measure-episodes", "1", run=str(run))
    live = adapt(capsys, "live", "--env", "Pendulum-v1", "--measure-episodes", "1", run=str(run))
    for report in (stated, live):
        assert report["action_space"]["high"] == 2
        assert report["adaptation"]["env_steps"] == [0, EPISODES * 8]
    obs = 3 * np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    policy = metarl.load_policy("stated")
    mean = policy.network.apply(policy.params, torch.from_numpy(obs))[0].mode().numpy()
    np.testing.assert_allclose(onnx_actions("stated", obs), 2 * np.clip(mean, -1, 1), atol=1e-5)


# ---------------------------------------------------------------------- a live environment


def test_a_live_environment_gives_episodes_one_after_another(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = adapt(capsys, "policy", "--env", "my_robot:Robot", "--measure-episodes", "2")
    curve = report["adaptation"]
    assert (report["env"], report["task"]) == ("my_robot:Robot", None)
    assert curve["adaptation_env_steps"] == EPISODES * 7
    assert curve["measurement_env_steps"] == (2 + 2) * 7
    assert curve["success_rate"] == [1, 1]
    log = (robot / "log").read_text().split("\n")
    assert [line.split()[0] for line in log if line] == ["reset", *7 * ["step"]] * (EPISODES + 4) + ["close"]
    resets = [line for line in log if line.startswith("reset")]
    assert len(set(resets)) == len(resets)
    assert np.abs(onnx_actions("policy", 3 * np.eye(2, dtype=np.float32))).max() <= np.float32(0.1)


def test_load_adapt_predict(robot: Path) -> None:
    """The Python way: only adaptation's own episodes are taken, the environment stays open, the run adapts again."""
    env = import_module("my_robot").Robot()
    meta = metarl.load(RUN)
    policy = meta.adapt(env, episodes=4)
    log = (robot / "log").read_text()
    assert (log.count("reset"), log.count("step"), log.count("close")) == (4, 4 * 7, 0)
    assert policy.card["env"] == "Robot"
    assert policy.card["deterministic"] is None
    mean, _ = evaluate_policy(policy, gymnasium.wrappers.TimeLimit(env, 7), n_eval_episodes=2, warn=False)
    position, total = np.zeros(2), 0.0
    for _ in range(7):
        position = position + policy.predict(position)[0]
        total -= float(np.linalg.norm(position - [0.6, 0.8]))
    assert mean == pytest.approx(total, abs=1e-4)
    again = meta.adapt(env, episodes=4)
    assert all(torch.equal(again.params[name], leaf) for name, leaf in policy.params.items())
    policy.save("saved", onnx=False)
    assert (metarl.load_policy("saved").predict(position)[0] == policy.predict(position)[0]).all()
    with pytest.raises(UserError, match=r"needs a gymnasium\.Env, got a str"):
        meta.adapt("my_robot:Robot")  # type: ignore[arg-type]


def test_a_failing_environment_leaves_nothing(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(robot.iterdir()) | {robot / "log", robot / "__pycache__"}
    assert main(["adapt", RUN, "--env", "my_robot:breaking", "--out", "policy"]) == 1
    captured = capsys.readouterr()
    assert (
        "environment my_robot:breaking failed at step 4 of episode 1: RuntimeError: the arm came off (my_robot.py:"
        in captured.err
    )
    assert captured.err.count("\n") == 1
    assert set(robot.iterdir()) <= before
    assert (robot / "log").read_text().endswith("close\n")


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("", "give one of --task, --task-file and --env, got none"),
        ("--task goal=0,1 --env my_robot:Robot", "got --task, --env"),
        ("--task goal=0,2", "outside its range"),
        ("--task goal=0", "must have shape (2,)"),
        ("--task goal=0,x", "malformed"),
        ("--task goal=0,1;wind=3", "point-navigation/pearl needs ['goal']"),
        ("--task {}", "needs ['goal']"),
        ("--task-file missing.json", "missing.json cannot be read"),
        ("--task-file my_robot.py", "my_robot.py: not JSON"),
        ("--task-file list.json", "needs one JSON object"),
        ("--env my_robot:blind", "observes Box(-5.0, 5.0, (3,), float32), but the policy was trained on Box("),
        ("--env my_robot:switched", "takes actions Discrete(2), but the policy was trained on Box"),
        ("--env my_robot:missing", "neither has nor registers 'missing'"),
        ("--env Pendulum-v1", "(3,), float32), but the policy was trained on Box("),
        ("--task goal=0,1 --steps -1", "steps must be at least 0"),
        ("--task goal=0,1 --episodes 0", "episodes must be at least 1"),
        ("--task goal=0,1 --measure-episodes -1", "measure_episodes must be at least 0"),
        ("--task goal=0,1 --seed -1", "seed must be at least 0"),
        ("--task goal=0,1 --checkpoint 77", "no checkpoint '77'"),
        ("--task goal=0,1 --device tpu", "device must be"),
        ("--task goal=0,1 --out taken", "taken exists already"),
        ("--task goal=0,1 --out list.json/policy", "cannot be written"),
        ("--task goal=0,1 --out=", "--out needs a directory"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    robot: Path, capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    Path("list.json").write_text("[1, 2]")
    Path("taken").mkdir()
    (robot / "log").touch()
    before = files_under(robot)
    assert main(["adapt", RUN, "--out", "policy", *flags.split()]) == 2
    assert named in complaint(capsys)
    assert (robot / "log").read_text() in ("", "close\n"), "an environment that is refused is not stepped"
    (robot / "log").write_text("")
    assert {name: text for name, text in files_under(robot).items() if "__pycache__" not in name} == before


def test_without_the_extra_adapt_writes_the_rest_and_warns(
    robot: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_NEEDED", ("no_such_package",))
    flags = ["--env", "my_robot:Robot", "--episodes", "1", "--steps", "1", "--measure-episodes", "0"]
    assert main(["adapt", RUN, *flags, "--out", "policy"]) == 0
    warning = capsys.readouterr().err
    assert "policy.onnx is left out; an ONNX file needs no_such_package" in warning
    assert "pip install -e '.[export]'" in warning
    assert (robot / "policy" / "policy.pt2").is_file()
    assert not (robot / "policy" / "policy.onnx").exists()
