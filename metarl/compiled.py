"""The compiled environment of `--compile-env`, tried out before a run begins."""

import torch
from gymnasium.spaces import Discrete

from envs.task_distribution import TaskDistribution
from envs.task_env import TaskEnv
from metarl.errors import UserError


def compile_env(distribution: TaskDistribution, device: torch.device) -> None:
    """Compile the steps of a family and take one, so that what cannot be compiled is said at once.

    Raises:
        UserError: not a torch family, or torch.compile does not work here.
    """
    env = distribution.env
    if not isinstance(env, TaskEnv):
        raise UserError(f"compile_env: {distribution.name} is not written in torch, so there is nothing to compile")
    env.compile(mode="reduce-overhead" if device.type == "cuda" else "default")
    generator = torch.Generator(device)
    bound = env.bind(distribution.sample(2, "validation", generator), 2)
    discrete = isinstance(env.action_space, Discrete)
    try:
        bound.reset(generator)
        dtype = torch.int64 if discrete else torch.float32
        bound.step(torch.zeros((2, 2, *(env.action_space.shape or ())), dtype=dtype, device=device))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"compile_env: torch.compile cannot compile {distribution.name} here: {reason}") from error
