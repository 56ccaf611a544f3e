"""What training with the defaults would cost on an environment that was checked: memory and time."""

from collections.abc import Sequence

import torch

from metarl.agents.learner import Learner
from metarl.agents.registry import AGENTS, find_agent
from metarl.envs.checks.environment_check import EnvironmentCheck
from metarl.envs.checks.finding import Finding
from metarl.envs.cores import num_cores
from metarl.envs.task_env import TaskEnv
from metarl.evaluation.memory import available_bytes
from metarl.run.config import DEFAULT_AGENT, TrainConfig
from metarl.run.presets import default_config
from metarl.training.machine.memory import iteration_bytes

LONG = 3600.0
"""Seconds of stepping after which a line says how to take fewer steps."""


def training_cost(check: EnvironmentCheck) -> list[Finding]:
    """Memory of a meta-iteration, and the time that the steps of a whole training take.

    Args:
        check: of the environment, with its measured speed.
    """
    refusals = []
    for agent in (DEFAULT_AGENT, *(name for name in AGENTS if name != DEFAULT_AGENT)):
        config = default_config(agent, check.distribution.name)
        try:
            learner = _untrained(check, config)
        except ValueError as error:
            refusals.append(str(error))
            continue
        cost = [_memory(check, config, learner), _time(check, config, learner)]
        return [*_without_default(refusals, agent), *cost]

    return [Finding("policy", "fault", refusals[0], "no policy here can act in it: change its spaces, or wrap it")]


def _untrained(check: EnvironmentCheck, config: TrainConfig) -> Learner:
    """A learner as training would begin with it.

    Raises:
        ValueError: it cannot act in the environment.
    """
    distribution = check.distribution
    generator = torch.Generator().manual_seed(0)
    spaces = distribution.observation_space, distribution.action_space
    return find_agent(config.agent).make(*spaces, config.learner, generator, 1)


def _without_default(refusals: Sequence[str], agent: str) -> list[Finding]:
    """That the default agent does not take the environment, and which one does."""
    if not refusals:
        return []
    return [Finding("policy", "note", f"{DEFAULT_AGENT}: {refusals[0]}", f"{agent} takes it: metarl train {agent} ENV")]


def _memory(check: EnvironmentCheck, config: TrainConfig, learner: Learner) -> Finding:
    """Whether the episodes of one meta-iteration fit."""
    batches = learner.sampling.batches
    needed = iteration_bytes(config, check.distribution, learner)
    available = available_bytes(torch.device("cpu"))

    batch = f"{config.num_tasks} tasks × {config.episodes} episodes × {check.distribution.horizon} steps"
    text = f"a meta-iteration's {batches} batches of {batch} need about {_size(needed)}"
    numbers = {"bytes": needed, "available_bytes": available}
    if available is None:
        return Finding("memory", "ok", text, numbers=numbers)

    text = f"{text}; {_size(available)} are free"
    if needed > available:
        return Finding("memory", "fault", text, "lower --num-tasks or --episodes, or the horizon", numbers)
    return Finding("memory", "ok", text, numbers=numbers)


def _time(check: EnvironmentCheck, config: TrainConfig, learner: Learner) -> Finding:
    """How long the environment alone takes in a whole training."""
    batches = learner.sampling.batches
    episodes = config.iterations * batches * config.num_tasks * config.episodes
    env_steps = episodes * check.distribution.horizon

    # Live environments are stepped by one process for each core, families in torch side by side.
    cores = 1 if isinstance(check.distribution.env, TaskEnv) else num_cores()
    seconds = env_steps / (check.steps_per_second * cores)
    text = f"{config.iterations} default iterations of {config.agent} take up to {env_steps / 1e6:,.3g} million steps"
    text = f"{text}: about {_duration(seconds)} of stepping on this machine"

    numbers = {"env_steps": env_steps, "seconds": seconds}
    if seconds > LONG:
        return Finding(
            "time",
            "note",
            text,
            "begin with fewer: --num-tasks, --episodes, --iterations, or a shorter horizon",
            numbers,
        )
    return Finding("time", "ok", text, numbers=numbers)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * LONG else f"{seconds / LONG:,.0f} h"
