"""Reads flags: the parser's classes made of our dataclasses, and its complaints in plain words."""

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import re
import typing
from typing import Any

from metarl.console import plain_help
from metarl.errors import UserError, did_you_mean


@functools.cache  # the parser looks for help texts in the source of every new class
def with_plain_help(form: type[Any]) -> type[Any]:
    """A command's dataclass as a subclass whose help texts say nothing of defaults that are empty."""
    hints = typing.get_type_hints(form, include_extras=True)
    fields = []
    for field in dataclasses.fields(form):
        if field.default is not dataclasses.MISSING:
            default: Any = dataclasses.field(default=field.default, kw_only=field.kw_only)
            fields.append((field.name, plain_help(hints[field.name], field.default), default))

    names = {"__doc__": form.__doc__, "__module__": form.__module__}
    return dataclasses.make_dataclass(form.__name__, fields, bases=(form,), namespace=names, frozen=True)


def read_flags(form: Any, program: str, arguments: list[str]) -> Any:
    """Read arguments into an instance of a dataclass whose fields are the flags, or of one of a union of them."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                form,
                prog=program,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        message = _message_of(complaint.getvalue())
        if message.startswith("Unrecognized"):
            message = _mistyped_flag(message, form, program, arguments) or message
        raise not_understood(message) from None


def _mistyped_flag(message: str, form: Any, program: str, arguments: list[str]) -> str:
    """What to say of the first flag that the command does not have; "" where it has all of them.

    Args:
        message: the parser's, "Unrecognized options: --nme, x".
        form: the command's flags.
        program: the command, "metarl train".
        arguments: what was given.
    """
    unknown = message.partition(": ")[2].split(", ")
    for argument in itertools.takewhile(lambda one: one != "--", arguments):
        if argument.startswith("--") and argument in unknown:
            flag = argument.partition("=")[0]
            near = _flag_that_is_meant(flag, _flags_of(form, program))
            hint = f" (did you mean {near}?)" if near else ""
            return f"{program} has no flag {flag}{hint}"
    return ""


def _flags_of(form: Any, program: str) -> list[str]:
    """A command's flags, which the parser tells in no other way than by its help text."""
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        read_flags(form, program, ["--help"])

    # In wide terminals boxes stand side by side, so that a flag need not begin the line.
    return re.findall(r"(?m)(?:^|[│|]|  ) *(--[a-z0-9-]+)", help_text.getvalue())


def _flag_that_is_meant(flag: str, known: list[str]) -> str:
    """The nearest of the known flags, or ""; one that shares a word may be further: --eval-every, --eval-interval."""
    words = set(flag.strip("-").split("-"))
    akin = [other for other in known if words & set(other.strip("-").split("-"))]
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
    near = near or difflib.get_close_matches(flag, akin, n=1, cutoff=0.65)
    return near[0] if near else ""


def not_understood(message: str) -> UserError:
    """The error for a command line that is not understood."""
    return UserError(f"{message} (see metarl --help)")


def _message_of(complaint: str) -> str:
    """The message of a complaint of the parser, without the frame, the title and the repetition of the help text.

    The title stands in a box's frame, or above a rule where standard output is not UTF-8.
    """
    # In a box, the message stands before the first rule, else between the first two.
    sections = re.split("(?m)^[│ ]*[─-]{3,}[│ ]*$", complaint)
    if complaint.startswith("╭"):
        section = sections[0].partition("\n")[2]
    else:
        section = sections[1] if len(sections) > 1 and sections[1] else complaint

    lines = [line.strip("│╰─╯ ") for line in section.splitlines()]
    message = " ".join(" ".join(lines).split())
    message = re.sub(r"^Error parsing [^-]\S*: ", "", message)  # the parser's own name of a group of flags
    return _in_plain_words(message)


def _in_plain_words(message: str) -> str:
    """What the parser says of a value, without the words of Python."""
    # Where None is allowed as well, the parser repeats what each of the types says.
    message = re.sub(r"no type matching .* - <class '(?:int|float)'>: ", "", message)
    chosen = re.fullmatch(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)\.", message)
    if chosen is not None:
        value, argument, listed = chosen.groups()
        choices = re.findall(r"'([^']*)'", listed)
        return f"{argument} cannot be {value!r}{did_you_mean(value, choices)}; it is one of {', '.join(choices)}"
    message = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"must be a whole number, got \1", message)
    return re.sub(r"could not convert string to float: (.*)", r"must be a number, got \1", message)
