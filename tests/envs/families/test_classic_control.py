"""Classic control beside Gymnasium's own environments, step by step over whole episodes."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor
from torch.nn import functional

from metarl.agents.policies.reference import OraclePolicy
from metarl.envs.families import classic_control
from metarl.envs.families.classic_control import (
    Acrobot,
    CartPole,
    MirroredCartPole,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
    TargetPendulum,
)
from metarl.envs.rollout import collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task

Attributes = dict[str, float]
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Twin:
    """One of ours and Gymnasium's, how a task is written into the latter, and a task that is not the default.

    Attributes:
        env: ours.
        env_id: Gymnasium's, with its time limit.
        attributes: task → attributes of Gymnasium's class, constants that it derives included.
        other: values that differ from the default.
    """

    env: TaskEnv
    env_id: str
    attributes: Callable[[Attributes], Attributes]
    other: Attributes


def cart_pole_attributes(task: Attributes) -> Attributes:
    return {
        "gravity": task["gravity"],
        "masscart": task["cart_mass"],
        "masspole": task["pole_mass"],
        "total_mass": task["cart_mass"] + task["pole_mass"],
        "length": task["pole_length"],
        "polemass_length": task["pole_mass"] * task["pole_length"],
        "force_mag": task["force"],
    }


def pendulum_attributes(task: Attributes) -> Attributes:
    return {"g": task["gravity"], "m": task["mass"], "l": task["length"], "max_torque": task["torque_limit"]}


def acrobot_attributes(task: Attributes) -> Attributes:
    """Gymnasium has one moment of inertia for both links: the masses must be equal, and the lengths 1."""
    return {"LINK_MASS_1": task["mass_1"], "LINK_MASS_2": task["mass_2"], "LINK_MOI": task["mass_1"]}


TWINS = {
    "cart-pole": Twin(
        CartPole(),
        "CartPole-v1",
        cart_pole_attributes,
        {"gravity": 6.0, "cart_mass": 1.7, "pole_mass": 0.3, "pole_length": 0.8, "force": 14.0},
    ),
    "pendulum": Twin(
        Pendulum(),
        "Pendulum-v1",
        pendulum_attributes,
        {"gravity": 8.0, "mass": 1.5, "length": 1.3, "torque_limit": 4.0},
    ),
    "mountain-car": Twin(
        MountainCar(),
        "MountainCar-v0",
        lambda task: task,
        {"force": 0.0015, "gravity": 0.0021, "goal_position": 0.4},
    ),
    "mountain-car-continuous": Twin(
        MountainCarContinuous(),
        "MountainCarContinuous-v0",
        lambda task: {name: task[name] for name in ("power", "goal_position")},  # its gravity is written into its code
        {"power": 0.0022, "goal_position": 0.35},
    ),
    "acrobot": Twin(
        Acrobot(),
        "Acrobot-v1",
        acrobot_attributes,
        {"mass_1": 1.3, "mass_2": 1.3},
    ),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def theirs(action: Tensor, twin: Twin, task: Task) -> Any:
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
    return torch.tensor(random.uniform(-1, 1, 1) if isinstance(space, Box) else random.integers(space.n))


@pytest.mark.parametrize("skilled", [False, True], ids=["random", "skilled"])
@pytest.mark.parametrize("default", [True, False], ids=["default", "other"])
@pytest.mark.parametrize("name", TWINS)
def test_whole_episodes_equal_gymnasiums(name: str, default: bool, skilled: bool) -> None:
    """Every transition from Gymnasium's own state, and whole episodes on their own from the first state to the end.

    Held near an unstable equilibrium, where the last bit of a cosine has grown to 1e-5 within 150 steps or more, ours
    takes over Gymnasium's state every 100 steps.
    """
    twin = TWINS[name]
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
            obs, reward, terminated, truncated, _ = gym.step(theirs(action, twin, task))
            next_state = twin.env.transition(state, action, rng(), task)
            running = twin.env.transition(running, action, rng(), task)
            paid = twin.env.reward(state, action, next_state, rng(), task)
            state = torch.tensor(np.array(state_of(gym)))
            assert next_state.tolist() == pytest.approx(state.tolist(), abs=2e-7)  # some are kept in float32
            assert float(paid) == pytest.approx(float(reward), abs=1e-7)
            assert bool(twin.env.terminal(next_state, rng(), task)) == terminated
            assert twin.env.observation(running, rng(), task).tolist() == pytest.approx(obs.tolist(), abs=TOLERANCE)
            if terminated or truncated:
                ends.add("terminated" if terminated else "truncated")
                break
    if skilled:
        assert ends & {"cart-pole": {"truncated"}, "pendulum": {"truncated"}}.get(name, {"terminated"})


@pytest.mark.parametrize("name", TWINS)
def test_single_precision_keeps_the_tolerance_in_each_step(name: str) -> None:
    """From many states of the observation space, so that walls, limits and wraps are met."""
    twin = TWINS[name]
    task = task_of(twin, default=True)
    single = {parameter: value.float() for parameter, value in task.items()}
    generator = np.random.default_rng(0)
    bounds = {"cart-pole": [2.4, 3, 0.2, 3], "pendulum": [math.pi, 8], "acrobot": [3, 3, 5, 5]}
    high = np.array(bounds.get(name, [0.6, 0.07]))
    states = torch.from_numpy(generator.uniform(-high, high, (500, len(high))))
    for state in states:
        action = action_of(twin, task, torch.zeros(()), generator, skilled=False)
        exact = twin.env.transition(state, action, rng(), task)
        near = twin.env.transition(state.float(), action.float() if action.ndim else action, rng(), single)
        a, b = twin.env.observation(exact, rng(), task), twin.env.observation(near, rng(), single)
        assert near.dtype == torch.float32
        assert b.tolist() == pytest.approx(a.tolist(), abs=TOLERANCE, rel=TOLERANCE)


@pytest.mark.parametrize("name", TWINS)
def test_episodes_start_as_gymnasiums_do(name: str) -> None:
    """Bounds and mean of each coordinate of the first state."""
    twin = TWINS[name]
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


@pytest.mark.parametrize("action", [0, 1, 2])
def test_an_acrobot_of_other_lengths_moves_as_gymnasiums(action: int) -> None:
    """Masses by which both links have the one moment of inertia that Gymnasium's have: 0.9 · 1.2² = 1.6 · 0.9²."""
    values = {"mass_1": 0.9, "mass_2": 1.6, "length_1": 1.2, "length_2": 0.9, "target_height": 1.0}
    task = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    gym = gymnasium.make("Acrobot-v1").unwrapped
    links = {"LINK_LENGTH_1": 1.2, "LINK_LENGTH_2": 0.9, "LINK_COM_POS_1": 0.6, "LINK_COM_POS_2": 0.45}
    for name, value in {**links, "LINK_MASS_1": 0.9, "LINK_MASS_2": 1.6, "LINK_MOI": 1.296}.items():
        assert hasattr(gym, name)
        setattr(gym, name, value)
    for state in np.random.default_rng(0).uniform(-1, 1, (100, 4)) * [3, 3, 4, 4]:
        gym.state = state  # type: ignore[attr-defined]
        gym.step(action)
        next_state = Acrobot().transition(torch.tensor(state), torch.tensor(action), rng(), task)
        assert next_state.tolist() == pytest.approx(list(gym.state), abs=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("angles", "height"),
    [((0.0, 0.0), -2.0), ((math.pi, 0.0), 2.0), ((math.pi, math.pi), 0.4), ((math.pi / 2, math.pi / 2), 0.8)],
)
def test_an_acrobot_arrives_where_its_end_is_above_the_target(angles: tuple[float, float], height: float) -> None:
    """Links of 1.2 m and 0.8 m, the height worked out by hand."""
    for target, arrived in ((height - 0.01, True), (height + 0.01, False)):
        values = {"mass_1": 1.0, "mass_2": 1.0, "length_1": 1.2, "length_2": 0.8, "target_height": target}
        task = {name: torch.tensor(value) for name, value in values.items()}
        state = torch.tensor([*angles, 0.0, 0.0])
        assert bool(Acrobot().terminal(state, rng(), task)) == arrived
        assert float(Acrobot().reward(state, torch.tensor(1), state, rng(), task)) == arrived - 1


