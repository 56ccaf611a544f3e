"""A recurrent policy that learns inside its memory: it sees what it did, what that paid, and where episodes begin.

    x_t = [o_t, a_{t−1}, r_{t−1} / scale, begin_t],    h_t = GRU(x_t, h_{t−1}),    π(· | head(h_t)),  V(head(h_t))

The memory holds h, the last action and the last reward, from step to step and from episode to episode of a trial. A
memory of zeros is that of a trial's beginning.
"""

from typing import Any

import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from metarl.agents.policies.memory.base import (
    Distribution,
    Memory,
    MemoryPolicy,
    RecurrentConfig,
    as_shared,
)
from metarl.agents.policies.memory.cell import (
    Cell,
    cell_shapes,
    init_cell,
    init_linear,
    linear,
    linear_shapes,
    step_cell,
    unroll_cell,
)
from metarl.agents.policies.memory.gru import GRU
from metarl.agents.policies.memory.heads import Head, behind_hypernetwork, hypernetwork_shapes
from metarl.agents.policies.memory.lstm import LSTM
from metarl.agents.policies.parameters import Parameters, Shapes

CELLS: dict[str, Cell] = {"gru": GRU(), "lstm": LSTM()}
"""Recurrent units by name."""


class RecurrentPolicy(MemoryPolicy):
    """A GRU or LSTM with a Gaussian (Box) or categorical (Discrete, MultiDiscrete) head, and a value function.

    Source: Duan et al. 2016, "RL²"; Cho et al. 2014 (GRU); hypernetwork: Beck et al. 2023, "Recurrent Hypernetworks
        are Surprisingly Strong in Meta-RL", with its Bias-HyperInit: weights of zero, and a bias that is an ordinary
        initialisation of the heads.

    Args: see MemoryPolicy.
    """

    def __init__(self, observation_space: Box, action_space: Space[Any], config: RecurrentConfig) -> None:
        super().__init__(observation_space, action_space, config)
        self.sizes = (self.num_observations, 3 * config.recurrent_size, *config.hidden_sizes, self.num_outputs)
        self.num_inputs = self.num_observations + self.num_outputs + 2
        self.cell: Cell = CELLS[config.cell]
        self.heads = {
            "policy": Head("policy", self._head_sizes(self.num_outputs)),
            "value": Head("value", self._head_sizes(1)),
        }

    def _head_sizes(self, outputs: int) -> tuple[int, ...]:
        """Sizes of the layers of a head, from its input to its output."""
        config = self.config
        inputs = self.num_observations if config.hypernetwork or config.observation_again else 0
        inputs += 0 if config.hypernetwork else config.recurrent_size
        return (inputs, *config.hidden_sizes, outputs)

    # ------------------------------------------------------------------ parameters

    def init(self, generator: torch.Generator) -> Parameters:
        """See MemoryPolicy.init: orthogonal recurrent weights, Xavier-uniform others, no biases."""
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
            params |= behind_hypernetwork(name, plain, config.embedding_size) if config.hypernetwork else plain
        return params | self._common_parameters(generator)

    def _own_shapes(self) -> Shapes:
        """See MemoryPolicy._own_shapes."""
        config = self.config
        shapes: Shapes = {}
        for name in self._networks():
            shapes |= cell_shapes(self.cell, f"{name}.{self.cell.name}", self.num_inputs, config.recurrent_size)
            if config.hypernetwork:
                shapes |= linear_shapes(f"{name}.embedding", config.recurrent_size, config.embedding_size)

        for name, head in self.heads.items():
            plain = head.shapes
            shapes |= hypernetwork_shapes(name, plain, config.embedding_size) if config.hypernetwork else plain
        return shapes

    def _networks(self) -> tuple[str, ...]:
        """Names of the recurrent units."""
        return ("policy", "value") if self.config.separate_networks else ("policy",)

    # ------------------------------------------------------------------ acting

    def apply(self, params: Parameters, obs: Tensor, memory: Memory | None = None) -> tuple[Distribution, Memory]:
        """See MemoryPolicy.apply."""
        params = as_shared(params)
        obs = self.observations(obs)
        memory = self._blank(obs) if memory is None else memory

        inputs = self._inputs(params, obs, memory["action"], memory["reward"], 1 - memory["running"])
        before = tuple(memory[name] for name in self.cell.states)
        state = step_cell(self.cell, f"policy.{self.cell.name}", params, inputs, before)

        output = self._head("policy", params, state[0], obs)
        return self._distribution_of(params, output), memory | dict(zip(self.cell.states, state, strict=True))

    def _remembered(self) -> dict[str, int]:
        """See MemoryPolicy._remembered."""
        return dict.fromkeys(self.cell.states, self.config.recurrent_size)

    # ------------------------------------------------------------------ whole trials

    def unroll(
        self, params: Parameters, obs: Tensor, action: Tensor, reward: Tensor, begins: Tensor, truncation: int = 0
    ) -> tuple[Distribution, Tensor]:
        """See MemoryPolicy.unroll."""
        obs = self.observations(obs)
        inputs = self._inputs_of_trials(params, obs, action, reward, begins)

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
