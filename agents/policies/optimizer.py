"""The tensors that training changes, with Adam's moments: one way to step, save and restore them."""

import torch
from torch import Tensor

from metarl.agents.policies.parameters import Parameters, shapes_of


class TrainedParameters:
    """Named tensors that are trained in place, by Adam or by assignment.

    Attributes:
        values: the tensors; the same objects for life, so that the optimizer goes on holding them.

    Args:
        values: initial tensors, on the device where they stay.
    """

    def __init__(self, values: Parameters) -> None:
        self.values = values
        self._optimizer = torch.optim.Adam(values.values())

    @property
    def adam_steps(self) -> int:
        """Steps that Adam has taken."""
        first = next(iter(self.values.values()))
        return int(self._optimizer.state.get(first, {}).get("step", 0))

    def ascend(self, gradient: Parameters, lr: float) -> None:
        """One step of Adam up a gradient."""
        self._optimizer.param_groups[0]["lr"] = lr
        for name, leaf in self.values.items():
            leaf.grad = -gradient[name]
        self._optimizer.step()

    def assign(self, values: Parameters) -> None:
        """Write new values in place."""
        with torch.no_grad():
            for name, leaf in self.values.items():
                leaf.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Copies: "meta.<name>", and "adam.<moment>.<name>" once Adam has stepped."""
        state = {f"meta.{name}": leaf.detach().clone() for name, leaf in self.values.items()}
        for name, leaf in self.values.items():
            for moment, value in self._optimizer.state.get(leaf, {}).items():
                state[f"adam.{moment}.{name}"] = value.detach().clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: names or shapes differ; nothing is changed.
        """
        shapes = shapes_of(self.values)
        expected = {f"meta.{name}": shape for name, shape in shapes.items()}
        if any(name.startswith("adam.") for name in state):
            for name, shape in shapes.items():
                expected |= {f"adam.step.{name}": (), f"adam.exp_avg.{name}": shape, f"adam.exp_avg_sq.{name}": shape}
        different = sorted({name for name, _ in shapes_of(state).items() ^ expected.items()})
        if different:
            raise ValueError(f"the state is not this learner's: names or shapes differ in {', '.join(different)}")
        self.assign({name: state[f"meta.{name}"] for name in shapes})
        self._optimizer.state.clear()
        for name, leaf in self.values.items():
            if f"adam.step.{name}" in state:
                self._optimizer.state[leaf] = {
                    "step": state[f"adam.step.{name}"].cpu().clone(),  # torch keeps the count on the CPU
                    "exp_avg": state[f"adam.exp_avg.{name}"].to(leaf.device, copy=True),
                    "exp_avg_sq": state[f"adam.exp_avg_sq.{name}"].to(leaf.device, copy=True),
                }
