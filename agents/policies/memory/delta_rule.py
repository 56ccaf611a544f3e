"""Writing to fast weights and reading them, over whole trials, with the derivative written out.

For N trials side by side, with a table S (R, A·V) each, from zeros on:

    u_t = k_t S_{t−1}                                          what the table says of the observation, (A, V)
    m_t = [y_{t−1}[a_{t−1}], mean of u_t over actions, their maximum]
    v_t, β_t = tanh, σ(x_t + m_t W),   d_t = β_t ∘ (v_t − y_{t−1}[a_{t−1}])
    S_t[r, a_{t−1}] = S_{t−1}[r, a_{t−1}] + k_{t−1}[r] d_t
    y_t = k_t S_t = u_t + (k_t · k_{t−1}) d_t at a_{t−1}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metarl.agents.policies.memory.cell import is_cut

TIME_BLOCK = 128
"""Steps of which the derivative of addresses is taken at once: it needs T numbers of memory for each."""


def unroll_table(inputs: Tensor, weight: Tensor, keys: Tensor, column: Tensor, columns: int, truncation: int) -> Tensor:
    """What trials recall at each step, y, (T, N, A, V).

    One function for autograd, differentiated once: autograd itself would keep the tables of all steps, and some thirty
    small operations for each.

    Args:
        inputs: x, what the inputs contribute to values and gates, (T, N, 2 V).
        weight: W, from m to values and gates, (2 V or 3 V, 2 V); where A is 1 there is no mean beside the maximum.
        keys: k, the share of each row, (T, N, R).
        column: a, the column that each step is written to, integers (T, N).
        columns: A.
        truncation: steps after which no gradient flows back through the memory; 0 = it flows through all.
    """
    recalled: Tensor = _Unroll.apply(inputs, weight, keys, column, columns, truncation)  # type: ignore[no-untyped-call]
    return recalled


@dataclass(frozen=True)
class _Addresses:
    """Where N trials read and write at each of T steps.

    Attributes:
        keys: k, (T, N, R).
        column: a, (T, N).
        columns: A.
    """

    keys: Tensor
    column: Tensor
    columns: int

    @cached_property
    def as_rows(self) -> Sequence[Tensor]:
        """k_t, (N, 1, R) each. Views of all steps at once: to index step by step costs as much as to compute."""
        return self.keys.unsqueeze(2).unbind()

    @cached_property
    def as_columns(self) -> Sequence[Tensor]:
        """k_t, (N, R, 1) each."""
        return self.keys.unsqueeze(3).unbind()

    @cached_property
    def shared(self) -> Sequence[Tensor]:
        """k_t · k_{t−1}, (N, 1) each; 0 at the first step."""
        product = torch.zeros_like(self.keys[..., :1])
        product[1:] = (self.keys[1:] * self.keys[:-1]).sum(dim=-1, keepdim=True)
        return product.unbind()

    @cached_property
    def places(self) -> Sequence[Tensor]:
        """Which of the N · A rows of a step's y each trial's column is, (N,) each."""
        trials = torch.arange(self.column.shape[1], device=self.column.device)
        return (self.column + self.columns * trials).contiguous().unbind()

    @cached_property
    def taken(self) -> Tensor:
        """1 at the column that is written, (T, N, A, 1)."""
        columns = torch.arange(self.columns, device=self.column.device)
        return (self.column.unsqueeze(-1) == columns).to(self.keys.dtype).unsqueeze(-1)

    def of_sums(self, weight: Tensor) -> Tensor:
        """The weights of m (…, 2 V), in a copy for the sum over columns in place of the mean."""
        weight = weight.clone()
        numbers = weight.shape[1] // 2
        if self.columns > 1:
            weight[numbers : 2 * numbers] /= self.columns
        return weight


class _Unroll(torch.autograd.Function):
    """See `unroll_table`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, keys: Tensor, column: Tensor, columns: int, truncation: int
    ) -> Tensor:
        ctx.columns, ctx.truncation = columns, truncation
        gates, unwritten, around, recalled = _forward(inputs, weight, _Addresses(keys, column, columns))
        ctx.save_for_backward(weight, keys, column, gates, unwritten, around)
        return recalled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, keys, column, gates, unwritten, around = ctx.saved_tensors
        addresses = _Addresses(keys, column, ctx.columns)
        numbers = weight.shape[1] // 2
        change = (2 * gates[..., :numbers] - 1 - around[..., :numbers]) * gates[..., numbers:]  # d
        change[0] = 0

        highest = _shares_of_maximum(unwritten, around[..., -numbers:])
        of_gates, of_recalled, at_column = _backward(
            gradient, weight, addresses, gates, change, highest, ctx.truncation
        )
        of_weight = addresses.of_sums(around.flatten(0, 1).T @ of_gates.flatten(0, 1))
        of_keys = None
        if ctx.needs_input_grad[2]:
            of_itself = (at_column * change).sum(dim=-1)
            of_keys = _of_keys(addresses, change, of_recalled, of_itself, ctx.truncation)
        return of_gates, of_weight, of_keys, None, None, None


