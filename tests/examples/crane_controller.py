"""The program on the crane: an exported policy drives it, with numpy and onnxruntime and nothing else.

    python crane_controller.py POLICY

Standard input has the readings, a JSON object a line; standard output gets pulse width and current, a list a line.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(policy: Path) -> None:
    """Answer each line of readings by a line of commands."""
    session = onnxruntime.InferenceSession(policy / "policy.onnx", providers=["CPUExecutionProvider"])
    order = json.loads((policy / "policy.json").read_text(encoding="utf-8"))["observation_space"]["order"]

    for line in sys.stdin:
        readings = json.loads(line)
        obs = np.concatenate([np.float32(readings[name]) for name in order])
        (action,) = session.run(["action"], {"obs": obs[None]})
        print(json.dumps(action[0].tolist()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
