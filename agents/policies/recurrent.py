"""A recurrent policy that learns inside its memory: it sees what it did, what that paid, and where episodes begin.

    x_t = [o_t, a_{t−1}, r_{t−1} / scale, begin_t],    h_t = GRU(x_t, h_{t−1}),    π(· | head(h_t)),  V(head(h_t))

The memory holds h, the last action and the last reward, from step to step and from episode to episode of a trial. A
memory of zeros is that of a trial's beginning.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from gymnasium.spaces import Box, Space
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.agents.policies.cells.cell import Cell, init_cell, init_linear, linear, step_cell, unroll_cell
from metarl.agents.policies.cells.gru import GRU
from metarl.agents.policies.cells.lstm import LSTM
from metarl.agents.policies.distributions import (
    LOG_STD,
    MIN_LOG_STD,
    Categorical,
    CategoricalProduct,
    DiagonalGaussian,
)
from metarl.agents.policies.mlp import MLPPolicy
from metarl.agents.policies.parameters import Parameters, shapes_of
from metarl.agents.policies.validation import check_values
from metarl.envs.spaces.observation import FlatImage
from metarl.envs.spaces.precision import float_dtype

REWARD_SCALE = "reward_scale"
"""Name of the scale by which rewards are divided among the parameters of a recurrent policy; it is not trained."""

Distribution = DiagonalGaussian | Categorical | CategoricalProduct

Memory = dict[str, Tensor]
"""hidden (*batch, U), an LSTM's cell (*batch, U), action (*batch, A), reward (*batch, 1), running (*batch, 1): 0 before
an episode's first step."""

CELLS: dict[str, Cell] = {"gru": GRU(), "lstm": LSTM()}
"""Recurrent units by name."""


@dataclass(frozen=True)
class RecurrentConfig:
    """The policy network: a gated recurrent unit, and a head for actions and one for values on top of it.

    Attributes:
        recurrent_size: units of the memory.
        hidden_sizes: units of each hidden layer of the heads.
        observation_again: let the heads see the observation once more, beside the memory.
        hypernetwork: one linear layer makes all weights of the heads from the embedded memory; the heads themselves
            see the observation alone.
        embedding_size: hypernetwork: numbers that the memory is embedded in.
        separate_networks: values have a recurrent unit of their own.
        init_log_std: initial log standard deviation of a Gaussian policy, in units of the action.
        cell: recurrent unit: "gru" or "lstm".
        memory_steps: the units remember 1 to this many steps at first, each another number; 0 = all about one step.
        input_gain: factor on the initial weights of the recurrent unit's inputs.
    """

    recurrent_size: int = 64
    hidden_sizes: tuple[int, ...] = ()
    observation_again: bool = False
    hypernetwork: bool = False
    embedding_size: int = 25
    separate_networks: bool = False
    init_log_std: float = -0.5
    cell: Literal["gru", "lstm"] = "gru"
    memory_steps: int = 0
    input_gain: float = 1.0

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(
            self,
            at_least_one=("recurrent_size", "embedding_size"),
            positive=("input_gain",),
            not_negative=("memory_steps",),
        )
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, got {self.hidden_sizes}")
        if self.hypernetwork and self.observation_again:
            raise ValueError("observation_again is not for a hypernetwork, whose heads see the observation anyway")


