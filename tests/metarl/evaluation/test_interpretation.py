"""How adaptation moves the parameters: against closed forms, and against a plain loop over tasks."""

import dataclasses
import itertools
import json
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.agents.learner import Adapted, Learner
from metarl.envs.families.navigation import PointNavigation
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Choice, Normal, Task, Uniform, select_tasks
from metarl.evaluation.adaptation import adaptation_episodes
from metarl.evaluation.interpretation import Interpretation, adaptation_path, interpret, task_distances
from metarl.evaluation.interpretation_plots import direction_similarity, parameter_change
from metarl.reporting.run_evaluation import EvaluationSettings, evaluate_run
from metarl.run.build import build
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory
from tests.helpers.workbench import constant_episodes

RATE = 0.3
STEPS = 3
ORIGIN = {
    "weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]]),
    "bias": torch.tensor([1.0, 2.0]),
    "still": torch.tensor([2.0]),
    "zero": torch.zeros(2),
}
GOALS = torch.tensor([[1.0, -1, 2, 0], [1, -1, 2, 0], [-2, 3, 0, 1], [0.5, 0.5, 0.5, 0.5]])
CORNERS = [[-1.0, 0.0, 5.0], [1.0, 4.0, 5.0], [0.0, 0.0, 5.0], [1.0, 2.0, 5.0]]


class Quadratic:
    """Gradient descent on ½ ‖weight − goal‖² + ½ ‖zero − goal‖² of each task; bias follows at twice the rate."""

    def begin(self, num_tasks: int, generator: Any = None) -> Adapted:
        """See Learner.begin."""
        return Adapted({name: leaf.expand(num_tasks, *leaf.shape) for name, leaf in ORIGIN.items()})

    def adapt(self, adapted: Adapted, episodes: Any, generator: Any = None) -> Adapted:
        """See Learner.adapt."""
        params, goal = adapted.params, GOALS[: len(episodes.reward)]
        moved = {
            "weight": params["weight"] - RATE * (params["weight"] - goal.reshape(-1, 2, 2)),
            "bias": params["bias"] - 2 * RATE * (params["bias"] - goal[:, :2]),
            "still": params["still"],
            "zero": params["zero"] - RATE * (params["zero"] - goal[:, 2:]),
        }
        return Adapted(moved, steps=adapted.steps + 1)


def found_on_quadratic(steps: int = STEPS) -> Interpretation:
    """What `interpret` finds there, with tasks at CORNERS."""
    distribution = TaskDistribution(PointNavigation(), {"corner": Choice(CORNERS)})
    batch = constant_episodes(torch.zeros(4, 1, 1), torch.ones(4, 1, 1))
    tasks = {"corner": torch.tensor(CORNERS)}
    found = interpret(cast(Learner, Quadratic()), distribution, tasks, "test", [batch] * (steps + 1))
    assert found is not None
    return found


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


# ---------------------------------------------------------------------- against closed forms


def test_relative_change_is_that_of_gradient_descent_on_a_quadratic() -> None:
    found = found_on_quadratic()
    assert found.parameters == ("weight", "bias", "still", "zero")
    for k, task in itertools.product(range(STEPS), range(4)):
        weight, bias, still, _ = found.relative_change[k, :, task]
        distance = (GOALS[task].reshape(2, 2) - ORIGIN["weight"]).norm()
        assert weight == pytest.approx(RATE * (1 - RATE) ** k * float(distance) / 5, rel=1e-5)
        distance = (GOALS[task, :2] - ORIGIN["bias"]).norm()
        assert bias == pytest.approx(2 * RATE * (1 - 2 * RATE) ** k * float(distance) / 5**0.5, rel=1e-5)
        assert still == 0
    assert np.isnan(found.relative_change[:, 3]).all(), "a parameter that starts at zero has no relative change"


def displacement(task: int) -> list[Tensor]:
    """θ_K − θ_0 of each parameter: goal − origin, but for the share (1 − α)^K that is left to go."""
    gone, gone_bias = 1 - (1 - RATE) ** STEPS, 1 - (1 - 2 * RATE) ** STEPS
    weight = gone * (GOALS[task] - ORIGIN["weight"].flatten())
    return [weight, gone_bias * (GOALS[task, :2] - ORIGIN["bias"]), torch.zeros(1), gone * GOALS[task, 2:]]


