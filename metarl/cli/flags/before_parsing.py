"""What is read of a command line before its command is imported, so that a wrong run's name is answered at once."""

import itertools
from collections.abc import Sequence

from metarl.run.find_run import EXPERT_ALGORITHMS, RunAccess, find_run

RUN = "RUN"
RUNS = "RUN …"
"""Where a command's runs stand: the first word, or every word before the first flag. A flag stands for itself."""

TEACHER = "--teacher"
"""A flag that names a run, or an algorithm."""


def require_runs(arguments: Sequence[str], where: Sequence[str]) -> None:
    """Find out that the runs that are named exist; what else is wrong with them is found out later.

    Args:
        arguments: of a command, without its name.
        where: RUN, RUNS, or flags such as "--resume".

    Raises:
        UserError: one does not; says which there are.
    """
    if not {"-h", "--help"}.isdisjoint(arguments):
        return

    words = leading_words(arguments)
    named: list[str | None] = []
    for place in where:
        if place == RUN:
            named += words[:1]
        elif place == RUNS:
            named += words
        else:
            value = value_of(place, arguments)
            named.append(None if place == TEACHER and value in EXPERT_ALGORITHMS else value)

    parent = value_of("--run-dir", arguments) or RunAccess.run_dir
    for run in filter(None, named):
        find_run(run, parent)


def leading_words(arguments: Sequence[str]) -> list[str]:
    """The words before the first flag."""
    return list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Value of '--flag VALUE' or '--flag=VALUE', None where it is not given; the parser takes '_' for '-' as well."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else following
    return None
