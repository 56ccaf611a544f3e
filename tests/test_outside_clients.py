"""Other libraries on our environments, in an environment of their own: each script is what their users write."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TORCHRL_AND_NEEDS = ["torchrl==0.14.1", "tensordict==0.14.3", "pyvers", "cloudpickle", "orjson", "importlib_metadata"]
MOVIEPY_AND_NEEDS = ["moviepy", "proglog", "decorator", "imageio", "imageio_ffmpeg", "python-dotenv", "tqdm"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the clients beside the packages that this test's environment has."""
    environment = tmp_path_factory.mktemp("clients") / "environment"
    venv.create(environment, with_pip=False)
    binary = environment / "bin" / "python"

    # As a .pth file, so that an editable install of this project comes along.
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = subprocess.run([binary, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    lines = [f"import site; site.addsitedir({path!r})" for path in sys.path if path.endswith("site-packages")]
    Path(target, "others.pth").write_text("\n".join(lines) + "\n")

    install = [sys.executable, "-m", "pip", "--python", str(binary), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, *TORCHRL_AND_NEEDS, *MOVIEPY_AND_NEEDS], check=True, timeout=280)
    return binary


def run(python: Path, place: Path, script: str) -> str:
    """The last line that a script prints."""
    (place / "client.py").write_text(script)
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy"}
    done = subprocess.run(
        [python, "client.py"], cwd=place, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


TORCHRL = """
import gymnasium
import metarl.envs
from torchrl.envs.libs.gym import GymWrapper
from torchrl.envs.utils import check_env_specs

env = GymWrapper(gymnasium.{make})
check_env_specs(env)
rollout = env.rollout(250, break_when_any_done=False)
done = rollout["next", "done"]
print(tuple(rollout["next", "reward"].shape), int(done.sum()))
"""


@pytest.mark.parametrize(
    ("make", "shape", "ends"),
    [
        ('make("metarl/PointNavigation-v0")', (250, 1), 2),
        ('make("metarl/CartPole-v0")', (250, 1), None),
        (
            'make_vec("metarl/PointNavigation-v0", num_envs=4, autoreset_mode="SameStep", task_in_info=False)',
            (4, 250, 1),
            8,
        ),
        (
            'make_vec("metarl/GridNavigation-v0", num_envs=3, autoreset_mode="SameStep", task_in_info=False)',
            (3, 250, 1),
            None,
        ),
    ],
)
def test_torchrl(python: Path, tmp_path: Path, make: str, shape: tuple[int, ...], ends: int | None) -> None:
    printed = run(python, tmp_path, TORCHRL.format(make=make))
    assert printed.startswith(str(shape))
    if ends is not None:
        assert printed == f"{shape} {ends}"


STABLE_BASELINES = """
import gymnasium
import metarl.envs
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecNormalize
from metarl.envs import make_distribution
from metarl.envs.adapters.sb3 import make_sb3_vec_env

check_env(gymnasium.make("metarl/CartPole-v0").unwrapped)
envs = VecNormalize(make_sb3_vec_env(make_distribution("cart-pole"), num_envs=8, task="sample"))
model = PPO("MlpPolicy", envs, n_steps=32, batch_size=64, device="cpu").learn(512)
envs.save("statistics.pkl")
print(envs.obs_rms.count > 500, model.num_timesteps)
"""


def test_stable_baselines3(python: Path, tmp_path: Path) -> None:
    assert run(python, tmp_path, STABLE_BASELINES) == "True 512"


WRAPPERS = """
from pathlib import Path

import gymnasium
import metarl.envs
from gymnasium.wrappers import RecordVideo
from gymnasium.wrappers.vector import NormalizeObservation, NormalizeReward, RecordEpisodeStatistics

film = RecordVideo(gymnasium.make("metarl/PointNavigation-v0", render_mode="rgb_array"), "films", lambda episode: True)
film.reset(seed=0)
for _ in range(100):
    film.step(film.action_space.sample())
film.close()

lengths = []
for mode in ("NextStep", "SameStep"):
    envs = gymnasium.make_vec("metarl/PointNavigation-v0", num_envs=3, autoreset_mode=mode)
    envs = NormalizeReward(RecordEpisodeStatistics(envs))
    if mode == "NextStep":  # Gymnasium's wrappers of observations take no other
        envs = NormalizeObservation(envs)
    envs.reset(seed=0)
    for _ in range(205):
        infos = envs.step(envs.action_space.sample())[-1]
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
print(len(list(Path("films").glob("*.mp4"))), sorted(set(lengths)), len(lengths))
"""


def test_wrappers_of_gymnasium(python: Path, tmp_path: Path) -> None:
    """Episodes of 100 steps, two of each of three environments, in both modes."""
    assert run(python, tmp_path, WRAPPERS) == "1 [100] 12"


CLEANRL = """
import gymnasium
import metarl.envs
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

# The loop of a single-file PPO: rollouts of 64 steps, one epoch each.
torch.manual_seed(0)
envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(
    gymnasium.make_vec("metarl/CartPole-v0", num_envs=16, autoreset_mode="SameStep")
)
actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, envs.single_action_space.n))
critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
adam = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-3)

obs = torch.as_tensor(envs.reset(seed=1)[0])
lengths = []
for update in range(40):
    logs, values, rewards, dones = [], [], [], []
    for _ in range(64):
        choice = Categorical(logits=actor(obs))
        action = choice.sample()
        logs.append(choice.log_prob(action))
        values.append(critic(obs).squeeze(-1))
        after, reward, terminated, truncated, infos = envs.step(action.numpy())
        rewards.append(torch.as_tensor(reward, dtype=torch.float32))
        dones.append(torch.as_tensor(terminated | truncated, dtype=torch.float32))
        obs = torch.as_tensor(after)
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()

    returns, following = [], critic(obs).squeeze(-1).detach()
    for reward, done in zip(reversed(rewards), reversed(dones)):
        following = reward + 0.99 * (1 - done) * following
        returns.insert(0, following)
    returns, values = torch.stack(returns), torch.stack(values)
    advantage = (returns - values).detach()
    advantage = (advantage - advantage.mean()) / advantage.std()
    loss = -(torch.stack(logs) * advantage).mean() + 0.01 * (returns - values).pow(2).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()

early, late = np.mean(lengths[:50]), np.mean(lengths[-50:])
print(late > 1.5 * early, len(lengths) > 100)
"""


def test_a_loop_in_one_file(python: Path, tmp_path: Path) -> None:
    """It learns: the pole stays up for longer."""
    assert run(python, tmp_path, CLEANRL) == "True True"
