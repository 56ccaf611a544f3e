"""A family of ours beside Gymnasium's own environment, step by step over whole episodes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task
from tests.helpers.family_play import rng

Attributes = dict[str, float]
TOLERANCE = 1e-5

whole_episodes = pytest.mark.parametrize(
    ("default", "skilled"),
    [
        pytest.param(True, False, id="default-random"),
        pytest.param(False, True, id="other-skilled"),
        pytest.param(True, True, id="default-skilled", marks=pytest.mark.slow),
        pytest.param(False, False, id="other-random", marks=pytest.mark.slow),
    ],
)
"""Both tasks and both ways to act, each once; crossed when asked for."""


@dataclass(frozen=True)
class Twin:
    """One of ours and Gymnasium's, how a task is written into the latter, and a task that is not the default.

    Attributes:
        env: ours.
        env_id: Gymnasium's, with its time limit.
        attributes: task → attributes of Gymnasium's class, constants that it derives included.
        other: values that differ from the default.
        state_bounds: the test of single precision takes states within ± these.
        skilled_end: how episodes of the oracle end in Gymnasium: "terminated" or "truncated".
    """

    env: TaskEnv
    env_id: str
    attributes: Callable[[Attributes], Attributes]
    other: Attributes
    state_bounds: tuple[float, ...]
    skilled_end: str = "terminated"


def assert_whole_episodes_equal(twin: Twin, default: bool, skilled: bool) -> None:
    """Every transition from Gymnasium's own state, and whole episodes on their own from the first state to the end.

    Held near an unstable equilibrium, where the last bit of a cosine has grown to 1e-5 within 150 steps or more, ours
    takes over Gymnasium's state every 100 steps.
    """
    task = task_of(twin, default)
    gym = gymnasium_twin(twin, task)
    ends = set()
    for seed in range(4):
        random = np.random.default_rng(seed)
        obs, _ = gym.reset(seed=seed)
        state = running = torch.tensor(np.array(state_of(gym)))
        for time in itertools.count():
            if skilled and time % 100 == 0:
                running = state

            action = action_of(twin, task, torch.from_numpy(obs).double(), random, skilled)
            obs, expected_reward, terminated, truncated, _ = gym.step(gymnasium_action(action, twin, task))
            next_state = twin.env.transition(state, action, rng(), task)
            running = twin.env.transition(running, action, rng(), task)
            reward = twin.env.reward(state, action, next_state, rng(), task)
            state = torch.tensor(np.array(state_of(gym)))

            assert next_state.tolist() == pytest.approx(state.tolist(), abs=2e-7)  # some are kept in float32
            assert float(reward) == pytest.approx(float(expected_reward), abs=1e-7)
            assert bool(twin.env.terminal(next_state, rng(), task)) == terminated
            assert twin.env.observation(running, rng(), task).tolist() == pytest.approx(obs.tolist(), abs=TOLERANCE)

            if terminated or truncated:
                ends.add("terminated" if terminated else "truncated")
                break

    if skilled:
        assert twin.skilled_end in ends


def assert_single_precision_keeps_the_tolerance(twin: Twin) -> None:
    """From many states of the observation space, so that walls, limits and wraps are met."""
    task = task_of(twin, default=True)
    single = {parameter: value.float() for parameter, value in task.items()}
    generator = np.random.default_rng(0)
    high = np.array(twin.state_bounds)
    states = torch.from_numpy(generator.uniform(-high, high, (500, len(high))))
    for state in states:
        action = action_of(twin, task, torch.zeros(()), generator, skilled=False)
        single_action = action.float() if action.ndim else action
        exact = twin.env.transition(state, action, rng(), task)
        near = twin.env.transition(state.float(), single_action, rng(), single)
        a = twin.env.observation(exact, rng(), task)
        b = twin.env.observation(near, rng(), single)
        assert near.dtype == torch.float32
        assert b.tolist() == pytest.approx(a.tolist(), abs=TOLERANCE, rel=TOLERANCE)


def assert_episodes_start_alike(twin: Twin) -> None:
    """Bounds and mean of each coordinate of the first state."""
    count = 2000
    task = {parameter: value.expand(count) for parameter, value in task_of(twin, default=True).items()}
    ours = twin.env.initial(rng(), task).numpy()

    gym = gymnasium.make(twin.env_id)
    starts = []
    for seed in range(count // 4):
        gym.reset(seed=seed)
        starts.append(np.array(state_of(gym)))

    expected = np.array(starts)
    spread = np.ptp(expected, axis=0)
    assert (np.abs(ours.min(axis=0) - expected.min(axis=0)) <= 0.05 * spread).all()
    assert (np.abs(ours.max(axis=0) - expected.max(axis=0)) <= 0.05 * spread).all()
    assert (np.abs(ours.mean(axis=0) - expected.mean(axis=0)) <= 0.1 * spread).all()


def task_of(twin: Twin, default: bool, dtype: torch.dtype = torch.float64) -> Task:
    """Decimals in full precision: float32 parameters of a float64 rollout would differ in the eighth digit."""
    params = twin.env.get_default_params()
    assert params is not None
    values = {name: round(float(value), 6) for name, value in params.items()} | ({} if default else twin.other)
    return {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}


def gymnasium_twin(twin: Twin, task: Task) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make(twin.env_id)
    for name, value in twin.attributes({name: float(value) for name, value in task.items()}).items():
        assert hasattr(env.unwrapped, name)
        setattr(env.unwrapped, name, value)
    return env


def state_of(env: gymnasium.Env[Any, Any]) -> Any:
    return env.unwrapped.state  # type: ignore[attr-defined]


def gymnasium_action(action: Tensor, twin: Twin, task: Task) -> Any:
    """The action in Gymnasium's units."""
    if not isinstance(twin.env.action_space, Box):
        return int(action)
    scale = float(task.get("torque_limit", torch.tensor(1.0)))
    return scale * action.double().numpy()


def action_of(twin: Twin, task: Task, obs: Tensor, random: np.random.Generator, skilled: bool) -> Tensor:
    """At random, or mostly as the oracle does, so that goals are reached and time limits too."""
    space = twin.env.action_space
    if skilled and random.random() < 0.85:
        return twin.env.oracle_action(obs, task, 0)
    assert isinstance(space, Box | Discrete)
    return torch.tensor(random.uniform(-1, 1, 1) if isinstance(space, Box) else random.integers(space.n))
