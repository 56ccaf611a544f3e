"""The command line: finds the command, reads its flags, runs it, and turns errors into one line and an exit code.

Commands are imported when they are called, so that `metarl --help` does not wait for PyTorch.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib.metadata
import io
import itertools
import os
import pkgutil
import re
import shutil
import sys
import textwrap
import threading
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

from metarl.console import outputs_that_may_close, plain_help, reserved_output
from metarl.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_TRAINING_FAILED,
    TrainingError,
    UserError,
    interruptible,
    signals_of_a_program,
    unknown,
    what_happened,
)

TRACEBACK_VARIABLE = "METARL_TRACEBACK"
"""Environment variable: where it is set, errors come with their traceback instead of as one line."""

SUMMARY = "Meta-reinforcement learning: train agents that adapt within a few episodes."


class Command(NamedTuple):
    """An entry of the table of commands.

    Attributes:
        location: "module:Class" of the dataclass whose fields are the flags and whose `execute` runs the command.
        summary: first sentence of its docstring.
        needs_torch: whether it computes with PyTorch.
    """

    location: str
    summary: str
    needs_torch: bool = True


COMMANDS = {
    "train": Command("metarl.cli.train:Train", "Meta-train an agent."),
    "evaluate": Command(
        "metarl.cli.evaluate:Evaluate",
        "Measure how a trained agent adapts to tasks it never saw: its return after k = 0 … K adaptation steps.",
    ),
    "adapt": Command(
        "metarl.cli.adapt:Adapt",
        "Adapt a trained agent to one task and write the policy: parameters, model card, torch.export and ONNX "
        "programs.",
    ),
    "render": Command(
        "metarl.cli.render:Render",
        "Show adaptation: the policy before and after each adaptation step side by side, as a video or a picture.",
    ),
    "report": Command(
        "metarl.cli.report:Report",
        "Write a run's report: one HTML page with its settings, curves, tables and pictures, that loads nothing else.",
    ),
    "compare": Command(
        "metarl.cli.compare:Compare",
        "Compare trained runs with baselines on the same held-out tasks, counted in the same environment steps.",
    ),
    "envs": Command(
        "metarl.cli.info:Envs", "List the families of tasks, or show one: parameters, units, ranges and splits."
    ),
    "check": Command(
        "metarl.cli.info:Check",
        "Look at an environment before training on it: spaces, tasks, randomness, ranges, speed, and what to do.",
    ),
    "agents": Command("metarl.cli.info:Agents", "List the agents and the presets they have for each environment."),
    "metrics": Command(
        "metarl.cli.info:Metrics",
        "Say what the metrics of a run mean: the tags of TensorBoard, metrics.jsonl and `Run.metrics()`.",
        needs_torch=False,
    ),
    "tensorboard": Command(
        "metarl.cli.info:Tensorboard", "Show runs and comparisons in TensorBoard, on localhost.", needs_torch=False
    ),
    "bench": Command(
        "metarl.cli.bench:Bench",
        "Measure the speed on this machine, each time beside what one would use instead, in one run.",
    ),
    "completion": Command(
        "metarl.cli.info:Completion",
        "Print the shell's completion script; metarl/cli/README.md says where to put it.",
        needs_torch=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input gives one line on standard error and 2.

    A process of a job that torchrun started ends here, without returning.
    """
    threading.excepthook = _say_what_a_thread_failed_of
    with outputs_that_may_close() as outputs, signals_of_a_program():
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        for name, reason in outputs.reasons.items():
            code = code or _fail(f"{name} could not be written: {reason}", EXIT_TRAINING_FAILED)
    if _is_job():
        from metarl.training import distributed

        distributed.leave(code)
    return code


def _run(arguments: list[str]) -> int:
    """Run one command and report its errors; returns the exit code."""
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        if TRACEBACK_VARIABLE in os.environ:
            raise
        return _fail(*_line_and_code(error))


def _say_what_a_thread_failed_of(failed: threading.ExceptHookArgs) -> None:
    """Leave out the traceback of a full disk in TensorBoard's thread: it comes back in the main thread as an error."""
    if not isinstance(failed.exc_value, OSError) or TRACEBACK_VARIABLE in os.environ:
        threading.__excepthook__(failed)


