"""The script that measures a GPU, where there is none."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from metarl.training.machine.accelerate import CAPTURES
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
    assert "cpu" not in CAPTURES


def test_what_is_not_captured_stands_beside_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        raise RuntimeError("no graphs here")

    monkeypatch.setitem(CAPTURES, "cpu", refuse)
    figures = [*measure.large(TINY), measure._iteration_of(TINY, "Reptile", *CASE, "auto", "", 40)]
    for figure in figures:
        assert " s * rollouts of PointNavigation are not captured as CUDA graphs: no graphs here" in figure.value


def test_a_part_that_fails_leaves_the_others_and_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half(sizes: measure.Sizes) -> Iterator[measure.Figure]:
        yield measure.Figure("the first half", "1 s")
        raise RuntimeError("out of [memory]")

    def whole(sizes: measure.Sizes) -> Iterator[measure.Figure]:
        yield measure.Figure("the whole", "2 s", "3 s")

    monkeypatch.setattr(measure, "PARTS", {"half": half, "whole": whole})
    assert measure.main(["--device", "cpu", "--out", str(tmp_path / "table.txt")]) == 1
    shown = capsys.readouterr().out
    for text in (shown, (tmp_path / "table.txt").read_text()):
        assert "all of this" in text
        assert "the first half" in text and "the whole" in text
        assert "half failed" in text and "RuntimeError: out of [memory]" in text
    assert measure.main(["--device", "cpu", "--parts", "whole"]) == 0


def test_a_training_that_fails_is_a_part_that_fails() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 2: .*no-such-agent"):
        measure._train("no-such-agent")


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(["--device", device]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_robots_train_as_long_as_the_published_figure_says(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[str] = []

    def train(*given: str) -> tuple[float, str]:
        flags.extend(given)
        return 118.0, "returns 1 614"

    monkeypatch.setattr(measure, "_train", train)
    (figure,) = measure.cheetah(dataclasses.replace(TINY, tiny=False))
    assert flags[:2] == ["maml", "half-cheetah-direction"]
    assert flags[flags.index("--iterations") + 1] == "122"
    assert (figure.what, figure.value) == ("half-cheetah-direction, 122 iterations: returns 1 614", "118 s")


def test_an_iteration_of_rl2_is_measured() -> None:
    assert measure._iteration_of(TINY, "RL²", "rl2", "grid-navigation", "default", "off", "", 300).value.endswith(" s")
