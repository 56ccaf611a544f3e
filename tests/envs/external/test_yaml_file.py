"""Distributions read from YAML files, and what a malformed file is told."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.envs.external import yaml_file
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily, GymnasiumTasks
from metarl.envs.external.yaml_file import from_yaml
from metarl.envs.task_space import Choice, Integers, LogUniform, Normal, Range, Uniform


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my_env.yaml"
    path.write_text(text)
    return path


def test_a_file_describes_parameters_units_splits_and_more(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "env_id: Pendulum-v1\nhorizon: 12\nnum_workers: 0\n"
        "task:\n  g: {uniform: [5, 15], units: m/s², ood: {uniform: [15, 20]}}\nunits: ['', '', rad/s]\n",
    )
    distribution = from_yaml(path)
    assert distribution.env.field_units == {"": "–, –, rad/s"}
    assert distribution.train == {"g": Uniform(5, 15, "m/s²")}
    assert distribution.ood == {"g": Uniform(15, 20, "m/s²")}
    assert distribution.horizon == 12
    assert distribution.name.startswith("my_env.yaml:")
    same = from_yaml(written(tmp_path, path.read_text()))
    assert same.name == distribution.name
    assert from_yaml(written(tmp_path, path.read_text().replace("12", "13"))).name != distribution.name


def test_a_file_names_the_callable_the_seed_and_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_robot.py").write_text(
        "import gymnasium\n"
        "from gymnasium.spaces import Box, Discrete\n"
        "import numpy as np\n"
        "class Robot(gymnasium.Env):\n"
        "    observation_space, action_space = Box(0, 1, (1,)), Discrete(2)\n"
        "    def __init__(self, config, arm): self.config, self.arm, self.load = config, arm, None\n"
        "    def reset(self, seed=None, options=None): self.seed = seed; return np.zeros(1, np.float32), {}\n"
        "    def step(self, action):\n"
        "        paid = self.load + 10 * self.config['grip'] + 100 * self.config['mode'] + 1000 * self.arm\n"
        "        return np.zeros(1, np.float32), paid + 1e6 * self.seed, False, False, {}\n"
        "gymnasium.register('Robot-v0', Robot)\n"
        "def load(env, task): env.unwrapped.load = float(task['load'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    distribution = from_yaml(
        written(
            tmp_path,
            "env_id: users_robot:Robot-v0\nhorizon: 1\nnum_workers: 0\nset_task: users_robot:load\n"
            "seed_parameter: layout\nconfig: [grip]\nkeywords: [arm]\nmake: {config: {mode: 3}}\n"
            "task:\n  load: {choice: [2, 4]}\n  grip: {integers: [1, 5]}\n  arm: {log_uniform: [1, 9]}\n"
            "  layout: {integers: [0, 9]}\n",
        )
    )
    tasks = {
        name: torch.tensor([float(value)]) for name, value in {"load": 2, "grip": 5, "arm": 4, "layout": 6}.items()
    }
    env = distribution.bind(tasks, 1)
    env.reset(torch.Generator().manual_seed(0))
    _, reward, _ = env.step(torch.zeros(1, 1, dtype=torch.int64))
    assert float(reward) == 2 + 50 + 300 + 4000 + 6e6
    assert isinstance(distribution.train["load"], Choice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env_id: [", "not YAML"),
        ("just words", "at least the keys env_id and task"),
        ("env_id: Pendulum-v1", "at least the keys env_id and task"),
        ("env_id: Pendulum-v1\ntask: {}", "task needs at least one parameter"),
        ("env_id: Pendulum-v1\ntask: {g: 3}", "task parameter 'g' needs a range, one of uniform, log_uniform"),
        ("env_id: Pendulum-v1\ntask: {g: {unifrom: [1, 2]}}", "needs one range of uniform"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [1, 2], unit: m}}", "needs one range of uniform"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [2, 1]}}", "Uniform needs finite low < high"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [2]}}", "'g': uniform cannot be"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [a, b]}}", "'g': uniform cannot be"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: 3}}", "'g': uniform cannot be 3"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [1, 2], ood: 7}}", "ood"),
        (
            "env_id: Pendulum-v1\nhorizn: 3\ntask: {g: {uniform: [1, 2]}}",
            "unknown keys horizn; allowed are allow_running_statistics, config",
        ),
        ("env_id: Pendulum-v1\nhorizon: 0\ntask: {g: {uniform: [1, 2]}}", "horizon must be a whole number"),
        ("env_id: Pendulum-v1\nnum_workers: x\ntask: {g: {uniform: [1, 2]}}", "num_workers must be a whole number"),
        ("env_id: Pendlum-v1\ntask: {g: {uniform: [1, 2]}}", "unknown Gymnasium environment 'Pendlum-v1'"),
        ("env_id: 3\ntask: {g: {uniform: [1, 2]}}", "env_id must be text"),
        ("env_id: Pendulum-v1\ntask: {mass: {uniform: [1, 2]}}", "cannot be made with the arguments"),
        (
            "env_id: Pendulum-v1\nconfig: [h]\ntask: {g: {uniform: [1, 2]}}",
            "config names h, but",
        ),
        ("env_id: Pendulum-v1\nset_task: json:nothing\ntask: {g: {uniform: [1, 2]}}", "set_task 'json:nothing'"),
        ("env_id: Pendulum-v1\nset_task: nowhere\ntask: {g: {uniform: [1, 2]}}", "set_task 'nowhere'"),
        ("env_id: Pendulum-v1\nhorizon: true\ntask: {g: {uniform: [1, 2]}}", "horizon must be a whole number"),
        ("env_id: Pendulum-v1\nhorizon: 1.5\ntask: {g: {uniform: [1, 2]}}", "horizon must be a whole number"),
        ("env_id: Pendulum-v1\nhorizon: '9'\ntask: {g: {uniform: [1, 2]}}", "horizon must be a whole number"),
        ("env_id: Pendulum-v1\nnum_workers: true\ntask: {g: {uniform: [1, 2]}}", "num_workers must be a whole"),
        (
            "env_id: Pendulum-v1\ntask: {g: {uniform: []}}",
            r"uniform cannot be \[\]: it takes two numbers \[low, high\]",
        ),
        ("env_id: Pendulum-v1\ntask: {g: {normal: [1, 2, 3]}}", r"it takes two numbers \[mean, std\]"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: ['1', 2]}}", "a number is written as 3, 0.5 or 1e-3"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [1/2, 2]}}", "a number is written as 3, 0.5 or 1e-3"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [true, 2]}}", "a number is written as"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [1:30, 2:30]}}", r"\['1:30', '2:30'\].* written as 3, 0.5 or 1e-3"),
        ("env_id: Pendulum-v1\ntask: {g: {integers: [010, 020]}}", r"\['010', '020'\].* written as 3, 0.5 or 1e-3"),
        ("env_id: Pendulum-v1\nhorizon: 1:40\ntask: {g: {uniform: [1, 2]}}", "horizon must be .*, got '1:40'"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [1, .inf]}}", "Uniform needs finite"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [1e39, 2e39]}}", "Uniform needs numbers within"),
        ("env_id: Pendulum-v1\ntask: {g: {integers: [1.5, 2]}}", "Integers needs whole numbers"),
        ("env_id: Pendulum-v1\ntask: {g: {choice: [easy, hard]}}", "Choice needs finite numbers"),
        ("env_id: Pendulum-v1\ntask: {g: {choice: []}}", "choice cannot be .*: it takes a list of numbers"),
        ("env_id: Pendulum-v1\ntask: {on: {uniform: [1, 2]}}", "must be text, got True; write it in quotes"),
        ("env_id: Pendulum-v1\ntask: {g: {uniform: [1, 2]}, g: {uniform: [3, 4]}}", "the key 'g' comes twice"),
        ("env_id: Pendulum-v1\nseed_parameter: g\ntask: {g: {uniform: [1, 2]}}", "'g' needs integers of at least 0"),
        ("env_id: Pendulum-v1\nseed_parameter: g\ntask: {g: {integers: [-1, 2]}}", "'g' needs integers of at least 0"),
        ("env_id: Pendulum-v1\nseed_parameter: [g]\ntask: {g: {integers: [1, 2]}}", "name of one task parameter"),
        (
            "env_id: Pendulum-v1\nseed_parameter: g\ntask: {g: {integers: [1, 2], ood: {normal: [0, 1]}}}",
            "'g' needs integers of at least 0",
        ),
        ("env_id: Pendulum-v1\nobserve: 3\ntask: {g: {uniform: [1, 2]}}", "observe must be a list of keys"),
        ("env_id: Pendulum-v1\nobserve: [x]\ntask: {g: {uniform: [1, 2]}}", "observe names keys of a Dict"),
        ("env_id: Pendulum-v1\nallow_running_statistics: 1\ntask: {g: {uniform: [1, 2]}}", "must be true or false"),
        ("env_id: Pendulum-v1\nconfig: g\nmake: {config: 3}\ntask: {g: {uniform: [1, 2]}}", "make.config must be"),
        ("a: " + "[" * 5000, "nested too deep"),
        (
            "env_id: Pendulum-v1\nmake: {render_mode: None}\ntask: {g: {uniform: [1, 2]}}",
            "make.render_mode: None is text",
        ),
        ("env_id: Pendulum-v1\nmake: {a: [{b: None}]}\ntask: {g: {uniform: [1, 2]}}", "make.a.0.b: None .* write null"),
        ("env_id: Pendulum-v1\nmake: 3\ntask: {g: {uniform: [1, 2]}}", "make must be a mapping"),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        from_yaml(written(tmp_path, text))
    assert "my_env.yaml: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("written_as", "expected"),
    [
        ("{log_uniform: [1e-3, 1e+1]}", LogUniform(0.001, 10.0)),
        ("{uniform: [-1E2, .5e1]}", Uniform(-100.0, 5.0)),
        ("{normal: [1.e1, 2.5e-1]}", Normal(10.0, 0.25)),
        ("{uniform: [+3, 1_000]}", Uniform(3, 1000)),
        ("{choice: [1e0, 2, 3.5]}", Choice((1.0, 2, 3.5))),
        ("{integers: [1e1, 20.0]}", Integers(10, 20)),
    ],
)
def test_numbers_as_people_write_them(tmp_path: Path, written_as: str, expected: Range) -> None:
    text = f"env_id: Pendulum-v1\nhorizon: 1e2\nnum_workers: 0\nkeywords: g\ntask: {{g: {written_as}}}"
    distribution = from_yaml(written(tmp_path, text))
    assert distribution.train["g"] == expected
    assert distribution.horizon == 100


def test_arguments_of_make_are_read_as_numbers_and_a_choice_of_whole_numbers_gives_whole_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_arm.py").write_text(
        "from gymnasium.envs.classic_control import PendulumEnv\nimport gymnasium\n"
        "seen = []\n"
        "def make(friction, joints): seen.append((friction, joints)); return PendulumEnv()\n"
        "gymnasium.register('Arm-v0', make)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = "env_id: users_arm:Arm-v0\nhorizon: 3\nmake: {friction: 1e-3}\ntask: {joints: {choice: [2, 4]}}"
    from_yaml(written(tmp_path, text))
    ((friction, joints),) = importlib.import_module("users_arm").seen
    assert friction == 0.001
    assert type(joints) is int


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no_such\.yaml: cannot be read"):
        from_yaml(tmp_path / "no_such.yaml")


def test_numbers_are_those_that_python_reads() -> None:
    whole = ["7", "-7", "+7", "0", "1_000"]
    others = ["0.5", "-.5", "3.", "1e-3", "+1.5E3", ".inf", "-.inf"]
    read = yaml_file._parse(f"[{', '.join(whole + others)}]")
    assert read[: len(whole)] == [int(text) for text in whole]
    assert all(type(number) is int for number in read[: len(whole)])
    assert read[len(whole) :] == [float(text.replace(".inf", "inf")) for text in others]
    assert yaml_file._parse("0x1F") == 31


def arguments_of(distribution: GymnasiumTasks) -> Any:
    """Of `gymnasium.make`, for every task."""
    assert isinstance(distribution.env, GymnasiumFamily)
    return distribution.env.spec.fixed


def test_null_is_none_and_quotes_make_text(tmp_path: Path) -> None:
    task = "task: {g: {uniform: [1, 2], units: None}}"
    distribution = from_yaml(written(tmp_path, f"env_id: Pendulum-v1\nmake: {{render_mode: null}}\n{task}"))
    assert arguments_of(distribution) == {"render_mode": None}
    assert distribution.train["g"].units == "None"

    # Gymnasium takes any text and warns.
    with pytest.warns(UserWarning, match="render_mode='None'"):
        distribution = from_yaml(written(tmp_path, f"env_id: Pendulum-v1\nmake: {{render_mode: 'None'}}\n{task}"))
    assert arguments_of(distribution) == {"render_mode": "None"}