def _line_and_code(error: Exception) -> tuple[str, int]:
    """What to print of an error, and the exit code."""
    if isinstance(error, ValueError | OSError):
        return str(error), EXIT_BAD_INPUT
    if _is_failed_training(error):
        return str(error), EXIT_TRAINING_FAILED

    hint = f"if this is not an environment's, it is a mistake in the program; {TRACEBACK_VARIABLE}=1 shows where"
    return f"{what_happened(error)}; {hint}", EXIT_TRAINING_FAILED


def _dispatch(arguments: list[str]) -> int:
    """Run the command that the command line names.

    Raises:
        UserError: there is no such command, or its flags are wrong.
        SystemExit: help was asked for and printed.
    """
    if arguments == ["--version"]:
        print(f"metarl {importlib.metadata.version('metarl-testbed')}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0)

    name = arguments[0]
    if name.startswith("-"):
        raise _not_understood(f"Unrecognized options: {name}")
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    if name != "train" and _is_job():
        raise UserError("only 'metarl train' runs on several processes; start the others without torchrun")

    # A run is opened while its flags are read already, and by processes that this one starts.
    if "--trust" in arguments:
        os.environ["METARL_TRUST"] = "1"

    # In this order: a library must not be looked for among the user's modules.
    command = parse(arguments)
    if COMMANDS[name].needs_torch:
        _prepare_torch()
    _find_users_modules()
    _show_plain_warnings()

    from rich.console import Console

    with interruptible(), reserved_output(getattr(command, "json", False)):
        return int(command.execute(Console()))


def _help() -> str:
    """The help text of `metarl`: all commands with their summaries, without importing them."""
    column = max(map(len, COMMANDS)) + 4
    width = min(shutil.get_terminal_size().columns, 120)

    lines = ["usage: metarl [-h] [--version] COMMAND ...", "", SUMMARY, "", "commands:"]
    for name, command in COMMANDS.items():
        first = f"  {name}".ljust(column)
        lines += textwrap.wrap(command.summary, width, initial_indent=first, subsequent_indent=" " * column)
    lines += ["", "flags of a command: metarl COMMAND --help"]
    return "\n".join(lines)


def _show_plain_warnings() -> None:
    """Let warnings of our own be lines like those of errors, without a place in the source."""
    of_python = warnings.formatwarning

    def formatted(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
        if filename == "metarl":
            return f"warning: {message}\n"
        return of_python(message, category, filename, lineno, line)

    warnings.formatwarning = formatted


def _find_users_modules() -> None:
    """Let the user's own modules be imported from the working directory, as `python -m` does."""
    sys.path.insert(0, os.getcwd())


def _prepare_torch() -> None:
    """Settings of PyTorch and of the allocator that hold for every command that computes."""
    import torch

    from metarl.training.memory import keep_freed_memory

    torch.set_num_threads(1)  # learners spread chunks of tasks over the cores instead
    keep_freed_memory()


def _is_job() -> bool:
    """Whether torchrun started this process as one of several; PyTorch is imported only under torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    from metarl.training import distributed

    return distributed.is_job()


def _is_failed_training(error: Exception) -> bool:
    """Whether an error is one that training or an environment reports, and no mistake in the program."""
    from metarl.envs.external.worker_pool import EnvironmentFailedError

    return isinstance(error, TrainingError | FloatingPointError | EnvironmentFailedError)


def _fail(message: str, code: int) -> int:
    """Print an error as one line; returns the exit code."""
    where = f" (process {os.environ['RANK']} of the job)" if _is_job() else ""
    print(f"metarl{where}: {' '.join(message.split())}", file=sys.stderr)
    return code


# ---------------------------------------------------------------------- reading the command line


def parse(arguments: list[str]) -> Any:
    """Read the command line: an instance of the command's dataclass.

    Args:
        arguments: name of a command and its flags.

    Raises:
        UserError: the flags are not understood, or out of range.
        SystemExit: help was asked for and printed.
    """
    name, *flags = arguments

    def read(form: type[Any]) -> Any:
        return _read_flags(form, f"metarl {name}", flags)

    if name == "train":
        from metarl.cli.train import read_train

        return read_train(flags, read)
    return read(_with_plain_help(pkgutil.resolve_name(COMMANDS[name].location)))


@functools.cache  # the parser looks for help texts in the source of every new class
def _with_plain_help(form: type[Any]) -> type[Any]:
    """A command's dataclass as a subclass whose help texts say nothing of defaults that are empty."""
    hints = typing.get_type_hints(form, include_extras=True)
    fields = []
    for field in dataclasses.fields(form):
        if field.default is not dataclasses.MISSING:
            default: Any = dataclasses.field(default=field.default, kw_only=field.kw_only)
            fields.append((field.name, plain_help(hints[field.name], field.default), default))

    names = {"__doc__": form.__doc__, "__module__": form.__module__}
    return dataclasses.make_dataclass(form.__name__, fields, bases=(form,), namespace=names, frozen=True)


def _read_flags(form: Any, program: str, arguments: list[str]) -> Any:
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
            message = _mistyped_flag(form, program, arguments) or message
        raise _not_understood(message) from None


def _mistyped_flag(form: Any, program: str, arguments: list[str]) -> str:
    """What to say of the first flag that the command does not have; "" where it has all of them."""
    flags = [argument.partition("=")[0] for argument in itertools.takewhile(lambda one: one != "--", arguments)]
    # The parser tells its flags in no other way than by its help text.
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        _read_flags(form, program, ["--help"])
    known = re.findall(r"(?m)^[│| ]*(--[a-z0-9-]+)", help_text.getvalue())

    for flag in flags:
        if flag.startswith("--") and flag.replace("_", "-") not in known:
            near = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
            hint = f" (did you mean {near[0]}?)" if near else ""
            return f"{program} has no flag {flag}{hint}"
    return ""


def _not_understood(message: str) -> UserError:
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
    message = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"must be a whole number, got \1", message)
    return re.sub(r"could not convert string to float: (.*)", r"must be a number, got \1", message)


# ---------------------------------------------------------------------- completion scripts


def completion_script(shell: str) -> str:
    """The completion script of all commands for a shell, made by the parser; imports every command.

    For tcsh the parser needs the package shtab.
    """
    import tyro

    from metarl.cli.train import default_train, flags_in_groups

    # All commands in one parser, which `metarl` itself never needs.
    forms = {name: _with_plain_help(pkgutil.resolve_name(command.location)) for name, command in COMMANDS.items()}
    forms["train"] = flags_in_groups(default_train([]))
    every_command: Any = None
    for name, form in forms.items():
        one: Any = Annotated[form, tyro.conf.subcommand(name)]
        every_command = one if every_command is None else every_command | one

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        _read_flags(every_command, "metarl", ["--tyro-print-completion", shell])
    return _with_names(shell, printed.getvalue())


def _with_names(shell: str, script: str) -> str:
    """A script that completes names as well as flags: agents, families, presets, and the runs that are there."""
    from metarl.agents.registry import AGENTS
    from metarl.envs.registry import FAMILIES
    from metarl.run.presets import presets_for

    presets = {name for agent in AGENTS for env in ("", *FAMILIES) for name in presets_for(agent, env)}
    names = {"AGENTS": AGENTS, "FAMILIES": FAMILIES, "PRESETS": sorted(presets)}
    text = (Path(__file__).parent / "completion" / f"names.{shell}").read_text(encoding="utf-8")
    for key, values in names.items():
        text = text.replace(f"@{key}@", " ".join(values))

    # In zsh the last line calls what completes; in tcsh the first rule that fits is the one that counts.
    match shell:
        case "zsh":
            return script.rstrip().removesuffix(_CALL_OF_ZSH) + text
        case "tcsh":
            return script.replace(_COMMANDS_OF_TCSH, text + _COMMANDS_OF_TCSH, 1)
    return script + text


_CALL_OF_ZSH = '_tyro_metarl "$@"'
_COMMANDS_OF_TCSH = "        'p/1/"
"""Where the names go in the scripts that the parser makes."""


def write_completion_scripts() -> None:
    """Make the completion scripts of the package again, after a flag or a help text has changed."""
    from metarl.cli.info import Shell, completion_file

    for shell in get_args(Shell):
        script = completion_script(shell)
        completion_file(shell).write_text(script, encoding="utf-8")
