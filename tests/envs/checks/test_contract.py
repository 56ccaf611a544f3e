"""What a TaskEnv's methods must return: each fault is named with its method and both shapes."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor

from metarl.envs.checks.contract import ContractError, check_single, check_spaces, check_task_env
from metarl.envs.families.navigation import PointNavigation
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import State, TaskEnv
from metarl.envs.task_space import Uniform
from tests.helpers.corridor import Corridor
from tests.helpers.follow import Follow

M, E = 5, 4


def complaint(env: TaskEnv) -> str:
    """What is wrong with an environment for M tasks × E episodes."""
    distribution = TaskDistribution(env, {name: Uniform(1.0, 5.0) for name in ("exit", "noise")})
    with pytest.raises(ContractError) as caught:
        check_task_env(env, distribution.sample(M, "validation"), E)
    return str(caught.value)


def corridor_with(**methods: Callable[..., Any]) -> TaskEnv:
    """A corridor of which some methods are replaced."""
    walk: TaskEnv = type("Walk", (Corridor,), methods)()
    return walk


def returning(change: Callable[[Any], Any], method: str) -> TaskEnv:
    """A corridor of which one method's result is changed."""
    original = getattr(Corridor, method)
    return corridor_with(**{method: lambda self, *arguments: change(original(self, *arguments))})


@pytest.mark.parametrize(
    ("method", "change", "expected"),
    [
        ("reward", lambda r: r.unsqueeze(-1), "reward must return (M, E) = (5, 4), got (5, 4, 1); take the last"),
        ("reward", lambda r: r.mean(), "reward must return (M, E) = (5, 4), got ()"),
        ("reward", lambda r: r.T, "reward must return (M, E) = (5, 4), got (4, 5)"),
        ("reward", lambda r: r.long(), "reward must return torch.float32, got torch.int64"),
        ("reward", lambda r: r.double(), "reward must return torch.float32, got torch.float64"),
        ("reward", lambda r: 1.0, "reward must return a tensor (M, E) = (5, 4), got float 1.0"),
        ("reward", lambda r: r.numpy(), "reward must return a tensor (M, E) = (5, 4), got a numpy array (5, 4)"),
        ("terminal", lambda t: t.float(), "terminal must return torch.bool, got torch.float32"),
        ("terminal", lambda t: t.unsqueeze(-1), "terminal must return (M, E) = (5, 4), got (5, 4, 1)"),
        ("terminal", lambda t: t[0], "terminal must return (M, E) = (5, 4), got (4,)"),
        ("observation", lambda o: o[..., :1], "observation must return (M, E, O) = (5, 4, 2), got (5, 4, 1)"),
        ("observation", lambda o: o[0, 0], "observation must return (M, E, O) = (5, 4, 2), got (2,)"),
        ("observation", lambda o: {"x": o}, "observation must return a tensor (M, E, O) = (5, 4, 2), got a dict"),
        ("observation", lambda o: o.double(), "observation must return torch.float32, got torch.float64"),
        ("initial", lambda s: {"x": s["x"][0]}, "a state whose 'x' is (M, E, …) = (5, 4, …), got (4,)"),
        ("initial", lambda s: [s], "initial must return a state (M, E, …) = (5, 4, …), got list"),
        ("transition", lambda s: {"x": s["x"]}, "a state like that of initial, a dict of ['n', 'x']"),
        ("transition", lambda s: s | {"n": s["n"].mean(1)}, "whose 'n' is (M, E, …) = (5, 4, …), got (5,)"),
        ("transition", lambda s: s | {"n": s["n"][..., None]}, "keep the shape of 'n' that initial gives: (5, 4), got"),
        ("transition", lambda s: s | {"n": s["n"].int()}, "keep the dtype of 'n' that initial gives: torch.float32"),
        ("step", lambda r: r[:3], "step must return (next state, observation, reward, terminated), got tuple"),
        ("step", lambda r: (*r[:2], r[2][0], r[3]), "step must return (M, E) = (5, 4), got (4,)"),
    ],
)  # fmt: skip
def test_a_wrong_result_is_named(method: str, change: Callable[[Any], Any], expected: str) -> None:
    text = complaint(returning(change, method))
    assert text.startswith("Walk.")
    assert expected in text


def test_an_exception_is_named_with_its_place() -> None:
    def reward(self: TaskEnv, state: State, action: Tensor, next_state: State, rng: Any, params: Any) -> Tensor:
        x: Tensor = state["x"]
        return torch.sub(x, params["mass"])

    text = complaint(corridor_with(reward=reward))
    assert text.startswith("Walk.reward failed for (M, E) = (5, 4): KeyError: 'mass' (test_contract.py:")


