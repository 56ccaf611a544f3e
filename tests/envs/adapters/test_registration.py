"""The ids that Gymnasium knows, and importing that stays light."""

import importlib
import subprocess
import sys
from pathlib import Path

import gymnasium

import metarl.envs
from metarl.envs import FAMILIES
from metarl.envs.adapters.registration import register_gymnasium_ids

POINT = "metarl/PointNavigation-v0"
TORCH_FAMILIES = [family for family in FAMILIES.values() if family.gymnasium_id]
IDS = [family.gymnasium_id for family in TORCH_FAMILIES]


def test_the_ids_are_registered_once_with_the_familys_horizon() -> None:
    for family in TORCH_FAMILIES:
        spec = gymnasium.spec(family.gymnasium_id)
        assert spec.max_episode_steps == family.make().horizon
        assert spec.kwargs == {"distribution": family.name}
    before = dict(gymnasium.registry)
    register_gymnasium_ids()
    importlib.reload(metarl.envs)
    assert all(gymnasium.registry[env_id] is before[env_id] for env_id in IDS)


def test_gymnasiums_own_syntax_imports_and_registers(tmp_path: Path) -> None:
    """Nothing of ours is imported before; from another directory, where no folder `envs/` helps."""
    code = (
        "import sys, gymnasium\n"
        "assert 'metarl' not in sys.modules\n"
        f"env = gymnasium.make('metarl.envs:{POINT}', task={{'goal': [0.3, 0.2]}})\n"
        "assert env.reset(seed=0)[1]['task']['goal'].tolist() == __import__('pytest').approx([0.3, 0.2])\n"
        f"assert gymnasium.make_vec('metarl.envs:{POINT}', num_envs=3).num_envs == 3\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)


def test_importing_envs_registers_and_stays_light() -> None:
    code = (
        "import sys, gymnasium, metarl.envs\n"
        f"env = gymnasium.make({POINT!r}, task={{'goal': [0.3, 0.2]}})\n"
        f"batch = gymnasium.make_vec({POINT!r}, num_envs=8)\n"
        "assert batch.num_envs == 8\n"
        "heavy = {'pygame', 'stable_baselines3', 'matplotlib', 'tensorboard', 'mujoco'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
