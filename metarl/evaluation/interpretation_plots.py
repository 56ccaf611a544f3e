"""Figures of what adaptation does to the parameters. They draw without a display."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metarl.console import counted, format_number
from metarl.evaluation.interpretation import Interpretation
from metarl.evaluation.plots import set_margins, step_colours

SPREAD = (0.1, 0.9)
"""Quantiles over tasks, or pairs of tasks, that show the spread."""
_BINS = 10
_CHANGE = r"change of the step, relative: $\|\theta_k - \theta_{k-1}\|\,/\,\|\theta_0\|$"
_INCHES_PER_LETTER = 0.085
"""Width of a letter in the labels of rows."""


def parameter_change(found: Interpretation, title: str) -> Figure:
    """Relative change of each parameter in each adaptation step, and its share of the whole displacement."""
    num_rows = len(found.parameters)
    figure = Figure(figsize=(9, 1.6 + 0.45 * num_rows))
    label_width = _INCHES_PER_LETTER * max(len(name) for name in found.parameters)
    set_margins(figure, left=0.25 + label_width, right=0.25, bottom=0.55, top=0.6, wspace=0.05)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))

    _draw_changes(left, found)
    _draw_shares(right, found)

    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{title}\nwhich parameters move: mean over tasks, 10th to 90th percentile", fontsize="small")
    return figure


def _draw_changes(axes: Axes, found: Interpretation) -> None:
    """A row for each parameter, in it a mark for each adaptation step, with its spread over tasks."""
    num_steps, num_rows, _ = found.relative_change.shape
    y = np.arange(num_rows)
    moved = np.where(found.relative_change > 0, found.relative_change, np.nan)  # a logarithmic axis has no zero

    for k, colour in enumerate(step_colours(num_steps)):
        low, mean, high = _spread(moved[k])
        height = y + 0.18 * (k - (num_steps - 1) / 2)
        axes.hlines(height, low, high, color=colour)
        axes.plot(mean, height, "o", markersize=5, color=colour, label=f"step {k + 1}")

    if np.isfinite(moved).any():
        axes.set_xscale("log")
        axes.legend(loc="best", fontsize="small")

    # An empty row says why it is empty.
    for row in np.flatnonzero(~np.isfinite(moved).any(axis=(0, 2))).tolist():
        reason = "does not move" if np.isfinite(found.relative_change[:, row]).any() else "zero before adaptation"
        axes.text(0.02, row, reason, transform=axes.get_yaxis_transform(), va="center", fontsize="small", alpha=0.7)

    axes.set(yticks=y, yticklabels=found.parameters, xlabel=_CHANGE)
    axes.invert_yaxis()


def _draw_shares(axes: Axes, found: Interpretation) -> None:
    """A bar for each parameter's share of the displacement, with its spread over tasks."""
    y = np.arange(len(found.parameters))
    low, mean, high = _spread(found.share)
    axes.barh(y, np.nan_to_num(mean), height=0.6, color="tab:blue", alpha=0.5)
    axes.hlines(y, low, high, color="tab:blue")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel=r"share of $\|\theta_K - \theta_0\|^2$", xlim=(0, 1))


def direction_similarity(found: Interpretation, title: str) -> Figure:
    """Cosine of two tasks' adaptation directions against their distance: every pair, and the mean with its spread."""
    figure = Figure(figsize=(6, 4))
    set_margins(figure, left=0.8, right=0.1, bottom=0.5, top=0.5)
    axes = figure.subplots()
    known = np.isfinite(found.similarity)
    distance = found.distance[known]
    similarity = found.similarity[known]
    axes.scatter(distance, similarity, s=4, color="tab:blue", alpha=0.15, linewidths=0, rasterized=True)

    if len(distance):
        _draw_trend(axes, distance, similarity)

    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(
        xlabel="distance of the two tasks, each parameter scaled to its range",
        ylabel=r"cosine of $\theta_K - \theta_0$",
    )
    axes.set(xlim=(0, None), ylim=(-1.05, 1.05))
    axes.grid(alpha=0.3)

    headline = f"do similar tasks move the policy alike? {counted(len(distance), 'pair')}"
    if found.rank_correlation is not None:
        headline += f", rank correlation {format_number(found.rank_correlation, '+.2f')}"
    axes.set_title(f"{title}\n{headline}", fontsize="small")
    return figure


def _draw_trend(axes: Axes, distance: np.ndarray, similarity: np.ndarray) -> None:
    """Mean and spread of the similarity of pairs, in bins of equally many pairs that are equally far apart."""
    order = np.argsort(distance)
    bins = np.array_split(order, min(_BINS, len(order)))
    middles = [distance[pairs].mean() for pairs in bins]
    low, mean, high = np.transpose([_spread(similarity[pairs]) for pairs in bins])

    axes.fill_between(middles, low, high, color="tab:orange", alpha=0.25, label="10th to 90th percentile")
    axes.plot(middles, mean, "o-", color="tab:orange", label="mean of a tenth of the pairs")
    axes.legend(loc="best", fontsize="small")


def _spread(values: np.ndarray) -> np.ndarray:
    """Low quantile, mean and high quantile over the last axis of the finite values, (3, …); NaN where there is none."""
    result = np.full((3, *values.shape[:-1]), np.nan)
    for index in np.ndindex(values.shape[:-1]):
        known = values[index][np.isfinite(values[index])]
        if len(known):
            low, high = np.quantile(known, SPREAD)
            result[(slice(None), *index)] = low, known.mean(), high

    return result
