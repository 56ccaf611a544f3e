"""Faster rollouts: the compiled steps of `--compile-env`, and CUDA graphs; tried out before they are relied on."""

import torch
from gymnasium.spaces import Discrete

from metarl.agents.learner import MetaLearner
from metarl.envs.rollout import collect
from metarl.envs.rollout_graphs import Capture, cuda_graph
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.errors import UserError


def compile_env(distribution: TaskDistribution, device: torch.device) -> None:
    """Compile the steps of a family and take one, so that what cannot be compiled is said at once.

    Raises:
        UserError: not a torch family, or torch.compile does not work here.
    """
    env = distribution.env
    if not isinstance(env, TaskEnv):
        raise UserError(f"compile_env: {distribution.name} is not written in torch, so there is nothing to compile")
    env.compile()
    generator = torch.Generator(device)
    bound = env.bind(distribution.sample(2, "validation", generator), 2)
    discrete = isinstance(env.action_space, Discrete)
    try:
        bound.reset(generator)
        dtype = torch.int64 if discrete else torch.float32
        bound.step(torch.zeros((2, 2, *(env.action_space.shape or ())), dtype=dtype, device=device))
    except Exception as error:
        where = f"compile_env: torch.compile cannot compile {distribution.name} here"
        raise UserError(f"{where}: {_first_line(error)}") from error


CAPTURES: dict[str, Capture] = {"cuda": cuda_graph}
"""How rollouts are captured, by type of device."""


def capture_rollouts(distribution: TaskDistribution, learner: MetaLearner, generator: torch.Generator) -> str | None:
    """Run the learner's rollouts as CUDA graphs from now on, if its device has them and one episode can be captured.

    Returns:
        why they stay as they are, where that is no matter of course; None elsewhere.
    """
    env, capture = distribution.env, CAPTURES.get(generator.device.type)
    if capture is None or not isinstance(env, TaskEnv):
        return None
    env.capture_rollouts(learner.policy, capture)
    trial = torch.Generator(generator.device).manual_seed(0)
    try:
        collect(
            env.bind(distribution.sample(1, "validation", trial), 1), learner.policy, learner.begin(1).params, trial
        )
    except RuntimeError as error:
        env.rollout_graphs = None
        return f"rollouts of {distribution.name} are not captured as CUDA graphs: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