def _forward(inputs: Tensor, weight: Tensor, addresses: _Addresses) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """σ of 2 v and of β (T, N, 2 V), u (T, N, A, V), m with a sum for the mean, y (T, N, A, V)."""
    steps, trials, rows = addresses.keys.shape
    columns, numbers = addresses.columns, weight.shape[1] // 2
    # tanh(x) = 2 σ(2x) − 1: one σ for values and gates, after doubling what leads to values.
    gates, doubled = inputs.clone(), addresses.of_sums(weight)
    gates[..., :numbers] *= 2
    doubled[:, :numbers] *= 2

    unwritten = inputs.new_zeros((steps, trials, columns, numbers))
    recalled = torch.zeros_like(unwritten)
    around = inputs.new_zeros((steps, trials, len(weight)))
    table = inputs.new_zeros((trials, rows, columns * numbers))

    olds, sums, maxima = _parts_of_steps(around, numbers)
    values, shares = gates[..., :numbers].unbind(), gates[..., numbers:].unbind()
    past = recalled.view(steps, -1, numbers).unbind()
    of_steps = zip(unwritten, around, gates, addresses.taken, recalled, strict=True)

    for time, (unread, now, gate, taken, result) in enumerate(of_steps):
        if time == 0:
            continue  # there is nothing to write, and nothing to find
        _read(addresses.as_rows[time], table, out=unread)
        torch.index_select(past[time - 1], 0, addresses.places[time], out=olds[time])
        if columns > 1:
            torch.sum(unread, dim=1, out=sums[time])
        torch.amax(unread, dim=1, out=maxima[time])

        gate.addmm_(now, doubled).sigmoid_()
        difference = torch.add(values[time], olds[time], alpha=-0.5).mul_(2).sub_(1)
        change = taken * difference.mul_(shares[time]).unsqueeze(1)
        table.addcmul_(addresses.as_columns[time - 1], change.view(trials, 1, -1))
        torch.addcmul(unread, addresses.shared[time].unsqueeze(-1), change, out=result)
    return gates, unwritten, around, recalled


def _parts_of_steps(around: Tensor, numbers: int) -> list[Sequence[Tensor]]:
    """What m is made of, (N, V) each, by part and step."""
    parts = around[..., :numbers], around[..., numbers : 2 * numbers], around[..., -numbers:]
    return [part.unbind() for part in parts]


def _read(key: Tensor, table: Tensor, out: Tensor) -> Tensor:
    """k S, (N, A, V), for a key (N, 1, R) and a table (N, R, A · V)."""
    flat = out.view(len(out), 1, -1)
    if table.shape[1] == 1:
        torch.mul(key, table, out=flat)
    else:
        torch.bmm(key, table, out=flat)
    return out


