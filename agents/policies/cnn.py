"""A convolutional network as a functional policy for images, and the choice between it and the perceptron."""

import itertools
import math

import torch
from gymnasium.spaces import Box, Space
from torch import Tensor
from torch.nn import functional

from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters
from metarl.envs.spaces.observation import LEAST_PIXELS, FlatImage
from metarl.envs.spaces.precision import float_dtype

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel and stride of each convolution: 84 × 84 pixels become 64 × 7 × 7 features."""


class CNNPolicy(MLPPolicy):
    """Three convolutions with relu, then the layers of an `MLPPolicy` on what they give.

    A task-batched P is one grouped convolution for all tasks: a group for each.

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning", methods. Deviation: the layers
        after the convolutions are `hidden_sizes` and `activation` of the configuration; there it is one of 512.

    Args:
        observation_space: a flattened image.
        action_space: see MLPPolicy.
        config: the network.

    Raises:
        ValueError: the observations are no images, or too small ones.
    """

    written_out = False

    def __init__(self, observation_space: Box, action_space: Space[object], config: PolicyConfig | None = None) -> None:
        if not isinstance(observation_space, FlatImage):
            raise ValueError(
                f"policy 'cnn' needs images: a Box of uint8 with three dimensions, at least {LEAST_PIXELS} × "
                f"{LEAST_PIXELS} pixels; got observations of shape {observation_space.shape}"
            )
        self._image = observation_space
        super().__init__(observation_space, action_space, config)

    def num_inputs(self, observation_space: Box) -> int:
        """See MLPPolicy.num_inputs: the numbers that the last convolution gives."""
        _, height, width = self._image.channels_first
        for _, kernel, stride in LAYERS:
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        return LAYERS[-1][0] * height * width

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See MLPPolicy.shapes."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels = [self._image.channels_first[0], *(layer[0] for layer in LAYERS)]
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(channels)):
            kernel = LAYERS[layer][1]
            shapes[f"conv{layer}.weight"] = (fan_out, fan_in, kernel, kernel)
            shapes[f"conv{layer}.bias"] = (fan_out,)
        return shapes | super().shapes

    def init(self, generator: torch.Generator) -> Parameters:
        """See MLPPolicy.init."""
        parameters = {}
        channels = [self._image.channels_first[0], *(layer[0] for layer in LAYERS)]
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(channels)):
            kernel = LAYERS[layer][1]
            shape = (fan_out, fan_in, kernel, kernel)
            uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=float_dtype())
            bound = math.sqrt(6 / ((fan_in + fan_out) * kernel**2))
            parameters[f"conv{layer}.weight"] = bound * (2 * uniform - 1)
            parameters[f"conv{layer}.bias"] = torch.zeros(fan_out, device=generator.device, dtype=float_dtype())
        return parameters | super().init(generator)

    def features(self, params: Parameters, obs: Tensor) -> Tensor:
        """See MLPPolicy.features."""
        task_batched = params["conv0.bias"].ndim == 2
        num_tasks = obs.shape[0] if task_batched else 1
        images = self._image.as_channels_first(self.observations(obs))

        # The tasks side by side as channels: (N, M · C, height, width).
        x = images.reshape(num_tasks, -1, *images.shape[-3:]).transpose(0, 1).flatten(1, 2)
        for layer, (channels, kernel, stride) in enumerate(LAYERS):
            weight = params[f"conv{layer}.weight"].reshape(num_tasks * channels, -1, kernel, kernel)
            bias = params[f"conv{layer}.bias"].reshape(-1)
            x = functional.relu(functional.conv2d(x, weight, bias, stride, groups=num_tasks))

        of_each_task = x.reshape(x.shape[0], num_tasks, -1).transpose(0, 1)
        return of_each_task.reshape(*obs.shape[:-1], -1)


def make_policy(observation_space: Box, action_space: Space[object], config: PolicyConfig) -> MLPPolicy:
    """The policy that a configuration asks for; 'auto' takes convolutions for images.

    Raises:
        ValueError: it cannot act on these observations, or with these actions.
    """
    convolutional = config.policy == "cnn" or (config.policy == "auto" and isinstance(observation_space, FlatImage))
    return (CNNPolicy if convolutional else MLPPolicy)(observation_space, action_space, config)


def require_written_out(policy: MLPPolicy, agent: str) -> None:
    """Refuse a network whose second derivatives are not written out.

    Raises:
        ValueError: says which agents take it.
    """
    if not policy.written_out:
        raise ValueError(
            f"{agent} differentiates through its adaptation, which is written out for perceptrons only, so that it "
            "takes no policy 'cnn': train reptile or multitask on images, or give --policy mlp"
        )
