"""Workers that cannot start: scripts as users write them, in a Python of their own; one line with the cause."""

import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import pytest
import torch

from metarl.agents.policies.reference import RandomPolicy
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.rollout import collect
from metarl.envs.task_space import Uniform

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import gymnasium
import torch
from gymnasium.envs.classic_control import PendulumEnv
from metarl.agents.policies.reference import RandomPolicy
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.rollout import collect
from metarl.envs.task_space import Uniform

def main(env_id):
    family = GymnasiumTasks(env_id, {"g": Uniform(5, 15)}, num_workers=1, horizon=3)
    env = family.bind(family.sample(2, "test"), 1)
    try:
        print(collect(env, RandomPolicy(family.action_space), {}, torch.Generator()).env_steps)
    except EnvironmentFailedError as error:
        print(error)
"""

REGISTERED_UNDER_THE_GUARD = SCRIPT + (
    "if __name__ == '__main__':\n    gymnasium.register('Mine-v0', PendulumEnv)\n    main('Mine-v0')\n"
)
REGISTERED_ABOVE = (
    SCRIPT + "gymnasium.register('Mine-v0', PendulumEnv)\nif __name__ == '__main__':\n    main('Mine-v0')\n"
)
NO_GUARD = SCRIPT + "main('Pendulum-v1')\n"


def run(tmp_path: Path, script: str, by_file: bool = True) -> tuple[list[str], str]:
    """Lines that a script prints, and its standard error; with `by_file` false it comes from standard input."""
    path = tmp_path / "users_script.py"
    path.write_text(script)
    command = [sys.executable, str(path)] if by_file else [sys.executable]
    done = subprocess.run(
        command, input=None if by_file else script, capture_output=True, text=True, timeout=100, check=False
    )
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("script", "by_file", "cause"),
    [
        pytest.param(
            REGISTERED_UNDER_THE_GUARD,
            True,
            "NameNotFound: Environment `Mine` doesn't exist",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            NO_GUARD,
            True,
            "users_script.py would start workers again: it needs `if __name__ == '__main__':`",
            marks=pytest.mark.slow,
        ),
        (NO_GUARD, False, "<stdin> is no file that they could import"),
    ],
    ids=["id of the main script", "no guard", "standard input"],
)
def test_the_cause_and_the_ways_out_are_one_line(tmp_path: Path, script: str, by_file: bool, cause: str) -> None:
    lines, stderr = run(tmp_path, script, by_file)
    assert len(lines) == 1
    assert lines[0].startswith("worker processes for ")
    assert cause in lines[0]
    assert "module:id" in lines[0]
    assert "num_workers 0" in lines[0]
    assert "Traceback" not in stderr


def test_an_id_that_workers_register_too_works(tmp_path: Path) -> None:
    lines, stderr = run(tmp_path, REGISTERED_ABOVE)
    assert lines == ["6"], stderr


def test_what_holds_a_lock_cannot_be_sent(tmp_path: Path) -> None:
    lock = threading.Lock()

    def make(g: float) -> gymnasium.Env[object, object]:
        with lock:
            return gymnasium.make("Pendulum-v1", g=g)

    family = GymnasiumTasks("Locked", {"g": Uniform(5, 15)}, num_workers=1, horizon=3, make=make)
    env = family.bind(family.sample(1, "test"), 1)
    with pytest.raises(EnvironmentFailedError, match=r"cannot be sent to them.*cannot pickle '_thread.lock'") as error:
        collect(env, RandomPolicy(family.action_space), {}, torch.Generator())
    assert "\n" not in str(error.value)
