"""`metarl check`: each fault of small environments is found and named, and good environments pass."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from metarl.cli.main import main
from metarl.envs.checks.environment_check import EnvironmentCheck, check_environment
from metarl.envs.checks.finding import Finding, interval
from metarl.envs.checks.layout import action_lines
from metarl.envs.checks.live_env import changes_when_repeated, warn_where_repeats_differ
from metarl.envs.checks.trace import Trace, first_difference, random_actions
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks, task_values
from metarl.envs.families.navigation import PointNavigation
from metarl.envs.spaces.action_map import ActionMap
from metarl.envs.spaces.fields import fields_of
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Integers, Uniform
from tests.helpers.corridor import corridor
from tests.helpers.torch_families import TORCH_FAMILIES
from tests.helpers.workbench import complaint

HERE = "tests.envs.checks.test_environment_check"
QUICK = 0.2
"""Seconds of a check in these tests."""


class Moving:
    """A running mean of rewards that nothing holds still."""

    def __init__(self) -> None:
        self.mean = 0.0
        self.var = 1.0
        self.count = 0


class Divided(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Divides rewards by what it has seen of them."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.reward_rms = Moving()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Divide."""
        obs, reward, *rest = self.env.step(action)
        self.reward_rms.count += 1
        return obs, float(reward) / self.reward_rms.count, *rest


class Rail(gymnasium.Env[Any, Any]):
    """A block on a rail that is to come to a goal; observes its place."""

    observation_space = Box(-10.0, 10.0, (1,), np.float32)
    action_space = Box(-2.0, 4.0, (1,), np.float32)

    def __init__(self, goal: float = 0.5, mass: float = 1.0) -> None:
        self.goal = goal
        self.mass = mass
        self.place = 0.0

    def observed(self) -> Any:
        """What is seen."""
        return np.array([self.place], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start at 0."""
        super().reset(seed=seed)
        self.place = 0.0
        return self.observed(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Push."""
        self.place = float(np.clip(self.place + 0.1 * action[0] / self.mass, -10, 10))
        return self.observed(), -abs(self.place - self.goal), False, False, {}


class Redrawing(Rail):
    """Its reset draws a goal of its own."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start at 0 with another goal."""
        found = super().reset(seed=seed)
        self.goal = float(self.np_random.uniform())
        return found


class Unseeded(Rail):
    """Draws noise from nowhere."""

    def observed(self) -> Any:
        """With noise."""
        return np.array([self.place + np.random.default_rng().normal()], np.float32)


class Leaking(Rail):
    """Starts where the episode before it ended."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start where it is."""
        place = self.place
        super().reset(seed=seed)
        self.place = place
        return self.observed(), {}


class Broken(Rail):
    """Its reward is not a number behind the goal."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Push."""
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if self.place > self.goal else reward, *rest


class TooMany(Rail):
    """Observes three numbers where its space has one."""

    def observed(self) -> Any:
        """Three."""
        return np.zeros(3, np.float32)


class ListReward(Rail):
    """Its reward is an array."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Push."""
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward]), *rest


class Raising(Rail):
    """Fails after a while."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Push."""
        if abs(self.place) > 0.5:
            raise IndexError("off the rail")
        return super().step(action)


def tasks_of(make: Callable[..., Any], *names: str) -> GymnasiumTasks:
    """Tasks of a rail."""
    ranges = {name: Uniform(0.5, 2.0) for name in names or ("goal", "mass")}
    return GymnasiumTasks(make.__name__, ranges, make=make, horizon=12, num_workers=0)


class FarOutside(Rail):
    """Observes 40 and more in [−10, 10]."""

    def observed(self) -> Any:
        """What is seen."""
        return np.array([40 + self.place], np.float32)


def set_unused(env: Any, task: Any) -> None:
    """Write where nothing reads."""
    env.unwrapped.weight = float(task["mass"])


DISTRIBUTIONS: dict[str, Callable[[], TaskDistribution]] = {
    "rail": lambda: tasks_of(Rail),
    "redrawing": lambda: tasks_of(Redrawing),
    "unseeded": lambda: tasks_of(Unseeded),
    "leaking": lambda: tasks_of(Leaking),
    "broken": lambda: tasks_of(Broken),
    "too_many": lambda: tasks_of(TooMany),
    "list_reward": lambda: tasks_of(ListReward),
    "raising": lambda: tasks_of(Raising),
    "unused": lambda: GymnasiumTasks(
        "rail", {"mass": Uniform(0.5, 2.0)}, make=Rail, set_task=set_unused, horizon=12, num_workers=0
    ),
    "corridor": corridor,
    "normalised": lambda: tasks_of(lambda **task: gymnasium.wrappers.NormalizeReward(Rail(**task))),
    "divided": lambda: tasks_of(lambda **task: Divided(Rail(**task))),
    "far_outside": lambda: tasks_of(FarOutside),
    "ignoring": lambda: TaskDistribution(
        PointNavigation(horizon=9), {"goal": Uniform(-1, 1, shape=(2,)), "wind": Uniform(0, 1)}
    ),
}


