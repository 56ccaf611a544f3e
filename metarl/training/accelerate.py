"""Faster rollouts: compiled environment steps (`--compile-env`) and CUDA graphs, both tried before they are used."""

import torch
from gymnasium.spaces import Box

from metarl.agents.learner import Learner
from metarl.envs.rollout import collect
from metarl.envs.rollout_graphs import Capture, cuda_graph
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.errors import UserError


def compile_env(distribution: TaskDistribution, device: torch.device) -> None:
    """Compile the steps of a family and take one, so that a failure shows before training begins.

    Raises:
        UserError: not a torch family, or torch.compile does not work here.
    """
    env = distribution.env
    if not isinstance(env, TaskEnv):
        raise UserError(f"compile_env: {distribution.name} is not written in torch, so there is nothing to compile")
    env.compile()

    generator = torch.Generator(device)
    bound = env.bind(distribution.sample(2, "validation", generator), 2)
    dtype = torch.float32 if isinstance(distribution.action_space, Box) else torch.int64
    action_shape = distribution.action_space.shape or ()
    action = torch.zeros((2, 2, *action_shape), dtype=dtype, device=device)
    try:
        bound.reset(generator)
        bound.step(action)
    except Exception as error:  # torch.compile fails in many ways, none of which is documented
        where = f"compile_env: torch.compile cannot compile {distribution.name} here"
        raise UserError(f"{where}: {_first_line(error)}") from error


CAPTURES: dict[str, Capture] = {"cuda": cuda_graph}
"""Type of device → how rollouts are captured on it."""


def capture_rollouts(distribution: TaskDistribution, learner: Learner, generator: torch.Generator) -> str | None:
    """Run the learner's rollouts as CUDA graphs from now on, if its device has them and one episode can be captured.

    Returns:
        what went wrong where a capture failed; None where it worked, or where there is nothing to capture.
    """
    env = distribution.env
    capture = CAPTURES.get(generator.device.type)
    if capture is None or not isinstance(env, TaskEnv):
        return None

    env.capture_rollouts(learner.policy, capture)
    trial = torch.Generator(generator.device).manual_seed(0)
    try:
        bound = env.bind(distribution.sample(1, "validation", trial), 1)
        collect(bound, learner.policy, learner.begin(1).params, trial)
    except RuntimeError as error:
        env.rollout_graphs = None
        return f"rollouts of {distribution.name} are not captured as CUDA graphs: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