def test_acrobots_with_other_links_keep_their_energy_without_torque() -> None:
    """Independent of the equations of motion: T + V, with Iᵢ = mᵢlᵢ² about the centre of each link."""
    env = Acrobot()
    env.STEP = 0.005
    tasks = {name: value.double() for name, value in classic_control.acrobot().sample(20, "ood").items()}
    state = env.initial(rng(), tasks) * 10

    def energy(state: Tensor) -> Tensor:
        angle_1, angle_2, speed_1, speed_2 = state.unbind(-1)
        m1, m2, l1, l2 = (tasks[name] for name in ("mass_1", "mass_2", "length_1", "length_2"))
        total = speed_1 + speed_2  # of the second link in the plane
        speed_of_centre = (
            (l1 * speed_1).square() + (l2 / 2 * total).square() + l1 * l2 * speed_1 * total * torch.cos(angle_2)
        )
        kinetic = 0.5 * (m1 * (l1 / 2 * speed_1).square() + m1 * l1**2 * speed_1.square())
        kinetic = kinetic + 0.5 * (m2 * speed_of_centre + m2 * l2**2 * total.square())
        heights = -l1 / 2 * torch.cos(angle_1), -l1 * torch.cos(angle_1) - l2 / 2 * torch.cos(angle_1 + angle_2)
        return kinetic + env.GRAVITY * (m1 * heights[0] + m2 * heights[1])

    before = energy(state)
    for _ in range(200):
        state = env.transition(state, torch.ones(20, dtype=torch.int64), rng(), tasks)
    assert state[:, 2:].abs().max() > 0.5
    torch.testing.assert_close(energy(state), before, rtol=0, atol=1e-6)


