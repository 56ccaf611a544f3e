"""The curriculum: what it draws and how often, that p/q undoes it, and that runs with it count, resume and show it."""

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metarl.agents.distillation import Distillation, DistillationConfig
from metarl.agents.fine_tuning import AdaptationConfig
from metarl.agents.learner import MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.multitask import Multitask, MultitaskConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.policies.parameters import flatten
from metarl.agents.reptile import Reptile, ReptileConfig
from metarl.cli.main import main
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.errors import EXIT_BAD_INPUT, UserError
from metarl.evaluation.adaptation import adapt_to_tasks
from metarl.run.build import build
from metarl.run.config import HARD_FIRST, LEARNING_PROGRESS, TrainConfig
from metarl.run.run_directory import RunDirectory
from metarl.training.curriculum import (
    STALENESS_SHARE,
    Draw,
    PrioritizedTasks,
    UniformTasks,
    inclusion_probabilities,
    make_curriculum,
    systematic_sample,
)
from metarl.training.curriculum_plots import task_densities
from tests.helpers.workbench import (
    EPISODES,
    ITERATIONS,
    RUN,
    Moment,
    complaint,
    curves_of,
    events_of,
    metrics_of,
    run_with_signal,
    same_tensors,
    tensors_of,
    train,
    train_arguments,
)

pytest_plugins = ["tests.helpers.run_fixtures"]