def __getattr__(name: str) -> Callable[[], TaskDistribution]:
    """The distributions above, as `module:name` finds them."""
    if name in DISTRIBUTIONS:
        return DISTRIBUTIONS[name]
    raise AttributeError(name)


def checked(name: str) -> EnvironmentCheck:
    return check_environment(f"{HERE}:{name}", QUICK)


def faults(check: EnvironmentCheck) -> dict[str, Finding]:
    return {finding.topic: finding for finding in check.findings if finding.level == "fault"}


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("name", "topic", "text"),
    [
        ("redrawing", "task: goal", "changes nothing"),
        ("unseeded", "determinism", "two rollouts"),
        ("leaking", "determinism", "differ"),
        ("broken", "step", "its reward at step "),
        ("too_many", "shapes", "has the shape (3,), but its space Box(-10.0, 10.0, (1,), float32) has (1,)"),
        ("list_reward", "shapes", "reward must be one number"),
        ("raising", "step", "IndexError: off the rail"),
        ("unused", "task: mass", "changes nothing"),
        ("ignoring", "task: wind", "changes nothing"),
    ],
)
def test_a_fault_is_found(name: str, topic: str, text: str) -> None:
    found = faults(checked(name))
    assert set(found) == {topic}
    assert text in found[topic].text
    assert found[topic].advice


@pytest.mark.filterwarnings("ignore:.*running statistic")
@pytest.mark.parametrize(("name", "determinism"), [("normalised", "ok"), ("divided", "note")])
def test_normalised_rewards_are_a_note_and_no_fault(name: str, determinism: str) -> None:
    check = checked(name)
    assert check.passed
    notes = [finding for finding in check.findings if finding.topic == "rewards"]
    assert "divides rewards by a running statistic" in notes[0].text
    (found,) = (finding for finding in check.findings if finding.topic == "determinism")
    assert found.level == determinism

    # With the statistics held still, all that a check says of tasks is said.
    effects = {finding.topic: finding.level for finding in check.findings if finding.topic.startswith("task")}
    assert effects == dict.fromkeys(["task: goal", "task: mass"], "ok" if determinism == "ok" else "note")


def test_all_that_is_to_be_known_of_observations_is_said() -> None:
    check = checked("far_outside")
    said = [finding.text for finding in check.findings if finding.topic == "observations"]
    assert [text.split("; ")[1].split(":")[0] for text in said] == ["beyond ±10", "outside the observation space"]
    assert said[1].endswith("index 0 [" + said[0].split("index 0 [")[1])


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(1e6, 1e6 + 4, "[1000000, 1000004]"), (-0.5, 2 / 3, "[-0.5, 0.6667]"), (3.0, 3.0, "[3, 3]")],
)
def test_the_digits_of_a_range_tell_its_ends_apart(low: float, high: float, text: str) -> None:
    assert interval(low, high, 4) == text


def test_the_attribute_that_reset_overwrites_is_named() -> None:
    assert "overwrites goal" in faults(checked("redrawing"))["task: goal"].advice


@pytest.mark.parametrize("name", ["rail", "corridor"])
def test_a_good_environment_passes(name: str) -> None:
    check = checked(name)
    assert check.passed
    assert check.steps_per_second > 0
    named = {finding.topic for finding in check.findings}
    assert {f"task: {parameter}" for parameter in check.distribution.train} <= named


@pytest.mark.parametrize("name", TORCH_FAMILIES)
def test_shipped_families_pass(name: str) -> None:
    check = check_environment(name, QUICK)
    assert faults(check) == {}


# ---------------------------------------------------------------------- the parts


def test_the_stretch_of_actions_is_shown() -> None:
    assert checked("rail").actions == ["[-1, 1] → [-2, 4]"]


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (Box(-3, 2, (2,), np.int64), "[-1, 1] → [-3, 2], rounded to whole numbers, each of 2"),
        (Box(2, np.inf, (1,), np.int64), "[-1, 1] → [2, 4], rounded to whole numbers"),
        (Box(-np.inf, np.inf, (1,), np.int32), "[-1, 1] → [-1, 1], rounded to whole numbers"),
    ],
)
def test_the_shares_of_whole_numbers_are_shown(space: Box, line: str) -> None:
    assert action_lines(ActionMap.of(space)) == [line]


def test_fields_have_the_places_that_gymnasium_gives_them() -> None:
    space = Dict({"b": Discrete(3), "a": Tuple([Box(0, 1, (2, 2)), Box(0, 1)])})
    fields = fields_of(space)
    assert fields[-1].stop == gymnasium.spaces.flatdim(space)

    # Each part holds a number of its own; the Discrete one is in one of its three places.
    value = {"b": np.int64(0), "a": (np.full((2, 2), 7, np.float32), np.full((1,), 8, np.float32))}
    flat = gymnasium.spaces.flatten(space, value)
    places = {field.name: np.asarray(flat)[field.start : field.stop].tolist() for field in fields}
    assert places == {"a.0": [7, 7, 7, 7], "a.1": [8], "b": [1, 0, 0]}


