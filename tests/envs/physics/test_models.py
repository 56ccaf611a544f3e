"""What MuJoCo says does not land in the working directory."""

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
