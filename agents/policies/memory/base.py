"""What policies that learn inside their memory have in common: they see what they did and what that paid."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from metarl.agents.policies.distributions import (
    LOG_STD,
    MIN_LOG_STD,
    Categorical,
    CategoricalProduct,
    DiagonalGaussian,
)
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, Shapes
from metarl.agents.policies.validation import check_values
from metarl.envs.spaces.observation import FlatImage
from metarl.envs.spaces.precision import float_dtype

REWARD_SCALE = "reward_scale"
"""Name of the scale by which rewards are divided among the parameters of a policy with memory; it is not trained."""

Distribution = DiagonalGaussian | Categorical | CategoricalProduct

Memory = dict[str, Tensor]
"""What the network remembers, (*batch, …), and of the step before: action (*batch, A), reward (*batch, 1), running
(*batch, 1): 0 before an episode's first step. A memory of zeros is that of a trial's beginning."""


@dataclass(frozen=True)
class RecurrentConfig:
    """The policy network: a memory, and a head for actions and one for values on top of it.

    Attributes:
        recurrent_size: units of the memory; of fast weights: numbers in each row.
        hidden_sizes: units of each hidden layer of the heads.
        observation_again: let the heads see the observation once more, beside the memory.
        hypernetwork: one linear layer makes all weights of the heads from the embedded memory; the heads themselves
            see the observation alone.
        embedding_size: hypernetwork: numbers that the memory is embedded in.
        separate_networks: values have a recurrent unit of their own.
        init_log_std: initial log standard deviation of a Gaussian policy, in units of the action.
        cell: the memory: "gru" and "lstm" are vectors that each step rewrites; "fast-weights" is a table with a row for
            each observation and action, of which each step rewrites the row that it comes from.
        memory_steps: the units remember 1 to this many steps at first, each another number; of fast weights, steps in
            the same row; 0 = all about one step.
        memory_rows: fast weights: rows that observations share; 0 = as many as an observation has numbers, at most 64.
        input_gain: factor on the initial weights of a recurrent unit's inputs.
    """

    recurrent_size: int = 64
    hidden_sizes: tuple[int, ...] = ()
    observation_again: bool = False
    hypernetwork: bool = False
    embedding_size: int = 25
    separate_networks: bool = False
    init_log_std: float = -0.5
    cell: Literal["gru", "lstm", "fast-weights"] = "gru"
    memory_steps: int = 0
    memory_rows: int = 0
    input_gain: float = 1.0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(
            self,
            at_least_one=("recurrent_size", "embedding_size"),
            positive=("input_gain",),
            not_negative=("memory_steps", "memory_rows"),
        )
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, got {self.hidden_sizes}")
        if self.hypernetwork and self.observation_again:
            raise ValueError("observation_again is not for a hypernetwork, whose heads see the observation anyway")
        self._check_cell()

    def _check_cell(self) -> None:
        """Reject options that the memory has no use for."""
        if self.cell != "fast-weights":
            if self.memory_rows:
                raise ValueError(f"memory_rows is for fast-weights, and the cell is {self.cell}")
            return
        if self.input_gain != 1:
            raise ValueError("input_gain is for gru and lstm, and the cell is fast-weights")
        for option in ("hypernetwork", "observation_again", "separate_networks"):
            if getattr(self, option):
                raise ValueError(f"{option} is for gru and lstm, and the cell is fast-weights")


class MemoryPolicy:
    """A policy that learns inside its memory; what it remembers with, its subclasses say.

    Works with shared P and with task-batched P, (M, …). Where all tasks have the same P, as views of one tensor, it is
    computed as shared.

    Args:
        observation_space: Box of shape (O,).
        action_space: Box of shape (A,), Discrete or MultiDiscrete of shape (A,), both from 0.
        config: the network.

    Attributes:
        config: the network.
        observations: what the network sees of an observation.
        gaussian: whether the action space is a Box.
        num_observations: O.
        num_outputs: numbers that say how likely actions are.
        sizes: of the layers, from the observation to the head for actions.

    Raises:
        ValueError: the spaces are others, or observations are images.
    """

    sizes: tuple[int, ...]

    def __init__(self, observation_space: Box, action_space: Space[Any], config: RecurrentConfig) -> None:
        if isinstance(observation_space, FlatImage):
            raise ValueError("a policy with memory has no convolutions for images: train reptile or multitask on them")
        self.config = config
        # Which spaces there are, and which distributions belong to them, a policy without memory knows.
        self._plain = MLPPolicy(observation_space, action_space)
        self.gaussian = self._plain.gaussian
        self.num_observations = self._plain.sizes[0]
        self.num_outputs = self._plain.sizes[-1]
        self.observations = self._plain.observations

    # ------------------------------------------------------------------ what a memory is

    def init(self, generator: torch.Generator) -> Parameters:
        """Fresh shared P, on the generator's device."""
        raise NotImplementedError

    def apply(self, params: Parameters, obs: Tensor, memory: Memory | None = None) -> tuple[Distribution, Memory]:
        """Distribution over actions, and the memory with the observation in it.

        Args:
            params: shared P, or task-batched P with leaves (M, …).
            obs: (*batch, O); with a task-batched P the first dimension is M.
            memory: leaves (*batch, …); None where a trial begins.
        """
        raise NotImplementedError

    def unroll(
        self, params: Parameters, obs: Tensor, action: Tensor, reward: Tensor, begins: Tensor, truncation: int = 0
    ) -> tuple[Distribution, Tensor]:
        """What it would do and expect at every step of N whole trials, from no memory on.

        Args:
            params: shared P.
            obs: (N, T, O).
            action: (N, T, A), or (N, T) integers, taken at each step.
            reward: (N, T), earned at each step.
            begins: (N, T), 1 where an episode begins.
            truncation: steps after which no gradient flows back through the memory; 0 = it flows through all.

        Returns:
            Distributions (N, T, …) and values (N, T), in units of the scale that the learner gives them.
        """
        raise NotImplementedError

    def _own_shapes(self) -> Shapes:
        """Shape of each leaf of shared P that belongs to this kind of memory."""
        raise NotImplementedError

    def _remembered(self) -> dict[str, int]:
        """What the network remembers, by name, and how many numbers each is."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what all have in common

    def _blank(self, obs: Tensor) -> Memory:
        """The memory at the beginning of a trial: zeros."""
        sizes = self._remembered() | {"action": self.num_outputs, "reward": 1, "running": 1}
        return {name: obs.new_zeros((*obs.shape[:-1], size)) for name, size in sizes.items()}

    def observe(self, memory: Memory, action: Tensor, reward: Tensor, terminated: Tensor) -> Memory:
        """The memory after a step: what was done and earned."""
        return memory | {
            "action": self._encode(action, reward),
            "reward": reward.unsqueeze(-1),
            "running": torch.ones_like(memory["running"]),
        }

    @staticmethod
    def next_episode(memory: Memory) -> Memory:
        """The memory with which the next episode of a trial begins."""
        return {**memory, "running": torch.zeros_like(memory["running"])}

    @property
    def shapes(self) -> Shapes:
        """Shape of each leaf of shared P, without making one."""
        common: Shapes = {REWARD_SCALE: ()}
        if self.gaussian:
            common[LOG_STD] = (self.num_outputs,)
        return self._own_shapes() | common

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        """Inverse of `ActionDistribution.parameters()`, for the distributions stored in Episodes."""
        return self._plain.distribution(parameters)

    def _common_parameters(self, generator: torch.Generator) -> Parameters:
        """Parameters that do not depend on the kind of memory."""
        params: Parameters = {}
        if self.gaussian:
            params[LOG_STD] = torch.full(
                (self.num_outputs,), self.config.init_log_std, dtype=float_dtype(), device=generator.device
            )
        params[REWARD_SCALE] = torch.ones((), dtype=float_dtype(), device=generator.device)
        return params

    def _encode(self, action: Tensor, like: Tensor) -> Tensor:
        """Actions as vectors: one-hot where they are discrete."""
        if self.gaussian:
            return action
        if not self._plain.choices:
            return _one_hot(action, self.num_outputs, like.dtype)

        columns = [_one_hot(action[..., i], count, like.dtype) for i, count in enumerate(self._plain.choices)]
        return torch.cat(columns, dim=-1)

    @staticmethod
    def _inputs(params: Parameters, obs: Tensor, action: Tensor, reward: Tensor, begins: Tensor) -> Tensor:
        """x_t, (*batch, I)."""
        scale = params[REWARD_SCALE]
        scale = scale.reshape(-1, *(1,) * (reward.ndim - 1)) if scale.ndim else scale
        return torch.cat([obs, action, reward / scale, begins], dim=-1)

    def _inputs_of_trials(
        self, params: Parameters, obs: Tensor, action: Tensor, reward: Tensor, begins: Tensor
    ) -> Tensor:
        """x of all steps of N trials, (N, T, I), for the arguments of `unroll`."""
        last_action = step_before(self._encode(action, reward))
        last_reward = step_before(reward.unsqueeze(-1))
        return self._inputs(params, obs, last_action, last_reward, begins.unsqueeze(-1))

    def _distribution_of(self, params: Parameters, output: Tensor) -> Distribution:
        if not self.gaussian:
            return self.distribution({"logits": output})
        log_std = params[LOG_STD].clamp(min=MIN_LOG_STD)
        if log_std.ndim == 2:
            log_std = log_std.reshape(len(log_std), *(1,) * (output.ndim - 2), -1)
        return DiagonalGaussian(output, log_std)


def step_before(values: Tensor) -> Tensor:
    """What was there one step before, (N, T, …); zeros at the first step."""
    return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)


def as_shared(params: Parameters) -> Parameters:
    """Shared P where all tasks have the same P as views of one tensor (`expand_to_tasks`); otherwise P itself."""
    if params[REWARD_SCALE].ndim == 0:
        return params
    if any(len(leaf) > 1 and leaf.stride(0) != 0 for leaf in params.values()):
        return params
    return {name: leaf[0] for name, leaf in params.items()}


def _one_hot(action: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """1 in the place of each action, (*batch, count); PyTorch's own asks a CPU for the largest action."""
    return (action.unsqueeze(-1) == torch.arange(count, device=action.device)).to(dtype)
