"""What no policy here can learn from is refused before the first step, with environment, task, key and spaces."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, OneOf, Sequence, Space, Text, Tuple
from gymnasium.spaces.utils import flatten
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, RescaleAction, TimeLimit

from metarl.agents.policies.reference import RandomPolicy
from metarl.envs.external.env_check import close_or_warn, read_step, require_no_running_statistics, same_layout
from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.external.worker_pool import EnvironmentFailedError
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_space import Integers, Uniform

UNIT = Box(-1, 1, (1,), np.float32)


class Stub(gymnasium.Env[Any, Any]):
    """Gives a fixed observation, and keeps the actions it is given."""

    actions: list[Any] = []  # noqa: RUF012

    def __init__(self, observed: Space[Any] = UNIT, acts: Space[Any] = UNIT, obs: Any = None) -> None:
        self.observation_space, self.action_space = observed, acts
        self.obs = observed.sample() if obs is None else obs

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """The observation."""
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The same again."""
        Stub.actions.append(action)
        return self.obs, 0.0, False, False, {}


def tasks_of(make: Any, **options: Any) -> GymnasiumTasks:
    settings: dict[str, Any] = {"train": {"n": Integers(1, 4)}, "horizon": 2, "make": make, "num_workers": 0}
    return GymnasiumTasks("Stub", **(settings | options))


def roll_out(distribution: GymnasiumTasks, values: list[float], name: str = "n") -> Episodes:
    env = distribution.bind({name: torch.tensor(values)}, 1)
    return collect(env, RandomPolicy(distribution.action_space), {}, torch.Generator().manual_seed(0))