def test_a_missing_method_is_named() -> None:
    def initial(self: TaskEnv, rng: Any, params: Any) -> Tensor:
        return torch.zeros(*params["exit"].shape, 2)

    methods = {"initial": initial, "observation_space": Corridor.observation_space}
    env = type("Empty", (TaskEnv,), methods | {"action_space": Corridor.action_space, "horizon": 3})()
    assert complaint(env) == "Empty does not define transition()"


@pytest.mark.parametrize("part", ["state", "action"])
def test_writing_into_an_argument_is_named(part: str) -> None:
    def transition(self: TaskEnv, state: State, action: Tensor, rng: Any, params: Any) -> State:
        target = state["x"] if part == "state" else action
        target[:] = 0
        return state

    text = complaint(corridor_with(transition=transition))
    assert text.startswith("Walk.transition writes into its arguments")
    assert part in text


@pytest.mark.parametrize("horizon", [0, -1, 2.5, "x", True, None])
def test_a_horizon_that_is_no_length_is_refused(horizon: Any) -> None:
    env = Corridor()
    env.horizon = horizon
    with pytest.raises(ContractError, match=r"Corridor\.horizon must be a whole number of at least 1, got"):
        check_spaces(env)


def test_a_dict_observation_space_is_refused() -> None:
    env = Corridor()
    env.observation_space = gymnasium.spaces.Dict(x=Corridor.observation_space)  # type: ignore[assignment]
    with pytest.raises(ContractError, match=r"observation_space must be a Box .* torch\.cat"):
        check_spaces(env)


def test_good_environments_pass_also_with_a_numpy_horizon() -> None:
    env = Corridor()
    env.horizon = np.int64(3)  # type: ignore[assignment]
    ranges = {"exit": Uniform(1.0, 5.0), "noise": Uniform(0.0, 0.5)}
    tasks = TaskDistribution(env, ranges).sample(M, "validation")
    check_task_env(env, tasks, E)
    check_single(env, tasks)


def test_what_counts_dimensions_from_the_front_fails_alone() -> None:
    class FromTheFront(PointNavigation):
        """Its reward holds for batches (M, E) only."""

        def reward(self, state: Any, action: Any, next_state: Any, rng: Any, params: Any) -> Tensor:
            """See TaskEnv.reward."""
            return torch.neg(next_state[:, :, 0])

    env = FromTheFront()
    tasks = TaskDistribution(env, {"goal": Uniform(-1.0, 1.0, shape=(2,))}).sample(M, "validation")
    check_task_env(env, tasks, E)
    with pytest.raises(ContractError, match=r"FromTheFront.reward failed for \(\) = \(\): IndexError"):
        check_single(env, tasks)


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("space", "lowest", "highest", "dtype"),
    [
        (Box(-np.inf, np.inf, (1,)), -1, 1, torch.float32),
        (Box(-LARGEST, LARGEST, (1,)), -1, 1, torch.float32),
        (Box(3.0, LARGEST, (1,)), 3, 5, torch.float32),
        (Box(-3.0, 12.0, (1,)), -3, 12, torch.float32),
        (Box(0, 2**31 - 1, (1,), np.int32), 0, 2, torch.int32),
        (Box(0, 2**40, (1,), np.int64), 0, 2, torch.int64),
        (Discrete(3, start=5), 5, 7, torch.int64),
        (MultiDiscrete([2, 4], start=[0, -1]), -1, 2, torch.int64),
    ],
)
def test_only_actions_that_a_policy_plays_are_tried(
    space: Space[Any], lowest: float, highest: float, dtype: torch.dtype
) -> None:
    """What an environment makes of 1e38 or of 2**31 − 2, which no policy plays, is not its fault."""
    env = Follow(space)
    tried = []

    def transition(state: State, action: Tensor, rng: Any, params: Any) -> State:
        tried.append(action)
        return Follow.transition(env, state, action, rng, params)

    env.transition = transition  # type: ignore[method-assign]
    tasks = TaskDistribution(env, {"target": Uniform(0.0, 1.0)}).sample(M, "validation")
    check_task_env(env, tasks, 40)
    check_single(env, tasks)

    many, one = tried
    shape = space.shape or ()
    assert (tuple(many.shape), tuple(one.shape)) == ((M, 40, *shape), shape)
    assert many.dtype is one.dtype is dtype
    assert many.min() >= lowest and many.max() <= highest
    assert many.min() < lowest + 0.1 * (highest - lowest) and many.max() > highest - 0.1 * (highest - lowest)
