"""`metarl envs`, `check`, `agents`, `metrics`, `tensorboard` and `completion`: what there is, and how to look at it.

Modules that import PyTorch are imported where they are used, since `tensorboard` and `completion` need none of them.
"""

import contextlib
import math
import re
import socket
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from metarl.console import print_json, say, show_table
from metarl.errors import EXIT_TRAINING_FAILED, UserError, did_you_mean

if TYPE_CHECKING:
    from metarl.envs.task_distribution import TaskDistribution


Shell = Literal["bash", "zsh", "tcsh"]


@dataclass(frozen=True)
class Envs:
    """List the families of tasks, or show one: parameters, units, ranges and splits.

    Attributes:
        name: a family, or your own as 'package.module:MyDistribution'; by default all families.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""

    def execute(self, console: Console) -> int:
        """Print the tables."""
        if self.name:
            _show_family(self.name, console)
        else:
            _list_families(console)
        return 0


_ROOM_FOR_A_SUMMARY = 20
"""Columns."""


def _list_families(console: Console) -> None:
    """A line for each family, as wide as the terminal; two where that leaves no room for a summary."""
    from metarl.envs.registry import FAMILIES

    column = max(map(len, FAMILIES)) + 2
    room = console.width - column
    for family in FAMILIES.values():
        if room < _ROOM_FOR_A_SUMMARY:
            say(console, f"{family.name}\n  {family.summary}")
        else:
            say(console, family.name.ljust(column) + textwrap.shorten(family.summary, room, placeholder=" …"))

    missing: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        if not family.available:
            missing.setdefault(family.how_to_install, []).append(family.name)
    for how, names in missing.items():
        say(console, f"not installed: {', '.join(names)}: {how}")
    say(console, "parameters, ranges and splits of one: metarl envs NAME")
    say(console, "your own: metarl train maml package.module:MyDistribution")


def _show_family(name: str, console: Console) -> None:
    """One family, registered or the user's own."""
    from metarl.envs.registry import FAMILIES, base_name, make_distribution, summary_of

    distribution = make_distribution(name)
    family = FAMILIES.get(base_name(distribution.name))
    summary = summary_of(distribution.name)
    if family is None:
        first_sentence = (type(distribution.env).__doc__ or "").split(".")[0]
        summary = " ".join(first_sentence.split())

    say(console, f"{distribution.name}: {summary}")
    if family is not None and family.gymnasium_id:
        say(console, f"gymnasium   {family.gymnasium_id}")
    say(console, f"observation {distribution.observation_space}")
    say(console, f"action      {_actions(distribution)}")
    say(console, f"horizon     {distribution.horizon} steps")
    if family is not None and family.options:
        listed = ", ".join(map(str, family.options.values()))
        say(console, f"options     {listed} (metarl train AGENT {family.name} --set env.NAME=VALUE)")
    splits = ", ".join(distribution.splits)
    say(console, f"splits      {splits} (train gives new tasks each time, the others are fixed lists)")
    show_table(console, _parameters(distribution))


def _actions(distribution: "TaskDistribution") -> str:
    """The environment's own action space, and that of policies where it is another one."""
    own = distribution.env.native_action_space
    if own == distribution.action_space:
        return str(own)
    return f"{own}; policies act in {distribution.action_space}"


def _parameters(distribution: "TaskDistribution") -> Table:
    """Task parameters with units and ranges in each split."""
    others = {split: getattr(distribution, split) for split in ("test", "ood") if getattr(distribution, split)}
    training = "train, validation" if "test" in others else "train, validation, test"

    table = Table("task parameter", "units", training, *others)
    for name, range_ in distribution.train.items():
        outside = [str(ranges.get(name, "as in training")) for ranges in others.values()]
        table.add_row(name, range_.units, str(range_), *outside)
    return table


@dataclass(frozen=True)
class Check:
    """Look at an environment before training on it: spaces, tasks, randomness, ranges, speed, and what to do.

    Attributes:
        env: a family, a YAML file, a Gymnasium id, or your own as 'package.module:name': a TaskDistribution, or what
            makes a Gymnasium environment.
        seconds: how long to step it, about.
        json: print one JSON object and nothing else.
    """

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    seconds: float = 10.0
    json: bool = False

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        if not 0 < self.seconds < math.inf:
            raise UserError(f"seconds must be a positive number, got {self.seconds}")

    def execute(self, console: Console) -> int:
        """Print the page or JSON; 1 where something will go wrong in training."""
        from metarl.benchmarks.training_cost import training_cost
        from metarl.envs.checks.environment_check import check_environment

        # What the environment itself prints does not belong to the page.
        with contextlib.redirect_stdout(sys.stderr):
            check = check_environment(self.env, self.seconds)
            if check.passed:
                check = check.with_findings(*training_cost(check))

        if self.json:
            print_json(check.to_json())
        else:
            for line in check.lines():
                say(console, line)
        return 0 if check.passed else EXIT_TRAINING_FAILED


