"""What MuJoCo says does not land in the working directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from metarl.envs.physics import models

UNSTABLE = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"


def test_mujocos_warnings_are_said_once_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_said", [])
    mujoco = models.import_mujoco()
    model = mujoco.MjModel.from_xml_string(UNSTABLE)
    for _ in range(2):
        data = mujoco.MjData(model)
        data.qvel[:] = float("nan")
        mujoco.mj_step(model, data)

    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    assert said.count("unstable") == 1
    assert said.startswith("mujoco: ")


GYMNASIUMS_OWN = """
import sys
from metarl.envs.external.env_spec import EnvSpec
assert "mujoco" not in sys.modules
EnvSpec("Swimmer-v5").build({})
import mujoco
mujoco.MjModel.from_xml_string("<mujoco><compiler settotalmass='1'/></mujoco>")
"""


def test_an_environment_that_loads_mujoco_by_itself_leaves_no_file_either(tmp_path: Path) -> None:
    """Nor is anything said of what is merely old-fashioned in Gymnasium's own robots."""
    done = subprocess.run([sys.executable, "-c", GYMNASIUMS_OWN], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
