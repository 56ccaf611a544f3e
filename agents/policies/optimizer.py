"""The optimizer of the meta-parameters: the tensors that training changes, and Adam's moments of them."""

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.agents.policies.parameters import Parameters, flatten, map_parameters, shapes_of

BETAS = (0.9, 0.999)
"""Adam's β₁ and β₂, torch's defaults."""

EPSILON = 1e-8
"""Adam's ε."""


class AdamState(NamedTuple):
    """Parameters with Adam's moments of them, by name, for a function that takes several steps at once.

    Attributes:
        parameters: what is trained.
        means: moving mean of the gradient of each.
        squares: moving mean of its square.
        steps: steps taken, a number for each.
    """

    parameters: Parameters
    means: Parameters
    squares: Parameters
    steps: Parameters

    def ascended(self, gradient: Parameters, lr: Tensor) -> "AdamState":
        """After one step up a gradient, in tensors of its own; nothing waits for the device."""
        from torch.optim.adam import adam  # imports PyTorch's compiler, which takes two seconds

        after = AdamState(*(map_parameters(torch.clone, part) for part in self))
        adam(
            list(after.parameters.values()),
            [gradient[name] for name in self.parameters],
            list(after.means.values()),
            list(after.squares.values()),
            [],  # squares of amsgrad
            list(after.steps.values()),
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=True,
        )
        return after


