"""Rollouts on a GPU as CUDA graphs: the host launches one graph a step instead of each of its operations."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.envs.rollout import ActingPolicy, CapturableEnv, Carry, Episodes, advance, begin, make_records, to_episodes
from metarl.envs.task_space import Task

Capture = Callable[[Callable[[], None], torch.Generator], Callable[[], None]]
"""Runs a function some times and gives what does the same on the device again, without the function's Python.

The function reads and writes tensors that stay where they are; the generator is the one that it draws from.
"""

WARM_UP_STEPS = 3  # in which libraries allocate what they keep
MAX_KEPT = 8


def cuda_graph(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """A Capture on a GPU, `torch.cuda.CUDAGraph`.

    Raises:
        RuntimeError: the function waits for the device, or does something else that a graph cannot hold.
    """
    with torch.cuda.device(generator.device):
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                function()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            function()
    return graph.replay


class RolloutGraphs:
    """Captured rollouts of one policy, one graph for each shape of a batch; results are those of `collect`.

    Args:
        policy: the policy whose rollouts are captured; it must carry no memory from step to step.
        capture: how.
    """

    def __init__(self, policy: ActingPolicy, capture: Capture = cuda_graph) -> None:
        self.policy = policy
        self._capture = capture
        self._kept: OrderedDict[Any, _RolloutGraph] = OrderedDict()

    def collect(self, env: CapturableEnv, params: dict[str, Tensor], generator: torch.Generator) -> Episodes:
        """See `metarl.envs.rollout.collect`; the tasks of `env` are met, and `env` itself is not stepped.

        Raises:
            RuntimeError: the step cannot be captured.
        """
        key = (env.batch_shape, env.horizon, generator.device, _shapes(params), _shapes(env.tasks))
        if key not in self._kept:
            self._kept[key] = _RolloutGraph(env, self.policy, params, generator, self._capture)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key].collect(env.tasks, params, generator)


class _RolloutGraph:
    """One step of M tasks × E episodes as a graph, with the tensors that it reads and writes.

    Each replay reads where the episodes stand, takes a step, writes what happened into row `time` of the records, and
    writes where they stand now.
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
        self._tasks, self._params = _copies(env.tasks), _copies(params)
        self._env = env.rebound(self._tasks)
        self._generator = torch.Generator(generator.device)  # the graph's own: it is bound to it
        self._time = torch.zeros(1, dtype=torch.int64, device=generator.device)
        with torch.no_grad():
            carry = begin(self._env, self._generator)
            self._carry = _copies(carry.tensors())
            self._state = _copies(self._env.state)
            after, step = advance(self._env, policy, self._params, carry, self._generator)
            if after.memory is not None:
                raise RuntimeError(f"{type(policy).__name__} carries a memory from step to step")
            self._records = make_records(step, env.horizon)
            self._replay = capture(self._step, self._generator)

    def _step(self) -> None:
        self._env.state = self._state
        after, step = advance(self._env, self._policy, self._params, Carry(**self._carry), self._generator)
        for name, value in step.items():
            self._records[name].index_copy_(0, self._time, value.unsqueeze(0))
        _write(after.tensors(), self._carry)
        _write(self._env.state, self._state)
        self._time.add_(1).remainder_(self._env.horizon)  # the steps before the first rollout may be more

    def collect(self, tasks: Task, params: dict[str, Tensor], generator: torch.Generator) -> Episodes:
        with torch.no_grad():
            _write(tasks, self._tasks)
            _write(params, self._params)
            self._generator.set_state(generator.get_state())
            _write(begin(self._env, self._generator).tensors(), self._carry)
            _write(self._env.state, self._state)
            self._time.zero_()
            for _ in range(self._env.horizon):
                self._replay()
            generator.set_state(self._generator.get_state())
            return to_episodes(self._records, Carry(**_copies(self._carry)), success=None)


def _copies(tree: Any) -> Any:
    """Tensors of their own with the same numbers."""
    return pytree.tree_map(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), tree)


def _write(source: Any, target: Any) -> None:
    """Copy every tensor into its counterpart."""
    values, structure = pytree.tree_flatten(source)
    for place, value in zip(structure.flatten_up_to(target), values, strict=True):
        place.copy_(value)


def _shapes(tensors: dict[str, Tensor]) -> tuple[tuple[str, torch.Size, torch.dtype], ...]:
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
