"""Rollouts on a GPU as CUDA graphs: the host launches one graph instead of each operation of each step.

A captured rollout owns its tensors: tasks and parameters are copied into them before each rollout.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.envs.graphs.capture import Capture, cuda_graph, first_line
from metarl.envs.graphs.functions import FunctionGraph
from metarl.envs.graphs.fuse import CannotFuseError, Fused
from metarl.envs.rollout import (
    ActingPolicy,
    Advance,
    CapturableEnv,
    Carry,
    Rollout,
    advance,
    begin,
    collect_eagerly,
    make_records,
    to_rollout,
)
from metarl.envs.task_space import Task

MAX_KEPT = 8
"""Captured shapes of batches that one policy keeps; the least recently used one is given up first."""

MAX_WHOLE_STEPS = 2**24
"""Environment steps of a batch whose episodes a graph may hold besides those that it returns."""


class RolloutGraphs:
    """Captured rollouts of one policy, one graph for each shape of a batch; results are those of `collect`.

    Args:
        policy: the policy whose rollouts are captured.
        capture: how steps are captured.
        say: is told in a line what cannot be captured or fused, and why; without it that is an exception.
        fuse: whether the operations of a step become a few kernels.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        capture: Capture = cuda_graph,
        say: Callable[[str], None] | None = None,
        fuse: bool = False,
    ) -> None:
        self.policy = policy
        self._capture = capture
        self._say = say
        self._refused = False
        self._fuse = fuse
        self._kept: OrderedDict[Any, _WholeRollout | _RolloutInParts] = OrderedDict()

    def forget(self) -> None:
        """Give up all graphs, because tensors that they use are given up."""
        self._kept.clear()

    def collect(
        self, env: CapturableEnv, params: dict[str, Tensor], generator: torch.Generator, memory: Any = None
    ) -> Rollout | None:
        """See `metarl.envs.rollout.collect`; the episodes are of the tasks of `env`, which itself is not stepped.

        Returns:
            what was collected; None where rollouts cannot be captured, from the first try on.

        Raises:
            RuntimeError: the steps cannot be captured or fused, and nobody is told of it.
        """
        if self._refused:
            return None
        try:
            return self._collect(env, params, generator, memory)
        except CannotFuseError as error:
            if self._say is None:
                raise
            self._fuse = False
            self._say(f"rollouts of {env.label} are not fused: {error}")
            return self.collect(env, params, generator, memory)
        except RuntimeError as error:
            if self._say is None or isinstance(error, torch.OutOfMemoryError):
                raise
            self._refused = True
            self._say(f"rollouts of {env.label} are not captured as CUDA graphs: {first_line(error)}")
            return None

    def _collect(
        self, env: CapturableEnv, params: dict[str, Tensor], generator: torch.Generator, memory: Any
    ) -> Rollout:
        remembered = pytree.tree_map(lambda leaf: getattr(leaf, "shape", leaf), memory)
        key = (env.batch_shape, env.horizon, generator.device, _shapes(params), _shapes(env.tasks), str(remembered))

        if key not in self._kept:
            num_steps = env.batch_shape[0] * env.batch_shape[1] * env.horizon
            whole = env.horizon <= env.steps_per_graph and num_steps <= MAX_WHOLE_STEPS
            kind = _WholeRollout if whole else _RolloutInParts
            take_step = FusedAdvance() if self._fuse else advance
            self._kept[key] = kind(env, self.policy, params, generator, memory, self._capture, take_step)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

        self._kept.move_to_end(key)
        return self._kept[key].collect(env.tasks, params, generator, memory)


class _WholeRollout:
    """All that `collect_eagerly` does as one graph, from the reset to the episodes."""

    def __init__(
        self,
        env: CapturableEnv,
        policy: ActingPolicy,
        params: dict[str, Tensor],
        generator: torch.Generator,
        memory: Any,
        capture: Capture,
        take_step: Advance,
    ) -> None:
        self._generator = torch.Generator(generator.device)  # a graph is bound to its generator, so it has its own

        def rollout(tasks: Task, params: dict[str, Tensor], memory: Any) -> Rollout:
            return collect_eagerly(env.with_tasks(tasks), policy, params, self._generator, memory, take_step)

        self._graph = FunctionGraph(rollout, (env.tasks, params, memory), capture, self._generator)

    def collect(self, tasks: Task, params: dict[str, Tensor], generator: torch.Generator, memory: Any) -> Rollout:
        self._generator.set_state(generator.get_state())
        rollout: Rollout = self._graph(tasks, params, memory)
        generator.set_state(self._generator.get_state())
        return rollout


