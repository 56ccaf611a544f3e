"""Any Gymnasium environment as a family: against Gymnasium stepped one by one, in this process and in workers."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.policies.reference import RandomPolicy
from metarl.envs.adapters.sb3 import TaskSB3VecEnv, make_sb3_vec_env
from metarl.envs.external.env_spec import EnvSpec, ExternalEnv, InConfig
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks, task_values
from metarl.envs.external.worker_pool import EnvironmentFailedError, TaskValues
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_space import Integers, Task, Uniform

pytestmark = pytest.mark.timeout(120)
WORKERS_AT_LEISURE = pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
"""Starting workers takes seconds: for what they do as this process does, which one test shows of its episodes."""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def set_cart_pole(env: gymnasium.Env[Any, Any], task: TaskValues) -> None:
    cart_pole: Any = env.unwrapped
    cart_pole.gravity, cart_pole.length = float(task["gravity"]), float(task["length"])
    cart_pole.polemass_length = cart_pole.masspole * cart_pole.length


def cart_pole(num_workers: int = 0) -> GymnasiumTasks:
    ranges = {"gravity": Uniform(5, 15, "m/s²"), "length": Uniform(0.3, 1.0, "m")}
    return GymnasiumTasks("CartPole-v1", ranges, horizon=40, set_task=set_cart_pole, num_workers=num_workers)


def pendulum(num_workers: int = 0) -> GymnasiumTasks:
    return GymnasiumTasks("Pendulum-v1", {"g": Uniform(5, 15, "m/s²")}, horizon=15, num_workers=num_workers)


def random_episodes(distribution: GymnasiumTasks, tasks: Task, num_episodes: int, seed: int = 0) -> Episodes:
    env = distribution.bind(tasks, num_episodes)
    return collect(env, RandomPolicy(distribution.action_space), {}, rng(seed))


def seeds_of(count: int) -> list[int]:
    """What a bound environment draws first from the generator."""
    drawn: list[int] = torch.randint(2**31, (count,), generator=rng()).tolist()
    return drawn


@WORKERS_AT_LEISURE
def test_episodes_equal_gymnasium_stepped_one_by_one(num_workers: int) -> None:
    """Tasks through a callable; also after other tasks have used the same environments."""
    distribution = cart_pole(num_workers)
    random_episodes(distribution, distribution.sample(4, "validation"), 1)
    tasks = distribution.sample(3, "test")
    episodes = random_episodes(distribution, tasks, 2)
    seeds = iter(seeds_of(6))
    lengths = set()
    for m, task in enumerate(task_values(tasks)):
        for e in range(2):
            gym = gymnasium.make("CartPole-v1")
            set_cart_pole(gym, task)
            obs, _ = gym.reset(seed=next(seeds))
            steps = int(episodes.mask[m, e].sum())
            for t in range(steps):
                assert torch.equal(episodes.obs[m, e, t], torch.from_numpy(obs))
                obs, reward, terminated, _, _ = gym.step(int(episodes.action[m, e, t]))
                assert float(episodes.reward[m, e, t]) == reward
                assert terminated == (t == steps - 1 and bool(episodes.terminated[m, e]))
            assert torch.equal(episodes.last_obs[m, e], torch.from_numpy(obs))
            lengths.add(steps)
    assert len(lengths) > 1
    distribution.family.pool.close()


@WORKERS_AT_LEISURE
def test_box_actions_are_stretched_to_the_bounds_and_arguments_reach_make(num_workers: int) -> None:
    distribution = pendulum(num_workers)
    assert distribution.action_space == Box(-1.0, 1.0, (1,), np.float32)
    tasks = distribution.sample(2, "test")
    episodes = random_episodes(distribution, tasks, 1)
    for m, (seed, task) in enumerate(zip(seeds_of(2), task_values(tasks), strict=True)):
        gym = gymnasium.make("Pendulum-v1", g=float(task["g"]))
        obs, _ = gym.reset(seed=seed)
        for t in range(15):
            np.testing.assert_allclose(episodes.obs[m, 0, t], obs, rtol=1e-6)
            obs, reward, *_ = gym.step(2 * episodes.action[m, 0, t].numpy())
            assert float(episodes.reward[m, 0, t]) == pytest.approx(float(reward), rel=1e-6)
    distribution.family.pool.close()


def test_the_same_seed_gives_the_same_episodes_whatever_the_number_of_workers() -> None:
    results = []
    for num_workers in (0, 2):
        distribution = cart_pole(num_workers)
        tasks = distribution.sample(3, "test")
        results += [random_episodes(distribution, tasks, 3, seed=4), random_episodes(distribution, tasks, 3, seed=4)]
        distribution.family.pool.close()
    for other in results[1:]:
        assert torch.equal(results[0].obs, other.obs)
        assert torch.equal(results[0].reward, other.reward)


def test_the_pool_grows_and_keeps_what_it_has() -> None:
    distribution = pendulum()
    assert random_episodes(distribution, distribution.sample(2, "test"), 1).obs.shape[:2] == (2, 1)
    first = distribution.family.pool._vector
    assert random_episodes(distribution, distribution.sample(1, "test"), 2).obs.shape[:2] == (1, 2)
    assert distribution.family.pool._vector is first
    assert random_episodes(distribution, distribution.sample(3, "test"), 2).obs.shape[:2] == (3, 2)
    assert distribution.family.pool._vector is not first


class Everything(gymnasium.Env[Any, Any]):
    """A Dict of every kind of space; truncates itself after 3 steps, succeeds at level 1 and fails where told."""

    observation_space = Dict(
        {
            "box": Box(-1, 1, (2, 2)),
            "discrete": Discrete(3),
            "multi": MultiDiscrete([2, 3]),
            "binary": MultiBinary(2),
            "tuple": Tuple([Discrete(2), Box(0, 5, (1,))]),
        }
    )
    action_space = Discrete(2)

    def __init__(self, level: int = 0, config: Mapping[str, Any] | None = None, how: str = "") -> None:
        self.level, self.config, self.how, self.time = level, dict(config or {}), how, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Zero."""
        super().reset(seed=seed)
        self.time = 0
        self.drawn = float(self.np_random.uniform())
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count."""
        self.time += 1
        if self.level == 7 and self.time == 2:
            if self.how == "exit":
                os._exit(3)
            raise RuntimeError("the arm came off")
        reward = self.level + self.config.get("bonus", 0) + 10 * self.drawn
        return self._obs(), reward, False, self.time == 3, {"is_success": self.level == 1 and self.time == 2}

    def _obs(self) -> dict[str, Any]:
        return {
            "box": np.full((2, 2), 0.5, np.float32),
            "discrete": 2,
            "multi": np.array([1, 2]),
            "binary": np.array([1, 0], np.int8),
            "tuple": (1, np.array([3.0], np.float32)),
        }


def everything(**arguments: Any) -> GymnasiumTasks:
    settings: dict[str, Any] = {
        "train": {"level": Integers(0, 2, "1")},
        "horizon": 5,
        "make": Everything,
        "num_workers": 0,
    }
    return GymnasiumTasks("Everything", **(settings | arguments))


def test_observations_of_every_kind_are_flattened() -> None:
    """Dict entries in the order of their names: binary, box, discrete (one-hot), multi (one-hot each), tuple."""
    distribution = everything()
    obs = distribution.bind(distribution.sample(1, "test"), 1).reset(rng())
    expected = [1, 0, *[0.5] * 4, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 3]
    assert obs[0, 0].tolist() == expected
    assert distribution.observation_space.shape == (17,)


def test_an_environment_that_truncates_itself_ends_the_episode() -> None:
    distribution = everything()
    episodes = random_episodes(distribution, distribution.sample(2, "test"), 2)
    assert episodes.env_steps == 2 * 2 * 3
    assert episodes.terminated.all()


def test_success_at_any_time_is_kept() -> None:
    distribution = everything()
    episodes = random_episodes(distribution, {"level": torch.tensor([0.0, 1.0, 2.0])}, 2)
    assert episodes.success is not None
    assert episodes.success.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert Episodes.concatenate([episodes, episodes]).success is not None
    assert random_episodes(cart_pole(), cart_pole().sample(2, "test"), 2).success is None


def test_numbers_of_whole_ranges_come_as_integers_and_config_entries_in_a_dict() -> None:
    seen: list[dict[str, Any]] = []

    def make(**keywords: Any) -> Everything:
        seen.append(keywords)
        return Everything(**keywords)

    distribution = everything(
        train={"level": Integers(1, 2), "bonus": Uniform(5, 6)},
        keywords=InConfig(("bonus",), ("level",), frozenset({"level"}), {"colour": "red"}),
        make=make,
    )
    tasks = {"level": torch.tensor([2.0]), "bonus": torch.tensor([5.5])}
    episodes = random_episodes(distribution, tasks, 1)
    assert seen[-1] == {"level": 2, "config": {"colour": "red", "bonus": 5.5}}
    assert type(seen[-1]["level"]) is int
    assert float(episodes.reward[0, 0, 0]) >= 7.5


def test_the_seed_can_be_the_task() -> None:
    distribution = everything(train={"seed": Integers(0, 1000)}, seed_parameter="seed")
    returns = random_episodes(distribution, {"seed": torch.tensor([3.0, 4.0])}, 3).returns
    assert (returns == returns[:, :1]).all()
    assert returns[0, 0] != returns[1, 0]
    assert torch.equal(random_episodes(distribution, {"seed": torch.tensor([3.0])}, 1, seed=9).returns, returns[:1, :1])


@pytest.mark.parametrize(
    ("how", "reason", "num_workers"),
    [
        ("raise", "RuntimeError: the arm came off", 0),
        pytest.param("raise", "RuntimeError: the arm came off", 2, marks=pytest.mark.slow),
        ("exit", "exit code 3", 1),
    ],
)
def test_a_failing_environment_is_reported_with_its_task(num_workers: int, how: str, reason: str) -> None:
    distribution = everything(train={"level": Integers(0, 9)}, fixed={"how": how}, num_workers=num_workers)
    tasks = {"level": torch.tensor([0.0, 1.0, 7.0, 2.0])}
    with pytest.raises(EnvironmentFailedError) as error:
        random_episodes(distribution, tasks, 1)
    assert "environment Everything failed on the task {'level': 7.0}" in str(error.value)
    assert reason in str(error.value)
    good = {"level": torch.tensor([0.0, 1.0])}
    assert random_episodes(distribution, good, 1).env_steps == 6  # the pool starts anew
    distribution.family.pool.close()


class NoVector(gymnasium.Env[Any, Any]):
    """Text is no vector of fixed meaning."""

    observation_space = Dict({"text": Text(3), "graph": gymnasium.spaces.Graph(Box(0, 1, (1,)), None)})
    action_space = Discrete(2)


class NoActions(Everything):
    """Two action spaces in one."""

    action_space = Dict({"arm": Discrete(2), "hand": Discrete(2)})  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GymnasiumTasks("NoSuch-v0", {"x": Uniform(0, 1)}), "unknown Gymnasium environment 'NoSuch-v0'"),
        (lambda: GymnasiumTasks("no_module:X-v0", {"x": Uniform(0, 1)}), "unknown Gymnasium environment 'no_module:X"),
        (lambda: GymnasiumTasks("Pendulum-v1", {"mass": Uniform(0, 1)}), r"arguments \['mass'\]: .*mass"),
        (lambda: GymnasiumTasks("Pendulum-v1", {}), "at least one task parameter"),
        (lambda: everything(horizon=0), "horizon must be a whole number of at least 1, got 0"),
        (lambda: everything(num_workers=-2), "num_workers must be a whole number of at least 0, got -2"),
        (
            lambda: everything(train={"level": Uniform(0, 9)}, seed_parameter="level"),
            "seed_parameter 'level' needs integers of at least 0 as its range, got uniform",
        ),
        (lambda: everything(seed_parameter="sed"), "seed_parameter 'sed' is none of the task parameters"),
        (
            lambda: everything(train={"level": Integers(0, 1)}, make=NoActions),
            "actions must be a Box of numbers, Discrete, Multi",
        ),
        (lambda: everything(keywords=lambda task: {}, make=NoVector), "cannot be flattened"),
    ],
)
def test_what_cannot_work_is_said_at_once(make: Callable[[], GymnasiumTasks], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Stable-Baselines3


def test_stable_baselines_steps_the_same_environments() -> None:
    distribution = everything()
    task = {"level": torch.tensor([2.0])}
    env = make_sb3_vec_env(distribution, 2, task, seed=3)
    obs: Any = env.reset()
    assert obs.shape == (2, 17)
    returns = []
    for _ in range(9):
        _, _, dones, infos = env.step(np.zeros(2, np.int64))
        returns += [info["episode"]["r"] for info, done in zip(infos, dones, strict=True) if done]
    assert len(returns) == 6
    assert all(2 * 3 <= one <= 12 * 3 for one in returns)
    assert len(set(returns)) == 6  # each episode its own seed


def test_stable_baselines_samples_a_task_every_episode_and_truncates_at_the_horizon() -> None:
    distribution = pendulum()
    env = make_sb3_vec_env(distribution, 1, "sample", seed=0)
    env.reset()
    inner: Any = env.envs[0]  # type: ignore[attr-defined]
    gravities, ends = [], []
    for _ in range(31):
        gravities.append(inner.unwrapped._env.unwrapped.g)
        _, _, dones, infos = env.step(np.zeros((1, 1), np.float32))
        ends += [infos[0]["TimeLimit.truncated"]] if dones[0] else []
    assert ends == [True, True]
    assert len(set(gravities)) == 3
    assert distribution.train["g"].contains(torch.tensor(gravities)).all()


def test_torch_families_keep_their_own_vec_env() -> None:
    from metarl.envs.registry import make_distribution

    assert isinstance(make_sb3_vec_env(make_distribution("pendulum"), 2), TaskSB3VecEnv)


# One environment, and rendering


def test_one_environment_of_a_spec_builds_anew_only_where_its_arguments_change() -> None:
    made: list[int] = []

    def make(level: int) -> Everything:
        made.append(level)
        return Everything(level)

    spec = EnvSpec("Everything", keywords=lambda task: {"level": int(task["level"])}, make=make)
    levels: list[NDArray[np.float32]] = [np.float32(1), np.float32(1), np.float32(2)]  # type: ignore[list-item]
    env = ExternalEnv(spec, {"level": levels[0]})
    for level in levels:
        env.set_task({"level": level})
        env.reset(seed=0)
    assert made == [1, 2]


def test_observations_are_float32_tensors_of_the_batch() -> None:
    distribution = pendulum()
    env = distribution.bind(distribution.sample(2, "test"), 3)
    obs: Tensor = env.reset(rng())
    assert (obs.shape, obs.dtype) == ((2, 3, 3), torch.float32)
    seen, reward, terminated = env.step(torch.full((2, 3, 1), 5.0))
    assert (seen.shape, reward.shape, terminated.dtype) == ((2, 3, 3), (2, 3), torch.bool)


@WORKERS_AT_LEISURE
def test_pictures_are_those_of_gymnasium_and_leave_the_episodes_as_they_are(
    num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    distribution = pendulum(num_workers)
    tasks, action = distribution.sample(2, "test"), torch.full((2, 2, 1), 0.5)
    plain, rendered = distribution.bind(tasks, 2), distribution.env.bind_for_rendering(tasks, 2)
    assert torch.equal(plain.reset(rng()), rendered.reset(rng()))
    assert torch.equal(plain.step(action)[0], rendered.step(action)[0])
    for (m, e), seed in zip([(0, 0), (0, 1), (1, 0), (1, 1)], seeds_of(4), strict=True):
        gym = gymnasium.make("Pendulum-v1", g=float(tasks["g"][m]), render_mode="rgb_array")
        gym.reset(seed=seed)
        gym.step(np.array([1.0], np.float32))
        expected: Any = gym.render()
        np.testing.assert_array_equal(rendered.render(m, e), expected)
        gym.close()
    assert distribution.env.render_fps == 30
    rendered.close_renderers()
    distribution.family.pool.close()


class Stubborn(gymnasium.Env[Any, Any]):
    """Ignores SIGTERM, as SDL does once it has drawn, and cannot draw."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space, action_space = Box(-1, 1, (1,)), Box(-1, 1, (1,))

    def __init__(self, level: float = 0, render_mode: str | None = None) -> None:
        in_worker = multiprocessing.parent_process() is not None  # the process of the tests must go on hearing it
        if render_mode and in_worker:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """See gymnasium.Env.reset."""
        return np.zeros(1, np.float32), {}

    def render(self) -> Any:
        """See gymnasium.Env.render."""
        raise RuntimeError("no display")


def test_what_cannot_be_drawn_is_reported_and_its_stubborn_workers_end() -> None:
    ranges = {"level": Uniform(0, 1)}
    distribution = GymnasiumTasks("Stubborn", ranges, horizon=2, make=Stubborn, num_workers=1)
    env: Any = distribution.env.bind_for_rendering(distribution.sample(1, "test"), 1)
    env.reset(rng())
    (process,) = env._pool._vector.processes
    with pytest.raises(EnvironmentFailedError, match=r"failed on the task .*rendering: RuntimeError: no display"):
        env.render(0, 0)
    assert not process.is_alive()


def test_what_takes_no_render_mode_or_has_none_is_refused() -> None:
    def make(level: float) -> Stubborn:
        return Stubborn(level)

    distribution = GymnasiumTasks("Stubborn", {"level": Uniform(0, 1)}, horizon=2, make=make, num_workers=0)
    with pytest.raises(ValueError, match="what makes Stubborn takes no argument render_mode"):
        distribution.env.bind_for_rendering(distribution.sample(1, "test"), 1)
    blind = everything(num_workers=0)
    with pytest.raises(ValueError, match="has no render mode rgb_array"):
        blind.env.bind_for_rendering(blind.sample(1, "test"), 1)
