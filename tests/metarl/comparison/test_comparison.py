"""Comparisons of made-up agents: what follows from their curves, and what people get to see."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from metarl.comparison import plots
from metarl.comparison.comparison import Comparison
from metarl.comparison.report import headlines, reservations, table, write
from metarl.evaluation.statistics import Curve, Kind
from tests.helpers.workbench import events_of

NUM_TASKS = 8
BUDGET = 10_000
TASKS = np.linspace(-1.0, 1.0, NUM_TASKS)


def make_curve(label: str, kind: Kind, means: list[float], env_steps: list[float], before: int = 0) -> Curve:
    """Two seeds, 1 above and below the means, on tasks of different difficulty."""
    means_ = np.array(means)[None, :, None] + np.array([1.0, -1.0])[:, None, None] + TASKS
    return Curve(label, kind, before, np.array(env_steps), means_, evaluation_env_steps=7)


SUBJECT = make_curve("maml", "meta-learner", [-50.0, -20.0, -10.0], [0, 500, 1000], before=90_000)
BASELINE = make_curve("ppo", "baseline", [-50.0, -40.0, -20.0, 0.0], [0, 1000, 3000, 9000])
RANDOM = make_curve("random", "reference", [-60.0], [0])
ORACLE = make_curve("oracle", "reference", [0.0], [0])


def make(*others: Curve) -> Comparison:
    return Comparison("env/name", "test", NUM_TASKS, BUDGET, [SUBJECT, *others], {"runs": ["runs/a"]})


EVERYONE = make(BASELINE, RANDOM, ORACLE)


# ---------------------------------------------------------------------- findings


def test_all_are_compared_after_the_steps_that_the_subject_needed() -> None:
    assert EVERYONE.equal_env_steps == 1000
    figures = {one.curve.label: (one.before.value, one.equal.value, one.final.value) for one in EVERYONE.summaries}
    assert figures["maml"] == pytest.approx((-50, -10, -10))
    assert figures["ppo"] == pytest.approx((-50, -40, 0))
    assert figures["oracle"] == pytest.approx((0, 0, 0), abs=1e-9)


def test_scores_are_0_for_random_and_1_for_the_oracle() -> None:
    scores = {one.curve.label: one.score.value for one in EVERYONE.summaries if one.score}
    assert scores == pytest.approx({"maml": 50 / 60, "ppo": 20 / 60, "random": 0, "oracle": 1})


@pytest.mark.parametrize("others", [(BASELINE,), (BASELINE, RANDOM), (BASELINE, ORACLE)])
def test_there_are_no_scores_without_both_references(others: tuple[Curve, ...]) -> None:
    assert all(one.score is None for one in make(*others).summaries)


def test_there_are_no_scores_where_random_is_as_good_as_the_oracle() -> None:
    level = Curve("random", "reference", 0, ORACLE.env_steps, ORACLE.returns)
    assert all(one.score is None for one in make(level, ORACLE).summaries)


def test_the_subject_is_compared_with_every_agent_that_learns() -> None:
    (pair,) = EVERYONE.pairwise_comparisons
    assert (pair.ours, pair.theirs) == ("maml", "ppo")
    assert pair.difference.value == pytest.approx(30)
    assert pair.probability.value == 1


def test_baselines_are_asked_for_the_return_after_each_adaptation_step() -> None:
    first, second = EVERYONE.sample_efficiencies
    assert (first.adaptation_step, first.env_steps, first.target) == (1, 500, -20)
    assert first.needed.value == pytest.approx(3000)
    assert (second.adaptation_step, second.env_steps, second.target) == (2, 1000, -10)
    assert second.needed.value == pytest.approx(6000)
    assert second.ratio == pytest.approx(6)


# ---------------------------------------------------------------------- what people read


def test_headline_says_how_many_times_the_steps_and_when_meta_training_is_paid_back() -> None:
    efficiency, pair, *_ = headlines(EVERYONE)
    assert "ppo needs 6,000 steps for the −10.00 that maml has after 1,000 steps on a new task: 6.0 times" in efficiency
    assert "paid for itself after 18 tasks [95%: " in efficiency  # 90,000 / (6,000 − 1,000)
    assert pair.startswith("maml is better than ppo at 1,000 steps on a task: difference 30.00 [")


def test_headline_says_that_a_baseline_does_not_get_there() -> None:
    slow = make_curve("ppo", "baseline", [-50.0, -40.0], [0, 9000])
    efficiency, *_ = headlines(make(slow))
    assert efficiency.startswith("ppo does not reach the −10.00")
    assert efficiency.endswith("within 10,000 (more than 10.0 times)")


def test_the_tasks_that_pay_meta_training_back_have_the_interval_of_the_steps_saved() -> None:
    efficiency = EVERYONE.sample_efficiencies[-1]
    low, high = efficiency.needed.low, efficiency.needed.high
    assert 1000 < low < high < float("inf")
    line, *_ = headlines(EVERYONE)
    assert line.endswith(f"18 tasks [95%: {90_000 / (high - 1000):.0f} to {90_000 / (low - 1000):.0f}]")


def test_a_budget_that_ends_before_the_meta_learner_has_adapted_tells_no_factor() -> None:
    slow = make_curve("ppo", "baseline", [-50.0, -40.0], [0, 900])
    short = Comparison("env/name", "test", NUM_TASKS, 900, [SUBJECT, slow], {"runs": ["runs/a"]})
    efficiency, *_ = headlines(short)
    assert efficiency.endswith("on a new task within 900")


def test_a_baseline_that_may_get_there_is_told_with_its_interval() -> None:
    close = make_curve("ppo", "baseline", [-50.0, -10.4], [0, 9000])
    efficiency, *_ = headlines(make(close))
    assert "within 10,000 (more than 10.0 times; 95%: from " in efficiency


def test_headline_is_honest_about_a_subject_that_loses() -> None:
    better = make_curve("multitask", "meta-learner", [-50.0, 20.0], [0, 1000], before=90_000)
    (pair,) = headlines(make(better))
    assert pair.startswith("maml is worse than multitask")
    assert "difference −30.00 [" in pair


def test_nothing_is_said_of_two_learners_whose_interval_holds_no_difference() -> None:
    """Two seeds each, 2 apart: a gap of 5 is within their luck."""
    close = make_curve("multitask", "meta-learner", [-50.0, -5.0], [0, 1000], before=90_000)
    (pair,) = headlines(make(close))
    assert pair.startswith("maml and multitask are not distinguishable at 1,000 steps")
    assert "no verdict" not in pair


def test_there_is_no_verdict_where_training_differs() -> None:
    less = make_curve("multitask", "meta-learner", [-50.0, -45.0], [0, 1000], before=18_000)
    (pair,) = make(less).pairwise_comparisons
    assert (pair.verdict, pair.no_verdict_because) == ("none", "their training differs, 90,000 and 18,000 steps")
    assert headlines(make(less))[0].startswith("maml beside multitask at 1,000 steps")


def test_there_is_no_verdict_between_learners_of_one_seed() -> None:
    """An agent that learns from scratch has a seed of its own for each task: only the subject's is missing."""
    one = Curve("maml", "meta-learner", 90_000, SUBJECT.env_steps, SUBJECT.returns[:1])
    other = Curve("multitask", "meta-learner", 90_000, SUBJECT.env_steps, SUBJECT.returns[:1] - 5)
    reasons = [pair.no_verdict_because for pair in Comparison("e", "test", 8, 1, [one, other]).pairwise_comparisons]
    assert reasons == ["one seed of maml and of multitask, so the interval covers tasks only"]

    scratch = Curve("ppo", "baseline", 0, BASELINE.env_steps, BASELINE.returns[:1])
    assert make(scratch).pairwise_comparisons[0].no_verdict_because == ""
    console = Console(width=80, record=True)
    console.print(table(Comparison("e", "test", 8, 1, [one, other, scratch])))
    assert "one seed each: of other seeds they say nothing" in console.export_text()


