"""Trial: an environment with tasks and actions to try it with, as many as a time limit allows."""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl.envs.checks.trace import Trace, oracle_actions, random_actions, roll_out
from metarl.envs.env_family import EnvFamily
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.external.worker_pool import EnvironmentFailedError, WorkerPool, reason_of
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task, select_tasks

BATCH = (16, 16)
"""M tasks × E episodes of a family in torch, where a step of many costs what a step of one does."""

LIVE_BATCH = (4, 4)
"""Of live environments, which are stepped one after the other."""

LARGER_BATCHES = ((16, 16), (32, 32))
"""Of a family in torch, over the whole horizon, where a trial did not meet what was looked for."""

FURTHER_LIVE_TRIALS = 3
"""Of live environments, with other tasks and actions."""

ORACLE_EPISODES = 2
"""Of each task, where the family knows what to do."""

SEARCH_TIME = 3.0
"""Further trials may take so many times the time limit."""

WARM_UP_STEPS = 20

RUNS = 10
"""Rollouts that a check takes besides one for each task parameter."""


class TrialFailedError(RuntimeError):
    """The environment raised an exception while it was tried; says which and where."""


@dataclass(frozen=True)
class Trial:
    """What every check steps: the same tasks with the same actions and seed.

    Attributes:
        distribution: whose tasks they are.
        env: its family, with live environments in this process.
        tasks: M of them.
        actions: (M, E, T, A), or (M, E, T) integers.
        seed: of the environment's own randomness.
        seconds: how long all rollouts together may take, about.
        steps_per_second: environment steps, where it was measured.
    """

    distribution: TaskDistribution
    env: EnvFamily
    tasks: Task
    actions: Tensor
    seed: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0

    @classmethod
    def within(cls, seconds: float, distribution: TaskDistribution) -> "Trial":
        """A trial whose rollouts are as long as so many seconds allow for all of them, at most the horizon.

        Raises:
            TrialFailedError: the environment cannot be stepped.
        """
        env = _in_this_process(distribution.env)
        horizon = distribution.horizon
        batch = BATCH if isinstance(env, TaskEnv) else LIVE_BATCH
        first = cls.of(distribution, env, batch, min(WARM_UP_STEPS, horizon), seed=0)

        # The first rollout makes live environments, and is not timed.
        first.run()
        start = time.perf_counter()
        taken = int(first.run().taken.sum())
        seconds_per_step = (time.perf_counter() - start) / first.num_steps

        runs = RUNS + len(distribution.train)
        affordable = int(seconds / (runs * seconds_per_step))
        num_steps = min(max(affordable, first.num_steps), horizon)
        rate = taken / (seconds_per_step * first.num_steps)
        trial = cls.of(distribution, env, batch, num_steps, seed=0)
        return replace(trial, seconds=seconds, steps_per_second=rate)

    @classmethod
    def of(
        cls, distribution: TaskDistribution, env: EnvFamily, batch: tuple[int, int], num_steps: int, seed: int
    ) -> "Trial":
        """New tasks and actions, drawn with a seed."""
        tasks = distribution.sample(batch[0], "train", torch.Generator().manual_seed(seed))
        actions = random_actions(distribution.action_space, batch, num_steps, seed)
        return cls(distribution, env, tasks, actions, seed)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.actions.shape[2]

    @property
    def size(self) -> str:
        """How much is tried, in words."""
        num_tasks, num_episodes = self.actions.shape[:2]
        return f"{num_tasks} tasks × {num_episodes} episodes × {self.num_steps} steps"

    def run(self, tasks: Task | None = None) -> Trace:
        """Step everything; other tasks may be given in place of its own.

        Raises:
            TrialFailedError: the environment raised an exception.
        """
        return self._rolled_out(tasks or self.tasks, self.actions, self.seed)

    def run_alone(self, index: int) -> Trace:
        """Step the episodes of one task without the others; each task has a seed of its own.

        Raises:
            TrialFailedError: the environment raised an exception.
        """
        part = slice(index, index + 1)
        return self._rolled_out(select_tasks(self.tasks, part), self.actions[part], self.seed + 1 + index)

    def further(self) -> Iterator["Trial"]:
        """Actions that know the task, then other tasks and random actions, ever more, until it takes too long."""
        if isinstance(self.env, TaskEnv):
            sizes = [(batch, self.distribution.horizon) for batch in LARGER_BATCHES]
        else:
            sizes = [(LIVE_BATCH, self.num_steps)] * FURTHER_LIVE_TRIALS

        start = time.perf_counter()
        if self.env.has_oracle:
            actions = oracle_actions(self.env, self.tasks, ORACLE_EPISODES, self.distribution.horizon, self.seed)
            yield replace(self, actions=actions)

        for seed, (batch, num_steps) in enumerate(sizes, start=1):
            yield replace(Trial.of(self.distribution, self.env, batch, num_steps, seed), seconds=self.seconds)
            if time.perf_counter() - start > SEARCH_TIME * self.seconds:
                return

    def _rolled_out(self, tasks: Task, actions: Tensor, seed: int) -> Trace:
        try:
            return roll_out(self.env, tasks, actions, seed)
        except EnvironmentFailedError as error:
            raise TrialFailedError(str(error)) from error
        except Exception as error:
            raise TrialFailedError(reason_of(error)) from error


def _in_this_process(env: EnvFamily) -> EnvFamily:
    """The family without worker processes: so few environments are not worth starting any."""
    if not isinstance(env, GymnasiumFamily):
        return env
    alone = copy.copy(env)
    # Where rewards are divided by running statistics, everything would differ, and nothing could be told apart.
    alone.spec = replace(env.spec, hold_rewards_still=True)
    alone.pool = WorkerPool(alone.single, env.spec.env_id, num_workers=0)
    return alone
