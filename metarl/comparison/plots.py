"""Figures of comparisons. They draw without a display."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.comparison.comparison import RANDOM, Comparison
from metarl.evaluation.statistics import Curve, mean_interval

SCATTER_COLUMNS = 4
_STYLES = {"meta-learner": "-", "baseline": "-.", "reference": ":"}


def adaptation_curves(comparison: Comparison) -> Figure:
    """Return against environment steps spent on the new task, logarithmic, with 95% bands; references are lines."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for curve, colour in _coloured(comparison):
        _draw_curve(axes, curve, colour)

    # A logarithmic axis has no 0, where every curve starts: it is linear up to the first point of any curve.
    first_steps = [curve.env_steps[1] for curve in comparison.curves if len(curve.env_steps) > 1]
    if first_steps:
        axes.set_xscale("symlog", linthresh=min(first_steps), linscale=0.4)
        axes.set_xlim(left=0)
    _hide_collapses(axes, comparison)

    axes.set(xlabel="environment steps on the new task", ylabel="return")
    axes.set_title(f"{comparison.env}: {comparison.which_tasks}, mean and 95% interval", fontsize="medium")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def _draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    """A line with its band, or a horizontal line where the agent does not learn."""
    style = _STYLES[curve.kind]
    if len(curve.env_steps) == 1:
        axes.axhline(curve.mean[0], color=colour, linestyle=style, label=curve.label)
        return

    label = curve.label
    if curve.training_env_steps:
        label += f" ({millions(curve.training_env_steps)} before)"
    marker = "o" if curve.kind == "meta-learner" else ""

    low, high = mean_interval(curve).T
    axes.fill_between(curve.env_steps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(curve.env_steps, curve.mean, style, marker=marker, markersize=4, color=colour, label=label)


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
    """Each curve with its colour, the same one in every figure."""
    palette = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]
    return [(curve, palette[number % len(palette)]) for number, curve in enumerate(comparison.curves)]


def _hide_collapses(axes: Axes, comparison: Comparison) -> None:
    """Cut the view below what acting at random gives: a policy that breaks down must not flatten the others."""
    random = [float(curve.final.mean()) for curve in comparison.curves if curve.label == RANDOM]
    best = max(float(np.max(curve.mean)) for curve in comparison.curves)

    bottom = axes.get_ylim()[0]
    if random and bottom < random[0]:
        axes.set_ylim(bottom=max(bottom, random[0] - 0.3 * (best - random[0])))
