"""`metarl adapt --env` loses nothing: interrupted anywhere, it goes on and ends with the same policy."""

import builtins
import io
import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

import metarl
from metarl.cli.main import main
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import UserError
from tests.helpers.workbench import RUN, complaint, files_under

pytest_plugins = ["tests.helpers.run_fixtures"]

ARM = """\
import os
import signal
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Arm(gymnasium.Env):
    \"\"\"A point that starts where the seed says; fails in the episode that the file `fails_in` names.\"\"\"

    observation_space, action_space = Box(-5, 5, (2,)), Box(-0.1, 0.3, (2,))
    episodes, actions = 0, []

    def reset(self, seed=None, options=None):
        type(self).episodes += 1
        self.position, self.time = np.random.default_rng(seed).normal(0, 0.1, 2), 0
        return self.position, {}

    def step(self, action):
        self.actions.append(action)
        self.time += 1
        self.position = self.position + action
        if self.time == 3 and Path("fails_in").exists() and Path("fails_in").read_text() == str(type(self).episodes):
            self.fail(Path("how").read_text())
        return self.position, -np.linalg.norm(self.position - [0.6, 0.8]), False, self.time == 5, {}

    def fail(self, how):
        if how == "raise":
            raise RuntimeError("the arm came off")
        if how == "nan":
            self.position = self.position + np.nan
        if how == "exit":
            sys.exit(3)
        if how == "hang":
            time.sleep(60)
        if how.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, how))

    def close(self):
        if Path("fails_in").exists():
            raise OSError("the line is dead")
"""
FLAGS = ["--env", "my_arm:Arm", "--episodes", "5", "--steps", "2", "--measure-episodes", "2", "--no-onnx"]
OUT = "the arm"
UNFINISHED = Path(f"{OUT}.unfinished")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell has started the tests in the background, which makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def arm(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the arm, its counters at zero; the workplace is the current directory."""
    (workplace / "my_arm.py").write_text(ARM)
    monkeypatch.syspath_prepend(workplace)
    made = import_module("my_arm").Arm
    made.episodes, made.actions = 0, []
    return made


def fail_in(episode: int, how: str) -> None:
    Path("fails_in").write_text(str(episode))
    Path("how").write_text(how)


def adapt(*flags: str, out: str = OUT) -> int:
    return main(["adapt", RUN, "--out", out, *FLAGS, *flags])


def parameters(out: str) -> dict[str, Any]:
    return load_file(Path(out) / "policy.safetensors")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


# ---------------------------------------------------------------------- interrupted


@pytest.mark.parametrize(
    ("how", "episode", "code", "said"),
    [
        ("raise", 7, 1, "the arm came off"),
        ("nan", 5, 1, "not finite"),
        ("exit", 6, 1, "SystemExit: 3"),
        ("SIGINT", 2, 130, "interrupted"),
        ("SIGTERM", 12, 130, "interrupted"),
        ("SIGHUP", 8, 130, "interrupted"),
        ("SIGUSR1", 11, 130, "interrupted"),
        ("hang", 4, 1, "TimeoutError: it did not answer within 2 s, the limit of --env-timeout"),
        ("raise", 14, 1, "the arm came off"),
    ],
)
def test_it_goes_on_as_if_nothing_had_been(
    arm: Any, capsys: pytest.CaptureFixture[str], how: str, episode: int, code: int, said: str
) -> None:
    """Of 14 episodes (2 × 5, 2 + 2 to measure) none is played twice, and the printed command goes on."""
    assert adapt(out="whole") == 0
    arm.episodes = 0
    fail_in(episode, how)
    assert adapt("--env-timeout", "2" if how == "hang" else "0") == code
    saved = files_under(UNFINISHED)
    assert len([name for name in saved if name.startswith("episode-")]) == episode - 1
    assert not Path(OUT).exists()

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert f"{episode - 1} episode{'s' * (episode > 2)} and " in error
    words = shlex.split(error.partition("go on with: ")[2])
    assert words[0] == "metarl"

    Path("fails_in").unlink()
    arm.episodes = 0
    assert main(words[1:]) == 0
    assert arm.episodes == 14 - (episode - 1)
    assert same(parameters(OUT), parameters("whole"))
    assert not UNFINISHED.exists()
    kept = files_under(Path(OUT) / "adaptation")
    assert all(kept[name] == content for name, content in saved.items())
    cards = [json.loads((Path(out) / "policy.json").read_text()) for out in (OUT, "whole")]
    for card in cards:
        del card["parent"]
    assert cards[0] == cards[1]


def test_every_episode_and_policy_is_written_as_it_comes(arm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(arm, "reset", _noting(arm.reset, lambda: seen.append(sorted(files_under(UNFINISHED)))))
    assert adapt() == 0
    for number, names in enumerate(seen):
        assert len([name for name in names if name.startswith("episode-")]) == number
        assert [name for name in names if name.startswith("policy-")] == [
            f"policy-k{step}.safetensors" for step in range(min(number // 5, 2) + 1)
        ]
    last = load_file(Path(OUT) / "adaptation" / "policy-k2.safetensors")
    assert same(last, parameters(OUT))


def _noting(function: Callable[..., Any], note: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        note()
        return function(*arguments, **options)

    return wrapped


def test_a_policy_that_cannot_be_written_keeps_its_episodes(
    arm: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "save", full)
        assert adapt() == 2
    assert "No space left on device; 14 episodes and 3 policies are saved in the arm.unfinished" in complaint(capsys)
    arm.episodes = 0
    assert adapt("--resume") == 0
    assert arm.episodes == 0


def test_what_is_left_is_neither_overwritten_nor_mixed(arm: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fail_in(4, "raise")
    assert adapt() == 1
    capsys.readouterr()
    Path("fails_in").unlink()
    before = files_under(UNFINISHED)
    arm.episodes = 0
    for flags, named in (
        ([], "an adaptation was interrupted there; go on with --resume, or remove it"),
        (["--resume", "--seed", "1"], "of another adaptation: seed was 0, not 1"),
        (["--resume", "--episodes", "4", "--keep", "best"], "episodes was 5, not 4; keep was 'auto', not 'best'"),
    ):
        assert adapt(*flags) == 2
        assert named in complaint(capsys)
    (UNFINISHED / "episode-0002.safetensors").write_bytes(b"x")
    assert adapt("--resume") == 2
    assert "episode-0002.safetensors is truncated or corrupt" in complaint(capsys)
    (UNFINISHED / "episode-0002.safetensors").unlink()
    assert adapt("--resume") == 2
    assert "lacks episode-0002.safetensors, but holds episode-0003.safetensors" in complaint(capsys)
    (UNFINISHED / "episode-0002.safetensors").write_bytes(before["episode-0002.safetensors"])
    assert files_under(UNFINISHED) == before
    assert arm.episodes == 0
    assert adapt("--resume") == 0


def test_from_python_a_note_says_what_is_saved(arm: Any) -> None:
    meta = metarl.load(RUN)
    options: dict[str, Any] = {"episodes": 3, "steps": 2}
    whole = meta.adapt(arm(), **options)
    arm.episodes = 0
    fail_in(5, "raise")
    with pytest.raises(EnvironmentFailedError) as failure:
        meta.adapt(arm(), record="kept", **options)
    assert "4 episodes and 2 policies are saved in kept" in failure.value.__notes__[0]
    Path("fails_in").unlink()
    resumed = meta.adapt(arm(), record="kept", resume=True, **options)
    assert all(torch.equal(resumed.params[name], leaf) for name, leaf in whole.params.items())


# ---------------------------------------------------------------------- what is kept, and how it acts


def test_the_best_of_the_measured_policies_is_kept(arm: Any) -> None:
    assert adapt("--keep", "best", "--steps", "3") == 0
    description = json.loads((Path(OUT) / "policy.json").read_text())
    curve = description["adaptation"]
    best = int(np.argmax(curve["return_mean"]))
    assert len(curve["return_mean"]) == 4
    assert curve["kept_step"] == best
    assert same(parameters(OUT), load_file(Path(OUT) / "adaptation" / f"policy-k{best}.safetensors"))
    assert f"Kept is the policy after step {best}, the best of those measured" in (Path(OUT) / "README.md").read_text()

    # The first policy of all, where later ones are made worse.
    assert adapt("--keep", "best", "--measure-episodes", "0", "--steps", "1", out="first") == 0
    assert same(parameters("first"), load_file("first/adaptation/policy-k0.safetensors"))
    assert "the one after step 1 was not measured" in Path("first/README.md").read_text()


def test_the_noise_is_scaled_for_the_robot_and_not_for_learning(arm: Any) -> None:
    """Half the noise: deviations from the mean halve, and are learned from at their full size."""
    meta = metarl.load(RUN)
    deviations = {}
    for scale in (1.0, 0.5):
        arm.actions.clear()
        options: dict[str, Any] = {"episodes": 1, "steps": 1, "seed": 4, "noise_scale": scale}
        policy = meta.adapt(arm(), record=f"scale {scale}", **options)
        start = load_file(f"scale {scale}/policy-k0.safetensors")
        episode = load_file(f"scale {scale}/episode-0001.safetensors")
        deviations[scale] = (episode["action"] - episode["behaviour.mean"])[0, 0, 0]
        assert policy.card["adaptation"]["noise_scale"] == scale
        # The first action reached the arm: [−1, 1] stretched to [−0.1, 0.3].
        native = 0.1 + 0.2 * np.clip(episode["action"][0, 0, 0], -1, 1)
        np.testing.assert_allclose(arm.actions[0], native, atol=1e-6)
        assert not same(start, {name: leaf.numpy() for name, leaf in policy.params.items()})
    np.testing.assert_allclose(deviations[0.5], deviations[1.0] / 2, rtol=1e-4)


def test_actions_stay_within_the_limit_now_and_later(arm: Any) -> None:
    """A quarter of [−0.1, 0.3] around its middle: [0.05, 0.15]."""
    policy = metarl.load(RUN).adapt(arm(), episodes=4, steps=1, action_limit=0.25)
    seen = np.array(arm.actions)
    assert seen.min() == pytest.approx(0.05)
    assert seen.max() == pytest.approx(0.15)

    obs = 9 * np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    policy.save("limited")
    loaded, _ = metarl.load_policy("limited").predict(obs)
    session = onnxruntime.InferenceSession("limited/policy.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load("limited/policy.pt2").module()(torch.from_numpy(obs))[0].numpy()
    for actions in (policy.predict(obs)[0], loaded, session.run(["action"], {"obs": obs})[0], program):
        np.testing.assert_allclose(actions, loaded, atol=1e-6)
        assert actions.min() >= np.float32(0.05) and actions.max() <= np.float32(0.15)
    assert "clipped to the middle 25 % of their range" in Path("limited/README.md").read_text()


def test_pauses(arm: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Between episodes, so one fewer than episodes; a function of one's own is told which one comes."""
    slept: list[float] = []
    monkeypatch.setattr("metarl.deployment.specialise.time.sleep", slept.append)
    assert adapt("--pause", "2.5", "--steps", "1") == 0
    assert slept == [2.5] * (5 + 4 - 1)

    monkeypatch.setattr(builtins, "input", lambda: "")
    assert adapt("--pause", "enter", "--steps", "1", out="entered") == 0
    assert capsys.readouterr().out.count("press Enter to begin") == 8

    coming: list[str] = []
    metarl.load(RUN).adapt(arm(), episodes=2, steps=1, pause=coming.append)
    assert coming == ["episode 2 of 2"]


def test_enter_without_a_terminal_loses_nothing(
    arm: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert adapt("--pause", "enter") == 2
    assert "standard input, which is closed; 1 episode and 1 policy are saved in" in complaint(capsys)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--env my_arm:Arm --noise-scale 0", "noise_scale must be above 0, got 0.0"),
        ("--env my_arm:Arm --noise-scale nan", "noise_scale must be above 0"),
        ("--env my_arm:Arm --action-limit 0", "action_limit must be above 0 and at most 1, got 0.0"),
        ("--env my_arm:Arm --action-limit 1.5", "action_limit must be above 0 and at most 1, got 1.5"),
        ("--env my_arm:Arm --pause -1", "pause must be a number of seconds, at least 0, or 'enter', got '-1'"),
        ("--env my_arm:Arm --pause soon", "got 'soon'"),
        ("--env my_arm:Arm --keep first", "first"),
        ("--env my_arm:Arm --resume", "there is no adaptation to resume"),
        ("--task goal=0,1 --resume", "--resume is for live environments: give it with --env"),
        ("--task goal=0,1 --noise-scale 2", "--noise-scale is for live environments"),
        ("--task goal=0,1 --action-limit 0.5", "--action-limit is for live environments"),
        ("--task goal=0,1 --pause 1", "--pause is for live environments"),
        ("--task goal=0,1 --env-timeout 1", "--env-timeout is for live environments"),
        ("--env my_arm:Arm --env-timeout -1", "env_timeout must not be negative, got -1.0"),
        ("--env my_arm:Arm --env-timeout inf", "env_timeout must be finite, got inf"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arm: Any, capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    before = set(files_under(Path()))
    assert main(["adapt", RUN, "--out", "policy", "--no-onnx", *flags.split()]) == 2
    assert named in complaint(capsys)
    assert {name for name in files_under(Path()) if "__pycache__" not in name} <= before
    assert arm.episodes == 0


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max])
def test_a_limit_without_bounds_is_that_of_what_the_policy_plays(
    arm: Any, monkeypatch: pytest.MonkeyPatch, bound: float
) -> None:
    """A quarter of [−1, 1], however the arm says that it has no bounds."""
    monkeypatch.setattr(arm, "action_space", type(arm.action_space)(-bound, bound, (2,)))
    policy = metarl.load(RUN).adapt(arm(), episodes=4, steps=1, action_limit=0.25)
    seen = np.array(arm.actions)
    assert (seen.min(), seen.max()) == (-0.25, 0.25)
    assert np.abs(policy.predict(np.full((9, 2), 50, np.float32))[0]).max() <= 0.25


def test_a_limit_needs_bounds(arm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the policy plays has no middle where neither it nor the arm has bounds.
    meta = metarl.load(RUN)
    endless = type(arm.action_space)(-np.inf, np.inf, (2,))
    monkeypatch.setattr(TaskDistribution, "action_space", endless)
    before = signal.getsignal(signal.SIGTERM)  # another test may have left one
    monkeypatch.setattr(arm, "action_space", endless)
    with pytest.raises((UserError, ValueError), match="action_limit needs actions with finite bounds"):
        meta.adapt(arm(), action_limit=0.5)
    assert arm.episodes == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert not os.path.exists("fails_in")
