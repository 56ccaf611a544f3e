"""The convolutional policy against torch's own layers, its gradients against differences, and who takes it."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from metarl.agents.distillation import Distillation, DistillationConfig
from metarl.agents.gradients.forward_pass import AutogradPass, ForwardPass, network_at
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.cnn import CNNPolicy, make_policy
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.observations import GRID
from metarl.agents.policies.parameters import map_parameters
from metarl.envs.spaces.observation import FlatImage, is_image, vector_space
from tests.helpers.agent_builders import make_policy as make_mlp
from tests.helpers.agent_builders import seeded

LAST = Box(0, 255, (36, 40, 2), np.uint8)
FIRST = Box(0, 255, (2, 36, 40), np.uint8)
SMALL = PolicyConfig(hidden_sizes=(5,))


def image_policy(native: Box = LAST) -> CNNPolicy:
    policy = make_policy(vector_space(native, "test"), Discrete(3), SMALL)
    assert isinstance(policy, CNNPolicy)
    policy.observations.activate()
    return policy


def pixels(*batch: int, native: Box = LAST) -> torch.Tensor:
    return torch.randint(0, 256, (*batch, int(np.prod(native.shape))), generator=seeded(0)).float()


@pytest.mark.parametrize("native", [LAST, FIRST])
def test_it_is_torchs_layers_on_scaled_pixels(native: Box) -> None:
    policy = image_policy(native)
    params = policy.init(seeded(1))
    layers = nn.Sequential(
        nn.Conv2d(2, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 1 * 1, 5), nn.Tanh(), nn.Linear(5, 3),
    )  # fmt: skip
    for index, name in enumerate(("conv0", "conv1", "conv2")):
        layers[2 * index].load_state_dict({kind: params[f"{name}.{kind}"] for kind in ("weight", "bias")})
    for index, name in ((7, "layer0"), (9, "layer1")):
        layers[index].load_state_dict({"weight": params[f"{name}.weight"].mT, "bias": params[f"{name}.bias"]})

    obs = pixels(4, native=native)
    images = obs.reshape(4, *native.shape) / 255
    expected = layers(images if native is FIRST else images.permute(0, 3, 1, 2))
    torch.testing.assert_close(policy.apply(params, obs)[0].logits, expected, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]


def test_each_task_acts_with_its_own_parameters() -> None:
    policy = image_policy()
    each = [policy.init(seeded(task)) for task in range(2)]
    together = map_parameters(lambda *leaves: torch.stack(leaves), *each)
    obs = pixels(2, 3, 2)
    logits = policy.apply(together, obs)[0].logits  # type: ignore[union-attr]
    for task, params in enumerate(each):
        alone = policy.apply(params, obs[task])[0].logits  # type: ignore[union-attr]
        torch.testing.assert_close(logits[task], alone, rtol=1e-4, atol=1e-5)


def test_autograd_gives_what_is_written_out() -> None:
    policy = make_mlp("gaussian")
    params = map_parameters(lambda *leaves: torch.stack(leaves), *(policy.init(seeded(task)) for task in range(3)))
    obs = torch.randn(3, 2, 4, 2, generator=seeded(0))
    written_out, autograd = network_at(policy, params, obs), AutogradPass(policy, params, obs)
    assert isinstance(written_out, ForwardPass)
    cotangent = map_parameters(lambda leaf: torch.randn(leaf.shape, generator=seeded(1)), autograd.outputs)
    summed = {name: leaf.sum_to_size(written_out.outputs[name].shape) for name, leaf in cotangent.items()}
    torch.testing.assert_close(autograd.outputs["mean"], written_out.outputs["mean"])
    torch.testing.assert_close(autograd.vjp(cotangent), written_out.vjp(summed))


def test_a_baseline_sees_the_brightness_of_fields() -> None:
    """A uniform image has the same brightness everywhere, and an image has no more numbers than fields."""
    policy = image_policy()
    seen = policy.observations.summary(torch.full((2, 3, 1, 36 * 40 * 2), 51.0))
    assert seen.shape == (2, 3, 1, 2 * GRID**2)
    torch.testing.assert_close(seen, torch.full_like(seen, 0.2))


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        (Box(0, 255, (84, 84, 3), np.uint8), True),
        (Box(0, 255, (4, 84, 84), np.uint8), True),
        (Box(0, 255, (7, 7, 3), np.uint8), False),
        (Box(0, 255, (84, 84), np.uint8), False),
        (Box(0, 1, (84, 84, 3), np.float32), False),
    ],
)
def test_what_is_an_image(native: Box, expected: bool) -> None:
    assert is_image(native) == expected
    space = vector_space(native, "test")
    assert isinstance(space, FlatImage) == expected
    assert gymnasium.spaces.utils.flatdim(native) == space.shape[0]


def test_who_does_not_take_it_says_so() -> None:
    space = vector_space(LAST, "test")
    for learner, config in ((MAML, MAMLConfig()), (Distillation, DistillationConfig())):
        with pytest.raises(ValueError, match="train reptile or multitask on images, or give --policy mlp"):
            learner(space, Discrete(3), config, seeded(0))

    perceptron = PolicyConfig(hidden_sizes=(4,), policy="mlp")
    assert type(MAML(space, Discrete(3), MAMLConfig(policy=perceptron), seeded(0)).policy) is MLPPolicy
    with pytest.raises(ValueError, match="policy 'cnn' needs images"):
        make_policy(Box(-1, 1, (4,)), Discrete(3), PolicyConfig(policy="cnn"))
