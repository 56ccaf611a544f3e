"""A robot's story: train in simulation, adapt on the bench, and drive without this project.

    python robot_story.py

The crane has a Dict of raw readings and motors with odd bounds (`crane.py`). Its policy is meta-trained on simulated
cranes, adapts to the one on the bench from a few episodes, and is exported. Then `crane_controller.py` drives the crane
with it, in a process that can import neither metarl nor PyTorch.
"""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

import metarl

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # crane.yaml names the module crane

HORIZON = 40
CANNOT_IMPORT = "import sys; sys.modules |= dict.fromkeys(('metarl', 'torch', 'gymnasium'))"
ALONE = f"{CANNOT_IMPORT}; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def crane_on_the_bench() -> gymnasium.Env[Any, Any]:
    """The one crane that counts."""
    return TimeLimit(importlib.import_module("crane").bench(), HORIZON)


def train(iterations: int, **size: Any) -> metarl.Run:
    """Meta-train on simulated cranes. The command: metarl train maml --env-file crane.yaml --iterations 30.

    Args:
        iterations: of meta-training.
        size: further settings, such as num_tasks=10.
    """
    return metarl.train("maml", str(HERE / "crane.yaml"), iterations=iterations, **size)


def adapt(run: metarl.Run, episodes: int, out: Path) -> None:
    """Adapt to the crane on the bench, and write the policy.

    The command: metarl adapt RUN --env crane:bench --episodes 10 --out OUT; it survives a crane that fails meanwhile.

    Args:
        run: what was meta-trained.
        episodes: of the crane on the bench, for each adaptation step.
        out: a new directory.
    """
    with crane_on_the_bench() as crane:
        run.adapt(crane, episodes=episodes).save(out)


@contextmanager
def controller(policy: Path, program: Path = HERE / "crane_controller.py") -> Iterator["subprocess.Popen[str]"]:
    """The crane's own program, running.

    Args:
        policy: the directory of the policy.
        program: what runs.
    """
    command = [sys.executable, "-I", "-c", ALONE, str(program), str(policy)]
    pipes: dict[str, Any] = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process


def commands_of(process: "subprocess.Popen[str]", readings: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Hand the controller what the instruments say; what it tells the motors, (2,)."""
    assert process.stdin is not None and process.stdout is not None
    line = json.dumps({name: value.tolist() for name, value in readings.items()})
    print(line, file=process.stdin, flush=True)
    return np.array(json.loads(process.stdout.readline()), np.float32)


def drive(policy: Path) -> list[tuple[dict[str, Any], np.ndarray[Any, Any], float]]:
    """One episode on the bench, driven by the controller: readings, commands and distance, mm, of each step."""
    steps = []
    with controller(policy) as process, crane_on_the_bench() as crane:
        readings, _ = crane.reset(seed=0)
        ended = False
        while not ended:
            action = commands_of(process, readings)
            following, reward, terminated, truncated, _ = crane.step(action)
            steps.append((readings, action, -float(reward)))
            readings, ended = following, terminated or truncated
    return steps


def main() -> None:
    """The whole story, at the size that the command line gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=30, help="of meta-training")
    parser.add_argument("--episodes", type=int, default=10, help="of each adaptation step, on the bench too")
    parser.add_argument("--out", type=Path, default=Path("crane-policy"), help="a new directory for the policy")
    given = parser.parse_args()

    run = train(given.iterations, num_tasks=10, episodes=given.episodes, eval_tasks=10, test_tasks=20)
    adapt(run, given.episodes, given.out)
    distances = [distance for _, _, distance in drive(given.out)]
    print(f"driven by {given.out}/policy.onnx alone: {distances[0]:.0f} mm from the spot at first,", end=" ")
    print(f"{np.mean(distances[-10:]):.0f} mm in the last second")


if __name__ == "__main__":
    main()