class RecurrentPolicy:
    """A GRU policy with a Gaussian (Box) or categorical (Discrete, MultiDiscrete) head, and a value function beside it.

    Works with shared P and with task-batched P, (M, …). Where all tasks have the same P, as views of one tensor, it is
    computed as shared.

    Source: Duan et al. 2016, "RL²"; Cho et al. 2014 (GRU); hypernetwork: Beck et al. 2023, "Recurrent Hypernetworks
        are Surprisingly Strong in Meta-RL", with its Bias-HyperInit: weights of zero, and a bias that is an ordinary
        initialisation of the heads.

    Args:
        observation_space: Box of shape (O,).
        action_space: Box of shape (A,), Discrete or MultiDiscrete of shape (A,), both from 0.
        config: the network.

    Attributes:
        observations: what the network sees of an observation.
        sizes: of the layers, from the observation to the head for actions.

    Raises:
        ValueError: the spaces are others, or observations are images.
    """

    def __init__(self, observation_space: Box, action_space: Space[Any], config: RecurrentConfig) -> None:
        if isinstance(observation_space, FlatImage):
            raise ValueError("a recurrent policy has no convolutions for images: train reptile or multitask on them")
        self.config = config

        # Which spaces there are, and which distributions belong to them, a policy without memory knows.
        self._plain = MLPPolicy(observation_space, action_space)
        self.gaussian = self._plain.gaussian
        self.num_observations = self._plain.sizes[0]
        self.num_outputs = self._plain.sizes[-1]
        self.observations = self._plain.observations

        self.sizes = (self.num_observations, 3 * config.recurrent_size, *config.hidden_sizes, self.num_outputs)
        # Beside the observation it sees what it did, what that paid, and where an episode begins.
        self.num_inputs = self.num_observations + self.num_outputs + 2

        self.cell: Cell = CELLS[config.cell]
        self.heads = {
            "policy": _Head("policy", self._head_sizes(self.num_outputs)),
            "value": _Head("value", self._head_sizes(1)),
        }

    def _head_sizes(self, outputs: int) -> tuple[int, ...]:
        """Sizes of the layers of a head, from its input to its output."""
        config = self.config
        inputs = self.num_observations if config.hypernetwork or config.observation_again else 0
        inputs += 0 if config.hypernetwork else config.recurrent_size
        return (inputs, *config.hidden_sizes, outputs)

    # ------------------------------------------------------------------ parameters

    def init(self, generator: torch.Generator) -> Parameters:
        """Fresh shared P, on the generator's device: orthogonal recurrent weights, Xavier-uniform others, no biases."""
        config = self.config
        params: Parameters = {}
        for name in self._networks():
            params |= init_cell(
                self.cell,
                f"{name}.{self.cell.name}",
                self.num_inputs,
                config.recurrent_size,
                generator,
                config.input_gain,
                config.memory_steps,
            )
            if config.hypernetwork:
                params |= init_linear(f"{name}.embedding", config.recurrent_size, config.embedding_size, generator)

        for name, head in self.heads.items():
            # A small last layer: at first, all actions are about as likely, and all values about zero.
            plain = head.init(generator, last_gain=0.01 if name == "policy" else 1.0)
            params |= _behind_hypernetwork(name, plain, config.embedding_size) if config.hypernetwork else plain

        if self.gaussian:
            params[LOG_STD] = torch.full(
                (self.num_outputs,), config.init_log_std, dtype=float_dtype(), device=generator.device
            )
        params[REWARD_SCALE] = torch.ones((), dtype=float_dtype(), device=generator.device)
        return params

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each leaf of shared P."""
        return shapes_of(self.init(torch.Generator()))

    def _networks(self) -> tuple[str, ...]:
        """Names of the recurrent units."""
        return ("policy", "value") if self.config.separate_networks else ("policy",)

    def spec(self) -> dict[str, Any]:
        """What it is built from again, beside its spaces."""
        return {"kind": "RecurrentPolicy", **{name: getattr(self.config, name) for name in vars(self.config)}}

    # ------------------------------------------------------------------ acting

    def apply(self, params: Parameters, obs: Tensor, memory: Memory | None = None) -> tuple[Distribution, Memory]:
        """Distribution over actions, and the memory with the observation in it.

        Args:
            params: shared P, or task-batched P with leaves (M, …).
            obs: (*batch, O); with a task-batched P the first dimension is M.
            memory: leaves (*batch, …); None where a trial begins.
        """
        params = _as_shared(params)
        obs = self.observations(obs)
        memory = self._blank(obs) if memory is None else memory

        inputs = self._inputs(params, obs, memory["action"], memory["reward"], 1 - memory["running"])
        before = tuple(memory[name] for name in self.cell.states)
        state = step_cell(self.cell, f"policy.{self.cell.name}", params, inputs, before)

        output = self._head("policy", params, state[0], obs)
        return self._distribution_of(params, output), memory | dict(zip(self.cell.states, state, strict=True))

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

    def _blank(self, obs: Tensor) -> Memory:
        """The memory at the beginning of a trial: zeros."""
        sizes = dict.fromkeys(self.cell.states, self.config.recurrent_size)
        sizes |= {"action": self.num_outputs, "reward": 1, "running": 1}
        return {name: obs.new_zeros((*obs.shape[:-1], size)) for name, size in sizes.items()}

    def _encode(self, action: Tensor, like: Tensor) -> Tensor:
        """Actions as vectors: one-hot where they are discrete."""
        if self.gaussian:
            return action
        if not self._plain.choices:
            return one_hot(action.long(), self.num_outputs).to(like.dtype)

        columns = [one_hot(action[..., i].long(), count) for i, count in enumerate(self._plain.choices)]
        return torch.cat(columns, dim=-1).to(like.dtype)

    def _inputs(self, params: Parameters, obs: Tensor, action: Tensor, reward: Tensor, begins: Tensor) -> Tensor:
        """x_t, (*batch, I)."""
        scale = params[REWARD_SCALE]
        scale = scale.reshape(-1, *(1,) * (reward.ndim - 1)) if scale.ndim else scale
        return torch.cat([obs, action, reward / scale, begins], dim=-1)

    # ------------------------------------------------------------------ whole trials

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
        obs = self.observations(obs)
        before = (self._encode(action, reward), reward.unsqueeze(-1))
        last_action, last_reward = (_shift(values) for values in before)
        inputs = self._inputs(params, obs, last_action, last_reward, begins.unsqueeze(-1))

        hidden = {
            name: unroll_cell(self.cell, f"{name}.{self.cell.name}", params, inputs, truncation)
            for name in self._networks()
        }
        output = self._head("policy", params, hidden["policy"], obs)
        value = self._head("value", params, hidden.get("value", hidden["policy"]), obs)
        return self._distribution_of(params, output), value.squeeze(-1)

    def _head(self, name: str, params: Parameters, hidden: Tensor, obs: Tensor) -> Tensor:
        """Output of the head for actions or for values, (*batch, outputs)."""
        head = self.heads[name]
        if not self.config.hypernetwork:
            inputs = torch.cat([hidden, obs], dim=-1) if self.config.observation_again else hidden
            return head.apply(params, inputs)

        network = name if name in self._networks() else "policy"
        embedding = torch.relu(linear(hidden, params, f"{network}.embedding"))
        generated = linear(embedding, params, f"{name}.hypernetwork")
        return head.apply_generated(generated, obs)

    def _distribution_of(self, params: Parameters, output: Tensor) -> Distribution:
        if not self.gaussian:
            return self.distribution({"logits": output})
        log_std = params[LOG_STD].clamp(min=MIN_LOG_STD)
        if log_std.ndim == 2:
            log_std = log_std.reshape(len(log_std), *(1,) * (output.ndim - 2), -1)
        return DiagonalGaussian(output, log_std)

    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        """Inverse of `ActionDistribution.parameters()`, for the distributions stored in Episodes."""
        return self._plain.distribution(parameters)


class _Head:
    """A multilayer perceptron with tanh between its layers, from parameters by name or from generated numbers."""

    def __init__(self, name: str, sizes: tuple[int, ...]) -> None:
        self.name = name
        self.sizes = sizes

    def init(self, generator: torch.Generator, last_gain: float) -> Parameters:
        """Fresh parameters, the last layer's times a gain."""
        params: Parameters = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            params |= init_linear(f"{self.name}.layer{layer}", fan_in, fan_out, generator)
        params[f"{self.name}.layer{len(self.sizes) - 2}.weight"].mul_(last_gain)
        return params

    def apply(self, params: Parameters, inputs: Tensor) -> Tensor:
        """Outputs (*batch, outputs) for inputs (*batch, inputs)."""
        last = len(self.sizes) - 2
        for layer in range(last + 1):
            inputs = linear(inputs, params, f"{self.name}.layer{layer}")
            if layer < last:
                inputs = torch.tanh(inputs)
        return inputs

    def apply_generated(self, generated: Tensor, inputs: Tensor) -> Tensor:
        """The same with weights of its own for each input, generated (*batch, weights and biases in their order)."""
        start = 0
        last = len(self.sizes) - 2
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            numbers = generated[..., start : start + fan_in * fan_out]
            weight = numbers.reshape(*numbers.shape[:-1], fan_in, fan_out)
            start += fan_in * fan_out
            bias = generated[..., start : start + fan_out]
            start += fan_out

            inputs = (inputs.unsqueeze(-2) @ weight).squeeze(-2) + bias
            if layer < last:
                inputs = torch.tanh(inputs)
        return inputs


# ---------------------------------------------------------------------- parts of the network


def _behind_hypernetwork(name: str, head: Parameters, embedding_size: int) -> Parameters:
    """A linear layer that puts out a head's initial parameters, whatever goes in."""
    bias = torch.cat([leaf.reshape(-1) for leaf in head.values()])
    weight = bias.new_zeros((embedding_size, len(bias)))
    return {f"{name}.hypernetwork.weight": weight, f"{name}.hypernetwork.bias": bias}


def _shift(values: Tensor) -> Tensor:
    """What was there one step before, (N, T, …); zeros at the first step."""
    return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)


def _as_shared(params: Parameters) -> Parameters:
    """Shared P where all tasks have the same P as views of one tensor (`expand_to_tasks`); otherwise P itself."""
    if params[REWARD_SCALE].ndim == 0:
        return params
    if any(len(leaf) > 1 and leaf.stride(0) != 0 for leaf in params.values()):
        return params
    return {name: leaf[0] for name, leaf in params.items()}
