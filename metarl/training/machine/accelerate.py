"""Compiled environment steps (`--compile-env`), and rollouts and updates as CUDA graphs."""

from collections.abc import Callable

import torch
from gymnasium.spaces import Box

from metarl.agents.gradients.parallel import ChunkPool
from metarl.agents.learner import Learner
from metarl.envs.graphs.capture import Capture, cuda_graph, first_line
from metarl.envs.graphs.functions import FunctionGraphs
from metarl.envs.physics.robot_env import RobotEnv
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
        raise UserError(f"{where}: {first_line(error)}") from error


CAPTURES: dict[str, Capture] = {"cuda": cuda_graph}
"""Type of device → how rollouts and updates are captured on it."""


def use_graphs(
    distribution: TaskDistribution,
    learner: Learner,
    device: torch.device,
    say: Callable[[str], None],
    fuse: bool = False,
) -> None:
    """Run rollouts, and what the learner computes between them, as CUDA graphs from now on, if the device has them.

    Args:
        distribution: whose rollouts are captured, where its family is written in torch.
        learner: whose policy acts; what it computes is captured where a ChunkPool spreads its work.
        device: of both.
        say: is told in a line what cannot be captured; that runs one operation at a time.
        fuse: whether the operations that a graph holds become a few kernels first.
    """
    capture = CAPTURES.get(device.type)
    if capture is None:
        return

    if isinstance(distribution.env, TaskEnv):
        steps_fuse = fuse and not isinstance(distribution.env, RobotEnv)  # MuJoCo Warp has kernels of its own
        distribution.env.capture_rollouts(learner.policy, capture, say, steps_fuse)
    pool = getattr(learner, "pool", None)
    if isinstance(pool, ChunkPool):
        pool.graphs = FunctionGraphs(capture, device, say, fuse)


def first_use(device: torch.device, fuse: bool) -> str:
    """What of graphs takes long at their first use on a machine, in a line; "" where nothing does."""
    if fuse and device.type in CAPTURES:
        return "rollouts and updates are compiled at their first use: up to a minute on a machine that has not done so"
    return ""