def test_a_mirrored_actuator_pushes_the_other_way() -> None:
    env = MirroredCartPole()
    params = env.get_default_params()
    state = torch.tensor([0.0, 0.1, 0.02, -0.1])
    turned = {**params, "direction": torch.tensor(-1.0)}
    for action in (0, 1):
        expected = CartPole().transition(state, torch.tensor(action), rng(), params)
        assert torch.equal(env.transition(state, torch.tensor(action), rng(), params), expected)
        assert torch.equal(env.transition(state, torch.tensor(1 - action), rng(), turned), expected)


@pytest.mark.parametrize(("angle", "target", "error"), [(0.5, 0.5, 0.0), (3.0, -1.0, 4.0 - 2 * math.pi), (0, 1, -1)])
def test_the_pendulum_is_paid_by_the_angle_to_its_target(angle: float, target: float, error: float) -> None:
    env = TargetPendulum()
    params = {**env.get_default_params(), "target_angle": torch.tensor(target)}
    state = torch.tensor([angle, 0.0])
    assert float(env.reward(state, torch.zeros(1), state, rng(), params)) == pytest.approx(-(error**2), abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 3.0, -7.0])
def test_actions_beyond_the_bounds_act_as_the_bounds(share: float) -> None:
    clipped = torch.tensor([min(max(share, -1.0), 1.0)])
    for env in (Pendulum(), MountainCarContinuous()):
        params = env.get_default_params()
        state = torch.tensor([0.1, 0.01])
        for function in (env.transition, lambda s, a, g, p, env=env: env.reward(s, a, s, g, p)):
            assert torch.equal(
                function(state, torch.tensor([share]), rng(), params), function(state, clipped, rng(), params)
            )


