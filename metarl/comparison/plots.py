"""Figures of comparisons. They draw without a display."""

import itertools
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator
from matplotlib.typing import LineStyleType as LineStyle

from metarl.comparison.comparison import OPTIMUM, RANDOM, Comparison, Summary
from metarl.console import format_number
from metarl.evaluation.plots import LineEnd, group_thousands, label_ends, set_margins
from metarl.evaluation.statistics import Curve, mean_interval

SCATTER_COLUMNS = 4

GREY = "dimgrey"
_GREY_OF_PALETTE = 7

MOST_BANDS = 5
"""So many learners have a band of their own, those named first; more bands on top of each other say nothing."""

_LINES_OF_REFERENCES: tuple[LineStyle, ...] = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
"""Line styles of what does not learn; all of it is grey."""

_FIRST_DIGITS = (1, 2, 5)
"""Of the labelled ticks of the logarithmic axis."""
_FEWEST_TICKS = 3


def adaptation_curves(comparison: Comparison) -> Figure:
    """Return against environment steps spent on the new task, logarithmic, with 95% bands; references are lines.

    The return lost while adapting is a number beside each name: on a logarithmic axis its area would deceive the eye.
    """
    figure = Figure(figsize=(10.4, 5.2))
    set_margins(figure, left=0.75, right=3.2, bottom=0.75, top=0.45)
    axes = figure.subplots()

    learners = [curve for curve in comparison.curves if curve.kind != "reference"]
    in_front = learners[:MOST_BANDS]
    if comparison.optimum:
        _draw_optimum(axes, comparison)
    for curve, colour in _coloured(comparison):
        if len(curve.env_steps) == 1:
            axes.axhline(curve.mean[0], color=colour, linestyle=_line_style(comparison, curve), linewidth=1.2)
        else:
            _draw_curve(axes, curve, colour, _line_style(comparison, curve), curve in in_front)

    _scale_steps(axes, comparison)
    _hide_collapses(axes, comparison)
    _name_curves(axes, comparison)

    axes.set(xlabel="environment steps on the new task", ylabel="return")
    if any(summary.lost is not None for summary in comparison.summaries):
        within = f"in the first {comparison.equal_env_steps:,.0f} steps"
        axes.set_xlabel(f"{axes.get_xlabel()}\nlost: return lost while adapting, for each episode {within}")
    group_thousands(axes.yaxis)
    axes.set_title(f"{comparison.env}: {comparison.which_tasks}, mean and 95% interval", fontsize="medium")
    axes.grid(alpha=0.3)
    return figure


def _draw_curve(axes: Axes, curve: Curve, colour: str, style: LineStyle, in_front: bool) -> None:
    """A line with its band; without one for references, and faint as well for learners that are not in front."""
    # Stable-Baselines3 learns all the time; what adapts after whole batches of episodes stays as it is in between.
    learns_all_the_time = curve.kind == "baseline"
    marker = "o" if curve.kind == "meta-learner" else ""

    (line,) = axes.plot(curve.env_steps, curve.mean, linestyle=style, marker=marker, markersize=4, color=colour)
    line.set_drawstyle("default" if learns_all_the_time else "steps-post")
    if curve.kind == "reference":
        line.set(linewidth=1.2)
        return
    if not in_front:
        line.set(alpha=0.45, linewidth=1.0)
        return

    low, high = mean_interval(curve).T
    step: Literal["post"] | None = None if learns_all_the_time else "post"
    axes.fill_between(curve.env_steps, low, high, step=step, color=colour, alpha=0.13, linewidth=0)


def _draw_optimum(axes: Axes, comparison: Comparison) -> None:
    """What each episode of a trial can earn at most: nothing learns faster, so that it is drawn to the right end."""
    last = max(curve.env_steps[-1] for curve in comparison.curves)
    env_steps = [episode * comparison.horizon for episode in range(len(comparison.optimum))]
    axes.step(
        [*env_steps, last], [*comparison.optimum, comparison.optimum[-1]], "k-.", where="post", linewidth=1, zorder=3
    )


def _scale_steps(axes: Axes, comparison: Comparison) -> None:
    """A logarithmic axis of steps with plain numbers. It has no 0, where every curve starts: it begins linearly."""
    learning = [curve.env_steps for curve in comparison.curves if len(curve.env_steps) > 1]
    if not learning:
        return

    first = min(env_steps[1] for env_steps in learning)
    last = max(env_steps[-1] for env_steps in learning)
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    axes.set_xlim(0, 1.05 * last)

    axes.set_xticks([0, *_ticks(first, last)])
    axes.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _ticks(first: float, last: float) -> list[float]:
    """Numbers between two ends to label on a logarithmic axis: all first digits where 1, 2 and 5 give few."""
    decades = range(int(np.floor(np.log10(first))), int(np.ceil(np.log10(last))) + 1)
    ticks: list[float] = []
    for digits in (_FIRST_DIGITS, range(1, 10)):
        every = [digit * 10**decade for decade in decades for digit in digits]
        ticks = [tick for tick in every if first <= tick <= last]
        if len(ticks) >= _FEWEST_TICKS:
            break
    return ticks


def _name_curves(axes: Axes, comparison: Comparison) -> None:
    """Write each curve's name where it ends."""
    right = axes.get_xlim()[1]
    ends = [LineEnd(OPTIMUM, right, comparison.optimum[-1], "black")] if comparison.optimum else []
    for summary, (curve, colour) in zip(comparison.summaries, _coloured(comparison), strict=True):
        x = right if len(curve.env_steps) == 1 else float(curve.env_steps[-1])
        ends.append(LineEnd(_name(summary), x, float(curve.mean[-1]), colour))
    label_ends(axes, ends)


