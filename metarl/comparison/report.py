"""A comparison as people see it: table, headlines, data files, figures, TensorBoard."""

import csv
import io
import json
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from metarl.comparison.comparison import Comparison, Duel, Race
from metarl.comparison.plots import adaptation_curves, improvement, millions, task_scatter
from metarl.evaluation.plots import figure_bytes
from metarl.evaluation.statistics import Estimate
from metarl.run.files import write_atomically

TENSORBOARD = "tensorboard"


def table(comparison: Comparison) -> Table:
    """A row per agent."""
    steps = millions(comparison.equal_env_steps)
    result = Table(
        title=f"{comparison.env}: return on {comparison.num_tasks} {comparison.split} tasks\n"
        "after environment steps on each of them, with 95% intervals",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    result.add_column("agent", no_wrap=True)
    for heading in (
        "steps\nbefore",
        "return\nat 0",
        f"mean at\n{steps} steps",
        f"IQM at\n{steps} steps",
        "score\n0 … 1",
        "mean at\nthe end",
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    for one in comparison.summaries:
        curve = one.curve
        reference = len(curve.env_steps) == 1
        result.add_row(
            curve.label + (f"\n{len(curve.returns)} seeds" if len(curve.returns) > 1 else ""),
            millions(curve.training_env_steps),
            "" if reference else f"{one.before.value:.1f}",
            _two_lines(one.equal),
            _two_lines(one.equal_iqm),
            "" if one.score is None else f"{one.score.value:.3f}",
            "" if reference else f"{one.final.value:.2f}\n{millions(curve.env_steps[-1])}",
        )
    return result


def headlines(comparison: Comparison) -> list[str]:
    """What the comparison says of its subject, a sentence each; the JSON holds the others' races as well."""
    subject = comparison.subject
    races = [race for race in comparison.races if race.meta_learner == subject.label]
    final = [_race(race, comparison) for race in races if race.adaptation_step == len(subject.env_steps) - 1]
    duels = [_duel(duel, comparison.equal_env_steps) for duel in comparison.duels]
    worst = [
        f"{one.curve.label} {_interval(one.final_worst)}"
        for one in comparison.summaries
        if one.curve.kind != "reference"
    ]
    return [*final, *duels, f"mean of the worst tenth of the tasks at the end: {', '.join(worst)}"]


def write(comparison: Comparison, directory: Path) -> list[Path]:
    """Write comparison.json, comparison.csv, the figures as PNG and SVG, and TensorBoard events; returns the files."""
    figures = {
        "comparison": adaptation_curves(comparison),
        "comparison-tasks": task_scatter(comparison),
        "comparison-improvement": improvement(comparison),
    }
    files = {"comparison.json": json.dumps(comparison.to_json(), indent=1).encode(), "comparison.csv": _csv(comparison)}
    for stem, figure in figures.items():
        files |= {f"{stem}.{suffix}": figure_bytes(figure, suffix) for suffix in ("png", "svg")}
    for name, content in files.items():
        write_atomically(directory / name, content)
    _write_events(comparison, figures, directory / TENSORBOARD)
    return [directory / name for name in files]


def _race(race: Race, comparison: Comparison) -> str:
    reached = f"the {race.target:.2f} that {race.meta_learner} has after {race.env_steps:,.0f} steps on a new task"
    if not race.needed.value < float("inf"):
        least = comparison.budget / race.env_steps
        return f"{race.baseline} does not reach {reached} within {comparison.budget:,} (more than {least:.1f} times)"
    low, high = (race.needed.low / race.env_steps, race.needed.high / race.env_steps)
    above = f"{high:.1f}" if high < float("inf") else "not within the budget"
    line = f"{race.baseline} needs {race.needed.value:,.0f} steps for {reached}: {race.ratio:.1f} times as many "
    return line + f"[95%: {low:.1f} to {above}]{_payback(race, comparison)}"


def _payback(race: Race, comparison: Comparison) -> str:
    """After how many tasks the steps of meta-training are won back."""
    before = {curve.label: curve.training_env_steps for curve in comparison.curves}
    invested, saved = before[race.meta_learner] - before[race.baseline], race.needed.value - race.env_steps
    if invested <= 0 or saved <= 0:
        return ""
    return f"; meta-training has paid for itself after {invested / saved:,.0f} tasks"


def _duel(duel: Duel, steps: float) -> str:
    verdict = "better than" if duel.difference.low > 0 else "worse than" if duel.difference.high < 0 else "level with"
    return (
        f"{duel.ours} is {verdict} {duel.theirs} at {steps:,.0f} steps on a task: difference "
        f"{_interval(duel.difference)}, better on a task with probability {_interval(duel.probability)}"
    )


def _interval(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _two_lines(one: Estimate) -> str:
    return f"{one.value:.2f}\n{one.low:.1f}…{one.high:.1f}"


def _csv(comparison: Comparison) -> bytes:
    """A row per agent, seed, task and point of its curve."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("agent", "kind", "training_env_steps", "seed", "task", "env_steps", "return"))
    for curve in comparison.curves:
        for seed, of_seed in enumerate(curve.returns):
            for env_steps, of_point in zip(curve.env_steps, of_seed, strict=True):
                for task, value in enumerate(of_point):
                    writer.writerow((curve.label, curve.kind, curve.training_env_steps, seed, task, env_steps, value))
    return buffer.getvalue().encode()


def _write_events(comparison: Comparison, figures: dict[str, Figure], directory: Path) -> None:
    """TensorBoard: a run per agent with its curve, and one with the table and the figures; in place of earlier ones."""
    for old in directory.glob("*/events.*"):
        old.unlink()
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

    for curve in comparison.curves:
        with SummaryWriter(str(directory / curve.label)) as writer:
            steps = curve.env_steps if len(curve.env_steps) > 1 else [0, comparison.budget]
            means = curve.mean if len(curve.env_steps) > 1 else [curve.mean[0]] * 2
            for env_steps, mean in zip(steps, means, strict=True):
                writer.add_scalar("comparison/return", mean, round(env_steps))
    with SummaryWriter(str(directory / "figures")) as writer:
        for name, figure in figures.items():
            writer.add_figure(f"comparison/{name}", figure)
        writer.add_text("comparison/headlines", "\n\n".join(headlines(comparison)))