def exhaustive(*curves: Curve) -> Comparison:
    """Of two directions, each mean return known to ± 3 and ± 4 from 5 episodes."""
    errors = np.array([3.0, 4.0])
    few = [
        replace(curve, returns=curve.returns[..., :2], errors=np.broadcast_to(errors, curve.returns[..., :2].shape))
        for curve in curves
    ]
    few = [replace(curve, episodes=5) for curve in few]
    names = ("direction=-1", "direction=1")
    return Comparison("env/name", "test", 2, BUDGET, few, held_out=False, exhaustive=True, task_names=names)


def test_tasks_that_are_all_there_are_leave_other_episodes_to_chance_or_other_seeds() -> None:
    """One seed: the error of the mean of two tasks, 5/2; two seeds, 1 above and below: Student's of these two."""
    one = replace(SUBJECT, returns=SUBJECT.returns[:1])
    of_one = exhaustive(one, ORACLE, RANDOM).summaries[0]
    half = stats.t.ppf(0.975, 2 * 4) * 2.5
    assert of_one.equal.high - of_one.equal.value == pytest.approx(half)
    assert of_one.score is not None
    assert of_one.score.high - of_one.score.value == pytest.approx(half / 60)  # oracle and random are 60 apart

    of_two = exhaustive(SUBJECT).summaries[0]
    expected = stats.ttest_1samp(SUBJECT.final[:, :2].mean(axis=1), 0).confidence_interval(0.95)
    assert (of_two.equal.low, of_two.equal.high) == pytest.approx((expected.low, expected.high))
    assert of_two.final_worst is None


