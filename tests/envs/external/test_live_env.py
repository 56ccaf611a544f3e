"""A live environment: one episode after another, nothing stepped after its end, other spaces refused."""

import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Text
from gymnasium.wrappers import NormalizeObservation
from numpy.typing import NDArray

from metarl.agents.policies.reference import RandomPolicy
from metarl.envs.external.live_env import LiveEnv, make_live_env
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.rollout import collect
from metarl.envs.spaces.observation import vector_space

UNIT = Box(-1.0, 1.0, (1,), np.float32)


class Countdown(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Ends after `length` steps; writes down all it is asked."""

    observation_space = Box(0, 100, (1,))
    action_space = Box(0.0, 10.0, (1,))

    def __init__(self, length: int = 3, truncates: bool = False) -> None:
        self.length, self.truncates = length, truncates
        self.seeds: list[int | None] = []
        self.actions: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start at `length`."""
        self.seeds.append(seed)
        self.left = self.length
        return np.full(1, self.left, np.float32), {}

    def step(self, action: NDArray[np.float32]) -> Any:
        """Count down."""
        assert self.left > 0, "stepped after the end"
        self.actions.append(float(action[0]))
        self.left -= 1
        over = self.left == 0
        ended = (False, over) if self.truncates else (over, False)
        return np.full(1, self.left, np.float32), 2.0, *ended, {"success": over}


def live(env: gymnasium.Env[Any, Any], horizon: int = 5) -> LiveEnv:
    return LiveEnv(env, Box(0, 100, (1,)), UNIT, horizon, "the arm")


@pytest.mark.parametrize("truncates", [False, True])
def test_an_episode_that_is_over_is_not_stepped_on(truncates: bool) -> None:
    env = Countdown(3, truncates)
    episodes = collect(live(env), RandomPolicy(UNIT), {}, torch.Generator().manual_seed(0))
    assert episodes.env_steps == len(env.actions) == 3
    assert episodes.obs[0, 0, :, 0].tolist() == [3, 2, 1, 0, 0]
    assert episodes.returns.item() == 6
    assert episodes.terminated.item()
    assert episodes.success is not None
    assert episodes.success.item()


def test_the_horizon_ends_an_episode() -> None:
    env = Countdown(10)
    episodes = collect(live(env), RandomPolicy(UNIT), {}, torch.Generator())
    assert episodes.env_steps == len(env.actions) == 5
    assert not episodes.terminated.item()
    assert episodes.success is not None
    assert not episodes.success.item()


def test_actions_are_stretched_and_resets_are_seeded_from_the_generator() -> None:
    seeds = []
    for _ in range(2):
        env = Countdown(5)
        bound, generator = live(env), torch.Generator().manual_seed(7)
        episodes = [collect(bound, RandomPolicy(UNIT), {}, generator) for _ in range(2)]
        sampled = torch.cat([one.action.flatten() for one in episodes])
        assert env.actions == pytest.approx(((sampled + 1) * 5).tolist(), abs=1e-5)
        seeds.append(env.seeds)
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2


def test_dict_observations_are_flattened_and_discrete_actions_are_integers() -> None:
    class Machine(Countdown):
        observation_space = Dict({"x": Box(0, 1, (2,)), "y": Discrete(3)})  # type: ignore[assignment]
        action_space = Discrete(2)  # type: ignore[assignment]

        def reset(self, **options: Any) -> Any:
            return {"x": np.array([0.5, 0.25]), "y": 2}, {}

        def step(self, action: Any) -> Any:
            assert isinstance(action, int)
            return {"x": np.array([1, 1]), "y": 0}, 1.0, False, False, {}

    bound = LiveEnv(Machine(), Box(0, 1, (5,)), Discrete(2), 2, "machine", Machine.observation_space)
    episodes = collect(bound, RandomPolicy(Discrete(2)), {}, torch.Generator())
    assert episodes.obs[0, 0].tolist() == [[0.5, 0.25, 0, 0, 1], [1, 1, 1, 0, 0]]
    assert episodes.success is None


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (Box(0, 1, (2,)), UNIT, r"observes Box\(0.0, 100.0, \(1,\), float32\), but the policy was trained on Box.*2,"),
        (Box(0, 1, (1,)), Discrete(2), r"takes actions Box.* trained on Discrete\(2\)"),
        (Box(0, 1, (1,)), Box(-1, 1, (2,)), "takes actions Box"),
    ],
)
def test_other_spaces_are_refused(observations: Box, actions: Box | Discrete, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LiveEnv(Countdown(), observations, actions, 5, "the arm")


def test_fields_keep_the_order_of_the_training_whatever_the_order_here() -> None:
    """Trained on (velocity, position), alive as (position, velocity): the numbers must not change places."""

    class Arm(Countdown):
        observation_space = Dict(position=UNIT, velocity=UNIT)  # type: ignore[assignment]

        def reset(self, **options: Any) -> Any:
            return {"position": np.array([0.1], np.float32), "velocity": np.array([0.9], np.float32)}, {}

    numbers = Box(-1, 1, (2,))
    trained_on = Dict([("velocity", UNIT), ("position", Box(-3, 3, (1,)))])
    own_order = LiveEnv(Arm(), numbers, UNIT, 2, "arm", Dict(position=UNIT, velocity=UNIT))
    assert own_order.reset(torch.Generator()).flatten().tolist() == pytest.approx([0.1, 0.9])
    bound = LiveEnv(Arm(), numbers, UNIT, 2, "arm", trained_on)
    assert bound.reset(torch.Generator()).flatten().tolist() == pytest.approx([0.9, 0.1])
    assert list(bound.observed) == ["velocity", "position"]  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="but the policy was trained on Dict"):
        LiveEnv(Arm(), numbers, UNIT, 2, "arm", Dict(speed=UNIT, position=UNIT))


