"""A policy with fixed parameters as programs that run without this project: `torch.export` and ONNX.

    obs (N, O), memory0 (N, …), …  →  action, the distribution's parameters, next_memory0 (N, …), …

`action` is what the policy does deterministically, in the environment's own units; the distribution's parameters
("mean" and "log_std", or "logits") are the policy's own. The memory of a recurrent policy goes in and comes out; zeros
begin an episode.
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl.agents.policies.parameters import Parameters
from metarl.envs.extras import how_to_install
from metarl.envs.rollout import ActingPolicy
from metarl.envs.spaces.action_map import ActionMap, TensorActionMap, torch_dtype

OBS = "obs"
ACTION = "action"
_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_BATCH = 2
"""Size of the batch that a program is traced with; it runs with any."""

Memory = Tensor | tuple[Tensor, ...] | dict[str, Tensor] | None
"""What a policy carries from step to step, leaves (*batch, …); None for a policy without memory and at the start."""


def leaves(memory: Memory) -> tuple[Tensor, ...]:
    """The tensors of a memory; none of None."""
    if memory is None:
        return ()
    if isinstance(memory, dict):
        return tuple(memory.values())
    return (memory,) if isinstance(memory, Tensor) else tuple(memory)


def like(tensors: Sequence[Tensor], memory: Memory) -> Memory:
    """Inverse of `leaves`, for a memory of the same kind."""
    if memory is None:
        return None
    if isinstance(memory, dict):
        return dict(zip(memory, tensors, strict=True))
    return tensors[0] if isinstance(memory, Tensor) else tuple(tensors)


def names_of(memory: Memory) -> list[str]:
    """What the tensors of a memory are called as inputs of a program: memory_hidden, or memory0 without a name."""
    if isinstance(memory, dict):
        return [f"memory_{name}" for name in memory]
    return [f"memory{index}" for index in range(len(leaves(memory)))]


def _own_dtype(dtype: Any) -> torch.dtype:
    """The torch dtype of a numpy one; a program only converts to those that torch hardly computes with."""
    unsigned = {"uint16": torch.uint16, "uint32": torch.uint32, "uint64": torch.uint64}
    return unsigned.get(np.dtype(dtype).name, torch_dtype(dtype))


class PolicyModule(nn.Module):
    """A policy with its parameters: obs (N, O), *memory → action, *distribution parameters, *memory.

    Args:
        policy: the functional policy.
        params: shared P.
        actions: from its actions to the environment's.
        num_observations: O.

    Attributes:
        state_names: names of the inputs that come out of a step as outputs for the next one.
        input_names: names of the inputs.
        output_names: names of the outputs.
        example: inputs.

    Raises:
        ValueError: the memory does not begin with zeros.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        params: Parameters,
        actions: ActionMap,
        num_observations: int,
    ) -> None:
        super().__init__()
        self._policy = policy
        self._names = list(params)
        for index, value in enumerate(params.values()):
            self.register_buffer(f"parameter{index}", value.detach().clone())

        self._actions = TensorActionMap(actions, _own_dtype(actions.native.dtype))

        # One step from no memory shows what the memory is made of, and how the distribution's parameters are called.
        obs = torch.linspace(-1, 1, _BATCH * num_observations, dtype=torch.float32).reshape(_BATCH, num_observations)
        distribution, self._memory_kind = policy.apply(self._params(), obs, None)
        zeros = tuple(torch.zeros_like(leaf) for leaf in leaves(self._memory_kind))

        # A program has no "no memory": its users begin an episode with zeros, which must mean the same.
        from_zeros, _ = policy.apply(self._params(), obs, like(zeros, self._memory_kind))
        if not torch.equal(from_zeros.mode(), distribution.mode()):
            raise ValueError(f"{type(policy).__name__} does not begin an episode with a memory of zeros")

        self.example = (obs, *zeros)
        self.state_names = names_of(self._memory_kind)
        self.input_names = [OBS, *self.state_names]
        self.output_names = [ACTION, *distribution.parameters(), *(f"next_{name}" for name in self.state_names)]

    def act(
        self, obs: Tensor, memory: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Any, tuple[Tensor, ...]]:
        """One step of N episodes.

        Args:
            obs: (N, O).
            memory: its tensors, (N, …); empty for a policy without memory, and at the start of all episodes.
            generator: draws the action; None = the most likely action.

        Returns:
            Actions of the environment's own space, (N, …); the distribution; the next memory.
        """
        before = like(memory, self._memory_kind) if memory else None
        distribution, following = self._policy.apply(self._params(), obs, before)

        action = distribution.mode() if generator is None else distribution.sample(generator)
        return self._native(action), distribution, leaves(following)

    def _native(self, action: Tensor) -> Tensor:
        """Actions of the environment's own space."""
        mapped: Tensor = self._actions(action)
        return mapped

    def forward(self, obs: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        """The deterministic action, the distribution's parameters and the next memory."""
        action, distribution, following = self.act(obs, memory)
        return (action, *distribution.parameters().values(), *following)

    def probes(self, obs: NDArray[np.float32]) -> list[dict[str, NDArray[Any]]]:
        """Inputs to try, from observations (N, O): each at the start of an episode."""
        memory = [torch.zeros_like(leaf[:1]).expand(len(obs), *leaf.shape[1:]).numpy() for leaf in self.example[1:]]
        return [dict(zip(self.input_names, [obs, *memory], strict=True))]

    def _params(self) -> Parameters:
        """The buffers as shared P."""
        return {name: getattr(self, f"parameter{index}") for index, name in enumerate(self._names)}


def export_program(module: PolicyModule) -> torch.export.ExportedProgram:
    """The policy as a `torch.export` program for any N ≥ 1."""
    with _silence_exporters():
        return torch.export.export(module.eval(), module.example, dynamic_shapes=_any_batch(module))


def _any_batch(module: PolicyModule) -> tuple[Any, ...]:
    """Which dimensions of the inputs may vary: the first one of each, which is N."""
    batch = {0: torch.export.Dim("batch", min=1)}
    memory = tuple(batch for _ in module.example[1:])
    return (batch, memory) if memory else (batch,)


def missing_for_onnx() -> str:
    """Which packages an ONNX file lacks, and how to install them; "" where one can be written."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    return f"an ONNX file needs {', '.join(missing)}: {how_to_install('export')}" if missing else ""


def write_onnx(module: PolicyModule, program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as one ONNX file."""
    with _silence_exporters():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=module.input_names,
            output_names=module.output_names,
            dynamic_shapes=_any_batch(module),
            external_data=False,
        )

    assert exported is not None
    exported.save(path, external_data=False)


def onnx_difference(module: PolicyModule, path: Path, obs: NDArray[np.float32]) -> float:
    """Largest difference between an ONNX file's actions and the policy's, relative to the larger of 1 and the action.

    Args:
        module: the policy.
        path: the file.
        obs: observations to try, (N, O).
    """
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for inputs in module.probes(obs):
        (action,) = session.run([ACTION], inputs)
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, inputs.values()))[0].numpy().astype(np.float64)
        relative = np.abs(action - expected) / np.maximum(1, np.abs(expected))
        largest = max(largest, float(np.max(relative)))
    return largest


@contextlib.contextmanager
def _silence_exporters() -> Iterator[None]:
    """Hide what exporters print of packages that are not needed, and of what PyTorch deprecates inside itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