# Spaces of the tasks


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (lambda n: Stub(observed=Box(-9, 9, (n,))), r"Box\(-9.0, 9.0, \(1,\)", r"Box\(-9.0, 9.0, \(3,\)"),
        (lambda n: Stub(observed=Discrete(n + 1)), r"Discrete\(2\)", r"Discrete\(4\)"),
        (lambda n: Stub(observed=Box(0, 1, (4,), [np.float32, np.uint8][n // 2])), "float32", "uint8"),
        (lambda n: Stub(acts=Box(-1, 1, (n,))), r"Box\(-1.0, 1.0, \(1,\)", r"Box\(-1.0, 1.0, \(3,\)"),
        (lambda n: Stub(acts=Box(-n, n, (1,))), r"Box\(-1.0, 1.0", r"Box\(-3.0, 3.0"),
        (lambda n: Stub(acts=Discrete(n)), r"Discrete\(1\)", r"Discrete\(3\)"),
    ],
    ids=["sizes", "kinds", "dtype", "joints", "limits", "choices"],
)
def test_tasks_with_other_spaces_are_refused_with_both(make: Any, first: str, second: str) -> None:
    Stub.actions.clear()
    with pytest.raises(EnvironmentFailedError) as error:
        roll_out(tasks_of(make), [1.0, 3.0])
    message = str(error.value)
    assert re.search(first, message) or re.search(second, message)
    assert "environment Stub failed on the task {'n': " in message
    assert message.count("Box") + message.count("Discrete") == 2
    assert Stub.actions == []


class Motor(Stub):
    """Its actuator has limits that a task sets."""

    def limit(self, limit: float) -> None:
        """Change the bounds of the actions."""
        self.action_space = Box(-limit, limit, (1,), np.float32)


def set_limit(env: gymnasium.Env[Any, Any], task: Mapping[str, Any]) -> None:
    motor: Any = env.unwrapped
    motor.limit(float(task["n"]))


def test_bounds_that_set_task_changes_are_not_kept_from_before() -> None:
    with pytest.raises(EnvironmentFailedError, match=r"task {'n': 2.5}: its actions are .*2.5.*first task Box\(-1.0"):
        roll_out(tasks_of(lambda: Motor(), set_task=set_limit, train={"n": Uniform(1, 8)}), [2.5])


def test_the_ways_out_work_and_bounds_of_observations_may_differ() -> None:
    one_range = tasks_of(lambda n: RescaleAction(Stub(acts=Box(-n, n, (1,))), np.float32(-1), np.float32(1)))
    assert roll_out(one_range, [1.0, 3.0]).env_steps == 4
    rooms = tasks_of(lambda n: Stub(observed=Box(0, n, (2,)), obs=np.ones(2)))
    assert roll_out(rooms, [1.0, 3.0]).env_steps == 4


def test_workers_are_held_to_the_same_spaces_as_this_process() -> None:
    distribution = tasks_of(lambda n: Stub(observed=Box(-9, 9, (n,))), num_workers=1)
    with pytest.raises(EnvironmentFailedError, match="it observes Box"):
        roll_out(distribution, [1.0, 2.0, 3.0])


def test_layouts_are_compared_by_fields() -> None:
    pair = Dict(a=Box(0, 1, (2,)), b=Tuple([Discrete(2), MultiBinary(3)]))
    other_order = Dict([("b", Tuple([Discrete(2), MultiBinary(3)])), ("a", Box(-5, 9, (2,)))])
    assert same_layout(pair, other_order)
    assert not same_layout(pair, Dict(a=Box(0, 1, (2,))))
    assert not same_layout(pair, Dict(a=Box(0, 1, (2,)), b=Tuple([Discrete(2)])))
    assert not same_layout(pair, Dict(a=Box(0, 1, (2,)), b=Tuple([Discrete(2), MultiBinary(4)])))


# What reset and step return


class Returns(Stub):
    """Returns what it was told to."""

    def __init__(self, method: str, returned: Any) -> None:
        super().__init__(obs=np.zeros(1, np.float32))
        self.returned = {method: returned}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """As it was told, or as it must."""
        return self.returned.get("reset", (self.obs, {}))

    def step(self, action: Any) -> Any:
        """As it was told, or as it must."""
        return self.returned.get("step", (self.obs, 0.0, False, False, {}))


OBS = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("method", "returned", "message"),
    [
        ("reset", OBS, r"reset must return \(observation, info\), where info is a dict, got an array of shape \(1,\)"),
        ("reset", (OBS, None), "where info is a dict, got a tuple of 2"),
        ("step", None, "step must return .*, got None"),
        ("step", (OBS, 0.0, False, {}), "terminated, truncated, info.*, got a tuple of 4"),
        ("step", (OBS, np.ones(1), False, False, {}), r"reward must be one number, got an array of shape \(1,\)"),
        ("step", (OBS, None, False, False, {}), "reward must be one number, got None"),
        ("step", (OBS, "9", False, False, {}), "reward must be one number, got '9'"),
        ("step", (OBS, 2j, False, False, {}), "reward must be one number, got 2j"),
        ("step", (OBS, 0.0, None, False, {}), "terminated must be true or false, got None"),
        ("step", (OBS, 0.0, False, np.zeros(2, bool), {}), r"truncated must be true or false, got an array .*\(2,\)"),
        ("step", (OBS, 0.0, False, False, None), "info must be a dict, got None"),
        ("step", (None, 0.0, False, False, {}), "its observation is None, but its space Box"),
        ("step", (np.array([np.nan]), 0.0, False, False, {}), "observation at step 1 is not finite .*: nan at index 0"),
        ("step", (OBS, np.float32(np.inf), False, False, {}), "its reward at step 1 is not a finite .*: inf"),
        ("step", (OBS, -1e39, False, False, {}), r"its reward at step 1 is not a finite float32 number: -1e\+39"),
        ("step", (np.array([1e39]), 0.0, False, False, {}), "observation at step 1 is not finite .*: inf at index 0"),
        ("reset", (np.array([-np.inf]), {}), "observation at the reset is not finite .*: -inf at index 0"),
    ],
)
def test_what_is_returned_in_another_form_is_refused_in_a_line(method: str, returned: Any, message: str) -> None:
    with warnings.catch_warnings(action="error"), pytest.raises(EnvironmentFailedError, match=message) as error:
        roll_out(tasks_of(lambda n: Returns(method, returned)), [2.0])
    assert str(error.value).startswith("environment Stub failed on the task {'n': 2")


@pytest.mark.parametrize("reward", [3, True, np.float32(3), np.array(3.0), torch.tensor(3.0)])
def test_every_single_number_is_a_reward(reward: Any) -> None:
    assert read_step((OBS, reward, np.bool_(True), 0, {}))[1:4] == (float(reward), True, False)


def test_an_environment_that_cannot_be_closed_is_warned_of() -> None:
    class Stuck(Stub):
        def close(self) -> None:
            raise OSError("the port is gone")

    with pytest.warns(
        UserWarning,
        match=r"Stub on the task {'n': .*}: its close\(\) failed and was ignored: OSError: the port is gone",
    ):
        distribution = tasks_of(lambda n: Stuck())
        assert roll_out(distribution, [1.0, 2.0]).env_steps == 4
        distribution.family.pool.close()


def test_a_warning_in_a_worker_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Jammed(Stub):
        def close(self) -> None:
            raise OSError("the port is gone")

    monkeypatch.setattr("metarl.envs.external.env_check.multiprocessing.parent_process", lambda: object())
    for task in ("{'n': 1.0}", "{'n': 2.0}"):
        close_or_warn(Jammed(), "Jammed", task)
    line = "warning: Jammed on the task {'n': 1.0}: its close() failed and was ignored: OSError: the port is gone"
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_observations_without_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Stub: observations Box\(.*\(0,\).* hold no number"):
        tasks_of(lambda n: Stub(observed=Box(-1, 1, (0,))))


# Words and graphs


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Text(8), "observations, a Text, cannot be flattened"),
        (Dict(x=UNIT, mission=Text(8)), "the observation 'mission', a Text, .*leave it out with observe"),
        (Dict(x=UNIT, inner=Dict(a=Tuple([UNIT, Graph(UNIT, None)]))), "the observation 'inner.a.1', a Graph"),
        (Tuple([OneOf([UNIT, Discrete(2)])]), "the observation '0', a OneOf"),
        (Dict(n=Sequence(UNIT)), "the observation 'n', a Sequence"),
    ],
)
def test_what_is_no_vector_is_refused_with_its_key(space: Space[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks_of(lambda n: Stub(observed=space))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_keys_that_are_observed_keep_the_order_of_the_environment(num_workers: int) -> None:
    """Declared as velocity, mission, position: what is observed is not sorted, and the mission is left out."""
    space = Dict(velocity=UNIT, mission=Text(8), position=Box(-1, 1, (2,)))
    obs = {"position": np.array([0.1, 0.2], np.float32), "velocity": np.array([0.9], np.float32), "mission": "go"}
    distribution = tasks_of(
        lambda n: Stub(observed=space, obs=obs), observe=["position", "velocity"], num_workers=num_workers
    )
    assert distribution.observation_space.shape == (3,)
    seen = roll_out(distribution, [1.0]).obs[0, 0, 0]
    distribution.family.pool.close()
    expected = flatten(Dict([("velocity", UNIT), ("position", Box(-1, 1, (2,)))]), obs)
    assert seen.tolist() == pytest.approx(list(expected))
    assert seen.tolist() == pytest.approx([0.9, 0.1, 0.2])


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"observe names \['speed'\], but the keys are \['x'\]"):
        tasks_of(lambda n: Stub(observed=Dict(x=UNIT)), observe=["speed"])


def test_a_run_goes_on_with_its_own_order() -> None:
    """The environment was changed after training, and declares its fields the other way round."""
    obs = {"b": np.array([2], np.float32), "a": np.array([1], np.float32)}
    trained_on = Dict([("b", Box(-9, 9, (1,))), ("a", Box(-9, 9, (1,)))])
    distribution = tasks_of(lambda n: Stub(observed=Dict(a=Box(-9, 9, (1,)), b=Box(-9, 9, (1,))), obs=obs))
    assert roll_out(distribution, [1.0]).obs[0, 0, 0].tolist() == [1, 2]
    distribution.family.keep_observations(trained_on)
    assert roll_out(distribution, [1.0]).obs[0, 0, 0].tolist() == [2, 1]
    with pytest.raises(ValueError, match="but the run was trained on"):
        distribution.family.keep_observations(Dict(a=Box(-9, 9, (2,))))


# Running statistics


def test_a_wrapper_that_normalises_observations_by_what_it_has_seen_is_refused_anywhere_in_the_stack() -> None:
    with pytest.raises(ValueError, match="NormalizeObservation normalises observations by running statistics") as error:
        tasks_of(lambda n: TimeLimit(NormalizeObservation(Stub()), 5))
    assert "\n" not in str(error.value)


class Statistics:
    """A copy of what many projects call RunningMeanStd."""

    def __init__(self) -> None:
        self.mean, self.var, self.count = np.zeros(1), np.ones(1), 0.0


class Copied(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A normaliser that is no NormalizeObservation."""

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self.update_running_mean = True
        setattr(self, name, Statistics())


class Holder:
    """A plain object that holds something."""

    def __init__(self, held: Any) -> None:
        self.held = held


class Holding(Stub):
    """An environment that holds something and is no wrapper."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TimeLimit(Copied(Stub(), "obs_rms"), 5), "Copied.obs_rms"),
        (lambda: Holding(Copied(Stub(), "filter")), "Copied.filter"),
        (lambda: Holding(Holder(NormalizeObservation(Stub()))), "NormalizeObservation"),
        (lambda: Holding([Holder(0), Holder(Statistics())][1]), "Holding.held.held"),
    ],
)
def test_running_statistics_are_known_by_what_they_are(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"Stub: {named} normalises observations by running statistics"):
        require_no_running_statistics(make(), "Stub")


