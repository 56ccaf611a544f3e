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
        style = _STYLES[curve.kind]
        if len(curve.env_steps) == 1:
            axes.axhline(curve.mean[0], color=colour, linestyle=style, label=curve.label)
            continue
        low, high = mean_interval(curve).T
        marker = "o" if curve.kind == "meta-learner" else ""
        label = (
            f"{curve.label} ({millions(curve.training_env_steps)} before)" if curve.training_env_steps else curve.label
        )
        axes.fill_between(curve.env_steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(curve.env_steps, curve.mean, style, marker=marker, markersize=4, color=colour, label=label)
    first_step = min(curve.env_steps[1] for curve in comparison.curves if len(curve.env_steps) > 1)
    axes.set_xscale("symlog", linthresh=first_step, linscale=0.4)
    axes.set_xlim(left=0)
    _hide_collapses(axes, comparison)
    axes.set(xlabel="environment steps on the new task", ylabel="return")
    axes.set_title(
        f"{comparison.env}: {comparison.num_tasks} {comparison.split} tasks, mean and 95% interval", fontsize="medium"
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def task_scatter(comparison: Comparison) -> Figure:
    """Return of the subject against each other agent's, a point per task and a panel per agent, at equal steps."""
    others = [(curve, colour) for curve, colour in _coloured(comparison) if curve is not comparison.subject]
    columns = max(1, min(SCATTER_COLUMNS, len(others)))
    rows = max(1, -(-len(others) // columns))
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    ours = comparison.subject.final.mean(axis=0)
    for axes, (curve, colour) in zip(panels, others, strict=False):
        theirs = curve.at(comparison.equal_env_steps).mean(axis=0)
        ends = [min(ours.min(), theirs.min()), max(ours.max(), theirs.max())]
        axes.plot(ends, ends, color="grey", linewidth=0.8)
        axes.scatter(theirs, ours, s=14, color=colour, alpha=0.8)
        axes.set_xlabel(f"return of {curve.label}", fontsize="small")
        axes.set_ylabel(f"return of {comparison.subject.label}", fontsize="small")
        axes.set_title(
            f"{comparison.subject.label} better on {int((ours > theirs).sum())} of {len(ours)}", fontsize="small"
        )
        axes.tick_params(labelsize="x-small")
    for axes in list(figure.axes)[len(others) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"{comparison.env}: each point a task, after {comparison.equal_env_steps:,.0f} environment steps on it",
        fontsize="medium",
    )
    return figure


def improvement(comparison: Comparison) -> Figure:
    """Probability that the subject is better than each other agent on a random task, with 95% intervals."""
    duels = comparison.duels[::-1]
    figure = Figure(figsize=(6.5, 1.3 + 0.4 * len(duels)), layout="constrained")
    axes = figure.subplots()
    colours = {curve.label: colour for curve, colour in _coloured(comparison)}
    for row, duel in enumerate(duels):
        one = duel.probability
        axes.barh(row, one.high - one.low, left=one.low, height=0.5, color=colours[duel.theirs], alpha=0.4)
        axes.plot([one.value] * 2, [row - 0.25, row + 0.25], color=colours[duel.theirs])
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(duels)), [duel.theirs for duel in duels])
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
    return f"{env_steps / 1e3:.0f} k" if env_steps >= 1e4 else f"{env_steps:,.0f}"


def _coloured(comparison: Comparison) -> list[tuple[Curve, str]]:
    palette = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]
    return [(curve, palette[number % len(palette)]) for number, curve in enumerate(comparison.curves)]


def _hide_collapses(axes: Axes, comparison: Comparison) -> None:
    """Cut the view below what acting at random gives: a policy that breaks down must not flatten the others."""
    random = [float(curve.final.mean()) for curve in comparison.curves if curve.label == RANDOM]
    tops = max(float(np.max(curve.mean)) for curve in comparison.curves)
    if random and axes.get_ylim()[0] < random[0]:
        axes.set_ylim(bottom=max(axes.get_ylim()[0], random[0] - 0.3 * (tops - random[0])))
