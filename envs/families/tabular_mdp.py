"""Random tabular Markov decision processes: dynamics and rewards both have to be found out."""

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
from metarl.envs.task_space import Normal, Simplex, Task


class TabularMDP(TaskEnv):
    """A random Markov decision process of S states and A actions, the same over all episodes of a task.

        s' ~ P(· | s, a)
        r  ~ N(R(s, a), 1)

    An episode starts in state 0. Observation: the state, one-hot (S,). Task: "transition" P (S, A, S), rows on the
    probability simplex; "reward" R (S, A).

    Source: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.2:
    P ~ Dirichlet(1), R ~ N(1, 1), S = 10, A = 5, H = 10. A uniformly random player earns H an episode.

    Args:
        num_states: S.
        num_actions: A.
        horizon: H.
    """

    random_steps = True

    def __init__(self, num_states: int = 10, num_actions: int = 5, horizon: int = 10) -> None:
        self.observation_space = Box(0.0, 1.0, (num_states,), np.float32)
        self.action_space = Discrete(num_actions)
        self.num_states = num_states
        self.num_actions = num_actions
        self.horizon = horizon
        super().__init__()

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial; the state is an integer, (*batch,)."""
        return torch.zeros_like(params["reward"][..., 0, 0], dtype=torch.int64)

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition; sampled by inverting the cumulative distribution."""
        rows = params["transition"].flatten(-3, -2)  # (*batch, S·A, S)
        row = self._pair(state, action).unsqueeze(-1).expand(*state.shape, 1, self.num_states)
        cumulative = rows.gather(-2, row).squeeze(-2).cumsum(dim=-1)

        uniform = torch.rand((*state.shape, 1), generator=rng, device=rows.device, dtype=rows.dtype)
        next_state: Tensor = (cumulative < uniform).sum(dim=-1)
        return next_state.clamp(max=self.num_states - 1)  # rounding may leave the last sum below 1

    def observation(self, state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.observation."""
        states = torch.arange(self.num_states, device=state.device)
        return (state.unsqueeze(-1) == states).to(params["reward"].dtype)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        mean = params["reward"].flatten(-2).gather(-1, self._pair(state, action)).squeeze(-1)
        return mean + torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)

    def _pair(self, state: Tensor, action: Tensor) -> Tensor:
        """Index of (s, a) among the S·A pairs, (*batch, 1)."""
        return (state * self.num_actions + action).unsqueeze(-1)

    def values(self, params: Task, steps_left: int) -> Tensor:
        """Q(s, a) of acting optimally for so many steps, (*batch, S, A), by value iteration.

        Q_n(s, a) = R(s, a) + Σ_s' P(s' | s, a) · max_a' Q_{n−1}(s', a'),  Q_0 = 0.
        """
        transition = params["transition"]
        reward = params["reward"]

        q = torch.zeros_like(reward)
        for _ in range(steps_left):
            best = q.amax(dim=-1)  # (*batch, S)
            q = reward + (transition @ best[..., None, :, None]).squeeze(-1)
        return q

    def oracle_action(self, obs: Tensor, params: Task, time: int) -> Tensor:
        """Optimal for what is left of the horizon."""
        q = self.values(params, self.horizon - time)
        return (obs.unsqueeze(-2) @ q).squeeze(-2).argmax(dim=-1)

    def render_image(self, state: Tensor, render_state: Any, params: Task) -> Rendered:
        """Picture of the states on a circle: the current one red, edges as thick as the best action's transitions."""
        size = 256
        radius = 100
        angles = 2 * np.pi * np.arange(self.num_states) / self.num_states
        places = [(size / 2 + radius * float(np.cos(a)), size / 2 + radius * float(np.sin(a))) for a in angles]

        image = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(image)
        here = int(state)
        best = int(params["reward"][here].argmax())
        for place, probability in zip(places, params["transition"][here, best].tolist(), strict=True):
            draw.line((*places[here], *place), fill="lightsteelblue", width=1 + round(12 * probability))

        for index, (x, y) in enumerate(places):
            colour = "firebrick" if index == here else "royalblue"
            draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill=colour)
            draw.text((x, y), str(index), fill="white", anchor="mm")
        return render_state, np.asarray(image)


def tabular_mdp(
    num_states: Annotated[int, Between(2, 30)] = 10,
    num_actions: Annotated[int, Between(2, 30)] = 5,
    horizon: Horizon = 10,
) -> TaskDistribution:
    """10 states, 5 actions, H = 10, Dirichlet(1) transitions, mean rewards N(1, 1) (RL² paper)."""
    return TaskDistribution(
        TabularMDP(num_states, num_actions, horizon),
        train={
            "transition": Simplex(num_states, rows=(num_states, num_actions), units="1"),
            "reward": Normal(1.0, 1.0, "1", shape=(num_states, num_actions)),
        },
    )


FAMILIES = (Family("tabular-mdp", tabular_mdp, "metarl/TabularMDP-v0"),)