def test_share_and_similarity_are_those_of_the_displacement() -> None:
    found = found_on_quadratic()
    for task in range(4):
        squared = torch.stack([part.square().sum() for part in displacement(task)])
        np.testing.assert_allclose(found.share[:, task], squared / squared.sum(), rtol=1e-5)
    directions = [torch.cat(displacement(task)) for task in range(4)]
    expected = [cosine(*pair) for pair in itertools.combinations(directions, 2)]
    np.testing.assert_allclose(found.similarity, expected, rtol=1e-5)
    assert found.similarity[0] == pytest.approx(1, abs=1e-6), "tasks 0 and 1 are the same"


def test_distance_is_the_root_mean_square_of_scaled_differences() -> None:
    # The first element ranges over 2, the second over 4; the third does not vary and does not count.
    def by_hand(one: list[float], other: list[float]) -> float:
        return float(np.hypot((one[0] - other[0]) / 2, (one[1] - other[1]) / 4) / 2**0.5)

    expected = [by_hand(*pair) for pair in itertools.combinations(CORNERS, 2)]
    np.testing.assert_allclose(found_on_quadratic().distance, expected, rtol=1e-6)
    assert expected[0] == 1, "opposite corners"


def test_parameters_of_any_unit_count_alike_in_the_distance() -> None:
    ranges = {"small": Uniform(0, 1e-3), "large": Uniform(-500, 500, shape=(2,)), "unbounded": Normal(3, 2)}
    distribution = TaskDistribution(PointNavigation(), ranges)
    tasks = distribution.sample(30, "test")
    distance = task_distances(distribution, tasks, "test")
    assert ((distance > 0) & (distance <= 1)).all()
    for name in ranges:
        others = {other: value if other == name else torch.ones_like(value) for other, value in tasks.items()}
        assert np.corrcoef(task_distances(distribution, others, "test"), distance)[0, 1] > 0.1


@pytest.mark.parametrize(("sign", "expected"), [(-1, -1.0), (1, 1.0)])
def test_rank_correlation(sign: int, expected: float) -> None:
    found = found_on_quadratic()
    similarity = sign * np.sqrt(found.distance)
    assert dataclasses.replace(found, similarity=similarity).rank_correlation == pytest.approx(expected)


# ---------------------------------------------------------------------- against a plain loop, for every agent


def small(agent: str, env: str) -> tuple[TaskDistribution, Learner]:
    config = default_config(agent, env)
    policy = dataclasses.replace(config.learner.policy, hidden_sizes=(8,))
    config = dataclasses.replace(config, device="cpu", num_threads=1)
    learner = dataclasses.replace(config.learner, policy=policy)
    return build(dataclasses.replace(config, learner=learner), torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("agent", "env"),
    [
        ("maml", "point-navigation/pearl"),
        ("reptile", "point-navigation/pearl"),
        ("multitask", "point-navigation/pearl"),
        ("distill", "point-navigation/pearl"),
        ("maml", "grid-navigation"),
        ("multitask", "bandit/bernoulli"),
    ],
)
def test_all_tasks_at_once_is_a_loop_over_tasks(agent: str, env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution, learner = small(agent, env)
    generator = torch.Generator().manual_seed(0)
    tasks = distribution.sample(4, "test", generator)
    batches = adaptation_episodes(learner, distribution, tasks, 2, 3, generator)
    before = learner.state_dict()
    monkeypatch.setattr(
        "metarl.evaluation.adaptation.collect", lambda *arguments: pytest.fail("an environment step was taken")
    )
    found = interpret(learner, distribution, tasks, "test", batches)
    assert found is not None
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())

    directions = []
    for task in range(4):
        one = slice(task, task + 1)
        adapted = learner.begin(1)
        path = [{name: leaf[0].double() for name, leaf in adapted.params.items()}]
        for batch in batches[:-1]:
            adapted = learner.adapt(adapted, batch.tasks(one))
            path.append({name: leaf[0].double() for name, leaf in adapted.params.items()})
        for row, name in enumerate(found.parameters):
            for k in range(2):
                start = path[0][name].norm()
                change = (path[k + 1][name] - path[k][name]).norm() / start if start > 0 else torch.nan
                assert found.relative_change[k, row, task] == pytest.approx(float(change), rel=2e-3, nan_ok=True)
        directions.append(torch.cat([(path[-1][name] - path[0][name]).flatten() for name in path[0]]))
    expected = [cosine(*pair) for pair in itertools.combinations(directions, 2)]
    assert np.ptp(expected) > 0.01, "all tasks move the policy alike: the test shows nothing"
    np.testing.assert_allclose(found.similarity, expected, atol=2e-3)
    np.testing.assert_allclose(found.share.sum(axis=0), 1)


