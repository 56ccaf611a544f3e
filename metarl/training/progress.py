"""What the console shows while training runs: a live bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from metarl.console import format_number
from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.intervals import Estimate


class Reporter(Protocol):
    """Shows what happens in training; used as a context manager around it."""

    def __enter__(self) -> "Reporter": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def iteration(self, iteration: int, iterations: int, env_steps: int, returns: list[float]) -> None:
        """A meta-iteration is done.

        Args:
            iteration: its number.
            iterations: how many are expected in all.
            env_steps: environment steps taken so far.
            returns: mean return of the training tasks after k = 0 … K adaptation steps.
        """
        ...

    def evaluated(self, iteration: int, evaluation: Evaluation) -> None:
        """The validation split was evaluated."""
        ...


def make_reporter(console: Console, start: int, env_steps: int) -> Reporter:
    """A live display on a terminal, few lines in a notebook, which keeps them, else plain lines.

    Args:
        console: where to write.
        start: iterations done before.
        env_steps: environment steps taken before, for the rate.
    """
    if console.is_jupyter:
        return NotebookReporter(console, start, env_steps)
    reporter = LiveReporter if console.is_terminal else PlainReporter
    return reporter(console, start, env_steps)


WIDTH = 36
"""Columns that returns take at most: four numbers of three digits."""


def format_returns(returns: list[float], width: int = WIDTH) -> str:
    """'−39.1 → −25.0 → −13.9', or '−39.1 → … → −13.9' where there are too many for `width` columns."""
    numbers = [format_number(value, ".1f") for value in returns]
    whole = " → ".join(numbers)
    return whole if len(whole) <= width else f"{numbers[0]} → … → {numbers[-1]}"


class _Rate:
    """Environment steps per second since the start, evaluation time included."""

    def __init__(self, env_steps: int) -> None:
        self._start_steps = env_steps
        self._start = time.monotonic()

    def __call__(self, env_steps: int) -> float:
        return (env_steps - self._start_steps) / max(time.monotonic() - self._start, 1e-9)

    def seconds(self) -> float:
        return time.monotonic() - self._start


class PlainReporter:
    """One line per evaluation, and at least one every ten seconds."""

    INTERVAL = 10.0

    def __init__(self, console: Console, start: int, env_steps: int) -> None:
        self._console = console
        self._start = start
        self._rate = _Rate(env_steps)
        self._last = time.monotonic()

    def __enter__(self) -> "PlainReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def iteration(self, iteration: int, iterations: int, env_steps: int, returns: list[float]) -> None:
        """See Reporter.iteration."""
        if time.monotonic() - self._last < self.INTERVAL and iteration < iterations:
            return
        self._last = time.monotonic()
        self._print(self._line(iteration, iterations, env_steps, returns))

    def _line(self, iteration: int, iterations: int, env_steps: int, returns: list[float]) -> str:
        """How far it is."""
        seconds_per_iteration = self._rate.seconds() / (iteration - self._start)
        seconds_left = seconds_per_iteration * (iterations - iteration)
        return (
            f"iteration {iteration}/{iterations}  env steps {env_steps:,}  {self._rate(env_steps):,.0f} steps/s  "
            f"train return {format_returns(returns)}  {seconds_left:,.0f} s left"
        )

    def evaluated(self, iteration: int, evaluation: Evaluation) -> None:
        """See Reporter.evaluated."""
        self._print(f"iteration {iteration}  validation return {format_returns(evaluation.return_mean.tolist())}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class NotebookReporter(PlainReporter):
    """A line for each tenth of the iterations, with the validation since the last one, and never more often."""

    TENTHS = 10

    def __init__(self, console: Console, start: int, env_steps: int) -> None:
        super().__init__(console, start, env_steps)
        self._tenths = -1
        self._validation = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last iteration is validated after its line.
        if self._validation:
            self._print(self._validation.strip())

    def iteration(self, iteration: int, iterations: int, env_steps: int, returns: list[float]) -> None:
        """See Reporter.iteration."""
        tenths = self.TENTHS * iteration // max(iterations, 1)
        if tenths == self._tenths:
            return
        self._tenths = tenths
        self._print(self._line(iteration, iterations, env_steps, returns) + self._validation)
        self._validation = ""

    def evaluated(self, iteration: int, evaluation: Evaluation) -> None:
        """See Reporter.evaluated."""
        returns = format_returns(evaluation.return_mean.tolist())
        self._validation = f"  validation return {returns} (iteration {iteration})"


_LONGEST_NAME = "validation return"
_GAP = 2
"""Columns after a name in the live display."""
_ECHO = "^C"
"""What the terminal itself writes after the last line when Ctrl-C is pressed: a wrapped line would not be erased."""


class LiveReporter:
    """A progress bar with the current figures below it."""

    def __init__(self, console: Console, start: int, env_steps: int) -> None:
        self._bar = Progress(
            TextColumn("meta-training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        self._task = self._bar.add_task("train", total=None, completed=start)
        self._rate = _Rate(env_steps)
        self._width = console.width - len(_ECHO)
        self._room = max(1, self._width - len(_LONGEST_NAME) - _GAP)
        self._env_steps = env_steps
        self._train = "…"
        self._validation = "…"
        self._live = Live(self._render(), console=console, refresh_per_second=4)

    def __enter__(self) -> "LiveReporter":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was interrupted leaves no bar behind that looks as if it went on.
        self._live.transient = kind is not None or not self._bar.finished
        self._live.stop()

    def iteration(self, iteration: int, iterations: int, env_steps: int, returns: list[float]) -> None:
        """See Reporter.iteration."""
        self._env_steps = env_steps
        self._train = format_returns(returns, min(WIDTH, self._room))
        self._bar.update(self._task, completed=iteration, total=iterations)
        self._live.update(self._render())

    def evaluated(self, iteration: int, evaluation: Evaluation) -> None:
        """See Reporter.evaluated."""
        returns = format_returns(evaluation.return_mean.tolist(), min(WIDTH, self._room))
        self._validation = f"{returns}  (iteration {iteration})"
        self._live.update(self._render())

    def _render(self) -> Constrain:
        # No line wraps in 80 columns: a display whose height changes leaves its remains on the screen.
        grid = Table.grid(padding=(0, _GAP))
        grid.add_column(no_wrap=True, min_width=len(_LONGEST_NAME))
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=self._room)
        grid.add_row("environment steps", f"{self._env_steps:,}  ({self._rate(self._env_steps):,.0f} per second)")
        grid.add_row("training return", self._train)
        grid.add_row(_LONGEST_NAME, self._validation)

        outer = Table.grid()
        outer.add_row(self._bar)
        outer.add_row(grid)
        return Constrain(outer, self._width)


def evaluation_table(evaluation: Evaluation, title: str) -> Table:
    """A row for each adaptation step, or episode of a trial; then the whole trial, and the gain.

    A row says what experience went before, and the return with its 95% interval.
    """
    table = Table(title=title, title_justify="left")
    experience = ("episodes", "env steps") if evaluation.pooled else ("env steps",)
    for heading in (_step_heading(evaluation), *experience, "mean return", "95% interval"):
        table.add_column(heading, justify="right")

    rows = zip(evaluation.env_steps, evaluation.return_mean, evaluation.return_ci95, strict=True)
    for k, (steps, mean, (low, high)) in enumerate(rows):
        before = [f"{k * evaluation.episodes_per_step:,}", f"{steps:,.0f}"] if evaluation.pooled else [f"{steps:,.0f}"]
        value = format_number(mean, ".2f")
        table.add_row(_step_name(evaluation, k), *before, value, _interval(Estimate(mean, low, high), ".2f"))

    blank = [""] * len(experience)
    trial = evaluation.trial_return
    if trial is not None:
        table.add_section()
        table.add_row("whole trial", *blank, format_number(trial.value, ".2f"), _interval(trial, ".2f"))

    # A trial of one episode has no later one to gain in.
    if evaluation.pooled or len(evaluation.returns) > 1:
        gain = evaluation.gain
        table.add_section()
        table.add_row("gain", *blank, format_number(gain.value, "+.2f"), _interval(gain, "+.2f"))
    return table


def _step_heading(evaluation: Evaluation) -> str:
    """What a row of a table is."""
    return "adaptation step" if evaluation.pooled else "episode"


def _step_name(evaluation: Evaluation, k: int) -> str:
    """Its number: of an adaptation step k from 0 on, of an episode of a trial from 1 on."""
    return str(k if evaluation.pooled else k + 1)


def _interval(estimate: Estimate, spec: str) -> str:
    return f"[{format_number(estimate.low, spec)}, {format_number(estimate.high, spec)}]"


def success_table(evaluation: Evaluation) -> Table | None:
    """Success rate after each adaptation step with its 95% interval; None where the environment does not tell it."""
    if evaluation.success_rate is None or evaluation.success_ci95 is None:
        return None

    table = Table(title="episodes that succeeded at any time", title_justify="left")
    for heading in (_step_heading(evaluation), "success rate", "95% interval"):
        table.add_column(heading, justify="right")

    for k, (rate, (low, high)) in enumerate(zip(evaluation.success_rate, evaluation.success_ci95, strict=True)):
        table.add_row(_step_name(evaluation, k), f"{rate:.1%}", f"[{low:.1%}, {high:.1%}]")
    return table
