"""How good an oracle is: beside planning on a grid, and on the held-out tasks."""

from collections.abc import Callable

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from torch.nn import functional

from metarl.agents.policies.reference import OraclePolicy
from metarl.envs.rollout import collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task
from tests.helpers.family_play import rng


def assert_oracle_comes_near_to_planning(
    distribution: TaskDistribution, centre: tuple[float, float], half_width: tuple[float, float], wraps: bool
) -> None:
    """Three quarters of what planning on a grid gains over acting at random, or more, over a few tasks.

    Args:
        distribution: its state has two coordinates.
        centre: of the grid.
        half_width: of the grid.
        wraps: whether the first coordinate is an angle.
    """
    env = distribution.task_env
    tasks = distribution.sample(3, "test")
    returns = []
    for index in range(3):
        task = {name: value[index] for name, value in tasks.items()}
        planner = GridPlanner(env, task, torch.tensor(centre), torch.tensor(half_width), wraps)
        returns.append(returns_of_random_oracle_and_planner(env, task, planner))

    random, oracle, planned = torch.tensor(returns).mean(dim=0).tolist()
    assert planned > random
    assert oracle - random > 0.75 * (planned - random)


def assert_oracle_solves_held_out_tasks(distribution: TaskDistribution, mean: float, worst: float) -> None:
    """Mean return over 100 tasks, and the worst of the tasks' mean returns, are above these."""
    tasks = distribution.sample(100, "test")
    returns = collect(distribution.bind(tasks, 4), OraclePolicy(distribution.env), tasks, rng()).returns
    assert float(returns.mean()) > mean
    assert float(returns.mean(dim=1).min()) > worst


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
        assert isinstance(space, Box | Discrete)
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