def test_few_tasks_are_said_to_be_few_and_told_one_by_one() -> None:
    comparison = exhaustive(*(replace(curve, returns=curve.returns[:1]) for curve in (SUBJECT, BASELINE)))
    console = Console(width=80, record=True)
    console.print(table(comparison))
    text = " ".join(console.export_text().split())
    assert "return on 2 distinct tasks, not held out" in text
    assert "with 95% intervals over episodes on these tasks" in text
    assert headlines(comparison)[-3:] == [
        "not held out: training drew these tasks, and checkpoints were chosen on them",
        "on direction=-1: maml −10.00, ppo 0.00",
        "on direction=1: maml −9.71, ppo 0.29",
    ]

    data = comparison.to_json()
    assert (data["held_out"], data["intervals_over"]) == (False, "episodes on these tasks")
    assert exhaustive(SUBJECT, BASELINE).intervals_over == "seeds, of one seed episodes on these tasks"


def test_one_seed_of_each_task_is_not_enough_where_there_are_no_other_tasks() -> None:
    scratch = replace(BASELINE, returns=BASELINE.returns[:1])
    (pair,) = exhaustive(SUBJECT, scratch).pairwise_comparisons
    assert pair.no_verdict_because == "one seed of ppo, so the interval covers episodes on these tasks only"


def test_headline_tells_the_worst_tasks_of_all_that_learn_from_20_tasks_on() -> None:
    def many(curve: Curve) -> Curve:
        return replace(curve, returns=np.repeat(curve.returns, 5, axis=2))

    comparison = Comparison("env/name", "test", 40, BUDGET, [many(curve) for curve in EVERYONE.curves])
    (worst,) = (line for line in headlines(comparison) if line.startswith("mean of the worst tenth of the tasks"))
    assert "maml −11.0" in worst
    assert "ppo −1.0" in worst
    assert "oracle" not in worst
    assert not any("worst tenth" in line for line in headlines(EVERYONE))


def test_headline_tells_what_adapting_costs_against_the_oracle() -> None:
    """The subject acts at −50 for 500 steps and at −20 for 500; PPO falls short by 50 at first and by 40 at 1,000."""
    lost = headlines(EVERYONE)[-1]
    assert lost.startswith("return lost while adapting, for each episode in the first 1,000 steps on a task, against")
    assert "maml 35.00 [" in lost
    assert "ppo 45.00 [" in lost
    assert all(one.lost is None for one in make(BASELINE, RANDOM).summaries)


def test_few_tasks_and_two_seeds_are_said_to_be_few() -> None:
    """Of 8 tasks and two seeds each; of 20 tasks and one seed, and of all tasks that there are, nothing is said."""
    tasks, seeds = reservations(EVERYONE)
    assert tasks.startswith("8 tasks, fewer than 20: ") and tasks.endswith("in 25 to 85% of the cases, not in 95%")
    assert seeds.startswith("two seeds: ") and seeds.endswith("in 86 to 93% of the cases, not in 95%")

    one = replace(SUBJECT, returns=SUBJECT.returns[:1])
    assert reservations(Comparison("env/name", "test", 20, BUDGET, [one])) == []
    assert reservations(Comparison("env/name", "test", 2, BUDGET, [SUBJECT], exhaustive=True)) == []