def test_the_path_is_that_of_the_evaluator() -> None:
    distribution, learner = small("maml", "point-navigation/pearl")
    tasks: Task = distribution.sample(2, "test")
    batches = adaptation_episodes(learner, distribution, tasks, 2, 3, torch.Generator().manual_seed(0))
    for params, batch in zip(adaptation_path(learner, batches), batches, strict=True):
        acting, _ = learner.policy.apply(params, batch.obs)
        torch.testing.assert_close(acting.parameters()["mean"], batch.behaviour["mean"])
    assert select_tasks(tasks, slice(1))["goal"].shape == (1, 2)


# ---------------------------------------------------------------------- what is not defined, and figures


@pytest.mark.parametrize("memory", [None, torch.zeros(4, 1, 2)], ids=["none", "remembers"])
def test_where_no_parameter_moves_there_is_nothing_to_interpret(memory: Tensor | None) -> None:
    class Still(Quadratic):
        def adapt(self, adapted: Adapted, episodes: Any, generator: Any = None) -> Adapted:
            return Adapted(adapted.params, memory, steps=adapted.steps + 1)

    distribution = TaskDistribution(PointNavigation(), {"corner": Choice(CORNERS)})
    batch = dataclasses.replace(constant_episodes(torch.zeros(4, 1, 1), torch.ones(4, 1, 1)), memory=memory)
    tasks = {"corner": torch.tensor(CORNERS)}
    assert interpret(cast(Learner, Still()), distribution, tasks, "test", [batch] * 2) is None


def test_an_evaluation_says_where_no_parameter_moves() -> None:
    run = RunDirectory.open("rl2-grid-navigation")
    evaluated = evaluate_run(run, EvaluationSettings(num_tasks=2, episodes=1, steps=1))
    assert "no parameter moves in the adaptation, so there are no figures of which ones do" in evaluated.lines()
    assert "parameter-change" not in evaluated.figures
    unadapted = evaluate_run(run, EvaluationSettings(num_tasks=2, episodes=1, steps=0))
    assert not any("no parameter moves" in line for line in unadapted.lines())


@pytest.mark.parametrize("num_tasks", [1, 2, 4])
def test_figures_and_report_of_few_tasks_that_move_nothing(num_tasks: int) -> None:
    found = found_on_quadratic()
    pairs = num_tasks * (num_tasks - 1) // 2
    still = Interpretation(
        found.parameters,
        np.zeros((STEPS, 4, num_tasks)),
        np.full((4, num_tasks), np.nan),
        np.full(pairs, np.nan),
        np.zeros(pairs),
    )
    report = json.loads(json.dumps(still.to_json(), allow_nan=False))
    assert report["share_mean"] == [None] * 4
    assert report["similarity_mean"] is report["similarity_distance_rank_correlation"] is None
    for figure in (parameter_change(still, "still"), direction_similarity(still, "still")):
        figure.canvas.draw()
    assert sum(text.get_text() == "does not move" for text in parameter_change(still, "").axes[0].texts) == 4


def test_figures_show_what_was_found() -> None:
    found = found_on_quadratic()
    left, right = parameter_change(found, "quadratic").axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(found.parameters)
    means = np.array([line.get_xdata() for line in left.lines])
    np.testing.assert_allclose(means[:, :2], found.relative_change.mean(axis=2)[:, :2])
    assert [text.get_text() for text in left.texts] == ["does not move", "zero before adaptation"]
    widths = [bar.get_width() for bar in cast(Any, right.patches)]
    np.testing.assert_allclose(widths, found.share.mean(axis=1))
    (axes,) = direction_similarity(found, "quadratic").axes
    points = np.asarray(cast(Any, axes.collections[0]).get_offsets())
    np.testing.assert_allclose(points, np.stack([found.distance, found.similarity], axis=1))
    report = found.to_json()
    np.testing.assert_allclose(report["share_mean"], found.share.mean(axis=1))
    assert report["relative_change_mean"][0][3] is None
    assert report["relative_change_std"][1][0] == pytest.approx(found.relative_change[1, 0].std())