class GridPlanner:
    """Value iteration on a grid over two state coordinates, back from the horizon: nearly the best there is.

    Args:
        env: its state has two coordinates.
        task: unbatched.
        centre, half_width: of the grid, (2,).
        wraps: whether the first coordinate is an angle.
    """

    def __init__(self, env: TaskEnv, task: Task, centre: Tensor, half_width: Tensor, wraps: bool) -> None:
        self.env, self.task, self.centre, self.half_width, self.wraps = env, task, centre, half_width, wraps
        space = env.action_space
        self.actions = torch.linspace(-1, 1, 9).unsqueeze(-1) if isinstance(space, Box) else torch.arange(int(space.n))
        across = torch.linspace(-1, 1, 101)
        grid = torch.stack(torch.meshgrid(across, across, indexing="xy"), dim=-1)
        outcomes = self.outcomes((centre + half_width * grid).reshape(-1, 2))
        self.values = [torch.zeros(101, 101)]  # with 0, 1, … steps to go
        for _ in range(env.horizon):
            self.values.append(self.worth(outcomes, self.values[-1]).amax(dim=0).reshape(101, 101))

    def outcomes(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Place in the grid after each action in states (N, 2), and its reward and end, leaves (actions, N, …)."""
        batch = (len(self.actions), len(state))
        action = self.actions.unsqueeze(1).expand(*batch, *self.actions.shape[1:])
        params = {name: value.expand(batch) for name, value in self.task.items()}
        state = state.expand(*batch, 2)
        next_state = self.env.transition(state, action, rng(), params)
        place = (next_state - self.centre) / self.half_width
        if self.wraps:
            place[..., 0] = torch.remainder(place[..., 0] + 1, 2) - 1
        reward = self.env.reward(state, action, next_state, rng(), params)
        return place, reward, self.env.terminal(next_state, rng(), params).expand(batch)

    def worth(self, outcomes: tuple[Tensor, Tensor, Tensor], values: Tensor) -> Tensor:
        """Reward and value of what follows, (actions, N)."""
        place, reward, over = outcomes
        after = functional.grid_sample(values[None, None], place[None], align_corners=True)[0, 0]
        return reward + after.masked_fill(over, 0)

    def act(self, state: Tensor, time: int) -> Tensor:
        """The best actions for states (N, 2)."""
        return self.actions[self.worth(self.outcomes(state), self.values[self.env.horizon - 1 - time]).argmax(dim=0)]


def mean_return(env: TaskEnv, task: Task, act: Callable[[Tensor, int], Tensor]) -> float:
    """Of 100 episodes whose actions see states (100, 2)."""
    params = {name: value.expand(100) for name, value in task.items()}
    state, total, alive = env.initial(rng(), params), torch.zeros(100), torch.ones(100, dtype=torch.bool)
    for time in range(env.horizon):
        action = act(state, time)
        next_state = env.transition(state, action, rng(), params)
        total += alive * env.reward(state, action, next_state, rng(), params)
        alive = alive & ~env.terminal(next_state, rng(), params)
        state = next_state
    return float(total.mean())


def returns_of_random_oracle_and_planner(env: TaskEnv, task: Task, planner: GridPlanner) -> list[float]:
    params = {name: value.expand(100) for name, value in task.items()}
    generator = rng(1)

    def guess(state: Tensor, time: int) -> Tensor:
        return planner.actions[torch.randint(len(planner.actions), (100,), generator=generator)]

    def know(state: Tensor, time: int) -> Tensor:
        return env.oracle_action(env.observation(state, rng(), params), params, time)

    return [mean_return(env, task, act) for act in (guess, know, planner.act)]


@pytest.mark.parametrize(
    ("make", "centre", "half_width"),
    [
        (classic_control.pendulum, (0.0, 0.0), (math.pi, 8.0)),
        (classic_control.mountain_car, (-0.3, 0.0), (0.9, 0.07)),
        (classic_control.mountain_car_continuous, (-0.3, 0.0), (0.9, 0.07)),
    ],
)
def test_the_oracles_come_near_to_planning(
    make: Callable[[], TaskDistribution], centre: tuple[float, float], half_width: tuple[float, float]
) -> None:
    """Three quarters of what planning on a grid gains over acting at random, or more, over a few tasks."""
    distribution = make()
    env, tasks = distribution.env, distribution.sample(3, "test")
    assert isinstance(env, TaskEnv)
    returns = []
    for index in range(3):
        task = {name: value[index] for name, value in tasks.items()}
        planner = GridPlanner(
            env, task, torch.tensor(centre), torch.tensor(half_width), wraps=isinstance(env, Pendulum)
        )
        returns.append(returns_of_random_oracle_and_planner(env, task, planner))
    random, oracle, planned = torch.tensor(returns).mean(dim=0).tolist()
    assert planned > random
    assert oracle - random > 0.75 * (planned - random)


@pytest.mark.parametrize(
    ("make", "mean", "worst"),
    [
        (classic_control.cart_pole, 199.0, 190.0),
        (classic_control.cart_pole_mirrored, 199.0, 190.0),
        (classic_control.pendulum, -90.0, -500.0),
        (classic_control.pendulum_dynamics, -80.0, -300.0),
        (classic_control.mountain_car, -105.0, -185.0),
        (classic_control.mountain_car_continuous, 90.0, 80.0),
        (classic_control.acrobot, -95.0, -160.0),
    ],
)
def test_the_oracles_solve_the_held_out_tasks(make: Callable[[], TaskDistribution], mean: float, worst: float) -> None:
    """Random actions get 22, −1200, −1230, −200, −10 and −200; the worst is over tasks."""
    distribution = make()
    tasks = distribution.sample(100, "test")
    returns = collect(distribution.bind(tasks, 4), OraclePolicy(distribution.env), tasks, rng()).returns
    assert float(returns.mean()) > mean
    assert float(returns.mean(dim=1).min()) > worst
