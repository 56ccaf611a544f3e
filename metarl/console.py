"""Lines on the console and commands in them, and a standard output that may close without ending the work."""

import contextlib
import errno
import io
import json
import os
import shlex
import sys
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # `metarl --help` does without it
    from rich.console import Console, RenderableType


def say(console: "Console", line: str) -> None:
    """Print a line as it is, without markup, emoji or colours and never wrapped, so that paths in it can be copied."""
    console.print(line, highlight=False, soft_wrap=True, markup=False, emoji=False)


def format_number(value: float, spec: str) -> str:
    """A number for people to read: with a real minus sign and thousands apart, and no minus where it rounds to zero.

    Everything that is measured is written so, on the console as in pictures and pages. What may be typed or read in
    again has the keyboard's "-": tasks, ranges, JSON, CSV.

    Args:
        value: the number.
        spec: a format specification of a float: ".2f", "+.1f", ".1%".
    """
    sign = "+" if spec.startswith("+") else ""
    return format(float(value), f"{sign}z,{spec.removeprefix(sign)}").replace("-", "\N{MINUS SIGN}")


def counted(count: int, noun: str) -> str:
    """How many there are: "1 task", "1,000 test tasks".

    Args:
        count: how many.
        noun: in the singular; its plural ends in "s".
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def show_table(console: "Console", table: "RenderableType") -> None:
    """Print a table; where the terminal is too narrow for its words and numbers, lines run over and none is cut."""
    from rich.measure import Measurement

    width = console.width
    roomy = max(width, Measurement.get(console, console.options.update(width=_ROOMY), table).maximum)
    wanted = _count_of_cuts(console, table, roomy)
    # The narrowest that cuts nothing, since prose should wrap.
    fitting = (columns for columns in range(width, roomy) if _count_of_cuts(console, table, columns) == wanted)

    console.width = next(fitting, roomy)
    try:
        console.print(table)
    finally:
        console.width = width


_ROOMY = 1000
"""Columns of a terminal in which every table has room."""


def _count_of_cuts(console: "Console", table: "RenderableType", width: int) -> int:
    """How often a table is cut to fit into so many columns."""
    segments = console.render(table, console.options.update(width=width))
    return sum(segment.text.count("…") for segment in segments)


_reserved: list[list[str]] = []
"""Lines of JSON for each `reserved_output` that is open, the innermost last."""


def print_json(data: Any) -> None:
    """Print an object on one line; within `reserved_output` as soon as that ends."""
    line = json.dumps(data)
    if _reserved:
        _reserved[-1].append(line)
    else:
        print(line)


@contextlib.contextmanager
def reserved_output(wanted: bool) -> Iterator[None]:
    """Keep standard output for `print_json` while the block runs; whatever else is printed goes to standard error.

    Environments print, and so do libraries written in C and the processes that either starts: so it is the descriptor
    that is moved, and not only Python's own stream.

    Args:
        wanted: False: nothing is moved.
    """
    if not wanted:
        yield
        return

    lines: list[str] = []
    _reserved.append(lines)
    try:
        with contextlib.redirect_stdout(sys.stderr), _descriptor_moved(sys.__stdout__, sys.__stderr__):
            yield
    finally:
        _reserved.remove(lines)
    for line in lines:
        print(line)


@contextlib.contextmanager
def _descriptor_moved(stream: TextIO | None, to: TextIO | None) -> Iterator[None]:
    """Let what is written to the descriptor of one stream go to that of another while the block runs."""
    try:
        assert stream is not None and to is not None
        moved, target = stream.fileno(), to.fileno()
        kept = os.dup(moved)
    except (AssertionError, OSError, ValueError):  # a notebook, or a program without standard output
        yield
        return

    stream.flush()
    os.dup2(target, moved)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, moved)
        os.close(kept)


class _Output(io.FileIO):
    """Standard output or error; where it cannot be written any more, the rest goes to /dev/null.

    Attributes:
        lost: why it cannot be written; None as long as it can.
    """

    lost: OSError | None = None

    def write(self, content: Any) -> int:
        """Write, or give up for good; the number of bytes that were taken."""
        try:
            return super().write(content)
        except BlockingIOError:
            raise
        except OSError as error:
            self.lost = error
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            return len(content)


class OutputsLost:
    """What could not be printed.

    Attributes:
        reasons: for each output why, if it was another reason than that nobody reads it any more.
    """

    def __init__(self, outputs: dict[str, _Output]) -> None:
        self._outputs = outputs

    @property
    def reasons(self) -> dict[str, str]:
        """See above."""
        nobody_reads = (errno.EPIPE, errno.EIO)  # a pipe, or a terminal, that was closed
        lost = {name: output.lost for name, output in self._outputs.items()}
        return {name: str(error) for name, error in lost.items() if error and error.errno not in nobody_reads}


@contextlib.contextmanager
def outputs_that_may_close() -> Iterator[OutputsLost]:
    """Let standard output and error be closed by whoever reads them, as `| head -1` does, while the block runs.

    Rich makes an exit of a closed pipe, and Python an exception; neither must end training. Where tests or notebooks
    have put something else in the place of the two, that stays.

    Yields:
        what could not be printed, to look at afterwards.
    """
    before = {"stdout": sys.stdout, "stderr": sys.stderr}
    outputs: dict[str, _Output] = {}
    for name, stream in before.items():
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        stream.flush()
        outputs[name] = _Output(stream.fileno(), "wb", closefd=False)
        setattr(sys, name, _as_text(outputs[name], stream))

    try:
        yield OutputsLost(outputs)
    finally:
        for name, stream in before.items():
            if name in outputs:
                getattr(sys, name).flush()
                setattr(sys, name, stream)


def _as_text(output: _Output, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """A text stream on an output, with the encoding and the buffering of another one."""
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=like.encoding,
        errors="replace",  # an arrow that a terminal cannot show is no reason to stop
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def shell_command(*words: object) -> str:
    """A command to be copied into a shell: its words quoted where they need it, so that any name runs as it is."""
    return shlex.join(str(word) for word in words)


def plain_help(hint: Any, default: Any) -> Any:
    """A type hint of a flag with what its help text says of the default: nothing where that is empty.

    The parser alone writes "{None}|INT … (default: None)", and "--no-onnx … (default: True)".

    Args:
        hint: the type, as the parser takes it.
        default: the value without the flag.
    """
    import tyro  # slow to import

    if default is None:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        metavar = kinds[0].__name__.upper() if len(kinds) == 1 and kinds[0] in (int, float, str) else None
        return typing.Annotated[hint, tyro.conf.arg(metavar=metavar, help_behavior_hint="")]

    if default is True:
        return typing.Annotated[hint, tyro.conf.arg(help_behavior_hint="(on by default; this turns it off)")]
    if default is False or default in ("", ()):
        return typing.Annotated[hint, tyro.conf.arg(help_behavior_hint="")]
    return hint
