"""The model evaluator: its statistics, its accounting, and that it changes and leaks nothing."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.distributions import DiagonalGaussian
from metarl.agents.policies.mlp import PolicyConfig
from metarl.envs.families.navigation import pearl
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task, select_tasks
from metarl.evaluation.adaptation import adaptation_episodes, rollout_generator
from metarl.evaluation.evaluation import Evaluation, summarize
from metarl.evaluation.intervals import Estimate, mean_interval
from metarl.evaluation.plots import figure_bytes
from metarl.evaluation.pooling import pool
from metarl.evaluation.statistics import mean_estimate
from tests.helpers.workbench import constant_episodes

DISTRIBUTION = pearl()
EPISODES = 4


def make_learner() -> MAML:
    config = MAMLConfig(policy=PolicyConfig(hidden_sizes=(8,)), adaptation_steps=2)
    spaces = DISTRIBUTION.observation_space, DISTRIBUTION.action_space
    return MAML(*spaces, config, torch.Generator().manual_seed(0))


def run(learner: MAML, tasks: Task, steps: int = 2, seed: int = 0) -> list[Episodes]:
    generator = rollout_generator(torch.device("cpu"), seed)
    return adaptation_episodes(learner, DISTRIBUTION, tasks, steps, EPISODES, generator)


def returns(batches: list[Episodes]) -> Tensor:
    """(K+1, M, E)."""
    return torch.stack([batch.returns for batch in batches])


# ---------------------------------------------------------------------- statistics


def test_interval_is_that_of_an_independent_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=60)
    resampled = np.random.default_rng(2).choice(values, size=(50_000, 60)).mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    width = 2 * stats.t.ppf(0.975, 59) * values.std(ddof=1) / np.sqrt(60)  # of Student's; the shape is the bootstrap's
    expected = values.mean() + (np.array([low, high]) - values.mean()) * width / (high - low)
    np.testing.assert_allclose(mean_interval(values).ends, expected, atol=0.03 * width)


def test_interval_of_many_values_is_normal() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, size=2000)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    expected = values.mean() - half, values.mean() + half
    np.testing.assert_allclose(mean_interval(values).ends, expected, atol=0.06 * half)


def test_interval_is_the_same_every_time() -> None:
    values = np.arange(5.0)
    np.testing.assert_array_equal(mean_interval(values).ends, mean_interval(values).ends)


@pytest.mark.parametrize("values", [[3.5], [2.0, 2.0, 2.0]])
def test_interval_of_one_value_is_that_value(values: list[float]) -> None:
    np.testing.assert_array_equal(mean_interval(np.array(values)).ends, [values[0], values[0]])


def test_interval_is_over_tasks_not_over_episodes() -> None:
    """Two tasks that differ, each with episodes all alike: Student's interval of two values, however many episodes."""
    evaluation = Evaluation(
        returns=np.array([[0.0, 10.0]]), env_steps=np.zeros(1), total_env_steps=0, episodes_per_step=1000
    )
    expected = stats.ttest_1samp([0.0, 10.0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(evaluation.return_ci95, [[expected.low, expected.high]])


def test_tasks_that_are_all_there_are_leave_only_episodes_to_chance() -> None:
    """Two directions, 386 → 765 and −451 → 373: the mean is no coin's, and its error is that of 4 episodes each."""
    returns, errors = np.array([[386.0, -451.0], [765.0, 373.0]]), np.array([[6.0, 8.0], [3.0, 4.0]])
    around = np.array([-1.0, 1.0, -1.0, 1.0]) * np.sqrt(3)  # four numbers whose mean has a standard error of 1
    evaluation = Evaluation(
        returns=returns,
        env_steps=np.zeros(2),
        total_env_steps=0,
        episodes_per_step=4,
        by_episode=returns[..., None] + errors[..., None] * around,
        exhaustive=True,
        references={"random": np.array([-35.0, -451.0]), "oracle": np.array([1000.0, 1549.0])},
    )
    quantile = stats.t.ppf(0.975, 2 * 3)
    half = quantile * np.array([10.0, 5.0]) / 2
    mean = np.array([-32.5, 569.0])
    np.testing.assert_allclose(evaluation.return_ci95, np.stack([mean - half, mean + half], axis=1))
    gain = quantile * np.hypot(10, 5) / 2
    np.testing.assert_allclose(evaluation.gain.ends, [601.5 - gain, 601.5 + gain])

    score, lost = evaluation.normalized_score, evaluation.return_lost
    assert score is not None and lost is not None
    error = np.hypot(3 / 1035, 4 / 2000) / 2
    mean_score = np.mean([800 / 1035, 824 / 2000])
    np.testing.assert_allclose([score.value, score.high], [mean_score, mean_score + quantile * error])
    np.testing.assert_allclose([lost.value, lost.high], 4 * (np.mean([614, 2000]) + np.array([0, half[0]])))


def test_one_episode_of_each_task_says_nothing_of_others() -> None:
    """All tasks there are, with an episode each: the interval is that over tasks, and not of width 0."""
    returns = np.array([[0.0, 10.0, 20.0]])
    evaluation = Evaluation(
        returns, np.zeros(1), total_env_steps=0, episodes_per_step=1, by_episode=returns[..., None], exhaustive=True
    )
    expected = stats.ttest_1samp(returns[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(evaluation.return_ci95, [[expected.low, expected.high]])


def test_episodes_of_one_trial_vary_together() -> None:
    """One task, three trials of two episodes whose returns are 1, 2, 3 and then 3, 2, 1: every trial earns 4."""
    by_episode = np.array([[[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]])
    evaluation = Evaluation(
        returns=by_episode.mean(axis=2),
        env_steps=np.zeros(2),
        total_env_steps=0,
        episodes_per_step=3,
        by_episode=by_episode,
        exhaustive=True,
        pooled=False,
    )
    assert evaluation.trial_return == Estimate(4.0, 4.0, 4.0)
    # Gains of 2, 0, -2.
    np.testing.assert_allclose(evaluation.gain.high, stats.t.ppf(0.975, 2) * 2 / np.sqrt(3))


def test_the_return_lost_is_the_area_between_the_reference_and_the_curve() -> None:
    """Two tasks, 3 episodes a step: 3 · ((10 − 1) + (10 − 4)) and 3 · ((20 − 2) + (20 − 20))."""
    returns = np.array([[1.0, 2.0], [4.0, 20.0], [9.0, 20.0]])
    references = {"oracle": np.array([10.0, 20.0])}
    evaluation = Evaluation(
        returns, env_steps=np.zeros(3), total_env_steps=0, episodes_per_step=3, references=references
    )
    assert evaluation.return_lost == mean_estimate(np.array([[45.0, 54.0]]))
    assert evaluation.normalized_score is None  # nothing is known of a random policy


def test_seeds_are_pooled_by_seed_and_task() -> None:
    rng = np.random.default_rng(4)
    by_seed = rng.standard_normal((3, 2, 8))
    successes = rng.integers(0, 6, (3, 2, 8))
    pooled = pool(
        [
            Evaluation(
                returns,
                np.array([0.0, 5.0]),
                total_env_steps=7,
                episodes_per_step=5,
                successes=count,
                references={"random": np.zeros(8), "oracle": np.full(8, 2.0)},
            )
            for returns, count in zip(by_seed, successes, strict=True)
        ]
    )
    expected = mean_estimate(by_seed[:, 1])
    np.testing.assert_allclose(pooled.return_mean, by_seed.mean(axis=(0, 2)))
    np.testing.assert_allclose(pooled.return_ci95[1], [expected.low, expected.high])
    gain = mean_estimate(by_seed[:, 1] - by_seed[:, 0])
    np.testing.assert_allclose(pooled.gain.ends, [gain.low, gain.high])
    assert pooled.normalized_score == mean_estimate(by_seed[:, 1] / 2)
    assert pooled.return_lost == mean_estimate(5 * (2 - by_seed[:, 0]))
    assert pooled.success_rate is not None
    np.testing.assert_allclose(pooled.success_rate, successes.mean(axis=(0, 2)) / 5)
    assert (pooled.num_seeds, pooled.total_env_steps) == (3, 21)
    with pytest.raises(ValueError, match="pooled only where each has as many tasks"):
        pool([pooled, Evaluation(by_seed[0, :, :4], np.zeros(2), total_env_steps=0, episodes_per_step=5)])


# ---------------------------------------------------------------------- accounting


def test_summary_of_episodes_made_by_hand() -> None:
    """2 tasks × 2 episodes × 3 steps; in the first batch two episodes end early."""
    mask = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [1, 1, 1]]]).float()
    first = constant_episodes(reward=torch.tensor(-1.0), mask=mask)
    second = constant_episodes(reward=torch.tensor([[[2.0]], [[4.0]]]), mask=torch.ones(2, 2, 3))
    third = constant_episodes(reward=torch.tensor([[[3.0]], [[3.0]]]), mask=torch.ones(2, 2, 3))
    evaluation = summarize([first, second, third])
    np.testing.assert_array_equal(evaluation.returns, [[-2.0, -2.5], [6.0, 12.0], [9.0, 9.0]])
    np.testing.assert_array_equal(evaluation.return_mean, [-2.25, 9.0, 9.0])
    np.testing.assert_array_equal(evaluation.gains, [11.0, 11.5])
    # A task's policy of step k has cost the batches before it, on average over tasks: (4 + 5) / 2, then 6 more.
    np.testing.assert_array_equal(evaluation.env_steps, [0.0, 4.5, 10.5])
    assert evaluation.total_env_steps == 9 + 12 + 12
    assert evaluation.episodes_per_step == 2


def test_report_is_plain_and_consistent() -> None:
    returns = np.array([[0.0, 2.0], [1.0, 5.0]])
    report = Evaluation(returns, env_steps=np.array([0.0, 7.0]), total_env_steps=28, episodes_per_step=3).to_json()
    # Student's t of one degree of freedom: each interval of two values is mean ± 12.7 · half their distance.
    half = stats.t.ppf(0.975, 1)
    assert report == {
        "num_tasks": 2,
        "episodes_per_step": 3,
        "adaptation_steps": 1,
        "episodes": [0, 3],
        "env_steps": [0.0, 7.0],
        "return_mean": [1.0, 3.0],
        "return_ci95": [pytest.approx([1 - half, 1 + half]), pytest.approx([3 - 2 * half, 3 + 2 * half])],
        "gain_mean": 2.0,
        "gain_ci95": pytest.approx([2 - half, 2 + half]),
        "total_env_steps": 28,
    }


# ---------------------------------------------------------------------- nothing changes, nothing leaks


def test_evaluation_leaves_the_learner_bit_identical() -> None:
    learner = make_learner()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    tasks = DISTRIBUTION.sample(3, "test")
    kept = {name: value.clone() for name, value in tasks.items()}
    batches = run(learner, tasks)
    assert not torch.equal(returns(batches)[0], returns(batches)[1])
    after = learner.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(tasks[name], kept[name]) for name in kept)


def test_evaluations_do_not_leak_into_each_other() -> None:
    learner = make_learner()
    tasks, others = DISTRIBUTION.sample(3, "test"), DISTRIBUTION.sample(3, "ood")
    first = returns(run(learner, tasks))
    assert not torch.equal(returns(run(learner, others, seed=1)), first)
    assert torch.equal(returns(run(learner, tasks)), first)


def test_seed_decides_the_rollouts() -> None:
    learner, tasks = make_learner(), DISTRIBUTION.sample(3, "test")
    assert not torch.equal(returns(run(learner, tasks, seed=1)), returns(run(learner, tasks, seed=2)))


@pytest.fixture
def noise_by_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploration that depends on the episode's number only, not on a generator or on the number of tasks."""

    def sample(self: DiagonalGaussian, generator: torch.Generator) -> Tensor:
        return self.mean + torch.linspace(-1, 1, EPISODES).unsqueeze(-1)

    monkeypatch.setattr(DiagonalGaussian, "sample", sample)


def test_each_task_is_adapted_to_by_itself(noise_by_episode: None) -> None:
    learner, tasks = make_learner(), DISTRIBUTION.sample(3, "test")
    together = returns(run(learner, tasks))
    assert not torch.allclose(together[0], together[2], atol=0.1), "nothing was adapted: the test shows nothing"
    for i in range(3):
        alone = returns(run(learner, select_tasks(tasks, slice(i, i + 1))))
        torch.testing.assert_close(together[:, i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_each_batch_is_collected_by_the_policy_adapted_to_those_before() -> None:
    learner, tasks = make_learner(), DISTRIBUTION.sample(2, "test")
    batches = run(learner, tasks)
    adapted = learner.begin(2)
    for batch in batches:
        distribution, _ = learner.policy.apply(adapted.params, batch.obs)
        torch.testing.assert_close(distribution.parameters()["mean"], batch.behaviour["mean"])
        adapted = learner.adapt(adapted, batch)


def test_number_of_steps_is_that_asked_for() -> None:
    learner, tasks = make_learner(), DISTRIBUTION.sample(2, "test")
    curves = returns(run(learner, tasks, steps=4))
    assert len(curves) == 5
    assert torch.equal(returns(run(learner, tasks, steps=0)), curves[:1])


# ---------------------------------------------------------------------- image files


def test_a_figure_as_a_file_has_the_size_asked_for() -> None:
    figure = Figure(figsize=(2, 1))
    image = figure_bytes(figure, dpi=50)
    assert image.startswith(b"\x89PNG")
    assert [int.from_bytes(image[at : at + 4], "big") for at in (16, 20)] == [100, 50]
    assert b"<svg" in figure_bytes(figure, "svg")
