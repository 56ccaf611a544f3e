"""A memory that is addressed: a table with a row for each observation and action, rewritten where a step came from.

    k_t = softmax(o_t W + b)                                   which rows an observation means, (R,)
    y_t = Σ_r k_t[r] S_t[r]                                    what is remembered of it, for each action, (A, V)
    S_t[r, a_{t−1}] = S_{t−1}[r, a_{t−1}] + k_{t−1}[r] β_t ∘ (v_t − y_{t−1}[a_{t−1}])
    v_t, β_t = tanh, σ(linear of [o_t, a_{t−1}, r_{t−1}, begin_t, o_{t−1}, y_{t−1}[a_{t−1}], mean and max of what
               S_{t−1} says of o_t over actions])

The last line lets it learn in a task as Q-learning does: a row takes up the reward and what the rows of the next
observation hold. What a step paid is written once, where it belongs, instead of going through all units of a vector
for the rest of the trial: on tabular MDPs and bandits this learns in a tenth of the steps of a GRU.

Heads see y of each action, the mean and the maximum of y over actions, the observation, and which action it is. One
head serves all actions of a Discrete space; of other spaces there is one column, A = 1, and the head gives the
distribution's numbers.
"""

import math
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from metarl.agents.policies.memory.base import (
    Distribution,
    Memory,
    MemoryPolicy,
    RecurrentConfig,
    as_shared,
    step_before,
)
from metarl.agents.policies.memory.cell import affine, init_linear, linear, linear_shapes
from metarl.agents.policies.memory.delta_rule import unroll_table
from metarl.agents.policies.memory.heads import Head, hidden_of_columns
from metarl.agents.policies.parameters import Parameters, Shapes
from metarl.envs.spaces.precision import float_dtype

MAX_ROWS = 64
"""Rows where their number is not given, whatever observations are like."""

SHARPNESS = 8.0
"""Initial weights of addresses: an observation that is one of several, as 0s and a 1, has a row of its own."""

MIN_TIMESCALE_OVER_ONE = 0.05
"""Least τ − 1 of a gate that is to change wholly at each write: with 0 its bias would be infinite."""