def watching(space: Space[Any], reading: Any = None) -> Countdown:
    """An environment with other observations."""
    env = Countdown()
    env.observation_space = space  # type: ignore[assignment]
    env.reset = lambda **options: (space.sample() if reading is None else reading, {})  # type: ignore[method-assign]
    return env


IMAGE = Box(0, 255, (48, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("trained_on", "alive"),
    [
        (IMAGE, Box(0, 255, (3, 48, 40), np.uint8)),
        (IMAGE, Box(0, 255, (48, 40, 3), np.float32)),
        (IMAGE, Box(0, 255, (48, 40, 3), np.uint16)),  # no image: a policy would see the numbers alone
        (Box(-1, 1, (2, 3)), Box(-1, 1, (3, 2))),
        (Box(-1, 1, (6,)), Box(-1, 1, (2, 3))),
        (Box(-1, 1, (2,)), Dict(position=UNIT, velocity=UNIT)),
        (Dict(position=UNIT, velocity=UNIT), Box(-1, 1, (2,))),
        (Dict(arm=Box(-1, 1, (2, 3))), Dict(arm=Box(-1, 1, (3, 2)))),
        (Discrete(5), Discrete(5, start=2)),
        (Discrete(5), Box(0, 1, (5,))),
        (MultiDiscrete([3, 2]), MultiDiscrete([2, 3])),
    ],
)
def test_as_many_numbers_of_another_shape_or_kind_are_refused(trained_on: Space[Any], alive: Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"^environment watch observes .*, but the policy was trained on .*") as error:
        LiveEnv(watching(alive), vector_space(trained_on, "run"), UNIT, 2, "watch", trained_on)
    assert "\n" not in str(error.value)


def test_other_bounds_and_more_bits_are_taken_and_kept() -> None:
    trained_on = Dict([("speed", Box(-1, 1, (2,))), ("count", Box(0, 5, (1,), np.int32))])
    alive = Dict(count=Box(0, 9, (1,), np.int64), speed=Box(-4, 4, (2,), np.float64))
    env = watching(alive, {"count": np.array([8]), "speed": np.array([0.5, 3])})
    bound = LiveEnv(env, vector_space(trained_on, "run"), UNIT, 2, "robot", trained_on)
    assert bound.reset(torch.Generator()).flatten().tolist() == [0.5, 3, 8]
    assert list(bound.observed.spaces.items()) == [("speed", alive["speed"]), ("count", alive["count"])]  # type: ignore[attr-defined]


@pytest.mark.parametrize("changed", ["observation_space", "action_space"])
def test_spaces_that_a_reset_changes_are_refused(changed: str) -> None:
    class Changing(Countdown):
        def reset(self, **options: Any) -> Any:
            if len(self.seeds) == 1:
                setattr(self, changed, Box(0, 3, (1, 1)))
            return super().reset(**options)

    bound = live(Changing())
    bound.reset(torch.Generator())
    message = r"the reset of episode 2: it.* Box\(0.0, 3.0, \(1, 1\), float32\) by now, but Box\(.* at first$"
    with pytest.raises(EnvironmentFailedError, match=message):
        bound.reset(torch.Generator())


@pytest.mark.parametrize(
    ("obs", "reward", "message"),
    [
        (0.0, 1e39, "its reward is not a finite float32 number: 1e\\+39"),
        (0.0, np.nan, "its reward is not a finite float32 number: nan"),
        (np.nan, 0.0, "its observation is not finite in float32: nan at index 0"),
        (1e39, 0.0, "its observation is not finite in float32: inf at index 0"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_with_episode_and_step(obs: float, reward: float, message: str) -> None:
    class Broken(Countdown):
        def step(self, action: Any) -> Any:
            if len(self.seeds) == 2 and self.left == 2:
                return np.full(1, obs), reward, False, False, {}
            return super().step(action)

    bound = live(Broken())
    with warnings.catch_warnings(action="error"), pytest.raises(EnvironmentFailedError) as error:
        for _ in range(2):
            collect(bound, RandomPolicy(UNIT), {}, torch.Generator().manual_seed(0))
    assert re.fullmatch(f"environment the arm failed at step 2 of episode 2: {message}", str(error.value))


def test_words_and_running_statistics_are_refused_before_the_first_episode() -> None:
    class Told(Countdown):
        observation_space = Dict(mission=Text(8), x=UNIT)  # type: ignore[assignment]

        def reset(self, **options: Any) -> Any:
            return {"mission": "go", "x": np.array([0.5], np.float32)}, {}

    with pytest.raises(ValueError, match="told: the observation 'mission', a Text, cannot be flattened"):
        LiveEnv(Told(), UNIT, UNIT, 2, "told")
    bound = LiveEnv(Told(), UNIT, UNIT, 2, "told", Dict(x=UNIT), ("x",))
    assert bound.reset(torch.Generator()).item() == 0.5
    with pytest.raises(ValueError, match="NormalizeObservation normalises observations by running statistics"):
        LiveEnv(NormalizeObservation(Countdown()), Box(0, 100, (1,)), UNIT, 2, "filtered")


def test_a_failure_names_the_environment_and_the_place() -> None:
    env = Countdown(2)
    bound = live(env)
    bound.reset(torch.Generator())
    env.left = 0
    with pytest.raises(
        EnvironmentFailedError,
        match=r"the arm failed at step 1 of episode 1: AssertionError: (?s:.*) \(test_live_env.py:\d+\)",
    ):
        bound.step(torch.zeros(1, 1, 1))


def test_environments_are_made_by_function_by_class_and_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "live_robot.py").write_text(
        "import gymnasium\ndef make():\n    return gymnasium.make('CartPole-v1')\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv')\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = {
        "live_robot:make": "CartPoleEnv",
        "live_robot:Mine-v0": "PendulumEnv",
        "gymnasium.envs.classic_control:AcrobotEnv": "AcrobotEnv",
        "metarl/PointNavigation-v0": "TaskGymEnv",
    }
    for name, kind in made.items():
        assert type(make_live_env(name).unwrapped).__name__ == kind
    for name, message in {
        "live_robot:number": "must be a gymnasium.Env or a function that makes one, got 3",
        "live_robot:missing": "module 'live_robot' neither has nor registers 'missing'",
        "no_such_module:make": "ModuleNotFoundError",
        "Nope-v0": "Nope",
    }.items():
        with pytest.raises(ValueError, match=message):
            make_live_env(name)
