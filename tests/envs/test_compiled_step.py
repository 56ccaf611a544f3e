"""TaskEnv.compile: the compiled step equals the plain one."""

import copy
import shutil

import pytest
import torch

from metarl.envs.families.bandit import bernoulli
from metarl.envs.families.control.acrobot import acrobot
from metarl.envs.families.control.cart_pole import cart_pole
from metarl.envs.families.control.pendulum import Pendulum
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Task
from tests.helpers.family_play import play, random_actions, rng

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@needs_compiler
@pytest.mark.parametrize(
    "distribution", [cart_pole(), pytest.param(acrobot(), marks=pytest.mark.slow)], ids=["cart-pole", "acrobot"]
)
def test_a_compiled_step_equals_the_plain_one(distribution: TaskDistribution) -> None:
    """For two batch sizes, so that the second meets what was compiled for the first."""
    compiled = copy.copy(distribution)
    compiled.env = copy.copy(distribution.task_env)
    compiled.env.compile()
    for num_tasks in (3, 5):
        tasks = distribution.sample(num_tasks, "test")
        actions = random_actions(distribution, 15, num_tasks, 2)
        for plain, fast in zip(play(distribution, tasks, actions), play(compiled, tasks, actions), strict=True):
            assert plain.dtype == fast.dtype
            torch.testing.assert_close(plain.float(), fast.float(), rtol=1e-4, atol=1e-4)


def test_steps_with_random_numbers_stay_as_they_are() -> None:
    distribution = bernoulli()
    before = distribution.task_env.step
    distribution.task_env.compile()
    assert distribution.task_env.step == before


@needs_compiler
def test_random_numbers_that_a_family_does_not_declare_are_an_error_and_not_torchs_global_stream() -> None:
    class Forgetful(Pendulum):
        def torque(self, action: torch.Tensor, params: Task) -> torch.Tensor:
            return super().torque(action, params)

        def transition(
            self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator, params: Task
        ) -> torch.Tensor:
            noise = torch.randn(state.shape, generator=rng)
            return super().transition(state, action, rng, params) + noise

    env: TaskEnv = Forgetful()
    env.compile()
    params = {name: value.reshape(1) for name, value in (env.get_default_params() or {}).items()}
    with pytest.raises(Exception, match="enerator"):
        env.step(torch.zeros(1, 2), torch.zeros(1, 1), rng(), params)