@dataclass(frozen=True)
class Agents:
    """List the agents and the presets they have for each environment."""

    def execute(self, console: Console) -> int:
        """Print the tables."""
        from metarl.agents.registry import AGENTS

        agents = Table("agent", "what it is", title="agents", title_justify="left")
        for agent in AGENTS.values():
            agents.add_row(agent.name, agent.summary)
        show_table(console, agents)

        # Narrow, since names of environments are long: a line for each of them.
        presets = Table(title="presets", title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for heading in ("agent", "preset", "environment"):
            presets.add_column(heading, no_wrap=True)
        presets.add_column("what it is")
        for name in AGENTS:
            for envs, preset, summary in _presets_of(name):
                presets.add_row(name, preset, ",\n".join(envs), summary)
        show_table(console, presets)

        say(console, "hyper-parameters: metarl train AGENT ENV --help")
        return 0


def _presets_of(agent: str) -> list[tuple[list[str], str, str]]:
    """Environments, name and summary of each preset of an agent; those for any environment come first."""
    from metarl.envs.registry import FAMILIES
    from metarl.run.presets import presets_for

    anywhere = presets_for(agent, "")
    rows = [(["any"], name, preset.summary) for name, preset in anywhere.items()]

    # Environments that share a preset share a row.
    envs_with: dict[tuple[str, str], list[str]] = {}
    for env in FAMILIES:
        for name, preset in presets_for(agent, env).items():
            if anywhere.get(name) is not preset:
                envs_with.setdefault((name, preset.summary), []).append(env)
    rows += [(envs, name, summary) for (name, summary), envs in envs_with.items()]
    return rows


@dataclass(frozen=True)
class Metrics:
    """Say what the metrics of a run mean: the tags of TensorBoard, metrics.jsonl and `Run.metrics()`.

    Attributes:
        words: show only those whose name or meaning has all of these words.
    """

    words: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="WORD")] = ()

    def execute(self, console: Console) -> int:
        """Print the glossary."""
        from metarl.reporting.glossary import glossary

        found = {tag: meaning for tag, meaning in glossary().items() if self._asks_for(f"{tag} {meaning}")}
        if not found:
            asked = " ".join(self.words)
            of_names = {word for tag in glossary() for word in re.findall(r"[a-z]+", tag)}
            meant = did_you_mean(asked, of_names)
            raise UserError(f"no metric has {asked!r} in its name or meaning{meant}; all of them: metarl metrics")

        table = Table("metric", "what it is", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for tag, meaning in found.items():
            table.add_row(tag, meaning)
        show_table(console, table)
        say(console, "k is the number of adaptation steps: train/return_k0, train/return_k1, …")
        return 0

    def _asks_for(self, text: str) -> bool:
        """Whether each of the words begins a word of the text."""
        return all(re.search(rf"(?<![^\W_]){re.escape(word)}", text, re.IGNORECASE) for word in self.words)


@dataclass(frozen=True)
class Tensorboard:
    """Show runs and comparisons in TensorBoard, on localhost.

    Attributes:
        runs: runs and comparisons by directory or name; by default all of run_dir, at most the 40 newest.
        run_dir: directory of the runs.
        port: port of the page.
    """

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    run_dir: str = "runs"
    port: int = 6006

    def execute(self, console: Console) -> int:
        """Serve until Ctrl-C."""
        from metarl.reporting.tensorboard_server import log_directory, serve

        if not 0 <= self.port < 2**16:
            raise UserError(f"port must be between 0 and 65535, got {self.port}")

        with log_directory(self.runs, self.run_dir) as (directory, note):
            try:
                with socket.create_server(("localhost", self.port)):
                    pass
            except OSError:
                raise UserError(f"port {self.port} is in use; choose another one with --port") from None
            if note:
                say(console, note)
            return serve(directory, self.port)


@dataclass(frozen=True)
class Completion:
    """Print the shell's completion script; metarl/cli/README.md says where to put it.

    Attributes:
        shell: which shell.
    """

    shell: Annotated[tyro.conf.Positional[Shell], tyro.conf.arg(metavar="SHELL")]

    def execute(self, console: Console) -> int:
        """Print it."""
        print(completion_file(self.shell).read_text(encoding="utf-8"), end="")
        return 0


def completion_file(shell: Shell) -> Path:
    """The completion script of a shell; a file of the package, since making one imports every command."""
    return Path(__file__).parent / "completion" / f"metarl.{shell}"
