"""What a policy answers: checked at the first step of a rollout, before an environment broadcasts or misreads it."""

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.envs.spaces.action_map import PolicySpace


@dataclass(frozen=True)
class CheckedPolicy:
    """A policy whose distributions and actions are checked; otherwise the same.

    Attributes:
        policy: acts.
        batch_shape: (M, E).
        action_space: what it acts in; None where that is not known: then the space is not checked.
    """

    policy: Any
    batch_shape: tuple[int, int]
    action_space: PolicySpace | None

    def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple["_CheckedActions", Any]:
        """See ActingPolicy.apply.

        Raises:
            ValueError: the answer is no distribution and memory.
        """
        answer = self.policy.apply(params, obs, memory)
        what = f"{type(self.policy).__name__}.apply() must return a pair, (distribution, memory)"
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ValueError(f"{what}, not {_described(answer)}")

        distribution, following = answer
        for method in ("sample", "parameters"):
            if not callable(getattr(distribution, method, None)):
                raise ValueError(f"{what}, and a {type(distribution).__name__} has no method {method}()")
        return _CheckedActions(distribution, self), following

    def __getattr__(self, name: str) -> Any:
        """Whatever else the policy has: `observe`, where it has that."""
        return getattr(self.policy, name)


@dataclass(frozen=True)
class _CheckedActions:
    """A distribution whose samples are checked."""

    distribution: Any
    checked: CheckedPolicy

    def sample(self, generator: torch.Generator) -> Tensor:
        """See ActionDistribution.sample.

        Raises:
            ValueError: actions of other episodes than there are, of which one would be played in all of them, or of
                another size than the space; names both shapes.
        """
        action: Tensor = self.distribution.sample(generator)
        batch_shape, space = tuple(self.checked.batch_shape), self.checked.action_space
        expected = f"tasks × episodes = {batch_shape}"
        if tuple(action.shape[:2]) != batch_shape:
            raise ValueError(f"a policy's actions must be of {expected}, got {tuple(action.shape)}")
        if space is None:
            return action

        whole = (*batch_shape, *(space.shape or ()))
        if tuple(action.shape) != whole:
            raise ValueError(
                f"a policy's actions must be of {expected} and the action space {space}: {whole}, got "
                f"{tuple(action.shape)}"
            )
        self._check_choices(space)
        return action

    def _check_choices(self, space: PolicySpace) -> None:
        """Refuse logits of more or fewer alternatives than a Discrete space has."""
        logits = self.distribution.parameters().get("logits")
        if logits is not None and isinstance(space, Discrete) and logits.shape[-1] != space.n:
            raise ValueError(f"a policy's logits must be of {space.n} actions, got {tuple(logits.shape)}")

    def parameters(self) -> dict[str, Tensor]:
        """See ActionDistribution.parameters."""
        parameters: dict[str, Tensor] = self.distribution.parameters()
        return parameters


def _described(answer: object) -> str:
    """What was returned instead of a pair."""
    if isinstance(answer, tuple):
        return f"{len(answer)} values"
    return f"a {type(answer).__name__}"