class _RolloutInParts:
    """Some steps of M tasks × E episodes as a graph, replayed until the end of the episodes.

    Each replay reads where the episodes stand, takes the steps, writes their records, and writes where the episodes
    stand now, what the policy remembers included. Long episodes are run so, large batches, whose numbers should not be
    held twice, and environments that ask for it.
    """

    def __init__(
        self,
        env: CapturableEnv,
        policy: ActingPolicy,
        params: dict[str, Tensor],
        generator: torch.Generator,
        memory: Any,
        capture: Capture,
        take_step: Advance,
    ) -> None:
        self._policy = policy
        self._capture = capture
        self._take_step = take_step
        self._tasks = _copy(env.tasks)
        self._params = _copy(params)
        self._env = env.with_tasks(self._tasks)
        self._generator = torch.Generator(generator.device)  # a graph is bound to its generator, so it has its own
        self._num_steps = _largest_divisor(env.horizon, env.steps_per_graph)
        self._time = torch.zeros(1, dtype=torch.int64, device=generator.device)
        self._replays: dict[bool, Callable[[], None]] = {}

        with torch.no_grad():
            carry = begin(self._env, self._generator)
            self._state = _copy(self._env.state)

            # One plain step shows the shapes of the records, and what the policy remembers.
            after, record = take_step(self._env, policy, self._params, carry, self._generator)
            self._carry = _copy(after.fields())
            self._records = make_records(record, env.horizon)

    def _steps(self, fresh: bool) -> None:
        """The function that is captured: steps from the tensors of this graph into them.

        Args:
            fresh: whether the policy remembers nothing yet.
        """
        self._env.state = self._state
        carry = Carry(**self._carry)
        if fresh:
            carry = replace(carry, memory=None)

        for step in range(self._num_steps):
            carry, record = self._take_step(self._env, self._policy, self._params, carry, self._generator)
            self._write_record(step, record)

        _write(carry.fields(), self._carry)
        _write(self._env.state, self._state)

    def _write_record(self, step: int, record: dict[str, Tensor]) -> None:
        """Write the record of a step of the graph into its row."""
        if self._num_steps == self._env.horizon:
            for name, value in record.items():
                self._records[name][step] = value
            return

        # The row depends on how many replays there were.
        for name, value in record.items():
            self._records[name].index_copy_(0, self._time, value.unsqueeze(0))
        self._time.add_(1).remainder_(self._env.horizon)  # the warm-up may take more steps than an episode has

    @torch.no_grad()
    def collect(self, tasks: Task, params: dict[str, Tensor], generator: torch.Generator, memory: Any) -> Rollout:
        fresh = memory is None and "memory" in self._carry
        kinds = [fresh] + [False] * (self._env.horizon // self._num_steps - 1)
        for kind in dict.fromkeys(kinds):
            self._capture_once(kind)  # first of all, because it takes steps itself

        _write(tasks, self._tasks)
        _write(params, self._params)
        self._generator.set_state(generator.get_state())
        carry = begin(self._env, self._generator, memory)
        _write(carry.fields(), {name: self._carry[name] for name in carry.fields()})
        _write(self._env.state, self._state)
        self._time.zero_()

        for kind in kinds:
            self._replays[kind]()

        generator.set_state(self._generator.get_state())
        end = Carry(**_copy(self._carry))
        return to_rollout(self._records, end, success=None)

    def _capture_once(self, fresh: bool) -> None:
        if fresh not in self._replays:
            self._replays[fresh] = self._capture(partial(self._steps, fresh), self._generator)


class FusedAdvance:
    """`advance` for one shape of a batch in a few kernels; see Fused."""

    def __init__(self) -> None:
        self._kept: dict[bool, Fused] = {}

    def __call__(
        self,
        env: CapturableEnv,
        policy: ActingPolicy,
        params: dict[str, Tensor],
        carry: Carry,
        generator: torch.Generator,
    ) -> tuple[Carry, dict[str, Tensor]]:
        """See `advance`.

        Raises:
            CannotFuseError: see there.
        """

        def step(
            params: dict[str, Tensor], tasks: Task, state: Any, fields: dict[str, Any]
        ) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
            stepped = env.with_tasks(tasks)
            stepped.state, stepped.generator = state, generator
            after, record = advance(stepped, policy, params, Carry(**fields), generator)
            return stepped.state, after.fields(), record

        given = (params, env.tasks, env.state, carry.fields())
        remembers = carry.memory is not None
        if remembers not in self._kept:
            self._kept[remembers] = Fused(step, given, generator)

        env.state, fields, record = self._kept[remembers](*given)
        return Carry(**fields), record


def _largest_divisor(number: int, limit: int) -> int:
    """Of a number, the largest divisor that is not above the limit."""
    return max(divisor for divisor in range(1, min(number, limit) + 1) if number % divisor == 0)


def _copy(tree: Any) -> Any:
    """The same tree with contiguous copies of its tensors."""
    return pytree.tree_map(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), tree)


def _write(source: Any, target: Any) -> None:
    """Copy the numbers of every tensor into its counterpart."""
    values, structure = pytree.tree_flatten(source)
    for place, value in zip(structure.flatten_up_to(target), values, strict=True):
        place.copy_(value)


def _shapes(tensors: dict[str, Tensor]) -> tuple[tuple[str, torch.Size, torch.dtype], ...]:
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
