"""What the files of several families are built from."""

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_space import Task


def uniform_like(like: Tensor, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Uniform random numbers in [low, high], of the shape, type and device of a tensor."""
    return low + (high - low) * torch.rand(like.shape, generator=rng, device=like.device, dtype=like.dtype)


def symmetric_box(*high: float) -> Box:
    """The space between −high and high."""
    bound = np.array(high, np.float32)
    return Box(-bound, bound)


def scalar_task(values: dict[str, float]) -> Task:
    """One task of scalar parameters."""
    return {name: torch.tensor(value, dtype=float_dtype()) for name, value in values.items()}
