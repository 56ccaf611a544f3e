"""The user's own settings of torch change no number: default dtype, default device, grad mode, inference mode."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metarl
from metarl.agents.learner import MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.reference import OraclePolicy, RandomPolicy
from metarl.benchmarks.robots import ONE_OF_EACH
from metarl.cli.main import main
from metarl.envs.registry import FAMILIES
from metarl.envs.rollout import Episodes, collect
from metarl.envs.spaces.precision import float_dtype, own_torch_settings
from metarl.evaluation.adaptation import adapt_to_tasks
from tests.helpers.torch_families import TORCH_FAMILIES
from tests.helpers.without_figures import empty_figures
from tests.helpers.workbench import ITERATIONS, final_evaluation_of, metrics_of, tensors_of, train

EVERY_FAMILY = [*TORCH_FAMILIES, *ONE_OF_EACH]
SOME = ["maze", "tabular-mdp", "driving/lane-keeping"]
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def default_dtype_of_before() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def same(one: Any, other: Any) -> bool:
    """Whether two nested results hold the same numbers in the same types."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Episodes):
        return same(vars(one), vars(other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)


def under_both(compute: Any) -> Any:
    """What a function gives under float32, which is what it gives under float64."""
    results = []
    for dtype in DTYPES:
        torch.set_default_dtype(dtype)
        results.append(compute())
    assert same(*results)
    return results[0]


# ---------------------------------------------------------------------- every family


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_tasks_and_rollouts(name: str) -> None:
    """Tasks of every split, the default task, and episodes of the random policy and the oracle."""

    def compute() -> list[Any]:
        distribution = FAMILIES[name].make()
        distribution.env.horizon = 4
        generator = torch.Generator().manual_seed(0)
        tasks = distribution.sample(2, "train", generator)
        results: list[Any] = [tasks, distribution.default_task(), distribution.sample(2, "test")]

        env = distribution.bind(tasks, 2)
        results.append(collect(env, RandomPolicy(distribution.action_space), {}, generator))
        if distribution.env.has_oracle:
            results.append(collect(env, OraclePolicy(distribution.env), tasks, generator))
        return results

    tasks, _, _, episodes, *_ = under_both(compute)
    assert {value.dtype for value in tasks.values()} == {torch.float32}
    assert episodes.obs.dtype == episodes.reward.dtype == torch.float32


@pytest.mark.parametrize("name", SOME)
def test_learning(name: str) -> None:
    """Fresh parameters, an adaptation step, a meta-update, and adaptation after it."""

    def compute() -> list[Any]:
        distribution = FAMILIES[name].make()
        distribution.env.horizon = 4
        generator = torch.Generator().manual_seed(0)
        config = MAMLConfig(policy=PolicyConfig(hidden_sizes=(4,)))
        learner = MAML(distribution.observation_space, distribution.action_space, config, generator)

        tasks = distribution.sample(2, "train", generator)
        first = adapt_to_tasks(learner, distribution, tasks, 1, 2, generator)
        support, query = first.batches
        metrics = learner.update(MetaBatch([support], query))
        again = adapt_to_tasks(learner, distribution, tasks, 1, 2, generator)
        return [first.adapted.params, metrics, learner.state_dict(), again.adapted.params, again.batches]

    under_both(compute)


@pytest.mark.parametrize("name", SOME)
def test_vector_environments(name: str) -> None:
    def compute() -> list[Any]:
        results: list[Any] = []
        for task in ("sample", None):
            env = gymnasium.make_vec(FAMILIES[name].gymnasium_id, num_envs=2, task=task, max_episode_steps=2)
            env.action_space.seed(0)
            results.append(env.reset(seed=0))
            results += [env.step(env.action_space.sample()) for _ in range(4)]
        return results

    under_both(compute)


# ---------------------------------------------------------------------- the commands


@pytest.mark.parametrize("agent", ["maml", pytest.param("multitask", marks=pytest.mark.slow)])
def test_train_resume_evaluate_adapt(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one default goes on under the other, and everything written is the same."""
    empty_figures(monkeypatch.setattr)
    results = []
    for first, then in (DTYPES, DTYPES[::-1]):
        torch.set_default_dtype(first)
        place = tmp_path / str(first)
        run = train(place, "--iterations", "1", "--curriculum", "learning-progress", agent=agent)
        torch.set_default_dtype(then)
        assert main(["train", "--resume", str(run), "--iterations", str(ITERATIONS)]) == 0
        assert main(["evaluate", str(run), "--num-tasks", "2"]) == 0
        adapted = metarl.load(run).adapt_to({"goal": [0.6, 0.8]}, episodes=2, steps=1)
        adapted.save(place / "policy", onnx=False)
        action, _ = metarl.load_policy(place / "policy").predict(np.ones(2, np.float32))
        results.append([tensors_of(run), metrics_of(run), final_evaluation_of(run), adapted.params, action])
    assert same(*results)


def results_of(place: Path) -> list[Any]:
    """What the commands and the Python API give."""
    run = train(place, "--iterations", "1", agent="multitask")
    again = metarl.train(resume=run, iterations=ITERATIONS, quiet=True)
    adapted = again.adapt({"goal": [0.6, 0.8]}, episodes=2, steps=1)
    adapted.save(place / "policy", onnx=False)
    action, _ = metarl.load_policy(place / "policy").predict(np.ones(2, np.float32))
    evaluation = again.evaluate(num_tasks=2).evaluation.return_mean
    return [tensors_of(run), final_evaluation_of(run), adapted.params, action, evaluation]


def test_the_users_device_and_grad_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" has no numbers at all: one tensor that is made there, and nothing works."""
    empty_figures(monkeypatch.setattr)
    expected = results_of(tmp_path / "plain")

    with torch.device("meta"), torch.no_grad():
        without_gradients = results_of(tmp_path / "device")
        assert torch.zeros(1).is_meta
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        in_inference = results_of(tmp_path / "inference")
        assert torch.is_inference_mode_enabled()

    assert same(expected, without_gradients)
    assert same(expected, in_inference)


def test_settings_are_the_users_own_again_after_an_error() -> None:
    torch.set_default_dtype(torch.float16)
    with torch.inference_mode(), pytest.raises(ZeroDivisionError), own_torch_settings():
        assert torch.zeros(1).dtype == float_dtype()
        assert torch.is_grad_enabled()
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float16
