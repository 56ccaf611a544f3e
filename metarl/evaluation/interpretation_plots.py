"""Figures of what adaptation does to the parameters. They draw without a display."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metarl.evaluation.interpretation import Interpretation

SPREAD = (0.1, 0.9)
"""Quantiles over tasks, or pairs of tasks, that show the spread."""
_BINS = 10


def parameter_change(found: Interpretation, title: str) -> Figure:
    """Relative change of each parameter in each adaptation step, and its share of the whole displacement."""
    steps, rows, _ = found.relative_change.shape
    figure = Figure(figsize=(9, 1.6 + 0.45 * rows), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, steps))
    y = np.arange(rows)
    moved = np.where(found.relative_change > 0, found.relative_change, np.nan)  # a logarithmic axis has no zero
    for k, colour in enumerate(colours):
        low, mean, high = _spread(moved[k])
        at = y + 0.18 * (k - (steps - 1) / 2)
        left.hlines(at, low, high, color=colour)
        left.plot(mean, at, "o", markersize=5, color=colour, label=f"step {k + 1}")
    if np.isfinite(moved).any():
        left.set_xscale("log")
        left.legend(loc="best", fontsize="small")
    for row in np.flatnonzero(~np.isfinite(moved).any(axis=(0, 2))):
        reason = "does not move" if np.isfinite(found.relative_change[:, row]).any() else "zero before adaptation"
        left.text(0.02, row, reason, transform=left.get_yaxis_transform(), va="center", fontsize="small", alpha=0.7)
    left.set(yticks=y, yticklabels=found.parameters, xlabel="change of the step, relative: ‖θ_k − θ_k−1‖ / ‖θ_0‖")
    left.invert_yaxis()
    low, mean, high = _spread(found.share)
    right.barh(y, np.nan_to_num(mean), height=0.6, color="tab:blue", alpha=0.5)
    right.hlines(y, low, high, color="tab:blue")
    right.xaxis.set_major_formatter(PercentFormatter(1))
    right.set(xlabel="share of ‖θ_K − θ_0‖²", xlim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{title}\nwhich parameters move: mean over tasks, 10th to 90th percentile", fontsize="small")
    return figure


def direction_similarity(found: Interpretation, title: str) -> Figure:
    """Cosine of two tasks' adaptation directions against their distance: every pair, and the mean with its spread."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    known = np.isfinite(found.similarity)
    distance, similarity = found.distance[known], found.similarity[known]
    axes.scatter(distance, similarity, s=4, color="tab:blue", alpha=0.15, linewidths=0, rasterized=True)
    order = np.argsort(distance)
    if len(order):
        bins = np.array_split(order, min(_BINS, len(order)))
        middles = [distance[part].mean() for part in bins]
        low, mean, high = np.array([_spread(similarity[part][None])[:, 0] for part in bins]).T
        axes.fill_between(middles, low, high, color="tab:orange", alpha=0.25, label="10th to 90th percentile")
        axes.plot(middles, mean, "o-", color="tab:orange", label="mean of a tenth of the pairs")
        axes.legend(loc="best", fontsize="small")
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="distance of the two tasks, each parameter scaled to its range", ylabel="cosine of θ_K − θ_0")
    axes.set(xlim=(0, None), ylim=(-1.05, 1.05))
    rho = found.rank_correlation
    ordered = "" if rho is None else f", rank correlation {rho:+.2f}"
    axes.set_title(
        f"{title}\ndo similar tasks move the policy alike? {len(distance):,} pairs{ordered}", fontsize="small"
    )
    axes.grid(alpha=0.3)
    return figure


def _spread(values: np.ndarray) -> np.ndarray:
    """Low quantile, mean and high quantile over the last axis of what is a number, (3, …)."""
    result = np.full((3, *values.shape[:-1]), np.nan)
    for index in np.ndindex(values.shape[:-1]):
        known = values[index][np.isfinite(values[index])]
        if len(known):
            result[(slice(None), *index)] = np.quantile(known, SPREAD[0]), known.mean(), np.quantile(known, SPREAD[1])
    return result