def test_validation_is_paid_back_as_well() -> None:
    subject = replace(SUBJECT, validation_env_steps=10_000)
    line = headlines(Comparison("env/name", "test", NUM_TASKS, BUDGET, [subject, BASELINE, RANDOM, ORACLE]))[0]
    assert "paid for itself after 20 tasks [95%: " in line  # (90,000 + 10,000) / (6,000 − 1,000)


def test_no_payback_is_claimed_where_the_baseline_may_need_as_few_steps() -> None:
    """It needs 1,100 steps for what the subject has after 1,000, give or take the luck of two seeds."""
    near = make_curve("ppo", "baseline", [-50.0, -10.4, -10.0, 0.0], [0, 1000, 1100, 9000])
    assert "paid" not in headlines(make(near))[0]


def test_no_payback_is_claimed_where_nothing_is_saved() -> None:
    fast = make_curve("ppo", "baseline", [-50.0, 0.0], [0, 500])
    assert "paid" not in headlines(make(fast))[0]


def test_table_has_a_row_for_each_agent_in_80_columns() -> None:
    console = Console(width=80, record=True)
    console.print(table(EVERYONE))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(line.split()[0] for line in lines if line.strip())  # no label is cut
    (row,) = (line.split() for line in lines if line.startswith("ppo"))
    assert row == ["ppo", "0", "−50.0", "−40.00", "−40.00", "0.333", "0.00"]


def test_json_holds_everything_and_nothing_that_is_not_a_number() -> None:
    slow = make_curve("ppo", "baseline", [-50.0, -40.0], [0, 9000])
    data = json.loads(json.dumps(make(slow, RANDOM, ORACLE).to_json(), allow_nan=False))
    assert data["runs"] == ["runs/a"]
    assert data["evaluation_env_steps"] == 4 * 7
    assert data["sample_efficiencies"][0]["needed"]["value"] is None
    assert [curve["label"] for curve in data["curves"]] == ["maml", "ppo", "random", "oracle"]
    np.testing.assert_array_equal(data["curves"][0]["returns"], SUBJECT.returns)


# ---------------------------------------------------------------------- files


