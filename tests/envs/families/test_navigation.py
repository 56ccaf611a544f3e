"""Point navigation against its equations in plain Python, and rewards worked out by hand."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.families.navigation import PointDynamics, PointNavigation, finn, pearl, pearl_sparse, point_dynamics
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, tasks_to_json

NUM_TASKS, NUM_EPISODES = 5, 3
Point = Sequence[float]
Step = tuple[list[float], float, bool]
FACTORIES: list[Callable[[], TaskDistribution]] = [finn, pearl, pearl_sparse, point_dynamics]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(value: float) -> float:
    return max(-1.0, min(1.0, value))


def distance(position: Point, goal: Point) -> float:
    return math.hypot(position[0] - goal[0], position[1] - goal[1])


def dense(position: Point, goal: Point) -> float:
    return -distance(position, goal)


def sparse(position: Point, goal: Point) -> float:
    return 1 - distance(position, goal) if distance(position, goal) <= 0.2 else 0.0


def replay_point(actions: list[Point], task: dict[str, object], reward: Callable[[Point, Point], float]) -> list[Step]:
    """s' = s + 0.1 clip(a): (observation, reward, within 0.01 of the goal) after each action."""
    goal = task["goal"]
    assert isinstance(goal, list)
    x = y = 0.0
    steps: list[Step] = []
    for ax, ay in actions:
        x, y = x + 0.1 * clip(ax), y + 0.1 * clip(ay)
        near = abs(x - goal[0]) < 0.01 and abs(y - goal[1]) < 0.01
        steps.append(([x, y], reward((x, y), goal), near))
    return steps


def replay_dynamics(actions: list[Point], task: dict[str, object]) -> list[Step]:
    """v' = (1 − drag) v + drag · 0.1 (gain R(rotation) clip(a) + wind), s' = s + v'."""
    goal, wind, gain, rotation, drag = (task[name] for name in ("goal", "wind", "gain", "rotation", "drag"))
    assert isinstance(goal, list) and isinstance(wind, list)
    assert isinstance(gain, float) and isinstance(rotation, float) and isinstance(drag, float)
    x = y = vx = vy = 0.0
    steps: list[Step] = []
    for ax, ay in actions:
        ux = math.cos(rotation) * clip(ax) - math.sin(rotation) * clip(ay)
        uy = math.sin(rotation) * clip(ax) + math.cos(rotation) * clip(ay)
        vx = (1 - drag) * vx + drag * 0.1 * (gain * ux + wind[0])
        vy = (1 - drag) * vy + drag * 0.1 * (gain * uy + wind[1])
        x, y = x + vx, y + vy
        steps.append(([x, y, vx, vy], dense((x, y), goal), False))
    return steps


REPLAYS: dict[Callable[[], TaskDistribution], Callable[[list[Point], dict[str, object]], list[Step]]] = {
    finn: lambda actions, task: replay_point(actions, task, dense),
    pearl: lambda actions, task: [(*step[:2], False) for step in replay_point(actions, task, dense)],
    pearl_sparse: lambda actions, task: [(*step[:2], False) for step in replay_point(actions, task, sparse)],
    point_dynamics: replay_dynamics,
}


