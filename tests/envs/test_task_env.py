"""TaskEnv: the task is required, and environments of a bound batch are rendered one by one."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.task_env import TaskEnv, select_state
from metarl.envs.task_space import Task


class Counter(TaskEnv):
    """The state counts the steps; an image shows the state in its first column and the task in its second."""

    observation_space = Box(-100.0, 100.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    horizon = 5

    def __init__(self) -> None:
        self.renderers: list[str] = []

    def initial(self, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.initial."""
        return torch.zeros((*params["level"].shape, 1))

    def transition(self, state: Tensor, action: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.transition."""
        return state + action

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor, rng: torch.Generator, params: Task) -> Tensor:
        """See TaskEnv.reward."""
        return params["level"]

    def render_init(self, params: Task, **kwargs: Any) -> str:
        """See TaskEnv.render_init."""
        self.renderers.append(f"for {int(params['level'])}")
        return self.renderers[-1]

    def render_image(self, state: Tensor, render_state: str, params: Task) -> tuple[str, NDArray[np.uint8]]:
        """See TaskEnv.render_image."""
        assert render_state == f"for {int(params['level'])}"
        return render_state, np.array([[[int(state)] * 3, [int(params["level"])] * 3]], np.uint8)

    def render_close(self, render_state: str, params: Task | None = None) -> None:
        """See TaskEnv.render_close."""
        self.renderers.remove(render_state)


class Blind(Counter):
    """Has no image of its own."""

    render_image = TaskEnv.render_image


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("method", ["initial", "transition", "observation", "reward", "terminal", "step"])
def test_every_method_needs_the_task(method: str) -> None:
    params = inspect.signature(getattr(TaskEnv, method)).parameters["params"]
    assert params.default is inspect.Parameter.empty
    assert params.annotation is Task


def test_each_environment_of_a_batch_is_rendered_with_its_own_state_and_task() -> None:
    family = Counter()
    env = family.bind_for_rendering({"level": torch.tensor([3.0, 7.0])}, 2)
    env.reset(rng())
    env.step(torch.tensor([[[0.0], [1.0]], [[2.0], [4.0]]]))

    images = {(m, e): env.render(m, e) for m in range(2) for e in range(2)}
    assert {which: image[0, :, 0].tolist() for which, image in images.items()} == {
        (0, 0): [0, 3],
        (0, 1): [1, 3],
        (1, 0): [2, 7],
        (1, 1): [4, 7],
    }
    env.render(1, 1)
    assert sorted(family.renderers) == ["for 3", "for 3", "for 7", "for 7"], "one renderer for each environment"

    env.close_renderers()
    env.close_renderers()
    assert family.renderers == []


def test_a_family_without_images_is_refused() -> None:
    assert Counter().can_render
    assert not Blind().can_render
    with pytest.raises(ValueError, match=r"it has no render_image\(\)"):
        Blind().bind_for_rendering({"level": torch.tensor([3.0])}, 1)


def test_part_of_a_state_that_is_a_tensor_or_a_dict() -> None:
    state = torch.arange(6).reshape(2, 3)
    assert select_state(state, (1, 2)) == 5
    part = select_state({"x": state, "y": state + 1}, 1)
    assert {name: leaf.tolist() for name, leaf in part.items()} == {"x": [3, 4, 5], "y": [4, 5, 6]}
