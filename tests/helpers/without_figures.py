"""The command line without its figures: `python -m tests.helpers.without_figures train …`, for processes of tests."""

import sys
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from metarl.cli.main import main
from metarl.comparison import report as comparison_report
from metarl.evaluation import interpretation_plots, plots


def empty_figures(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Empty figures instead of plots, which take most of the time of a tiny run."""
    figures: list[tuple[Any, str]] = [(plots, "adaptation_curve"), (plots, "trajectories")]
    figures += [(interpretation_plots, name) for name in ("parameter_change", "direction_similarity")]
    figures += [(comparison_report, name) for name in ("adaptation_curves", "task_scatter", "improvement")]
    for owner, name in figures:
        set_attribute(owner, name, lambda *arguments: Figure(figsize=(0.1, 0.1)))


if __name__ == "__main__":
    empty_figures(setattr)
    sys.exit(main())
