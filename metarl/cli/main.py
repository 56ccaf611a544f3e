"""The command line: finds the command, reads its flags, runs it, and turns errors into one line and an exit code.

Commands are imported when they are called, so that `metarl --help` does not wait for PyTorch.
"""

import contextlib
import importlib.metadata
import io
import os
import pkgutil
import shutil
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

from metarl.cli.flags.before_parsing import RUN, RUNS, TEACHER, require_runs
from metarl.cli.flags.reading import not_understood, read_flags, with_plain_help
from metarl.console import outputs_that_may_close, reserved_output
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
        runs: where it names trained runs, see `metarl.cli.flags.before_parsing`.
        needs_torch: whether it computes with PyTorch.
    """

    location: str
    summary: str
    runs: tuple[str, ...] = ()
    needs_torch: bool = True


COMMANDS = {
    "train": Command("metarl.cli.train:Train", "Meta-train an agent.", ("--resume", "--start-from", TEACHER)),
    "evaluate": Command(
        "metarl.cli.evaluate:Evaluate",
        "Measure how a trained agent adapts to tasks it never saw: its return after k = 0 … K adaptation steps.",
        (RUNS,),
    ),
    "adapt": Command(
        "metarl.cli.adapt:Adapt",
        "Adapt a trained agent to one task and write the policy: parameters, model card, torch.export and ONNX "
        "programs.",
        (RUN,),
    ),
    "render": Command(
        "metarl.cli.render:Render",
        "Show adaptation: the policy before and after each adaptation step side by side, as a video or a picture.",
        (RUN,),
    ),
    "report": Command(
        "metarl.cli.report:Report",
        "Write a run's report: one HTML page with its settings, curves, tables and pictures, that loads nothing else.",
        (RUN,),
    ),
    "compare": Command(
        "metarl.cli.compare:Compare",
        "Compare trained runs with baselines on the same held-out tasks, counted in the same environment steps.",
        (RUNS,),
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
        from metarl.training.machine import distributed

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

    hint = (
        "if this is not an environment's or your own agent's, it is a mistake in the program; "
        f"{TRACEBACK_VARIABLE}=1 shows where"
    )
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
        raise not_understood(f"Unrecognized options: {name}")
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    if name != "train" and _is_job():
        raise UserError("only 'metarl train' runs on several processes; start the others without torchrun")

    # A run is opened while its flags are read already, and by processes that this one starts.
    if "--trust" in arguments:
        os.environ["METARL_TRUST"] = "1"

    require_runs(arguments[1:], COMMANDS[name].runs)

    # A library must not be looked for among the user's modules, but an agent's flags are read from one of them.
    sys.path.append(os.getcwd())
    command = parse(arguments)
    with _torch_prepared() if COMMANDS[name].needs_torch else contextlib.nullcontext():
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


@contextlib.contextmanager
def _torch_prepared() -> Iterator[None]:
    """Settings of PyTorch and of the allocator that hold for every command that computes."""
    import torch

    from metarl.envs.spaces.precision import own_torch_settings
    from metarl.training.machine.memory import keep_freed_memory

    torch.set_num_threads(1)  # learners spread chunks of tasks over the cores instead
    keep_freed_memory()
    with own_torch_settings():
        yield


def _is_job() -> bool:
    """Whether torchrun started this process as one of several; PyTorch is imported only under torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    from metarl.training.machine import distributed

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
        return read_flags(form, f"metarl {name}", flags)

    if name == "train":
        from metarl.cli.train import read_train

        return read_train(flags, read)
    return read(with_plain_help(pkgutil.resolve_name(COMMANDS[name].location)))


# ---------------------------------------------------------------------- completion scripts


def completion_script(shell: str) -> str:
    """The completion script of all commands for a shell, made by the parser; imports every command.

    For tcsh the parser needs the package shtab.
    """
    import tyro

    from metarl.cli.flags.groups import flags_in_groups
    from metarl.cli.train import default_train

    # All commands in one parser, which `metarl` itself never needs.
    forms = {name: with_plain_help(pkgutil.resolve_name(command.location)) for name, command in COMMANDS.items()}
    forms["train"] = flags_in_groups(default_train([]))
    every_command: Any = None
    for name, form in forms.items():
        command: Any = Annotated[form, tyro.conf.subcommand(name)]
        every_command = command if every_command is None else every_command | command

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        read_flags(every_command, "metarl", ["--tyro-print-completion", shell])
    return _with_names(shell, printed.getvalue())


def _with_names(shell: str, script: str) -> str:
    """A script that completes names as well as flags: agents, families, presets, and the runs that are there."""
    from metarl.agents.registry import AGENTS
    from metarl.envs.registry import FAMILIES
    from metarl.run.find_run import reference_runs
    from metarl.run.presets import presets_for

    presets = {name for agent in AGENTS for env in ("", *FAMILIES) for name in presets_for(agent, env)}
    shipped = sorted(config.parent.name for config in reference_runs().glob("*/config.yaml"))
    names = {"AGENTS": AGENTS, "FAMILIES": FAMILIES, "PRESETS": sorted(presets), "SHIPPED": shipped}
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
