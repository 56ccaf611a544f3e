"""A comparison as people see it: table, headlines, data files, figures, TensorBoard."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from metarl.comparison.comparison import OPTIMUM, Comparison, PairwiseComparison, SampleEfficiency, Summary
from metarl.comparison.directory import TENSORBOARD
from metarl.comparison.plots import adaptation_curves, improvement, millions, task_scatter
from metarl.console import counted, format_number
from metarl.evaluation.evaluation import NOT_HELD_OUT, cautions
from metarl.evaluation.intervals import Estimate
from metarl.evaluation.plots import figure_bytes, for_screen
from metarl.run.files import write_atomically

DECIMALS = ".2f"
"""How the numbers of the headlines are written."""


def table(comparison: Comparison) -> Table:
    """A row per agent, in 80 columns; below its score stands the return that adapting lost, for each episode."""
    steps = millions(comparison.equal_env_steps)
    result = Table(
        title=f"{comparison.env}: return on {comparison.which_tasks}\n"
        f"after environment steps on each of them, with 95% intervals {_scope(comparison)}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )

    headings = (
        "steps\nbefore",
        "return\nat 0",
        f"mean at\n{steps} steps",
        f"IQM at\n{steps} steps",
        "score\nlost",
        "mean at\nthe end",
    )
    result.add_column("agent", no_wrap=True)
    for heading in headings:
        result.add_column(heading, justify="right", no_wrap=True)

    for summary in comparison.summaries:
        result.add_row(*_table_row(summary))
    return result


def _scope(comparison: Comparison) -> str:
    """What the intervals speak of."""
    if comparison.exhaustive:
        return f"over\n{comparison.intervals_over}"
    if all(curve.num_seeds == 1 for curve in comparison.curves):
        return "over tasks\n(one seed each: of other seeds they say nothing)"
    return "over tasks,\nand over seeds where several are named"


def _table_row(summary: Summary) -> list[str]:
    """The cells of one agent."""
    curve = summary.curve
    name = curve.label
    if len(curve.returns) > 1:
        name += f"\n{len(curve.returns)} seeds"

    # Empty where there is nothing to say: a reference does not learn, and a score needs random and oracle.
    before = final = score = ""
    if len(curve.env_steps) > 1:
        before = format_number(summary.before.value, ".1f")
        final = f"{format_number(summary.final.value, '.2f')}\n{millions(curve.env_steps[-1])}"
    if summary.score is not None:
        score = format_number(summary.score.value, ".3f")
    if summary.lost is not None:
        score += f"\n{format_number(summary.lost.value, '.2f')}"

    spent = millions(curve.training_env_steps)
    return [name, spent, before, _two_lines(summary.equal), _two_lines(summary.equal_iqm), score, final]


def reservations(comparison: Comparison) -> list[str]:
    """What its intervals do not hold as often as they say, a sentence each."""
    num_seeds = [curve.num_seeds for curve in comparison.curves]
    return cautions(comparison.num_tasks, num_seeds, comparison.exhaustive)


def headlines(comparison: Comparison) -> list[str]:
    """What the comparison says of its subject, a sentence each; the JSON speaks of the other meta-learners as well."""
    subject = comparison.subject
    last_step = len(subject.env_steps) - 1
    efficiencies = [
        _efficiency_line(efficiency, comparison)
        for efficiency in comparison.sample_efficiencies
        if efficiency.meta_learner == subject.label and efficiency.adaptation_step == last_step
    ]
    pairs = [_pairwise_line(pair, comparison.equal_env_steps) for pair in comparison.pairwise_comparisons]

    worst = [
        f"{summary.curve.label} {summary.final_worst.text(DECIMALS)}"
        for summary in comparison.summaries
        if summary.curve.kind != "reference" and summary.final_worst is not None
    ]
    lines = [*efficiencies, *pairs]
    if worst:
        lines.append(f"mean of the worst tenth of the tasks at the end: {', '.join(worst)}")

    lost = [
        f"{summary.curve.label} {summary.lost.text(DECIMALS)}"
        for summary in comparison.summaries
        if summary.curve.kind != "reference" and summary.lost is not None
    ]
    if lost:
        within = f"in the first {comparison.equal_env_steps:,.0f} steps on a task"
        lines.append(f"return lost while adapting, for each episode {within}, against the oracle: {', '.join(lost)}")
    if comparison.optimum:
        lines.append(_optimum_line(comparison))
    if not comparison.held_out:
        lines.append(NOT_HELD_OUT)
    return [*lines, *_by_task(comparison), *comparison.notes]


def _optimum_line(comparison: Comparison) -> str:
    """What the best player of a trial would earn."""
    first, last, trial = (
        format_number(value, DECIMALS)
        for value in (comparison.optimum[0], comparison.optimum[-1], sum(comparison.optimum))
    )
    return (
        f"{OPTIMUM}: on average, nobody can earn more than {first} in the first episode of a task not yet known, and "
        f"{last} in a later one; {trial} in a trial of {counted(len(comparison.optimum), 'episode')}"
    )


def _by_task(comparison: Comparison) -> list[str]:
    """A line for each of a few tasks that are all that there are: each agent's return at the end."""
    lines = []
    for row, task in enumerate(comparison.task_names):
        returns = [f"{curve.label} {format_number(curve.final[:, row].mean(), '.2f')}" for curve in comparison.curves]
        lines.append(f"on {task}: {', '.join(returns)}")
    return lines


