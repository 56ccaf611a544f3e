"""Multi-armed bandits: the smallest task in which exploration is worth its cost."""

from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from PIL import Image, ImageDraw
from torch import Tensor

from metarl.envs.families.canvas import Rendered
from metarl.envs.family_entry import Between, Family, Horizon
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Normal, Task, Uniform


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

    def sample_reward(self, mean: Tensor, rng: torch.Generator) -> Tensor:
        """Sample rewards (*batch,) with these expected values."""
        raise NotImplementedError

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial."""
        return torch.full_like(params["mean"][..., 0], -1, dtype=torch.int64)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        return action

    def observation(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        return torch.ones_like(params["mean"][..., :1])

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        mean = params["mean"].gather(-1, action.unsqueeze(-1)).squeeze(-1)  # of the arm that is pulled
        return self.sample_reward(mean, rng)

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """The best arm, every time: optimal."""
        return params["mean"].argmax(dim=-1)

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of the arms: a bar for each mean, red for the arm pulled last, and a line at 0."""
        means = [float(mean) for mean in params["mean"]]
        low = min(0.0, *means)
        high = max(0.0, *means) + 1e-6  # the bars of equal means of 0 have a scale too

        size = 256
        margin = 16
        image = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(image)

        def row(value: float) -> float:
            return size - margin - (value - low) / (high - low) * (size - 2 * margin)

        width = (size - 2 * margin) / len(means)
        for arm, mean in enumerate(means):
            left = margin + arm * width
            top, bottom = sorted((row(mean), row(0.0)))
            colour = "firebrick" if arm == int(state) else "royalblue"
            draw.rectangle((left + 0.1 * width, top, left + 0.9 * width, bottom), fill=colour)

        draw.line((margin, row(0.0), size - margin, row(0.0)), fill="grey")
        return render_state, np.asarray(image)


class BernoulliBandit(Bandit):
    """Arms whose reward is 1 with a hidden probability, else 0.

    Task: "mean" (k,), the probability p of each arm.

    Source: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.1, where
    p ~ U[0, 1]. A uniformly random player earns n/2 in a trial of n pulls.
    """

    def sample_reward(self, mean: Tensor, rng: torch.Generator) -> Tensor:
        """See Bandit.sample_reward: 1 with probability `mean`."""
        uniform = torch.rand(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)
        return (uniform < mean).to(mean.dtype)


class GaussianBandit(Bandit):
    """Arms whose reward is a hidden mean with standard normal noise.

    Task: "mean" (k,).

    Source: Sutton & Barto 2018, "Reinforcement Learning", section 2.3, the 10-armed testbed: means ~ N(0, 1).
    """

    def sample_reward(self, mean: Tensor, rng: torch.Generator) -> Tensor:
        """See Bandit.sample_reward: N(mean, 1)."""
        return mean + torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)


Arms = Annotated[int, Between(2, 1000)]
"""k, as an option of a family."""


def bernoulli(num_arms: Arms = 10, num_pulls: Horizon = 100) -> TaskDistribution:
    """10 arms whose reward is 1 with probability U[0, 1], else 0; 100 pulls an episode (RL² paper)."""
    means = Uniform(0.0, 1.0, "1", shape=(num_arms,))
    return TaskDistribution(BernoulliBandit(num_arms, num_pulls), train={"mean": means})


def bernoulli_n10_k5(num_arms: Arms = 5, num_pulls: Horizon = 10) -> TaskDistribution:
    """5 arms, 10 pulls an episode; otherwise as bandit/bernoulli (the smallest of the RL² paper)."""
    return bernoulli(num_arms, num_pulls)


def bernoulli_n100_k5(num_arms: Arms = 5, num_pulls: Horizon = 100) -> TaskDistribution:
    """5 arms, 100 pulls an episode; otherwise as bandit/bernoulli (RL² paper)."""
    return bernoulli(num_arms, num_pulls)


def gaussian(num_arms: Arms = 10, num_pulls: Horizon = 100) -> TaskDistribution:
    """10 arms with means N(0, 1) and unit noise, 100 pulls an episode (Sutton & Barto's testbed)."""
    means = Normal(0.0, 1.0, "1", shape=(num_arms,))
    return TaskDistribution(GaussianBandit(num_arms, num_pulls), train={"mean": means})


FAMILIES = (
    Family("bandit/bernoulli", bernoulli, "metarl/BernoulliBandit-v0"),
    Family("bandit/bernoulli/n10-k5", bernoulli_n10_k5, "metarl/BernoulliBanditN10K5-v0"),
    Family("bandit/bernoulli/n100-k5", bernoulli_n100_k5, "metarl/BernoulliBanditN100K5-v0"),
    Family("bandit/gaussian", gaussian, "metarl/GaussianBandit-v0"),
)
