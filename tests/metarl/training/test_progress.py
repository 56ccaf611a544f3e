"""What the terminal shows: plain lines into a file, a live display on a terminal."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from metarl.evaluation.evaluation import Evaluation
from metarl.training.progress import LiveReporter, PlainReporter, evaluation_table, make_reporter, success_table

EVALUATION = Evaluation(
    returns=np.array([[-40.0, -38.0], [-12.0, -10.0]]),
    env_steps=np.array([0.0, 2000.0]),
    total_env_steps=8000,
    episodes_per_step=20,
)


def shown(terminal: bool) -> str:
    """What a training of three iterations shows, resumed after the first."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with make_reporter(console, start=1, env_steps=5000) as reporter:
        reporter.iteration(2, 3, 10_000, [-39.1, -25.0])
        reporter.evaluated(2, EVALUATION)
        reporter.iteration(3, 3, 15_000, [-38.0, -20.5])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_file_gets_plain_lines() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "iteration 2  validation return −39.0 → −11.0"
    assert lines[1].startswith("iteration 3/3  env steps 15,000  ")
    assert "steps/s  train return −38.0 → −20.5  0 s left" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_lines_stay_short_where_a_trial_has_many_episodes() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with make_reporter(console, start=0, env_steps=0) as reporter:
        reporter.iteration(5, 5, 10_000, [9.2, 12.5, 10.9, 12.4, 11.6, 12.2, 12.4, 11.6, 11.6, 13.2])
    assert isinstance(console.file, io.StringIO)
    assert "train return 9.2 → … → 13.2  0 s left" in console.file.getvalue()


def rows_of(table: Table) -> list[tuple[str, ...]]:
    """A table's headings, then its rows."""
    headings = [str(column.header) for column in table.columns]
    return [tuple(headings), *zip(*(map(str, column.cells) for column in table.columns), strict=True)]


def test_separate_trials_are_told_by_episode_and_one_episode_has_no_gain() -> None:
    trials = replace(EVALUATION, pooled=False, successes=np.array([[10, 20], [20, 20]]))
    rows = rows_of(evaluation_table(trials, ""))
    assert rows[0] == ("episode", "env steps", "mean return", "95% interval")
    assert [row[:3] for row in rows[1:]] == [
        ("1", "0", "−39.00"),
        ("2", "2,000", "−11.00"),
        ("whole trial", "", "−50.00"),
        ("gain", "", "+28.00"),
    ]
    successes = success_table(trials)
    assert successes is not None
    assert [row[0] for row in rows_of(successes)] == ["episode", "1", "2"]

    single = replace(trials, returns=trials.returns[:1], env_steps=trials.env_steps[:1])
    assert [row[0] for row in rows_of(evaluation_table(single, ""))] == ["episode", "1", "whole trial"]


def test_adaptation_steps_are_told_from_0_on_with_what_they_cost() -> None:
    rows = rows_of(evaluation_table(EVALUATION, ""))
    assert rows[0] == ("adaptation step", "episodes", "env steps", "mean return", "95% interval")
    assert [row[:4] for row in rows[1:]] == [
        ("0", "0", "0", "−39.00"),
        ("1", "20", "2,000", "−11.00"),
        ("gain", "", "", "+28.00"),
    ]


def test_notebook_gets_few_lines_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(console, "is_jupyter", True)
    printed: list[str] = []
    monkeypatch.setattr(console, "print", lambda line, **_: printed.append(line))

    with make_reporter(console, start=0, env_steps=0) as reporter:
        for iteration in range(1, 1001):
            reporter.iteration(iteration, 1000, 100 * iteration, [-39.1, -25.0])
            reporter.evaluated(iteration, EVALUATION)
    assert len(printed) == 12
    assert printed[-2].startswith("iteration 1000/1000  env steps 100,000  ")
    assert printed[-2].endswith("validation return −39.0 → −11.0 (iteration 999)")
    assert printed[-1] == "validation return −39.0 → −11.0 (iteration 1000)"
    assert "\x1b" not in "".join(printed)


def test_terminal_gets_a_live_display() -> None:
    text = shown(terminal=True)
    assert "\x1b" in text
    for part in ("3/3", "15,000", "−38.0 → −20.5", "−39.0 → −11.0  (iteration 2)"):
        assert part in text


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveReporter), (False, PlainReporter)])
def test_kind_of_output_decides(terminal: bool, kind: type) -> None:
    assert isinstance(make_reporter(Console(force_terminal=terminal), 0, 0), kind)


@pytest.mark.parametrize("width", [80, 40])
def test_of_too_many_returns_the_first_and_the_last_are_shown(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with make_reporter(console, start=0, env_steps=0) as reporter:
        assert isinstance(reporter, LiveReporter)
        reporter.iteration(4, 5, 8_000, [11.0 + k for k in range(10)])
        reporter.evaluated(98_000_000, EVALUATION)
        drawn = console.render_lines(reporter._render(), pad=False)
    lines = ["".join(part.text for part in line) for line in drawn]
    assert lines[2].split(maxsplit=2)[2].strip() == "11.0 → … → 20.0"
    assert "validation return  −39.0 → −11.0" in lines[3]
    # The terminal writes ^C after the last line: if that wrapped, a line of the bar would stay.
    assert max(map(len, lines)) <= width - len("^C")


def test_the_live_display_fits_80_columns_and_is_gone_after_an_interruption() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with pytest.raises(KeyboardInterrupt), make_reporter(console, start=0, env_steps=0) as reporter:
        assert isinstance(reporter, LiveReporter)
        reporter.iteration(98, 100, 10_000_000, [-139.1, -125.0, -113.9, -112.0])
        reporter.evaluated(98, EVALUATION)
        height = len(console.render_lines(reporter._render()))
        raise KeyboardInterrupt
    assert height == 4
    assert isinstance(console.file, io.StringIO)
    # What follows the last thing drawn erases a line for each line drawn.
    assert console.file.getvalue().rpartition("(iteration 98)")[2].count("\x1b[2K") >= height