def write(comparison: Comparison, directory: Path) -> list[Path]:
    """Write comparison.json, comparison.csv, the figures as PNG and SVG, and TensorBoard events; returns the files."""
    figures = {"comparison": adaptation_curves(comparison)}
    if len(comparison.curves) > 1:
        figures["comparison-tasks"] = task_scatter(comparison)
    if comparison.pairwise_comparisons:  # references alone are nothing to be better than
        figures["comparison-improvement"] = improvement(comparison)

    files = {"comparison.json": json.dumps(comparison.to_json(), indent=1).encode(), "comparison.csv": _csv(comparison)}
    for stem, figure in figures.items():
        files |= {f"{stem}.{suffix}": figure_bytes(figure, suffix) for suffix in ("png", "svg")}

    for name, content in files.items():
        write_atomically(directory / name, content)
    images = {stem: files[f"{stem}.png"] for stem in figures}
    _write_events(comparison, images, directory / TENSORBOARD)
    return [directory / name for name in files]


def _efficiency_line(efficiency: SampleEfficiency, comparison: Comparison) -> str:
    env_steps = efficiency.env_steps
    needed = efficiency.needed
    reached = format_number(efficiency.target, ".2f")
    target = f"the {reached} that {efficiency.meta_learner} has after {env_steps:,.0f} steps on a new task"
    if not needed.value < float("inf"):
        within = f"within {comparison.budget:,}{_at_least(efficiency, comparison)}"
        return f"{efficiency.baseline} does not reach {target} {within}"

    # The upper end is infinite where many of the resampled tasks are not solved within the budget.
    low = f"{needed.low / env_steps:,.1f}"
    high = f"{needed.high / env_steps:,.1f}" if needed.high < float("inf") else "not within the budget"
    return (
        f"{efficiency.baseline} needs {needed.value:,.0f} steps for {target}: {efficiency.ratio:,.1f} times as many "
        f"[95%: {low} to {high}]{_payback(efficiency, comparison)}"
    )


def _at_least(efficiency: SampleEfficiency, comparison: Comparison) -> str:
    """How many times the steps of the meta-learner a baseline needs that was not there within the budget."""
    factor = comparison.budget / efficiency.env_steps
    if factor <= 1:
        return ""

    # The same tasks drawn again may well be solved within the budget.
    low = efficiency.needed.low / efficiency.env_steps
    interval = f"; 95%: from {low:,.1f} times" if low < factor else ""
    return f" (more than {factor:,.1f} times{interval})"


def _payback(efficiency: SampleEfficiency, comparison: Comparison) -> str:
    """After how many tasks the steps of meta-training are won back."""
    before = {curve.label: curve.invested_env_steps for curve in comparison.curves}
    tasks = efficiency.payback(before[efficiency.meta_learner] - before[efficiency.baseline])
    if tasks is None:
        return ""

    few, many = f"{tasks.low:,.0f}", f"{tasks.high:,.0f}"
    interval = f"{few} to {many}" if tasks.low > 0 else f"at most {many}"
    return f"; meta-training has paid for itself after {tasks.value:,.0f} tasks [95%: {interval}]"


def _pairwise_line(pair: PairwiseComparison, steps: float) -> str:
    both = {
        "better": f"{pair.ours} is better than {pair.theirs}",
        "worse": f"{pair.ours} is worse than {pair.theirs}",
        "not distinguishable": f"{pair.ours} and {pair.theirs} are not distinguishable",
        "none": f"{pair.ours} beside {pair.theirs}",
    }[pair.verdict]
    reason = f"; no verdict: {pair.no_verdict_because}" if pair.no_verdict_because else ""

    return (
        f"{both} at {steps:,.0f} steps on a task: difference {pair.difference.text(DECIMALS)}, better on a task with "
        f"probability {pair.probability.text(DECIMALS)}{reason}"
    )


def _two_lines(estimate: Estimate) -> str:
    low, high = (format_number(end, ".1f") for end in (estimate.low, estimate.high))
    return f"{format_number(estimate.value, '.2f')}\n{low}…{high}"


def _csv(comparison: Comparison) -> bytes:
    """A row per agent, seed, task and point of its curve."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("agent", "kind", "training_env_steps", "seed", "task", "env_steps", "return"))

    for curve in comparison.curves:
        agent = (curve.label, curve.kind, curve.training_env_steps)
        for (seed, point, task), value in np.ndenumerate(curve.returns):
            writer.writerow((*agent, seed, task, curve.env_steps[point], value))
    return buffer.getvalue().encode()


def _write_events(comparison: Comparison, images: dict[str, bytes], directory: Path) -> None:
    """TensorBoard: a run per agent with its curve, and one with the table and the figures; in place of earlier ones."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

    from metarl.training.logs.tensorboard import add_image

    for old in directory.glob("*/events.*"):
        old.unlink()

    last = max(curve.env_steps[-1] for curve in comparison.curves) or comparison.budget
    for curve in comparison.curves:
        points = list(zip(curve.env_steps, curve.mean, strict=True))
        if len(points) == 1:  # a reference is drawn as a line from end to end
            points.append((last, curve.mean[0]))
        with SummaryWriter(str(directory / curve.label)) as writer:
            for env_steps, mean in points:
                writer.add_scalar("comparison/return", mean, round(env_steps))

    with SummaryWriter(str(directory / "figures")) as writer:
        for name, png in images.items():
            add_image(writer, f"comparison/{name}", for_screen(png))
        writer.add_text("comparison/headlines", "\n\n".join([*reservations(comparison), *headlines(comparison)]))
