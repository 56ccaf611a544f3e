"""The script that measures a GPU, where there is none."""

from collections.abc import Callable

import pytest
import torch

from tests.gpu import measure
from tests.helpers.captured_steps import recorded

TINY = measure.Sizes(torch.device("cpu"), tiny=True)

CASE = ("reptile", "point-navigation/finn", "default")


def test_a_part_that_is_not_captured_is_not_called_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(measure, "recorded", refuse)
    with pytest.raises(measure.RefusedError, match="not captured as CUDA graphs: operation not permitted"):
        list(measure.equal(TINY, [CASE]))


def test_captures_are_compared_on_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[Callable[[], None]] = []

    def count(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        captured.append(function)
        return recorded(function, generator)

    monkeypatch.setattr(measure, "recorded", count)
    figures = list(measure.equal(TINY, [CASE]))
    assert [figure.what.split()[0] for figure in figures] == ["captured", "fused"]
    assert captured
    assert "cpu" not in measure.CAPTURES


def test_what_is_not_captured_stands_beside_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        raise RuntimeError("no graphs here")

    monkeypatch.setitem(measure.CAPTURES, "cpu", refuse)
    figures = [*measure.large(TINY), measure._iteration_of(TINY, "Reptile", *CASE, "auto", "")]
    for figure in figures:
        assert " s * rollouts of PointNavigation are not captured as CUDA graphs: no graphs here" in figure.value