def play(distribution: TaskDistribution, tasks: Task, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step actions (H, M, E, A): obs after each (H, M, E, O), reward and terminated (H, M, E)."""
    env = distribution.bind(tasks, actions.shape[2])
    env.reset(rng())
    obs, reward, terminated = zip(*(env.step(action) for action in actions), strict=True)
    return torch.stack(obs), torch.stack(reward), torch.stack(terminated)


def actions_towards(tasks: Task, horizon: int) -> Tensor:
    """Noisy actions, often beyond ±1, that lead past the goals so that every case of the reward occurs."""
    heading = tasks["goal"] * 10 / horizon * 1.5
    noise = torch.randn((horizon, NUM_TASKS, NUM_EPISODES, 2), generator=rng(1))
    noise[::4] *= 3
    return heading.unsqueeze(1) + 0.7 * noise - 0.7 * noise.mean(dim=0)


@pytest.mark.parametrize("make", FACTORIES)
@pytest.mark.parametrize("split", ["test", "ood"])
def test_every_step_follows_the_equations(make: Callable[[], TaskDistribution], split: str) -> None:
    distribution = make()
    tasks = distribution.sample(NUM_TASKS, split)
    actions = actions_towards(tasks, distribution.horizon)
    obs, reward, terminated = play(distribution, tasks, actions)
    for m, task in enumerate(tasks_to_json(tasks)):
        for e in range(NUM_EPISODES):
            for t, (seen, expected_reward, near) in enumerate(REPLAYS[make](actions[:, m, e].tolist(), task)):
                assert obs[t, m, e].tolist() == pytest.approx(seen, abs=1e-5)
                assert float(reward[t, m, e]) == pytest.approx(expected_reward, abs=1e-5)
                assert bool(terminated[t, m, e]) == near


@pytest.mark.parametrize(
    ("kind", "goal", "reward"),
    [
        ("dense", (0.3, 0.2), -0.25),  # ‖(0.2, 0.15)‖
        ("dense", (0.1, 0.05), 0.0),
        ("sparse", (0.1, 0.15), 0.9),
        ("sparse", (0.22, 0.21), 0.8),  # ‖(0.12, 0.16)‖: the rim is inside
        ("sparse", (0.3, 0.2), 0.0),
    ],
)
def test_reward_by_hand(kind: str, goal: Point, reward: float) -> None:
    env = PointNavigation(reward="dense" if kind == "dense" else "sparse")
    params = {"goal": torch.tensor(goal, dtype=torch.float64)}
    action = torch.tensor([1.7, 0.5], dtype=torch.float64)  # clipped to (1, 0.5)
    state = torch.zeros(2, dtype=torch.float64)
    next_state = env.transition(state, action, rng(), params)
    assert next_state.tolist() == pytest.approx([0.1, 0.05])
    assert float(env.reward(state, action, next_state, rng(), params)) == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize(
    ("offset", "terminal"),
    [((0.009, -0.009), True), ((0.0, 0.0), True), ((0.011, 0.0), False), ((0.0, -0.011), False)],
)
def test_an_episode_ends_when_both_coordinates_are_within_a_hundredth(offset: Point, terminal: bool) -> None:
    params = {"goal": torch.tensor([0.3, 0.2])}
    state = params["goal"] + torch.tensor(offset)
    assert bool(finn().task_env.terminal(state, rng(), params)) is terminal
    assert not pearl().task_env.terminal(state, rng(), params)


@pytest.mark.parametrize("make", FACTORIES)
def test_the_observation_does_not_hold_the_goal(make: Callable[[], TaskDistribution]) -> None:
    distribution = make()
    tasks = distribution.sample(NUM_TASKS, "test")
    elsewhere = {**tasks, "goal": distribution.sample(NUM_TASKS, "validation")["goal"]}
    actions = torch.randn((10, NUM_TASKS, NUM_EPISODES, 2), generator=rng())
    assert torch.equal(play(distribution, tasks, actions)[0], play(distribution, elsewhere, actions)[0])


def test_the_final_velocity_does_not_depend_on_drag() -> None:
    """v → 0.1 · (gain · u + wind) = 0.1 · (2 · (0, 1) + (0.1, 0.2)) under a quarter turn of u = (1, 0)."""
    drag = torch.tensor([0.3, 0.6, 1.0])
    tasks = {
        "goal": torch.zeros(3, 2),
        "gain": torch.full((3,), 2.0),
        "rotation": torch.full((3,), math.pi / 2),
        "wind": torch.tensor([[0.1, 0.2]]).expand(3, 2),
        "drag": drag,
    }
    obs, _, _ = play(point_dynamics(), tasks, torch.tensor([1.0, 0.0]).expand(50, 3, 1, 2))
    assert torch.allclose(obs[-1, :, 0, 2:], torch.tensor([0.01, 0.22]).expand(3, 2), atol=1e-6)
    assert torch.allclose(obs[0, :, 0, 3], 0.22 * drag)


@pytest.mark.parametrize("make", FACTORIES)
def test_an_unbatched_step_equals_its_row_of_the_batch(make: Callable[[], TaskDistribution]) -> None:
    distribution = make()
    env, tasks = distribution.task_env, distribution.sample(NUM_TASKS, "ood")
    state, action = env.initial(rng(), tasks), torch.randn((NUM_TASKS, 2), generator=rng())
    next_state = env.transition(state, action, rng(), tasks)
    reward = env.reward(state, action, next_state, rng(), tasks)
    for m in range(NUM_TASKS):
        task = {name: value[m] for name, value in tasks.items()}
        one = env.transition(env.initial(rng(), task), action[m], rng(), task)
        assert torch.equal(one, next_state[m])
        assert torch.allclose(env.reward(state[m], action[m], one, rng(), task), reward[m])


@pytest.mark.parametrize("direction", [(1.0, 1.0), (-1.0, 1.0)])
def test_the_observation_space_holds_the_farthest_and_fastest_point(direction: Point) -> None:
    fastest = {
        "goal": torch.zeros(1, 2),
        "gain": torch.tensor([PointDynamics.MAX_GAIN]),
        "rotation": torch.tensor([math.pi / 4]),
        "wind": PointDynamics.MAX_WIND * torch.sign(torch.tensor([[direction[0] - direction[1], 1.0]])),
        "drag": torch.ones(1),
    }
    for distribution, tasks in ((finn(), {"goal": torch.zeros(1, 2)}), (point_dynamics(), fastest)):
        space = distribution.observation_space
        assert isinstance(space, Box)
        actions = torch.tensor(direction).expand(distribution.horizon, 1, 1, 2)
        last = play(distribution, tasks, actions)[0][-1, 0, 0].numpy()
        assert space.contains(last)
        assert abs(last).max() > 0.9 * space.high.max()
