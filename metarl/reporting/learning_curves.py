"""Figure of a run's training: returns after each adaptation step against iterations and environment steps."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from metarl.evaluation.plots import LineEnd, group_thousands, label_ends, set_margins, step_colours
from metarl.training.logs.run_log import EVAL_RETURN, EVAL_SUCCESS, TRAIN_RETURN

_COLUMNS = {
    "training return": TRAIN_RETURN,
    "validation return": EVAL_RETURN,
    "validation success rate": EVAL_SUCCESS,
}
_ROWS = {"iteration": "meta-iteration", "env_steps": "environment steps, adaptation included"}

_POINTS_OF_A_SCALE = 10
"""With fewer points than these the first one belongs to the picture."""


def learning_curves(metrics: list[dict[str, Any]]) -> Figure | None:
    """A column for training, validation and, where there is one, success; a row for each x-axis; a line for each k.

    Args:
        metrics: rows of metrics.jsonl.

    Returns:
        None where no iteration has been done.
    """
    columns = {title: _tags(metrics, prefix) for title, prefix in _COLUMNS.items()}
    columns = {title: tags for title, tags in columns.items() if tags}
    if not columns:
        return None

    figure = Figure(figsize=(min(5.5 * len(columns) + 1, 15), 6.5))
    set_margins(figure, left=0.7, right=0.6, bottom=0.5, top=0.35, wspace=0.3, hspace=0.25)
    grid = figure.subplots(len(_ROWS), len(columns), squeeze=False, sharey="col")
    for column, (title, tags) in enumerate(columns.items()):
        grid[0, column].set_title(title, fontsize="medium")
        for axes, (x, label) in zip(grid[:, column], _ROWS.items(), strict=True):
            _draw_curves(axes, metrics, x, tags)
            axes.set_xlabel(label, fontsize="small")
            axes.set_ylabel(title.split(maxsplit=1)[1], fontsize="small")
    return figure


def _draw_curves(axes: Axes, metrics: list[dict[str, Any]], x: str, tags: list[str]) -> None:
    """A line for each tag against the column `x` of the metrics; validation, which is rarer, has marks."""
    ends = []
    after_the_first = []
    for k, (tag, colour) in enumerate(zip(tags, step_colours(len(tags)), strict=True)):
        points = [(row[x], row[tag]) for row in metrics if tag in row]
        marker = "o" if tag.startswith((EVAL_RETURN, EVAL_SUCCESS)) else ""
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, color=colour, label=f"k = {k}")
        ends.append(LineEnd(f"k = {k}", *points[-1], colour))
        after_the_first += [value for _, value in points[1:]]
    _set_scale(axes, after_the_first)
    label_ends(axes, [end for end in ends if np.isfinite(end.y)])

    axes.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
    group_thousands(axes.yaxis)
    axes.grid(alpha=0.3)


def _set_scale(axes: Axes, values: list[float]) -> None:
    """Choose the y-axis by what comes after the first point: an untrained policy may be far below all others."""
    finite = [value for value in values if np.isfinite(value)]
    if len(finite) < _POINTS_OF_A_SCALE:
        return

    low, high = np.quantile(finite, 0.01), max(finite)
    room = 0.08 * (high - low) or 1.0
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room))


def _tags(metrics: list[dict[str, Any]], prefix: str) -> list[str]:
    """The curves of k = 0 … K that there are, in order of k."""
    found = {tag for row in metrics for tag in row if tag.startswith(prefix)}
    return sorted(found, key=lambda tag: int(tag.removeprefix(prefix)))