class FastWeightPolicy(MemoryPolicy):
    """Fast weights: a table that observations and actions address, rewritten by the delta rule.

    Source: Schmidhuber 1992, "Learning to control fast-weight memories"; Schlag, Irie & Schmidhuber 2021, "Linear
        transformers are secretly fast weight programmers" (delta rule); Irie et al. 2021, "Going beyond linear
        transformers with recurrent fast weight programmers" (in reinforcement learning). Here keys are what was
        observed and done, as in Pritzel et al. 2017, "Neural episodic control", and queries what is observed now.

    Args: see MemoryPolicy.

    Attributes:
        num_rows: R.
        num_columns: A; 1 where actions are not Discrete.
    """

    def __init__(self, observation_space: Box, action_space: Space[Any], config: RecurrentConfig) -> None:
        super().__init__(observation_space, action_space, config)
        self.num_rows = config.memory_rows or min(self.num_observations, MAX_ROWS)
        self.num_columns = self.num_outputs if isinstance(action_space, Discrete) else 1

        numbers = config.recurrent_size
        self._num_over_actions = 2 * numbers if self.num_columns > 1 else numbers
        value_inputs = self.num_observations + self._num_over_actions

        # One head serves every Discrete action: it also sees that action's row and which action it is.
        policy_inputs, policy_outputs = value_inputs, self.num_outputs
        if self.num_columns > 1:
            policy_inputs, policy_outputs = value_inputs + numbers + self.num_columns, 1

        self.heads = {
            "policy": Head("policy", (policy_inputs, *config.hidden_sizes, policy_outputs)),
            "value": Head("value", (value_inputs, *config.hidden_sizes, 1)),
        }

        # How large the layers are, for estimates of memory: the table counts as one of them.
        table = self.num_rows * self.num_columns * numbers
        hidden = (self.num_columns * size for size in config.hidden_sizes)
        self.sizes = (self.num_observations, table, *hidden, self.num_outputs)

    # ------------------------------------------------------------------ parameters

    def init(self, generator: torch.Generator) -> Parameters:
        """See MemoryPolicy.init: Xavier-uniform weights, no biases but those that say how fast rows change."""
        numbers = self.config.recurrent_size
        inputs = self._num_write_inputs
        params: Parameters = {"address.weight": self._initial_addresses(generator)}
        params["address.bias"] = params["address.weight"].new_zeros(self.num_rows)
        params |= init_linear("write.value", inputs, numbers, generator)
        params |= init_linear("write.gate", inputs, numbers, generator)
        params["write.gate.bias"] = self._initial_gates(generator)

        for name, head in self.heads.items():
            # A small last layer: at first, all actions are about as likely.
            params |= head.init(generator, last_gain=0.01 if name == "policy" else 1.0)
        return params | self._common_parameters(generator)

    @property
    def _num_write_inputs(self) -> int:
        """Numbers that a write depends on.

        As in `_write_and_read`: two observations, action, reward, begin; the old row; the next observation's rows.
        """
        seen = 2 * self.num_observations + self.num_outputs + 2
        return seen + self.config.recurrent_size + self._num_over_actions

    def _own_shapes(self) -> Shapes:
        """See MemoryPolicy._own_shapes."""
        inputs, numbers = self._num_write_inputs, self.config.recurrent_size
        shapes = linear_shapes("address", self.num_observations, self.num_rows)
        for name in ("write.value", "write.gate"):
            shapes |= linear_shapes(name, inputs, numbers)
        for head in self.heads.values():
            shapes |= head.shapes
        return shapes

    def _initial_addresses(self, generator: torch.Generator) -> Tensor:
        """Weights from observations to rows, (O, R): one row for each number of an observation, others at random."""
        size = self.num_observations
        weight = torch.randn((size, self.num_rows), generator=generator, dtype=float_dtype(), device=generator.device)
        weight *= SHARPNESS / math.sqrt(size)
        if size <= self.num_rows:
            weight[:, :size] = SHARPNESS * torch.eye(size)
        return weight

    def _initial_gates(self, generator: torch.Generator) -> Tensor:
        """Biases with which σ(b) = 1/τ, for τ from 1 to `memory_steps`, evenly on a logarithmic scale; 0 without."""
        numbers = self.config.recurrent_size
        uniform = torch.rand(numbers, generator=generator, dtype=float_dtype(), device=generator.device)
        if not self.config.memory_steps:
            return torch.zeros_like(uniform)
        timescale = self.config.memory_steps**uniform
        return -(timescale - 1).clamp(min=MIN_TIMESCALE_OVER_ONE).log()

    # ------------------------------------------------------------------ the memory

    def _address(self, params: Parameters, obs: Tensor) -> Tensor:
        """k, the share of each row, (*batch, R)."""
        return torch.softmax(linear(obs, params, "address"), dim=-1)

    def _write_and_read(
        self,
        params: Parameters,
        table: Tensor,
        recalled: Tensor,
        inputs: Tensor,
        column: Tensor,
        key_before: Tensor,
        key_now: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Write what the last step brought, and read what is known of the observation now.

        Args:
            params: P.
            table: S_{t−1}, (*batch, R, A · V).
            recalled: y_{t−1}, (*batch, A, V).
            inputs: [o_t, a_{t−1}, r_{t−1}, begin_t, o_{t−1}], (*batch, I).
            column: 1 at the action that was taken, 0 everywhere before the first step, (*batch, A).
            key_before: k_{t−1}, (*batch, R).
            key_now: k_t, (*batch, R).

        Returns:
            S_t, and y_t, (*batch, A, V).
        """
        old = (recalled * column.unsqueeze(-1)).sum(dim=-2)
        unwritten = (key_now.unsqueeze(-2) @ table).reshape(recalled.shape)
        write_inputs = torch.cat([inputs, old, self._over_actions(unwritten)], dim=-1)

        value = torch.tanh(linear(write_inputs, params, "write.value"))
        gate = torch.sigmoid(linear(write_inputs, params, "write.gate"))
        change = column.unsqueeze(-1) * (gate * (value - old)).unsqueeze(-2)
        table = table + key_before.unsqueeze(-1) * change.flatten(-2).unsqueeze(-2)

        # y_t = k_t S_t without a second pass over the table: of the change, k_t sees as much as the two keys share.
        overlap = (key_before * key_now).sum(dim=-1)[..., None, None]
        return table, unwritten + overlap * change

    def _over_actions(self, recalled: Tensor) -> Tensor:
        """Mean and maximum of y (*batch, A, V) over actions, (*batch, 2 V); y itself where there is one column."""
        if self.num_columns == 1:
            return recalled.squeeze(-2)
        return torch.cat([recalled.mean(dim=-2), recalled.amax(dim=-2)], dim=-1)

    def _column(self, action: Tensor, like: Tensor) -> Tensor:
        """Which column an action means, (*batch, A)."""
        if self.num_columns > 1:
            return self._encode(action, like)
        return torch.ones_like(like).unsqueeze(-1)

    # ------------------------------------------------------------------ acting

    def apply(self, params: Parameters, obs: Tensor, memory: Memory | None = None) -> tuple[Distribution, Memory]:
        """See MemoryPolicy.apply."""
        params = as_shared(params)
        obs = self.observations(obs)
        memory = self._blank(obs) if memory is None else memory

        inputs = self._inputs(params, obs, memory["action"], memory["reward"], 1 - memory["running"])
        inputs = torch.cat([inputs, memory["observation"]], dim=-1)
        batch = obs.shape[:-1]
        table, recalled = self._write_and_read(
            params,
            table=memory["table"].reshape(*batch, self.num_rows, -1),
            recalled=memory["recalled"].reshape(*batch, self.num_columns, self.config.recurrent_size),
            inputs=inputs,
            column=memory["column"],
            key_before=self._address(params, memory["observation"]),
            key_now=self._address(params, obs),
        )

        output, _ = self._output(params, recalled, obs)
        remembered = {"table": table.flatten(-2), "recalled": recalled.flatten(-2), "observation": obs}
        return self._distribution_of(params, output), memory | remembered

    def observe(self, memory: Memory, action: Tensor, reward: Tensor, terminated: Tensor) -> Memory:
        """See MemoryPolicy.observe."""
        memory = super().observe(memory, action, reward, terminated)
        return memory | {"column": self._column(action, reward)}

    def _remembered(self) -> dict[str, int]:
        """See MemoryPolicy._remembered."""
        row = self.num_columns * self.config.recurrent_size
        return {
            "table": self.num_rows * row,
            "recalled": row,
            "observation": self.num_observations,
            "column": self.num_columns,
        }

    # ------------------------------------------------------------------ whole trials

    def unroll(
        self, params: Parameters, obs: Tensor, action: Tensor, reward: Tensor, begins: Tensor, truncation: int = 0
    ) -> tuple[Distribution, Tensor]:
        """See MemoryPolicy.unroll."""
        obs = self.observations(obs)
        inputs = self._inputs_of_trials(params, obs, action, reward, begins)
        inputs = torch.cat([inputs, step_before(obs)], dim=-1)

        # Time first, so that each step reads and writes one block of memory.
        obs = obs.transpose(0, 1)
        weight = torch.cat([params["write.value.weight"], params["write.gate.weight"]], dim=1)
        bias = torch.cat([params["write.value.bias"], params["write.gate.bias"]])
        num_inputs = inputs.shape[-1]
        recalled = unroll_table(
            inputs=affine(inputs.transpose(0, 1), weight[:num_inputs], bias),
            weight=weight[num_inputs:],
            keys=self._address(params, obs),
            column=self._column_index(action, reward).T,
            columns=self.num_columns,
            truncation=truncation,
        )

        output, value = self._output_of_trials(params, recalled, obs)
        return self._distribution_of(params, output.transpose(0, 1)), value.T

    def _column_index(self, action: Tensor, reward: Tensor) -> Tensor:
        """Which column each step's write goes to, that of the action before it, integers (N, T)."""
        if self.num_columns == 1:
            return torch.zeros_like(reward, dtype=torch.long)
        return step_before(action.long())

    # ------------------------------------------------------------------ heads

    def _output(self, params: Parameters, recalled: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers that say how likely actions are, (*batch, outputs), and values, (*batch,), from y (*batch, A, V)."""
        common = torch.cat([self._over_actions(recalled), obs], dim=-1)
        value = self.heads["value"].apply(params, common).squeeze(-1)
        if self.num_columns == 1:
            return self.heads["policy"].apply(params, common), value

        batch, actions = obs.shape[:-1], self.num_columns
        one_hot = torch.eye(actions, dtype=obs.dtype, device=obs.device).expand(*batch, actions, actions)
        common = common.unsqueeze(-2).expand(*batch, actions, common.shape[-1])
        of_actions = torch.cat([recalled, common, one_hot], dim=-1)
        return self.heads["policy"].apply(params, of_actions).squeeze(-1), value

    def _output_of_trials(self, params: Parameters, recalled: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        """The same with shared P, for y (T, N, A, V), as updates compute it."""
        if self.num_columns == 1 or not self.config.hidden_sizes:
            return self._output(params, recalled, obs)
        common = torch.cat([self._over_actions(recalled), obs], dim=-1)
        value = self.heads["value"].apply(params, common).squeeze(-1)

        weight, bias = params["policy.layer0.weight"], params["policy.layer0.bias"]
        numbers = recalled.shape[-1]
        own, of_common, of_which = weight.tensor_split([numbers, numbers + common.shape[-1]])
        hidden = hidden_of_columns(recalled.flatten(0, 1), common.flatten(0, 1), own, of_common, of_which + bias)
        output = self.heads["policy"].after_first(params, hidden)
        return output.reshape(*obs.shape[:2], self.num_columns), value
