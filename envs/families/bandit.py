"""Multi-armed bandits: the smallest task in which exploration pays."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Normal, Range, Task, Uniform


class Bandit(TaskEnv):
    """Arms with hidden mean rewards are pulled; one episode is one trial of n pulls.

    State: the arm pulled last, −1 at first. Observation: the constant 1 (1,), so that nothing but adaptation tells
    the arms apart. Action: an arm. Task: "mean" (k,), the expected reward of each arm. A subclass says how rewards
    scatter around it.

    Args:
        num_arms: k.
        num_pulls: n, the horizon.
    """

    observation_space = Box(0.0, 1.0, (1,), np.float32)
    random_steps = True

    def __init__(self, num_arms: int = 10, num_pulls: int = 100) -> None:
        self.action_space = Discrete(num_arms)
        self.horizon = num_pulls
        super().__init__()

    def draw_reward(self, mean: Tensor, rng: torch.Generator) -> Tensor:
        """Rewards (*batch,) with these expected values."""
        raise NotImplementedError

    def initial(self, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.initial."""
        assert params is not None
        return torch.full_like(params["mean"][..., 0], -1, dtype=torch.int64)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.transition."""
        return action

    def observation(self, state: Tensor, rng: torch.Generator, params: Task | None = None) -> Tensor:
        """See TaskEnv.observation."""
        assert params is not None
        return torch.ones_like(params["mean"][..., :1])

    def reward(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        rng: torch.Generator,
        params: Task | None = None,
    ) -> Tensor:
        """See TaskEnv.reward."""
        assert params is not None
        return self.draw_reward(params["mean"].gather(-1, action.unsqueeze(-1)).squeeze(-1), rng)

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """The best arm, every time: optimal."""
        return params["mean"].argmax(dim=-1)

    def render_image(
        self, state: Tensor, render_state: Any, params: Task | None = None
    ) -> tuple[Any, NDArray[np.uint8]]:
        """Picture of the arms: a bar for each mean, red for the arm pulled last, and a line at 0."""
        assert params is not None
        size, margin = 256, 16
        means = [float(mean) for mean in params["mean"]]
        low, high = min(0.0, *means), max(0.0, *means) + 1e-6
        image = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(image)

        def height(value: float) -> float:
            return size - margin - (value - low) / (high - low) * (size - 2 * margin)

        width = (size - 2 * margin) / len(means)
        for arm, mean in enumerate(means):
            left, (top, bottom) = margin + arm * width, sorted((height(mean), height(0.0)))
            colour = "firebrick" if arm == int(state) else "royalblue"
            draw.rectangle((left + 0.1 * width, top, left + 0.9 * width, bottom), fill=colour)
        draw.line((margin, height(0.0), size - margin, height(0.0)), fill="grey")
        return render_state, np.asarray(image)


class BernoulliBandit(Bandit):
    """Arms that pay 1 with a hidden probability, else 0.

    Task: "mean" (k,), the probability p of each arm.

    Source: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.1, where
    p ~ U[0, 1]. A uniformly random player earns n/2 in a trial of n pulls.
    """

    def draw_reward(self, mean: Tensor, rng: torch.Generator) -> Tensor:
        """See Bandit.draw_reward: 1 with probability `mean`."""
        uniform = torch.rand(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)
        return (uniform < mean).to(mean.dtype)


class GaussianBandit(Bandit):
    """Arms that pay a hidden mean with standard normal noise.

    Task: "mean" (k,).

    Source: Sutton & Barto 2018, "Reinforcement Learning", section 2.3, the 10-armed testbed: means ~ N(0, 1).
    """

    def draw_reward(self, mean: Tensor, rng: torch.Generator) -> Tensor:
        """See Bandit.draw_reward: N(mean, 1)."""
        return mean + torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)


def bernoulli(num_arms: int = 10, num_pulls: int = 100) -> TaskDistribution:
    """10 arms that pay 1 with probability U[0, 1], 100 pulls an episode (RL² paper)."""
    return _distribution(BernoulliBandit(num_arms, num_pulls), Uniform(0.0, 1.0, "1", shape=(num_arms,)))


def gaussian(num_arms: int = 10, num_pulls: int = 100) -> TaskDistribution:
    """10 arms with means N(0, 1) and unit noise, 100 pulls an episode (Sutton & Barto's testbed)."""
    return _distribution(GaussianBandit(num_arms, num_pulls), Normal(0.0, 1.0, "1", shape=(num_arms,)))


def _distribution(env: Bandit, means: Range) -> TaskDistribution:
    return TaskDistribution(env, train={"mean": means})
