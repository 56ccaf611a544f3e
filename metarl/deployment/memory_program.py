"""A policy that learns in its memory, as a program of one step, and the memory that it begins a trial with.

    obs (N, O), memory_… (N, …), last_action (N, …), acted (N,), reward (N,), terminated (N,), begins (N,)
        →  action, the distribution's parameters, next_memory_…, next_last_action, next_acted

Whoever runs it hands back what came out as next_…, and says what the step before earned. `memory.npz` holds the first
of these, each with N = 1, by the names of the inputs.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.policies.parameters import Parameters
from metarl.deployment.export import ACTION, Memory, PolicyModule, leaves, like, names_of
from metarl.envs.rollout import ActingPolicy
from metarl.envs.spaces.action_map import ActionMap
from metarl.errors import UserError
from metarl.run.files import read_file

LAST_ACTION = "last_action"
ACTED = "acted"
REWARD = "reward"
TERMINATED = "terminated"
BEGINS = "begins"
NUM_EARNED = 3
"""Inputs that say what the step before earned: reward, terminated, begins."""

_PROBED_STEPS = 4


class MemoryPolicyModule(PolicyModule):
    """A policy that learns in its memory, with its parameters; for the inputs and outputs see above.

        memory ← observe(memory, last action, reward, terminated)    where there was a step before
        memory ← next_episode(memory)                                where an episode begins after it
        action, memory ← apply(obs, memory)

    Args:
        policy: the functional policy; it has `observe`, and `next_episode` where an episode's begin matters.
        params: shared P.
        actions: from its actions to the environment's.
        num_observations: O.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        params: Parameters,
        actions: ActionMap,
        num_observations: int,
    ) -> None:
        super().__init__(policy, params, actions, num_observations)
        obs, *zeros = self.example
        distribution, _ = policy.apply(self._params(), obs, None)
        no_action = torch.zeros_like(distribution.mode())
        no = torch.zeros(len(obs), dtype=torch.bool)

        self.example = (obs, *zeros, no_action, no, torch.zeros(len(obs)), no.clone(), no.clone())
        self.state_names = [*names_of(self._memory_kind), LAST_ACTION, ACTED]
        self.input_names = [self.input_names[0], *self.state_names, REWARD, TERMINATED, BEGINS]
        following = [f"next_{name}" for name in self.state_names]
        self.output_names = [ACTION, *distribution.parameters(), *following]

    def empty(self) -> tuple[Tensor, ...]:
        """The state at the beginning of a trial, leaves (1, …), in the order of `state_names`: zeros."""
        return tuple(torch.zeros_like(leaf[:1]) for leaf in self.example[1:-NUM_EARNED])

    def start(self, memory: Memory) -> tuple[Tensor, ...]:
        """The state of a policy that remembers this, leaves (1, …), and has not acted yet."""
        state = self.empty()
        return state if memory is None else (*leaves(memory), *state[-2:])

    def step(
        self,
        obs: Tensor,
        state: Sequence[Tensor],
        earned: Sequence[Tensor],
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Any, tuple[Tensor, ...]]:
        """One step of N trials.

        Args:
            obs: (N, O).
            state: memory, last action and whether there was one, in the order of `state_names`, (N, …).
            earned: reward and end of the step before, and whether an episode begins, each (N,).
            generator: draws the action; None = the most likely action.

        Returns:
            Actions of the environment's own space, (N, …); the distribution; the next state.
        """
        *remembered, last_action, acted = state
        memory = self._observe(like(remembered, self._memory_kind), last_action, acted, earned)
        distribution, following = self._policy.apply(self._params(), obs, memory)

        action = distribution.mode() if generator is None else distribution.sample(generator)
        return self._native(action), distribution, (*leaves(following), action, torch.ones_like(acted))

    def forward(self, obs: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """The deterministic action, the distribution's parameters and the next state."""
        state, earned = rest[:-NUM_EARNED], rest[-NUM_EARNED:]
        action, distribution, following = self.step(obs, state, earned)
        return (action, *distribution.parameters().values(), *following)

    def _observe(self, memory: Memory, last_action: Tensor, acted: Tensor, earned: Sequence[Tensor]) -> Memory:
        """The memory with what the step before earned, and that an episode begins, where there was such a step."""
        reward, terminated, begins = earned
        policy: Any = self._policy
        seen = policy.observe(memory, last_action, reward, terminated)
        memory = _choose(acted, seen, memory)

        next_episode = getattr(policy, "next_episode", None)
        return memory if next_episode is None else _choose(acted & begins, next_episode(memory), memory)

    def probes(self, obs: NDArray[np.float32]) -> list[dict[str, NDArray[Any]]]:
        """Inputs to try: some steps of as many trials as there are observations (N, O), with random rewards."""
        random = np.random.default_rng(0)
        state = [leaf.expand(len(obs), *leaf.shape[1:]) for leaf in self.empty()]
        inputs = []

        for time in range(_PROBED_STEPS):
            begins = torch.full((len(obs),), time == _PROBED_STEPS // 2)
            reward = torch.from_numpy(random.normal(size=len(obs)).astype(np.float32))
            given = (torch.from_numpy(np.roll(obs, time, axis=0)), *state, reward, begins, begins)
            inputs.append({name: leaf.numpy() for name, leaf in zip(self.input_names, given, strict=True)})
            with torch.no_grad():
                state = list(self(*given)[-len(self.state_names) :])
        return inputs


def _choose(where: Tensor, one: Memory, other: Memory) -> Memory:
    """One memory where it says so, (N,), the other elsewhere."""
    chosen = []
    for leaf, other_leaf in zip(leaves(one), leaves(other), strict=True):
        rows = where.reshape(-1, *(1,) * (leaf.ndim - 1))
        chosen.append(torch.where(rows, leaf, other_leaf))
    return like(chosen, other)


# ---------------------------------------------------------------------- memory.npz

_DAMAGED: tuple[type[Exception], ...] = (
    ValueError,
    KeyError,
    EOFError,
    OSError,
    TypeError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy raises of a file that is not its own, or not whole."""


def write_memory(file: Path, module: MemoryPolicyModule, state: Sequence[Tensor]) -> None:
    """Write what a trial begins with, by the names of the program's inputs."""
    arrays: dict[str, Any] = {name: leaf.numpy() for name, leaf in zip(module.state_names, state, strict=True)}
    np.savez(file, **arrays)


def read_memory(file: Path, module: MemoryPolicyModule) -> tuple[Tensor, ...]:
    """Inverse of `write_memory`; never executes code.

    Raises:
        UserError: it cannot be read, or is the memory of another policy; names the file.
    """
    try:
        content = io.BytesIO(read_file(file))
    except OSError as error:
        raise UserError(f"{file.parent} is not a policy: {error}") from None
    try:
        with np.load(content, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except _DAMAGED as error:
        raise UserError(f"{file} is truncated or corrupt: {error}") from None

    empty = dict(zip(module.state_names, module.empty(), strict=True))
    if arrays.keys() != empty.keys():
        raise UserError(f"{file} must hold {', '.join(empty)}, got {', '.join(arrays) or 'nothing'}")
    return tuple(_checked(file, name, arrays[name], expected) for name, expected in empty.items())


def _checked(file: Path, name: str, array: NDArray[Any], expected: Tensor) -> Tensor:
    """An array of the file as a tensor like the expected one.

    Raises:
        UserError: it has another shape or type, or a number that is not finite.
    """
    wanted = expected.numpy()
    if array.shape != wanted.shape or array.dtype != wanted.dtype:
        raise UserError(
            f"{file}: {name} must be {wanted.dtype} of shape {wanted.shape}, got {array.dtype} of shape {array.shape}"
        )
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise UserError(f"{file}: {name} holds a number that is not finite")
    return torch.from_numpy(array)
