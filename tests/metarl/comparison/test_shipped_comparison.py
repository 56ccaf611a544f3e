"""The shipped comparison: its figures are what today's statistics make of its returns, and the page shows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from metarl.comparison.comparison import Comparison
from metarl.comparison.report import table
from metarl.console import format_number
from metarl.evaluation.intervals import Estimate
from metarl.evaluation.statistics import Curve

ROOT = Path(__file__).parents[3]
PLACE = ROOT / "runs/reference/comparison-point-navigation-finn"
SHIPPED = json.loads((PLACE / "comparison.json").read_text())
PAGE = (ROOT / "metarl/comparison/README.md").read_text()
NAMES = {"reptile": "Reptile", "multitask": "joint training", "distill": "the student", "ppo": "PPO"}


def curve_of(data: dict[str, Any]) -> Curve:
    return Curve(
        data["label"],
        data["kind"],
        data["training_env_steps"],
        np.array(data["env_steps"]),
        np.array(data["returns"]),
        data["evaluation_env_steps"],
        data["validation_env_steps"],
    )


def of_the_returns(data: dict[str, Any]) -> Comparison:
    curves = [curve_of(curve) for curve in data["curves"]]
    return Comparison(data["env"], data["split"], data["num_tasks"], data["budget"], curves, horizon=100)


@pytest.fixture(scope="module")
def again() -> Comparison:
    """The same returns."""
    return of_the_returns(SHIPPED)


def cell(estimate: Estimate) -> str:
    low, value, high = (format_number(number, ".2f") for number in (estimate.low, estimate.value, estimate.high))
    return f"{value} [{low}, {high}]"


def leaves(data: Any) -> list[Any]:
    """Numbers and words of nested data, in their order."""
    if isinstance(data, dict):
        return leaves(list(data.values()))
    if isinstance(data, list):
        return [leaf for part in data for leaf in leaves(part)]
    return [data]


def test_its_figures_are_those_of_todays_statistics(again: Comparison) -> None:
    figures = again.to_json()
    for part in ("pairwise_comparisons", "sample_efficiencies", "agents"):
        for found, shipped in zip(leaves(figures[part]), leaves(SHIPPED[part]), strict=True):
            # On other processors the last digits may be others.
            assert found == (pytest.approx(shipped, rel=1e-6) if isinstance(shipped, float) else shipped)


def test_the_page_shows_its_table(again: Comparison) -> None:
    console = Console(width=100, no_color=True)
    with console.capture() as captured:
        console.print(table(again))
    rows = [line.rstrip() for line in captured.get().splitlines()]
    assert "\n".join(rows).rstrip() in PAGE


def test_the_page_shows_the_pairs_and_the_worst_tenth(again: Comparison) -> None:
    for pair in again.pairwise_comparisons:
        name = NAMES.get(pair.theirs, "PPO pretrained")
        assert f"| {name} | {cell(pair.difference)} | {cell(pair.probability)} |" in PAGE
        assert pair.verdict == "none"
    for summary in again.summaries:
        if summary.curve.kind != "reference":
            assert summary.final_worst is not None
            assert f"| {summary.curve.label} | {cell(summary.final_worst)} |" in PAGE


def test_the_page_says_what_ppo_needs_with_a_network_for_each_goal() -> None:
    later = of_the_returns(json.loads((PLACE / "ppo-of-today.json").read_text()))
    *_, efficiency = later.sample_efficiencies
    needed, steps = efficiency.needed, efficiency.env_steps
    row = f"| 20 | {steps:,.0f} | {format_number(efficiency.target, '.2f')} | {needed.value:,.0f} |"
    assert f"{row} {needed.value / steps:.1f} [{needed.low / steps:.1f}, {needed.high / steps:.1f}] |" in PAGE