@pytest.mark.parametrize("space", [Discrete(4), Box(-3.0, 5.0, (2,)), Box(0.0, np.inf, (1,))])
def test_random_actions_lie_in_their_space_and_some_are_held(space: Any) -> None:
    actions = random_actions(space, (3, 4), 20, seed=0)
    assert all(space.contains(action) for action in actions.flatten(0, 2).numpy())
    held = actions[:, 2]
    assert torch.equal(held, held[:, :1].expand_as(held))
    assert not torch.equal(actions[:, 0, :1].expand_as(actions[:, 0]), actions[:, 0])


def test_the_first_difference_counts_no_step_after_an_end() -> None:
    ended = torch.tensor([[[False, True, True]]])
    one = Trace(torch.zeros(1, 1, 4, 1), torch.zeros(1, 1, 3), ended)
    late = Trace(torch.zeros(1, 1, 4, 1), torch.tensor([[[0.0, 0.0, 1.0]]]), ended)
    early = Trace(torch.zeros(1, 1, 4, 1), torch.tensor([[[0.0, 1.0, 0.0]]]), ended)
    assert first_difference(one, late) == ""
    assert first_difference(one, early) == "reward at step 2"


@pytest.mark.parametrize(
    ("make", "seen"),
    [(Unseeded, "observation at the reset"), (Leaking, "observation at the reset"), (Rail, ""), (Raising, "")],
)
def test_an_episode_that_cannot_be_repeated_is_seen_before_training(make: Callable[..., Any], seen: str) -> None:
    distribution = tasks_of(make)
    task = task_values(distribution.sample(1, "validation"))[0]
    assert changes_when_repeated(distribution.family.spec, task) == seen


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Taxi-v4", "Blackjack-v1"]
)
def test_gymnasiums_own_environments_give_no_alarm(env_id: str) -> None:
    seeds = {"seed": Integers(0, 9)}
    distribution = GymnasiumTasks(env_id, seeds, horizon=9, seed_parameter="seed", num_workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_where_repeats_differ(distribution)


def test_what_is_kept_from_episode_to_episode_is_not_called_randomness_alone() -> None:
    advice = faults(checked("leaking"))["determinism"].advice
    assert "kept from episode to episode" in advice
    assert "self.np_random" in advice


def test_images_are_measured_with_an_agent_that_takes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MAML takes none; pixels are scaled, so that their units are no matter."""
    assert main(["check", "tests.helpers.camera:camera", "--seconds", str(QUICK)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "metarl train reptile" in text
    assert "default iterations of reptile" in text
    assert "pixels within" in text
    assert "beyond ±10" not in text


# ---------------------------------------------------------------------- the command


def test_a_gymnasium_id_is_checked_and_its_arguments_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "Pendulum-v1", "--seconds", str(QUICK)]) == 0
    text = capsys.readouterr().out
    assert "such as its arguments g" in text
    assert "[-1, 1] → [-2, 2]" in text
    assert "steps per second" in text
    assert "a meta-iteration's 4 batches" in text


def test_a_class_of_ones_own_is_checked() -> None:
    check = check_environment(f"{HERE}:Rail", QUICK)
    assert check.passed
    assert any("goal, mass" in finding.advice for finding in check.findings)


def test_a_yaml_file_is_checked_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pendulum.yaml"
    file.write_text("env_id: Pendulum-v1\ntask:\n  g: {uniform: [5.0, 15.0], units: m/s²}\n")
    assert main(["check", str(file), "--seconds", str(QUICK), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    (field,) = found["observation"]
    assert field.items() >= {"name": "", "start": 0, "stop": 3, "unit": ""}.items()
    assert {"task: g", "memory", "determinism"} <= {finding["topic"] for finding in found["findings"]}


def test_faults_give_exit_code_1_and_bad_input_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{HERE}:too_many", "--seconds", str(QUICK)]) == 1
    assert "training will go wrong: shapes" in capsys.readouterr().out
    for bad in (["nothing-v7"], ["Pendulum-v1", "--seconds", "0"], ["missing.yaml"]):
        assert main(["check", *bad]) == 2
        assert complaint(capsys)


class WrongReward(PointNavigation):
    """Its reward has a dimension too many."""

    def reward(self, *arguments: Any) -> torch.Tensor:
        """See TaskEnv.reward."""
        return super().reward(*arguments).unsqueeze(-1)


def wrong_reward() -> TaskDistribution:
    """Tasks of it."""
    return TaskDistribution(WrongReward(), {"goal": Uniform(-1, 1, shape=(2,))})


def test_training_refuses_a_wrong_shape_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--num-tasks", "40", "--episodes", "20", "--run-dir", str(tmp_path / "runs")]
    assert main(["train", "maml", f"{HERE}:wrong_reward", *sizes]) == 2
    assert "reward must return (M, E) = (40, 20), got (40, 20, 1)" in complaint(capsys)
    assert not (tmp_path / "runs").exists()
