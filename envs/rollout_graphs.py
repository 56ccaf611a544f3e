"""Rollouts on a GPU as CUDA graphs: the host launches one graph a step instead of each of its operations.

A CUDA graph repeats recorded operations on the very tensors they were recorded with. A captured rollout therefore
owns its tensors: tasks, parameters and the state of the episodes are copied into them before each rollout.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.envs.rollout import ActingPolicy, CapturableEnv, Carry, Episodes, advance, begin, make_records, to_episodes
from metarl.envs.task_space import Task

Capture = Callable[[Callable[[], None], torch.Generator], Callable[[], None]]
"""Runs a function a few times and returns what repeats its work on the device, without the function's Python.

The function reads and writes tensors that stay where they are; the generator is the one that it draws from.
"""

WARM_UP_STEPS = 3
"""Steps before a capture, in which libraries allocate what they keep."""

MAX_KEPT = 8
"""Captured shapes of batches that one policy keeps; the least recently used one is given up first."""


def cuda_graph(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """A Capture on a GPU, by `torch.cuda.CUDAGraph`.

    Raises:
        RuntimeError: the function waits for the device, or does something else that a graph cannot hold.
    """
    with torch.cuda.device(generator.device):
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)

        # PyTorch asks for the warm-up on a stream other than the default one.
        warm_up = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(WARM_UP_STEPS):
                function()
        torch.cuda.current_stream().wait_stream(warm_up)

        with torch.cuda.graph(graph):
            function()

    return graph.replay


class RolloutGraphs:
    """Captured rollouts of one policy, one graph for each shape of a batch; results are those of `collect`.

    Args:
        policy: the policy whose rollouts are captured.
        capture: how a step is captured.
    """

    def __init__(self, policy: ActingPolicy, capture: Capture = cuda_graph) -> None:
        self.policy = policy
        self._capture = capture
        self._kept: OrderedDict[Any, _RolloutGraph] = OrderedDict()

    def collect(
        self, env: CapturableEnv, params: dict[str, Tensor], generator: torch.Generator, memory: Any = None
    ) -> Episodes:
        """See `metarl.envs.rollout.collect`; the episodes are of the tasks of `env`, which itself is not stepped.

        Raises:
            RuntimeError: the step cannot be captured.
        """
        key = (env.batch_shape, env.horizon, generator.device, _shapes(params), _shapes(env.tasks))

        if key not in self._kept:
            self._kept[key] = _RolloutGraph(env, self.policy, params, generator, self._capture)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

        self._kept.move_to_end(key)
        return self._kept[key].collect(env.tasks, params, generator, memory)


class _RolloutGraph:
    """One step of M tasks × E episodes as a graph, with the tensors that it reads and writes.

    Each replay reads where the episodes stand, takes a step, writes its record into row `time` of the records, and
    writes where the episodes stand now, what the policy remembers included.
    """

    def __init__(
        self,
        env: CapturableEnv,
        policy: ActingPolicy,
        params: dict[str, Tensor],
        generator: torch.Generator,
        capture: Capture,
    ) -> None:
        self._policy = policy
        self._tasks = _copy(env.tasks)
        self._params = _copy(params)
        self._env = env.with_tasks(self._tasks)
        self._generator = torch.Generator(generator.device)  # a graph is bound to its generator, so it has its own
        self._time = torch.zeros(1, dtype=torch.int64, device=generator.device)

        with torch.no_grad():
            carry = begin(self._env, self._generator)
            self._state = _copy(self._env.state)

            # One plain step shows the shapes of the records, and what the policy remembers.
            after, record = advance(self._env, policy, self._params, carry, self._generator)
            self._carry = _copy(after.fields())
            self._records = make_records(record, env.horizon)

            self._replay = capture(self._step, self._generator)

    def _step(self) -> None:
        """The function that is captured: one step from the tensors of this graph into them."""
        self._env.state = self._state
        after, record = advance(self._env, self._policy, self._params, Carry(**self._carry), self._generator)

        for name, value in record.items():
            self._records[name].index_copy_(0, self._time, value.unsqueeze(0))

        _write(after.fields(), self._carry)
        _write(self._env.state, self._state)

        # The warm-up may take more steps than an episode has.
        self._time.add_(1).remainder_(self._env.horizon)

    @torch.no_grad()
    def collect(self, tasks: Task, params: dict[str, Tensor], generator: torch.Generator, memory: Any) -> Episodes:
        _write(tasks, self._tasks)
        _write(params, self._params)
        self._generator.set_state(generator.get_state())

        carry = begin(self._env, self._generator, memory)
        plain_steps = 0
        if memory is None and "memory" in self._carry:
            # The graph has no "no memory": the policy takes its first step outside, and begins to remember there.
            carry = self._plain_first_step(carry)
            plain_steps = 1

        _write(carry.fields(), self._carry)
        _write(self._env.state, self._state)
        self._time.fill_(plain_steps)

        for _ in range(self._env.horizon - plain_steps):
            self._replay()

        generator.set_state(self._generator.get_state())
        end = Carry(**_copy(self._carry))
        return to_episodes(self._records, end, success=None)

    def _plain_first_step(self, carry: Carry) -> Carry:
        """Take the first step one operation at a time, and record it."""
        after, record = advance(self._env, self._policy, self._params, carry, self._generator)
        for name, value in record.items():
            self._records[name][0] = value
        return after


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
