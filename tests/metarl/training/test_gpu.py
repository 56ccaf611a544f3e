"""A GPU gives what the CPU gives, to float tolerance. Where there is none, the CPU is compared with itself."""

from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_map

from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.reference import RandomPolicy
from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.training.meta_iteration import sample_iteration
from tests.helpers.workbench import RUN, same_tensors, tensors_of, train, train_arguments
from tests.metarl.training.machine.test_distributed import torchrun

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"))
FAMILIES = [
    "point-navigation/finn",
    "point-dynamics",
    "cart-pole",
    "acrobot",
    "pendulum",
    "driving/lane-keeping",
    "maze",
]
either = pytest.mark.parametrize("device", ["cpu", GPU])
on_a_gpu = pytest.mark.parametrize("device", [GPU])


def learner_on(device: str, config: MAMLConfig) -> MAML:
    """The same parameters on every device."""
    distribution = make_distribution("point-navigation/finn")
    spaces = distribution.observation_space, distribution.action_space
    start = MAML(*spaces, config, torch.Generator().manual_seed(0)).state_dict()
    learner = MAML(*spaces, config, torch.Generator(device))
    learner.load_state_dict({name: leaf.to(device) for name, leaf in start.items()})
    return learner


@either
@pytest.mark.parametrize("name", FAMILIES)
def test_environments_step_alike(name: str, device: str) -> None:
    distribution = make_distribution(name)
    env, here, there = distribution.task_env, torch.Generator().manual_seed(0), torch.Generator(device)
    env.horizon = 10
    tasks = distribution.sample(5, "test")
    actions = collect(distribution.bind(tasks, 1), RandomPolicy(distribution.action_space), {}, here).action[:, 0]
    state = env.initial(here, tasks)
    tasks_there, state_there = (tree_map(lambda leaf: leaf.to(device), tree) for tree in (tasks, state))
    for action in actions.unbind(dim=1):
        state, *seen = env.step(state, action, here, tasks)
        state_there, *seen_there = env.step(state_there, action.to(device), there, tasks_there)
        for one, other in zip(seen, seen_there, strict=True):
            torch.testing.assert_close(other.cpu().float(), one.float(), rtol=1e-4, atol=1e-4)


@either
@pytest.mark.parametrize("outer", ["trpo", "ppo"])
def test_advantages_and_meta_gradients_agree(outer: str, device: str) -> None:
    config = MAMLConfig(outer=outer)  # type: ignore[arg-type]
    distribution, generator = make_distribution("point-navigation/finn"), torch.Generator().manual_seed(1)
    here, there = learner_on("cpu", config), learner_on(device, config)
    batch = sample_iteration(distribution, here, distribution.sample(4, "test"), 5, generator).batch
    support, query = batch.support, batch.query
    assert query is not None
    support_there, query_there = [batch.to(device) for batch in support], query.to(device)
    torch.testing.assert_close(
        there.batch(query_there).advantage.cpu(), here.batch(query).advantage, rtol=1e-3, atol=1e-3
    )
    expected = here.meta_gradient(support, query)
    for name, leaf in there.meta_gradient(support_there, query_there).items():
        torch.testing.assert_close(leaf.cpu(), expected[name], rtol=1e-3, atol=1e-4, msg=name)


@on_a_gpu
@pytest.mark.parametrize("fuse", [False, True])
def test_captured_rollouts_equal_eager_ones(fuse: bool, device: str) -> None:
    distribution, learner = make_distribution("point-navigation/finn"), learner_on(device, MAMLConfig())
    env, generator = distribution.task_env, torch.Generator(device)
    tasks, params = distribution.sample(4, "test", generator), learner.begin(4).params
    eager = [collect(env.bind(tasks, 5), learner.policy, params, generator.manual_seed(seed)) for seed in (1, 2)]
    env.capture_rollouts(learner.policy, fuse=fuse)
    for seed, expected in enumerate(eager, start=1):
        actual = collect(env.bind(tasks, 5), learner.policy, params, generator.manual_seed(seed))
        torch.testing.assert_close(actual.obs, expected.obs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(actual.reward, expected.reward, rtol=1e-4, atol=1e-4)
        assert torch.equal(actual.mask, expected.mask)


@on_a_gpu
@pytest.mark.parametrize("graphs", ["auto", "fused"])
def test_a_run_repeats_itself_and_resumes(graphs: str, device: str, tmp_path: Path) -> None:
    flags = ["--device", device, "--cuda-graphs", graphs]
    once, again = (tensors_of(train(tmp_path / name, *flags)) for name in ("once", "again"))
    assert same_tensors(once, again)
    assert main(train_arguments(tmp_path / "parts", *flags, "--iterations", "1")) == 0
    assert main(["train", "--resume", str(tmp_path / "parts" / RUN), "--iterations", "2"]) == 0
    shorter = tensors_of(tmp_path / "parts" / RUN, 2)
    assert main(train_arguments(tmp_path / "whole", *flags, "--iterations", "2")) == 0
    assert same_tensors(shorter, tensors_of(tmp_path / "whole" / RUN, 2))


@on_a_gpu
def test_two_processes_share_a_gpu(device: str, tmp_path: Path) -> None:
    """By gloo, where nccl would want a GPU for each; they train what one process trains on the same tasks."""
    done = torchrun(tmp_path, "--device", device, "--outer", "ppo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 3 iterations") == 1