def _backward(
    gradient: Tensor,
    weight: Tensor,
    addresses: _Addresses,
    gates: Tensor,
    change: Tensor,
    highest: Tensor,
    truncation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Back through time.

    Returns:
        δ of x_t + m_t W (T, N, 2 V), δu (T, N, A, V), and δy at the column that was written, (T, N, V).
    """
    steps, trials, columns, numbers = gradient.shape
    factor, back = _derivatives_of_gates(gates, change).unbind(), addresses.of_sums(weight).T.contiguous()
    of_recalled = gradient.clone(memory_format=torch.contiguous_format)  # δy, later δu
    at_column, of_gates = torch.zeros_like(change), torch.zeros_like(gates)
    of_table = gates.new_zeros((trials, addresses.keys.shape[2], columns * numbers))
    reading = torch.empty_like(of_recalled[0])

    of_steps, of_places = of_recalled.unbind(), of_recalled.view(steps, -1, numbers).unbind()
    of_pairs, of_both = of_gates.view(steps, trials, 2, numbers).unbind(), of_gates.unbind()
    own, shares, places = at_column.unbind(), gates[..., numbers:].unbind(), addresses.places

    for time in range(steps - 1, 0, -1):
        here = of_steps[time]
        torch.index_select(of_places[time], 0, places[time], out=own[time])
        later = _read(addresses.as_rows[time - 1], of_table, out=reading)
        written = later.view(-1, numbers).index_select(0, places[time])
        written.addcmul_(addresses.shared[time], own[time])  # δd

        torch.mul(written.unsqueeze(1), factor[time], out=of_pairs[time])
        of_around = of_both[time] @ back
        if columns > 1:
            here += of_around[:, None, numbers : 2 * numbers]
        here.addcmul_(highest[time], of_around[:, None, -numbers:])

        if is_cut(time, truncation):
            of_table.zero_()
            continue
        of_table.addcmul_(addresses.as_columns[time], here.view(trials, 1, -1))
        of_old = of_around[:, :numbers].addcmul_(written, shares[time], value=-1)
        of_places[time - 1].index_add_(0, places[time], of_old)
    return of_gates, of_recalled, at_column


def _derivatives_of_gates(gates: Tensor, change: Tensor) -> Tensor:
    """What δd is multiplied by to give δ of values and gates before their nonlinearities, (T, N, 2, V)."""
    numbers = change.shape[-1]
    value, gate = gates[..., :numbers], gates[..., numbers:]
    factor = gates.new_empty((*change.shape[:2], 2, numbers))
    factor[:, :, 0] = gate * (4 * value * (1 - value))
    factor[:, :, 1] = change * (1 - gate)
    return factor


def _shares_of_maximum(unwritten: Tensor, maximum: Tensor) -> Tensor:
    """How much of a maximum's δ each column takes: of several equal ones each an equal part, as in autograd."""
    highest = (unwritten == maximum.unsqueeze(2)).to(maximum.dtype)
    return highest.div_(highest.sum(dim=2, keepdim=True))


def _of_keys(addresses: _Addresses, change: Tensor, of_recalled: Tensor, of_itself: Tensor, truncation: int) -> Tensor:
    """δk, from how much each step reads of what each step before it has written.

    Step s reads (k_s · k_{t−1}) d_t of what step t wrote, if that is not later: with G[s, t] the δ of that product,
    δk_s takes G[s, t] k_{t−1} and δk_{t−1} takes G[s, t] k_s.

    Args:
        addresses: k and a.
        change: d.
        of_recalled: δu.
        of_itself: G[t, t], (T, N).
        truncation: no gradient flows past so many steps.
    """
    of_keys = torch.zeros_like(addresses.keys)
    steps, _, rows = of_keys.shape
    if rows == 1:
        return of_keys  # the share of a single row is always 1

    written = (addresses.taken * change.unsqueeze(2)).flatten(2).transpose(0, 1)  # (N, T, A · V)
    of_reading = of_recalled.flatten(2).transpose(0, 1)
    keys = addresses.keys.transpose(0, 1)
    before = torch.cat([torch.zeros_like(keys[:, :1]), keys[:, :-1]], dim=1)

    time = torch.arange(steps, device=keys.device)
    for start in range(0, steps, TIME_BLOCK):
        end = min(start + TIME_BLOCK, steps)
        now, past = time[start:end], time[:end]
        product = torch.bmm(of_reading[:, start:end], written[:, :end].transpose(1, 2))
        product *= past < now.unsqueeze(1)
        product[:, now - start, now] = of_itself[start:end].T
        of_keys[start:end] += torch.bmm(product, before[:, :end]).transpose(0, 1)

        if truncation:
            product *= past // truncation == now.unsqueeze(1) // truncation
        of_earlier = torch.bmm(product.transpose(1, 2), keys[:, start:end])
        of_keys[: end - 1] += of_earlier[:, 1:].transpose(0, 1)
    return of_keys