def test_files_hold_the_curves_and_the_figures(tmp_path: Path) -> None:
    written = write(EVERYONE, tmp_path)
    assert sorted(path.name for path in written) == sorted(
        ["comparison.csv", "comparison.json"]
        + [f"comparison{part}.{suffix}" for part in ("", "-tasks", "-improvement") for suffix in ("png", "svg")]
    )
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    with (tmp_path / "comparison.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["agent"] == "ppo"]
    values = {(int(r["seed"]), float(r["env_steps"]), int(r["task"])): float(r["return"]) for r in rows}
    for (seed, env_steps, task), value in values.items():
        assert BASELINE.returns[seed, list(BASELINE.env_steps).index(env_steps), task] == value
    assert len(values) == BASELINE.returns.size


def test_tensorboard_shows_the_curves_and_the_figures_once(tmp_path: Path) -> None:
    for _ in range(2):
        write(EVERYONE, tmp_path)
    points = events_of(tmp_path / "tensorboard" / "ppo").Scalars("comparison/return")
    assert [(point.step, point.value) for point in points] == list(zip(BASELINE.env_steps, BASELINE.mean, strict=True))
    drawn = [point.step for point in events_of(tmp_path / "tensorboard" / "random").Scalars("comparison/return")]
    assert drawn == [0, BASELINE.env_steps[-1]]
    images = events_of(tmp_path / "tensorboard" / "figures").Tags()["images"]
    assert images == ["comparison/comparison", "comparison/comparison-tasks", "comparison/comparison-improvement"]


FAR = make_curve("far", "baseline", [-900.0, -40.0], [0, 100])


@pytest.mark.parametrize(
    ("others", "figures"),
    [
        ((), ["comparison"]),
        ((RANDOM, ORACLE), ["comparison", "comparison-tasks"]),
        ((FAR,), ["comparison", "comparison-improvement", "comparison-tasks"]),
    ],
)
def test_every_set_of_agents_has_the_figures_that_show_something(
    others: tuple[Curve, ...], figures: list[str], tmp_path: Path
) -> None:
    comparison = make(*others)
    write(comparison, tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == figures
    assert sorted(events_of(tmp_path / "tensorboard/figures").Tags()["images"]) == [f"comparison/{n}" for n in figures]
    Console(record=True).print(table(comparison))
    headlines(comparison)


def test_references_that_learn_on_the_task_are_as_plain_to_see_as_those_that_do_not() -> None:
    learning = make_curve("psrl", "reference", [-50.0, -30.0], [0, 700])
    _, psrl, random = plots.adaptation_curves(make(learning, RANDOM)).axes[0].lines
    assert (psrl.get_alpha(), psrl.get_linewidth(), psrl.get_color()) == (None, random.get_linewidth(), plots.GREY)


def test_lines_say_what_learns_and_when() -> None:
    """Adaptation in steps, Stable-Baselines3 in slopes, at most five bands, references as grey lines, all named."""
    reptile = [make_curve(f"reptile{n}", "meta-learner", [-50.0, -30.0], [0, 700]) for n in range(plots.MOST_BANDS)]
    axes = plots.adaptation_curves(make(BASELINE, *reptile, RANDOM, ORACLE)).axes[0]

    maml, ppo, *others, random, oracle = axes.lines
    assert (maml.get_drawstyle(), ppo.get_drawstyle()) == ("steps-post", "default")
    assert len(axes.collections) == plots.MOST_BANDS
    assert [line.get_alpha() for line in others] == [None, None, None, 0.45, 0.45]
    assert random.get_color() == oracle.get_color() == plots.GREY
    assert random.get_linestyle() != oracle.get_linestyle()

    names = {text.get_text(): text.get_position()[1] for text in axes.texts}
    lost = {summary.curve.label: summary.lost for summary in EVERYONE.summaries}
    assert lost["maml"] is not None and lost["maml"].value == pytest.approx((50 + 20) / 2)
    assert set(names) == {
        "maml (90 k before, 35.00 lost)",
        "ppo (45.00 lost)",
        *(f"{curve.label} (44.00 lost)" for curve in reptile),
        "random",
        "oracle",
    }
    assert axes.get_xlabel().endswith("lost: return lost while adapting, for each episode in the first 1,000 steps")
    heights = sorted(names.values())
    assert np.diff(heights).min() > 0.03, "names on top of each other"
    assert names["random"] < names["maml (90 k before, 35.00 lost)"] < names["oracle"]

    ticks = [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()]
    assert ticks == ["0", "500", "1\N{THIN SPACE}k", "2\N{THIN SPACE}k", "5\N{THIN SPACE}k"]


def test_what_nobody_can_beat_is_a_named_line_and_a_sentence() -> None:
    """Episodes of 100 steps: one that is not known yet, then two that are."""
    comparison = replace(make(RANDOM), optimum=(-25.0, -5.0, -5.0), horizon=100)
    axes = plots.adaptation_curves(comparison).axes[0]
    line = axes.lines[0]
    assert line.get_drawstyle() == "steps-post"
    assert np.asarray(line.get_xydata()).tolist() == [[0, -25], [100, -5], [200, -5], [1000, -5]]
    assert "Bayes optimum" in {text.get_text() for text in axes.texts}
    assert any(
        "−25.00 in the first episode" in told and "−35.00 in a trial of 3" in told for told in headlines(comparison)
    )
    assert comparison.to_json()["optimum"] == [-25, -5, -5]


def test_steps_of_a_single_decade_have_labels_as_well() -> None:
    subject = make_curve("rl2", "meta-learner", [4.0, 10.0, 11.0, 11.0], [0, 15, 30, 45])
    axes = plots.adaptation_curves(Comparison("env/name", "test", NUM_TASKS, BUDGET, [subject])).axes[0]
    assert [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()] == ["0", "20", "30", "40"]


def test_agents_with_one_point_each_are_drawn_as_lines() -> None:
    """A memory learner with trials of one episode, beside a reference: nothing lies on the axis of steps."""
    subject = make_curve("rl2", "meta-learner", [6.0], [0], before=90_000)
    comparison = Comparison("env/name", "test", NUM_TASKS, BUDGET, [subject, RANDOM], {"runs": ["runs/a"]})
    axes = plots.adaptation_curves(comparison).axes[0]
    assert [np.asarray(line.get_ydata())[0] for line in axes.lines] == pytest.approx([6.0, -60.0])