NO_REPLAY = torch.empty(0, dtype=torch.long)
SMALL_CURRICULUM = (
    *("--num-tasks", "4", "--curriculum-buffer", "6"),
    *("--curriculum-fresh", "0.5", "--curriculum-correction"),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def finite(num_tasks: int) -> TaskDistribution:
    """Goals (i, 0), i = 0 … N−1, each equally likely."""
    goals = torch.stack([torch.arange(float(num_tasks)), torch.zeros(num_tasks)], dim=1)
    return make_distribution("point-navigation/finn").with_train_tasks({"goal": goals})


def filled(score: str, returns: list[float], fresh: float = 0.2, corrected: bool = False) -> PrioritizedTasks:
    """A curriculum whose buffer holds the tasks of `finite` with these returns, each met once."""
    curriculum = PrioritizedTasks(score, len(returns), fresh, corrected)
    goals = torch.stack([torch.arange(float(len(returns))), torch.zeros(len(returns))], dim=1)
    curriculum.learn(Draw({"goal": goals}, NO_REPLAY, None, {}), torch.tensor(returns))
    return curriculum


def replay_of(curriculum: PrioritizedTasks, num_tasks: int) -> np.ndarray:
    replay = curriculum.replay(num_tasks)
    assert replay is not None
    return replay[1]


# ---------------------------------------------------------------------- sampling with given probabilities


def test_inclusion_is_proportional_until_a_task_is_certain() -> None:
    np.testing.assert_allclose(inclusion_probabilities(np.array([1.0, 2.0, 3.0, 4.0]), 2), [0.2, 0.4, 0.6, 0.8])
    # 12 of 16 would be drawn 1.5 times of 2; the others share the second place. Then 6 of 8 of the remaining 2.
    np.testing.assert_allclose(inclusion_probabilities(np.array([12.0, 2.0, 1.0, 1.0]), 2), [1, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(inclusion_probabilities(np.array([90.0, 8.0, 1.0, 1.0]), 3), [1, 1, 0.5, 0.5])
    np.testing.assert_array_equal(inclusion_probabilities(np.array([1.0, 2.0]), 0), [0, 0])
    assert len(inclusion_probabilities(np.zeros(0), 0)) == 0


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=12), st.data())
def test_each_task_is_drawn_with_its_probability_and_at_most_once(priorities: list[float], data: st.DataObject) -> None:
    """The share of all offsets that draw a task, summed up exactly between the points where the draw changes."""
    size = data.draw(st.integers(1, len(priorities) // 2))
    inclusion = inclusion_probabilities(np.array(priorities), size)
    changes = np.unique(np.concatenate([[0.0, 1.0], inclusion.cumsum() % 1]))
    frequency = np.zeros(len(priorities))
    for low, high in itertools.pairwise(changes):
        if high - low > 1e-12:
            drawn = systematic_sample(inclusion, (low + high) / 2)
            assert len(set(drawn)) == len(drawn) == size
            frequency[drawn] += high - low
    np.testing.assert_allclose(frequency, inclusion, atol=1e-9)
    assert inclusion.max() <= 1
    assert inclusion.sum() == pytest.approx(size)


# ---------------------------------------------------------------------- what is replayed


def test_hard_first_replays_by_the_rank_of_the_return() -> None:
    curriculum = filled(HARD_FIRST, [-1.0, -50.0, 2.0, -3.0])
    by_rank = np.array([1 / 3, 1, 1 / 4, 1 / 2])
    expected = (1 - STALENESS_SHARE) * by_rank / by_rank.sum() + STALENESS_SHARE / 4
    np.testing.assert_allclose(replay_of(curriculum, 2), expected)  # one fresh task, one replayed


def test_learning_progress_replays_what_changed_whichever_way() -> None:
    curriculum = filled(LEARNING_PROGRESS, [-9.0, -5.0, -1.0, -1.0, 7.0, 7.0])
    np.testing.assert_allclose(replay_of(curriculum, 2), 1 / 6)  # nothing is known yet
    again = torch.tensor([0, 1, 2])
    goals = torch.stack([again.double(), torch.zeros(3)], dim=1).float()
    curriculum.learn(Draw({"goal": goals}, again, None, {}), torch.tensor([-9.0, -13.0, 2.0]))
    # |change| 0, 8, 3 and, for those seen once, the mean 11/3: ranks 6, 1, 5 and 3 three times over.
    by_rank = 1 / np.array([6.0, 1, 5, 3, 3, 3])
    age = np.array([1.0, 1, 1, 2, 2, 2])
    expected = (1 - STALENESS_SHARE) * by_rank / by_rank.sum() + STALENESS_SHARE * age / age.sum()
    np.testing.assert_allclose(replay_of(curriculum, 2), expected)


def test_buffer_keeps_the_newest_fresh_tasks_with_what_became_of_them() -> None:
    """Beside lists kept in plain Python; the goals are so many that none is drawn afresh twice."""
    curriculum, distribution, generator = PrioritizedTasks(HARD_FIRST, 5, 0.5, False), finite(100_000), seeded(0)
    order: list[int] = []
    last: dict[int, float] = {}
    visited: dict[int, int] = {}
    for iteration in range(10):
        draw = curriculum.draw(distribution, 4, generator)
        num_fresh = 4 if iteration == 0 else 2
        goals = draw.tasks["goal"][:, 0].int().tolist()
        assert [order[-5:][place] for place in draw.replayed.tolist()] == goals[num_fresh:]
        returns = torch.randn(4, generator=generator)
        curriculum.learn(draw, returns)
        order += goals[:num_fresh]
        last |= dict(zip(goals, returns.tolist(), strict=True))
        visited |= dict.fromkeys(goals, iteration)
        state = curriculum.state_dict()
        assert state["task.goal"][:, 0].int().tolist() == order[-5:]
        assert state["return"].tolist() == pytest.approx([last[goal] for goal in order[-5:]])
        assert state["age"].tolist() == [iteration - visited[goal] + 1 for goal in order[-5:]]
    assert len(set(order)) == len(order) == 4 + 9 * 2


def test_a_restored_curriculum_goes_on_bit_identically() -> None:
    distribution, original = make_distribution("point-dynamics"), PrioritizedTasks(LEARNING_PROGRESS, 12, 0.3, True)
    restored = PrioritizedTasks(LEARNING_PROGRESS, 12, 0.3, True)
    generators = [seeded(1), seeded(1)]
    for iteration in range(8):
        if iteration == 4:
            restored.load_state_dict(original.state_dict())
        state, returns = original.state_dict(), torch.randn(5, generator=seeded(iteration))
        draws = []
        for curriculum, generator in zip((original, restored), generators, strict=True):
            draws.append(curriculum.draw(distribution, 5, generator))
            curriculum.learn(draws[-1], returns)
        assert not same_tensors(original.state_dict(), state)
        assert same_tensors(original.state_dict(), restored.state_dict()) or iteration < 4
        if iteration >= 4:
            assert same_tensors(draws[0].tasks, draws[1].tasks)
            assert draws[0].importance is not None
            assert draws[1].importance is not None
            assert torch.equal(draws[0].importance, draws[1].importance)


def test_parameters_that_are_choices_and_matrices_are_replayed_as_they_are() -> None:
    for family in ("grid-navigation", "tabular-mdp", "cart-pole/mirrored"):
        distribution, curriculum, generator = (
            make_distribution(family),
            PrioritizedTasks(HARD_FIRST, 8, 0.3, False),
            seeded(0),
        )
        first = curriculum.draw(distribution, 6, generator)
        curriculum.learn(first, torch.randn(6, generator=generator))
        second = curriculum.draw(distribution, 6, generator)
        assert len(second.replayed) == 3
        for name, value in second.tasks.items():
            assert value.dtype == first.tasks[name].dtype
            assert torch.equal(value[3:], first.tasks[name][second.replayed])


# ---------------------------------------------------------------------- p/q


def test_correction_makes_the_expected_mean_that_of_the_training_distribution() -> None:
    """Monte Carlo over draws of a quantity that the priorities depend on; without p/q its mean is far off."""
    values = torch.linspace(-4, 3, 12).exp()
    curriculum, distribution, generator = filled(HARD_FIRST, (-values).tolist(), corrected=True), finite(12), seeded(0)
    corrected, plain = [], []
    for _ in range(6000):
        draw = curriculum.draw(distribution, 5, generator)
        assert draw.importance is not None
        drawn = values[draw.tasks["goal"][:, 0].long()]
        corrected.append(float((draw.importance * drawn).mean()))
        plain.append(float(drawn.mean()))
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert np.mean(corrected) == pytest.approx(float(values.mean()), abs=4 * error)
    assert abs(np.mean(plain) - float(values.mean())) > 40 * np.std(plain) / np.sqrt(len(plain))


POLICY = PolicyConfig(hidden_sizes=(4,))
GRADIENTS: dict[str, tuple[Callable[..., Any], Any, Callable[..., dict[str, Tensor]]]] = {
    "maml-trpo": (MAML, MAMLConfig(policy=POLICY), MAML.meta_gradient),
    "promp": (
        MAML,
        MAMLConfig(policy=POLICY, outer="ppo", inner_lr_mode="per-step", objective_steps="all", task_chunk=2),
        MAML.meta_gradient,
    ),
    "reptile": (
        Reptile,
        ReptileConfig(policy=POLICY, adaptation=AdaptationConfig(adaptation_steps=1), task_chunk=2),
        lambda learner, support, query, importance=None: learner.displacement(support, importance),
    ),
    "multitask": (
        Multitask,
        MultitaskConfig(policy=POLICY, task_chunk=2),
        lambda learner, support, query, importance=None: learner.value_and_gradient(
            learner.batch(query).weighted(importance)
        )[1],
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_expected_meta_gradient_of_corrected_draws_is_that_of_all_tasks(name: str) -> None:
    """Exact: every draw of the replay, weighed by its probability; the buffer's N tasks are all tasks there are."""
    make, config, gradient_of = GRADIENTS[name]
    distribution, count, size = make_distribution("point-navigation/pearl"), 6, 3
    learner = make(distribution.observation_space, distribution.action_space, config, seeded(0))
    tasks = distribution.sample(count, "train", seeded(1))
    env, generator = distribution.bind(tasks, 4), seeded(2)
    adapted, support = learner.begin(count), []
    for _ in range(learner.sampling.support):
        support.append(collect(env, learner.policy, adapted.params, generator))
        adapted = learner.adapt(adapted, support[-1])
    query = collect(env, learner.policy, adapted.params, generator)

    def gradient(drawn: Tensor, importance: Tensor | None) -> Tensor:
        parts: list[Episodes] = [batch.tasks(drawn) for batch in (*support, query)]
        return flatten(gradient_of(learner, parts[:-1], parts[-1], importance).values())

    expected = gradient(torch.arange(count), None)
    inclusion = inclusion_probabilities(np.array([9.0, 1, 4, 2, 1, 3]), size)
    changes = np.unique(np.concatenate([[0.0, 1.0], inclusion.cumsum() % 1]))
    corrected, plain = torch.zeros_like(expected), torch.zeros_like(expected)
    for low, high in itertools.pairwise(changes):
        drawn = systematic_sample(inclusion, (low + high) / 2)
        importance = torch.from_numpy(size / (count * inclusion[drawn])).float()
        corrected += (high - low) * gradient(torch.from_numpy(drawn), importance)
        plain += (high - low) * gradient(torch.from_numpy(drawn), None)
    torch.testing.assert_close(corrected, expected, rtol=1e-3, atol=1e-5)
    assert float((plain - expected).norm() / expected.norm()) > 0.01


# ---------------------------------------------------------------------- runs


def test_without_a_curriculum_training_is_the_plain_loop(tmp_path: Path, without_figures: None) -> None:
    """The loop of metarl/README.md, which knows of no curriculum: the same bits."""
    path = train(tmp_path)
    config = RunDirectory.open(str(path)).config
    generator = seeded(config.seed)
    distribution, learner = build(config, generator)
    for iteration in range(config.iterations):
        tasks = distribution.sample(config.num_tasks, "train", generator)
        *support, query = adapt_to_tasks(learner, distribution, tasks, 1, config.episodes, generator).batches
        learner.update(MetaBatch(support, query, iteration / config.iterations))
    plain = {f"learner.{name}": value for name, value in learner.state_dict().items()}
    assert same_tensors(tensors_of(path), plain | {"generator": generator.get_state()})


@pytest.mark.parametrize(
    ("agent", "update", "curriculum"),
    [
        pytest.param("maml", "metarl.agents.maml.MAML.update", "hard-first", marks=pytest.mark.slow),
        pytest.param("reptile", "metarl.agents.reptile.Reptile.update", "learning-progress", marks=pytest.mark.slow),
        pytest.param("multitask", "metarl.agents.multitask.Multitask.update", "hard-first", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_ends_as_uninterrupted(
    agent: str, update: str, curriculum: str, tmp_path: Path, without_figures: None
) -> None:
    places = [tmp_path / name for name in ("whole", "killed")]
    flags = ["--curriculum", curriculum, *SMALL_CURRICULUM, "--iterations", "5"]
    whole = train(places[0], *flags, agent=agent)
    places[1].mkdir()
    arguments = train_arguments(places[1], *flags, agent=agent)
    assert run_with_signal(arguments, Moment(update, 4), signal.SIGKILL, tmp_path / "output") == -signal.SIGKILL
    assert main(["train", "--resume", str(places[1] / RUN)]) == 0
    one, other = (tensors_of(place / RUN, 5) for place in places)
    assert same_tensors(one, other)
    assert one["curriculum.task.goal"].shape == (6, 2)
    assert one["curriculum.visits"].max() > 1
    assert metrics_of(places[1] / RUN) == metrics_of(whole)


def test_stopped_by_an_error_and_resumed_ends_as_uninterrupted(
    tmp_path: Path, without_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--curriculum", "hard-first", *SMALL_CURRICULUM, "--iterations", "5"]
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    train(whole, *flags)
    stopped.mkdir()

    calls: list[None] = []
    update = MAML.update

    def fail_at_the_fourth(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == 4:
            raise OSError("the disk is gone")
        return update(*arguments)

    monkeypatch.setattr(MAML, "update", fail_at_the_fourth)
    assert main(train_arguments(stopped, *flags)) == 1
    assert main(["train", "--resume", str(stopped / RUN)]) == 0

    one, other = (tensors_of(place / RUN, 5) for place in (whole, stopped))
    assert same_tensors(one, other)
    assert one["curriculum.visits"].max() > 1
    assert metrics_of(stopped / RUN) == metrics_of(whole / RUN)


def test_a_curriculum_takes_no_environment_steps_and_changes_what_is_learned(
    tmp_path: Path, without_figures: None
) -> None:
    runs = {
        name: train(tmp_path / name, "--curriculum", name, "--num-tasks", "4", "--iterations", "4")
        for name in ("uniform", "hard-first")
    }
    steps = {name: metrics_of(run)[-1]["env_steps"] for name, run in runs.items()}
    assert steps["uniform"] == steps["hard-first"] == 4 * 4 * 2 * EPISODES * 20  # iterations, M, batches, E, H
    learned = [{n: v for n, v in tensors_of(run, 4).items() if n.startswith("learner.")} for run in runs.values()]
    assert not same_tensors(*learned)
    assert [row["curriculum/share_replayed"] for row in metrics_of(runs["hard-first"])[1:]] == [0.0, 0.5, 0.75, 0.75]


@pytest.mark.parametrize(
    "env",
    [
        "point-navigation/pearl",
        *(pytest.param(env, marks=pytest.mark.slow) for env in ("point-dynamics", "bandit/bernoulli")),
    ],
)
def test_tensorboard_shows_the_replay(env: str, tmp_path: Path, without_figures: None) -> None:
    run = train(tmp_path, "--curriculum", "learning-progress", "--num-tasks", "4", env=env)
    curves = curves_of(run)
    assert [value for _, value in curves["curriculum/buffer_size"]] == [0, 4, 6]
    assert len(curves["curriculum/share_replayed"]) == ITERATIONS
    assert all(1 <= value <= 6 for _, value in curves["curriculum/effective_sample_size"])
    images = events_of(run).Images("curriculum/tasks")
    assert len(images) == ITERATIONS  # none before there is anything to replay
    assert images[-1].width > 100


def test_figure_shows_probabilities_in_the_plane_and_histograms_elsewhere() -> None:
    goals = {"goal": torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])}
    plane = task_densities(goals, np.array([0.5, 0.4, 0.1]), goals).axes[0]
    background, points = plane.collections
    assert len(np.asarray(background.get_offsets())) == 3
    np.testing.assert_allclose(np.asarray(points.get_offsets())[0], [4, 5])  # the frequent ones on top
    np.testing.assert_allclose(np.asarray(points.get_array()), [0.3, 1.2, 1.5])
    many = {"gravity": torch.rand(5), "wind": torch.rand(5, 2), "table": torch.rand(5, 3, 4)}
    figure = task_densities(many, np.full(5, 0.2), many)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[:4] == ["gravity", "wind[0]", "wind[1]", "table[0]"]
    assert "6 more" in figure.get_suptitle()


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--curriculum", "easy-first"), "easy-first"),
        (("--curriculum-buffer", "1"), "curriculum_buffer must be at least 2, got 1"),
        (("--curriculum-fresh", "0"), "curriculum_fresh must be above 0 and at most 1, got 0.0"),
        (("--curriculum-fresh", "nan"), "curriculum_fresh must be above 0"),
        (("--curriculum-correction",), "needs --curriculum learning-progress or hard-first"),
    ],
)
def test_bad_settings_are_named_before_a_run_is_made(
    flags: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_arguments(tmp_path, *flags)) == EXIT_BAD_INPUT
    assert named in complaint(capsys)
    assert not (tmp_path / RUN).exists()


def test_an_agent_without_episodes_has_nothing_to_learn_from() -> None:
    spaces = make_distribution("point-navigation/pearl")
    config = DistillationConfig(policy=POLICY, match="initial", states="teacher", outer="ppo", objective_steps="last")
    student = Distillation(spaces.observation_space, spaces.action_space, config, seeded(0))
    assert isinstance(make_curriculum(TrainConfig(), student), UniformTasks)
    with pytest.raises(UserError, match="collects no episodes"):
        make_curriculum(TrainConfig(agent="distill", curriculum="hard-first", learner=config), student)