@pytest.mark.parametrize("held", [np.zeros(3), torch.zeros(3), [np.ones(2)], {"mean": 1, "var": 1, "count": 1}, None])
def test_arrays_and_numbers_are_no_running_statistics(held: Any) -> None:
    require_no_running_statistics(Holding(held), "Stub")


def test_a_copy_passes_where_it_is_frozen_and_is_warned_of_for_rewards() -> None:
    frozen = Copied(Stub(), "obs_rms")
    frozen.update_running_mean = False
    require_no_running_statistics(frozen, "Stub")
    with pytest.warns(UserWarning, match="one more Stub: Copied divides rewards by a running statistic"):
        require_no_running_statistics(Copied(Stub(), "return_rms"), "one more Stub")


def test_it_passes_where_it_is_allowed_and_where_it_is_frozen() -> None:
    def frozen(n: int) -> gymnasium.Env[Any, Any]:
        wrapped = NormalizeObservation(Stub())
        wrapped.update_running_mean = False
        return wrapped

    assert roll_out(tasks_of(frozen), [1.0]).env_steps == 2
    allowed = tasks_of(lambda n: NormalizeObservation(Stub()), allow_running_statistics=True)
    assert roll_out(allowed, [1.0]).env_steps == 2


def test_normalised_rewards_are_warned_of_once() -> None:
    env = NormalizeReward(Stub())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        require_no_running_statistics(env, "Stub")
        require_no_running_statistics(env, "Stub")
    (warning,) = caught
    assert str(warning.message).startswith("Stub: NormalizeReward divides rewards by a running statistic")
