"""A multilayer perceptron as a functional policy: it acts with the parameters that it is given, and keeps none.

`init(generator) -> P`, `apply(P, obs, memory) -> (ActionDistribution, memory)`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor

from metarl.agents.policies.activations import ACTIVATIONS
from metarl.agents.policies.distributions import (
    LOG_STD,
    MIN_LOG_STD,
    Categorical,
    CategoricalProduct,
    DiagonalGaussian,
)
from metarl.agents.policies.observations import observations_of
from metarl.agents.policies.parameters import Parameters
from metarl.agents.policies.validation import check_values
from metarl.envs.spaces.precision import float_dtype


@dataclass(frozen=True)
class PolicyConfig:
    """The policy network.

    Attributes:
        hidden_sizes: units of each hidden layer.
        activation: activation between layers.
        init_log_std: initial log standard deviation of a Gaussian policy, in units of the action. It is a
            parameter: it does not depend on the state and is adapted and meta-learned like all the others.
        policy: 'mlp' is a perceptron; 'cnn' has three convolutions before it, for images; 'auto' takes it for these.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    init_log_std: float = -0.5
    policy: Literal["auto", "mlp", "cnn"] = "auto"

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        check_values(self)
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, got {self.hidden_sizes}")


class MLPPolicy:
    """A multilayer perceptron with a Gaussian (Box) or categorical (Discrete, MultiDiscrete) head.

    Works with shared P, whose weights are (in, out), and with task-batched P, (M, in, out): then one batched
    matrix product per layer serves all tasks.

    Attributes:
        written_out: whether `metarl.agents.gradients.forward_pass` has its derivatives; autograd has them in any case.
        observations: what the network sees of an observation.

    Args:
        observation_space: Box of shape (O,).
        action_space: Box of shape (A,), Discrete or MultiDiscrete of shape (A,), both from 0.
        config: the network.

    Attributes:
        sizes: of the layers, from O to the number of outputs.
        gaussian: whether the action space is a Box.
        choices: numbers of alternatives of a MultiDiscrete space's A choices; of the other spaces ().

    Raises:
        ValueError: the action space is none of them.
    """

    written_out = True

    def __init__(self, observation_space: Box, action_space: Space[Any], config: PolicyConfig | None = None) -> None:
        self.config = config or PolicyConfig()
        self.gaussian = isinstance(action_space, Box)
        self.choices: tuple[int, ...] = ()

        if len(observation_space.shape) != 1:
            raise ValueError(f"a policy needs vector observations, got shape {observation_space.shape}")
        if isinstance(action_space, Box) and len(action_space.shape) == 1:
            outputs = action_space.shape[0]
        elif isinstance(action_space, Discrete) and action_space.start == 0:
            outputs = int(action_space.n)
        elif _is_product(action_space):
            self.choices = tuple(action_space.nvec.tolist())
            outputs = sum(self.choices)
        else:
            kinds = "a Box (A,), Discrete or MultiDiscrete (A,) from 0"
            raise ValueError(f"a policy needs {kinds} as its action space, got {action_space}")

        self.sizes = (self.num_inputs(observation_space), *self.config.hidden_sizes, outputs)
        self.observations = observations_of(observation_space)
        self._activation = ACTIVATIONS[self.config.activation]

    def num_inputs(self, observation_space: Box) -> int:
        """Numbers that the first layer takes."""
        return observation_space.shape[0]

    def features(self, params: Parameters, obs: Tensor) -> Tensor:
        """What the first layer takes of observations (*batch, O)."""
        return self.observations(obs)

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the parameters of the last layer, a Gaussian's log standard deviation included."""
        last = f"layer{len(self.sizes) - 2}"
        names = (f"{last}.weight", f"{last}.bias")
        return (*names, LOG_STD) if self.gaussian else names

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each leaf of shared P, without making one."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            shapes[f"layer{layer}.weight"] = (fan_in, fan_out)
            shapes[f"layer{layer}.bias"] = (fan_out,)
        if self.gaussian:
            shapes[LOG_STD] = (self.sizes[-1],)
        return shapes

    @property
    def num_parameters(self) -> int:
        """Numbers in shared P."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def init(self, generator: torch.Generator) -> Parameters:
        """Fresh shared P: Xavier-uniform weights, zero biases, on the generator's device."""
        parameters = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            bound = math.sqrt(6 / (fan_in + fan_out))
            uniform = torch.rand((fan_in, fan_out), generator=generator, device=generator.device, dtype=float_dtype())
            parameters[f"layer{layer}.weight"] = bound * (2 * uniform - 1)
            parameters[f"layer{layer}.bias"] = torch.zeros(fan_out, device=generator.device, dtype=float_dtype())

        if self.gaussian:
            parameters[LOG_STD] = torch.full(
                (self.sizes[-1],), self.config.init_log_std, device=generator.device, dtype=float_dtype()
            )
        return parameters

    def apply(
        self, params: Parameters, obs: Tensor, memory: None = None
    ) -> tuple[DiagonalGaussian | Categorical | CategoricalProduct, None]:
        """Distribution over actions.

        Args:
            params: shared P, or task-batched P with leaves (M, …).
            obs: (*batch, O); with a task-batched P the first dimension is M.
            memory: an MLP has none.
        """
        task_batched = params["layer0.bias"].ndim == 2
        batch = obs.shape[:-1]
        leading = (batch[0], -1) if task_batched else (-1,)
        x = self.features(params, obs).reshape(*leading, self.sizes[0])

        last = len(self.sizes) - 2
        for layer in range(last + 1):
            weight, bias = params[f"layer{layer}.weight"], params[f"layer{layer}.bias"]
            x = torch.baddbmm(bias.unsqueeze(1), x, weight) if task_batched else torch.addmm(bias, x, weight)
            if layer < last:
                x = self._activation(x)

        output = x.reshape(*batch, self.sizes[-1])
        if not self.gaussian:
            return self.distribution({"logits": output}), None

        log_std = params[LOG_STD].clamp(min=MIN_LOG_STD)
        if task_batched:
            log_std = log_std.reshape(batch[0], *(1,) * (len(batch) - 1), self.sizes[-1])
        return DiagonalGaussian(output, log_std), None

    def distribution(self, parameters: dict[str, Tensor]) -> DiagonalGaussian | Categorical | CategoricalProduct:
        """Inverse of `ActionDistribution.parameters()`, for the distributions stored in Episodes."""
        if self.gaussian:
            return DiagonalGaussian(**parameters)
        if self.choices:
            return CategoricalProduct(parameters["logits"], self.choices)
        return Categorical(**parameters)


def _is_product(action_space: Space[Any]) -> TypeGuard[MultiDiscrete]:
    """Whether it is a MultiDiscrete space (A,) from 0."""
    return isinstance(action_space, MultiDiscrete) and len(action_space.shape) == 1 and not action_space.start.any()