def _name(summary: Summary) -> str:
    """An agent with what it cost: environment steps of training before, return lost while it adapts."""
    costs = []
    if summary.curve.training_env_steps:
        costs.append(f"{millions(summary.curve.training_env_steps)} before")
    if summary.lost is not None and summary.curve.kind != "reference":
        costs.append(f"{format_number(summary.lost.value, '.2f')} lost")
    return f"{summary.curve.label} ({', '.join(costs)})" if costs else summary.curve.label


def _line_style(comparison: Comparison, curve: Curve) -> LineStyle:
    """How the line of a curve is drawn; references, which share their colour, have one style each."""
    references = [other.label for other in comparison.curves if other.kind == "reference"]
    if curve.label in references:
        return _LINES_OF_REFERENCES[references.index(curve.label) % len(_LINES_OF_REFERENCES)]
    return "-" if curve.kind == "meta-learner" else "-."


def task_scatter(comparison: Comparison) -> Figure:
    """Return of the subject against each other agent's, a point per task and a panel per agent, at equal steps."""
    others = [(curve, colour) for curve, colour in _coloured(comparison) if curve is not comparison.subject]
    columns = max(1, min(SCATTER_COLUMNS, len(others)))
    rows = max(1, -(-len(others) // columns))  # rounded up

    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (curve, colour) in zip(panels, others, strict=False):
        _draw_task_scatter(axes, comparison, curve, colour)
    for axes in list(figure.axes)[len(others) :]:
        axes.set_axis_off()

    figure.suptitle(
        f"{comparison.env}: each point a task, after {comparison.equal_env_steps:,.0f} environment steps on it",
        fontsize="medium",
    )
    return figure


def _draw_task_scatter(axes: Axes, comparison: Comparison, curve: Curve, colour: str) -> None:
    """The subject against one other agent; above the diagonal the subject is the better one."""
    subject = comparison.subject
    ours = subject.final.mean(axis=0)
    theirs = curve.at(comparison.equal_env_steps).mean(axis=0)

    diagonal = [min(ours.min(), theirs.min()), max(ours.max(), theirs.max())]
    axes.plot(diagonal, diagonal, color="grey", linewidth=0.8)
    axes.scatter(theirs, ours, s=14, color=colour, alpha=0.8)

    axes.set_xlabel(f"return of {curve.label}", fontsize="small")
    axes.set_ylabel(f"return of {subject.label}", fontsize="small")
    axes.set_title(f"{subject.label} better on {int((ours > theirs).sum())} of {len(ours)}", fontsize="small")
    axes.tick_params(labelsize="x-small")
    group_thousands(axes.xaxis, axes.yaxis)


def improvement(comparison: Comparison) -> Figure:
    """Probability that the subject is better than each other agent on a random task, with 95% intervals."""
    pairs = comparison.pairwise_comparisons[::-1]  # matplotlib counts rows from below
    colours = {curve.label: colour for curve, colour in _coloured(comparison)}

    figure = Figure(figsize=(6.5, 1.3 + 0.4 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for row, pair in enumerate(pairs):
        probability = pair.probability
        colour = colours[pair.theirs]
        width = probability.high - probability.low
        axes.barh(row, width, left=probability.low, height=0.5, color=colour, alpha=0.4)
        axes.plot([probability.value] * 2, [row - 0.25, row + 0.25], color=colour)
    axes.axvline(0.5, color="grey", linewidth=0.8)

    labels = [pair.theirs if pair.verdict != "none" else f"{pair.theirs}\n(no verdict)" for pair in pairs]
    axes.set_yticks(range(len(pairs)), labels)
    axes.set(xlim=(-0.02, 1.02), xlabel=f"probability that {comparison.subject.label} is better on a random task")
    axes.set_title(
        f"{comparison.env}: after {comparison.equal_env_steps:,.0f} environment steps on a task",
        fontsize="medium",
    )
    axes.grid(axis="x", alpha=0.3)
    return figure


def millions(env_steps: float) -> str:
    """A number of environment steps in a few characters: 7.03 M, 45 k, 500."""
    if env_steps >= 1e6:
        return f"{env_steps / 1e6:.2f} M"
    if env_steps >= 1e4:
        return f"{env_steps / 1e3:.0f} k"
    return f"{env_steps:,.0f}"


def _coloured(comparison: Comparison) -> list[tuple[Curve, str]]:
    """Each curve with its colour, the same one in every figure; what does not learn is grey."""
    palette = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]
    palette = [colour for number, colour in enumerate(palette) if number != _GREY_OF_PALETTE]
    colours = itertools.cycle(palette)
    return [(curve, GREY if curve.kind == "reference" else next(colours)) for curve in comparison.curves]


def _hide_collapses(axes: Axes, comparison: Comparison) -> None:
    """Cut the view below what acting at random gives: a policy that breaks down must not flatten the others."""
    random = [float(curve.final.mean()) for curve in comparison.curves if curve.label == RANDOM]
    best = max(float(np.max(curve.mean)) for curve in comparison.curves)

    bottom = axes.get_ylim()[0]
    if random and bottom < random[0]:
        axes.set_ylim(bottom=max(bottom, random[0] - 0.1 * (best - random[0])))