class MetaOptimizer:
    """Named tensors that are trained in place, by Adam or by assignment; one way to step, save and restore them.

    Attributes:
        parameters: the tensors; the same objects for life, so that Adam goes on holding them.

    Args:
        parameters: initial tensors, on the device where they stay.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._on_gpu = all(leaf.is_cuda for leaf in parameters.values())
        self._moments: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    @functools.cached_property
    def _fused_adam(self) -> torch.optim.Adam:
        """On a GPU the moments of all tensors move in one operation, and the count of steps lies there too."""
        adam = torch.optim.Adam(self.parameters.values(), fused=True)
        adam.state = self._moments
        return adam

    @property
    def adam_steps(self) -> int:
        """Steps that Adam has taken."""
        first = next(iter(self.parameters.values()))
        return int(self._moments.get(first, {}).get("step", 0))

    def ascend(self, gradient: Parameters, lr: float) -> None:
        """One step of Adam up a gradient."""
        if not self._on_gpu:
            for name, leaf in self.parameters.items():
                self._adam_step(leaf, gradient[name], lr)
            return

        self._fused_adam.param_groups[0]["lr"] = lr
        for name, leaf in self.parameters.items():
            leaf.grad = -gradient[name]
        self._fused_adam.step()

    @torch.no_grad()
    def _adam_step(self, leaf: Tensor, gradient: Tensor, lr: float) -> None:
        """One step of one tensor, the same bits as torch.optim.Adam's.

            m ← β₁ m + (1 − β₁) g,    v ← β₂ v + (1 − β₂) g²,    θ ← θ + lr · m̂ / (√v̂ + ε)

        with m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ). Written out because torch's own optimizer imports PyTorch's
        compiler at its first step, which takes a second or two.

        Source: Kingma & Ba 2015, "Adam", algorithm 1.
        """
        moments = self._moments_of(leaf)
        mean, squares = moments["exp_avg"], moments["exp_avg_sq"]

        moments["step"] += 1
        mean.lerp_(-gradient, 1 - BETAS[0])
        squares.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])

        steps = float(moments["step"])
        correction = 1 - BETAS[0] ** steps
        spread = (squares.sqrt() / (1 - BETAS[1] ** steps) ** 0.5).add_(EPSILON)
        leaf.addcdiv_(mean, spread, value=-lr / correction)

    def ascend_epochs(
        self, value_and_gradient: Callable[[], tuple[float, Parameters]], lr: float, epochs: int
    ) -> tuple[float, float]:
        """Several steps of Adam on the same batch: all of them, or none.

        Args:
            value_and_gradient: the objective and its gradient at the current parameters.
            lr: Adam's rate.
            epochs: steps.

        Returns:
            the objective and the norm of its gradient before the first step.

        Raises:
            FloatingPointError: from `value_and_gradient`; parameters and moments are as they were before the first.
        """
        first_value = first_norm = 0.0

        with self.all_or_nothing():
            for epoch in range(epochs):
                value, gradient = value_and_gradient()
                if epoch == 0:
                    first_value = value
                    first_norm = float(flatten(gradient.values()).norm())
                self.ascend(gradient, lr)

        return first_value, first_norm

    def adam_state(self) -> AdamState:
        """The parameters and Adam's moments themselves, zeros before its first step."""

        def moments(kind: str) -> Parameters:
            return {name: self._moments_of(leaf)[kind] for name, leaf in self.parameters.items()}

        return AdamState(self.parameters, moments("exp_avg"), moments("exp_avg_sq"), moments("step"))

    def _moments_of(self, leaf: Tensor) -> dict[str, Any]:
        """Adam's moments of a parameter, as torch names them; zeros before its first step."""
        moments = self._moments[leaf]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32, device=self._count_device(leaf))
            moments["exp_avg"] = torch.zeros_like(leaf)
            moments["exp_avg_sq"] = torch.zeros_like(leaf)
        return moments

    def take(self, state: AdamState) -> None:
        """Write what some steps have made of the parameters and of Adam's moments."""
        for own, new in zip(self.adam_state(), state, strict=True):
            with torch.no_grad():
                torch._foreach_copy_(list(own.values()), [new[name] for name in own])

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Put parameters and moments back as they were where the block ends by an exception, whichever."""
        before = self.state_dict()
        try:
            yield
        except BaseException:
            self.load_state_dict(before)
            raise

    def assign(self, parameters: Parameters) -> None:
        """Write new values in place."""
        with torch.no_grad():
            for name, leaf in self.parameters.items():
                leaf.copy_(parameters[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Copies: "meta.<name>", and "adam.<moment>.<name>" once Adam has stepped."""
        state = {f"meta.{name}": leaf.detach().clone() for name, leaf in self.parameters.items()}
        for name, leaf in self.parameters.items():
            for moment, value in self._moments.get(leaf, {}).items():
                # torch keeps the count of steps in the user's default dtype.
                state[f"adam.{moment}.{name}"] = value.detach().to(leaf.dtype, copy=True)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: names or shapes differ; nothing is changed.
        """
        self._check(state)
        self.assign({name: state[f"meta.{name}"] for name in self.parameters})

        # A state without moments is that of a learner that has not stepped: Adam starts anew.
        self._moments.clear()
        for name, leaf in self.parameters.items():
            if f"adam.step.{name}" in state:
                self._moments[leaf] = {
                    "step": state[f"adam.step.{name}"].to(self._count_device(leaf), leaf.dtype, copy=True),
                    "exp_avg": state[f"adam.exp_avg.{name}"].to(leaf.device, copy=True),
                    "exp_avg_sq": state[f"adam.exp_avg_sq.{name}"].to(leaf.device, copy=True),
                }

    def _count_device(self, leaf: Tensor) -> torch.device:
        """Where torch keeps Adam's count of steps."""
        return leaf.device if self._on_gpu else torch.device("cpu")

    def _check(self, state: dict[str, Tensor]) -> None:
        """Refuse a state with other names or shapes; moments are there for all parameters or for none."""
        shapes = shapes_of(self.parameters)
        expected: dict[str, tuple[int, ...]] = {f"meta.{name}": shape for name, shape in shapes.items()}
        if any(name.startswith("adam.") for name in state):
            for name, shape in shapes.items():
                expected |= {f"adam.step.{name}": (), f"adam.exp_avg.{name}": shape, f"adam.exp_avg_sq.{name}": shape}

        different = sorted({name for name, _ in shapes_of(state).items() ^ expected.items()})
        if different:
            raise ValueError(f"the state is not this learner's: names or shapes differ in {', '.join(different)}")
