"""`metarl` itself: what it tells at once, without waiting for PyTorch, is what the commands are."""

import importlib.util
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from metarl.cli import main as cli
from metarl.cli.info import Shell, completion_file
from metarl.cli.main import COMMANDS, completion_script, main
from metarl.run.find_run import reference_runs

SHELLS = get_args(Shell)
HEAVY = ("torch", "numpy", "gymnasium", "matplotlib", "scipy")

MODULES_AFTER = """\
import sys
from metarl.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


def modules_after(*arguments: str) -> set[str]:
    """The modules that a process has imported when the command is done."""
    done = subprocess.run([sys.executable, "-c", MODULES_AFTER, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [(), ("--version",), ("--help",), *(("completion", shell) for shell in SHELLS)], ids=" ".join
)
def test_what_is_asked_often_is_answered_without_pytorch(arguments: tuple[str, ...]) -> None:
    imported = modules_after(*arguments)
    assert "metarl.cli.main" in imported
    assert imported.isdisjoint(HEAVY)


def test_help_and_version_do_without_the_parser() -> None:
    assert {"tyro", "rich"}.isdisjoint(modules_after("--help") | modules_after("--version"))


REFUSED_RUNS = (
    "evaluate no-such-run --split ood",
    "evaluate maml-point-navigation no-such-run",
    "adapt no-such-run --task goal=0,0 --out policy",
    "render no-such-run --out adaptation.mp4",
    "report no-such-run",
    "compare maml-point-navigation no-such-run",
    "train --resume no-such-run",
    "train --start-from=no-such-run",
    "train distill --teacher no-such-run",
    "tensorboard no-such-run",
)

REFUSALS = """\
import sys
from metarl.cli.main import main
for line in sys.argv[1:]:
    assert main(line.split()) == 2, line
print(*sys.modules)
"""


def test_a_run_that_does_not_exist_is_answered_without_pytorch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REFUSALS, *REFUSED_RUNS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == len(REFUSED_RUNS)
    assert all("'no-such-run'" in line for line in lines), lines
    assert set(done.stdout.split()).isdisjoint(HEAVY)
    assert list(tmp_path.iterdir()) == []


def test_every_command_on_a_run_is_among_those_that_are_refused() -> None:
    named = {name for name, command in COMMANDS.items() if command.runs} | {"tensorboard"}
    assert {line.split()[0] for line in REFUSED_RUNS} == named


def test_a_run_is_looked_for_where_the_flags_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "first" / "config.yaml").parent.mkdir()
    (tmp_path / "first" / "config.yaml").touch()
    assert main(["report", "frist", "--run-dir", str(tmp_path)]) == 2
    assert "did you mean 'first'" in capsys.readouterr().err


def test_a_command_that_computes_is_imported_alone() -> None:
    imported = modules_after("envs", "point-dynamics")
    assert {"torch", "metarl.cli.info"} <= imported
    assert {"metarl.cli.train", "metarl.cli.bench", "metarl.cli.compare"}.isdisjoint(imported)


def test_training_imports_what_draws_or_compiles_only_where_it_is_used() -> None:
    imported = modules_after("train", "--help")
    assert {"torch", "metarl.training.trainer"} <= imported
    assert {"matplotlib", "scipy.stats", "stable_baselines3", "torch._dynamo"}.isdisjoint(imported)


# ---------------------------------------------------------------------- the table of commands


@pytest.mark.parametrize("name", COMMANDS)
def test_summary_is_the_first_sentence_of_the_docstring(name: str) -> None:
    command_class = pkgutil.resolve_name(COMMANDS[name].location)
    first_line = command_class.__doc__.splitlines()[0]
    assert COMMANDS[name].summary == re.match(r".*?\.(?= [A-Z]|$)", first_line)[0]  # type: ignore[index]
    assert command_class.__name__.lower() == name
    assert callable(command_class.execute)


def test_every_command_and_its_summary_is_in_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "76")
    for arguments in ([], ["-h"], ["--help"], ["--help", "train"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 76
        words = " ".join(text.split())
        for name, command in COMMANDS.items():
            assert f" {name} {command.summary}" in words


def test_only_train_runs_on_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process of a job leaves with the exit code and says which process it was."""
    for variable, value in {"TORCHELASTIC_RUN_ID": "job", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(variable, value)
    left: list[int] = []
    monkeypatch.setattr("metarl.training.machine.distributed.leave", left.append)
    main(["agents"])
    assert left == [2]
    expected = "only 'metarl train' runs on several processes; start the others without torchrun"
    assert capsys.readouterr().err == f"metarl (process 1 of the job): {expected}\n"


def test_a_mistake_in_the_program_is_one_line_that_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> None:
        raise RuntimeError("a mistake\nand more")

    monkeypatch.setattr(cli, "parse", broken)
    assert main(["agents"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("metarl: RuntimeError: a mistake and more (test_main.py:")
    assert "METARL_TRACEBACK=1 shows where" in message
    monkeypatch.setenv("METARL_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["agents"])


# ---------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_are_what_the_parser_makes_of_the_flags_now(shell: Shell) -> None:
    if shell == "tcsh" and importlib.util.find_spec("shtab") is None:
        pytest.skip("tyro makes tcsh completion with the package shtab")
    remedy = "python -c 'from metarl.cli.main import write_completion_scripts as write; write()'"
    assert completion_file(shell).read_text(encoding="utf-8") == completion_script(shell), f"make it again: {remedy}"


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_prints_the_script(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == completion_file(shell).read_text(encoding="utf-8")


def test_completion_in_bash_knows_commands_and_flags(tmp_path: Path) -> None:
    script = tmp_path / "complete.sh"
    script.write_text(
        f"source {completion_file('bash')}\n"
        'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _tyro_metarl; '
        'echo "${COMPREPLY[@]}"; }\n'
        "complete_words metarl ev\ncomplete_words metarl train --inner-kl\ncomplete_words metarl report RUN --sp\n"
    )
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["evaluate", "--inner-kl-penalty", "--split"]


NAMES = [
    ("train mu", "multitask"),
    ("train maml cart-pole/", "cart-pole/mirrored"),
    ("train maml pendulum --preset one", "one-step"),
    ("train --start-from ru", "run"),
    ("report ru", "run"),
    ("evaluate half-ch", "half-cheetah-direction"),
    ("render point-", "point-navigation-finn"),
    ("train --start-from half-ch", "half-cheetah-direction"),
]


@pytest.fixture
def place_with_a_run(tmp_path: Path) -> Path:
    """A directory in which there is runs/run."""
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(("words", "found"), NAMES)
def test_bash_completes_names(words: str, found: str, place_with_a_run: Path) -> None:
    script = f"""
    source '{completion_file("bash")}'
    COMP_WORDS=(metarl {words})
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _metarl_names
    echo "${{COMPREPLY[*]}}"
    """
    assert printed_by("bash", script, place_with_a_run).split() == [found]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
@pytest.mark.parametrize(("words", "found"), [*NAMES, ("train maml pendulum --inner-kl", "--inner-kl-penalty")])
def test_zsh_completes_names_and_flags(words: str, found: str, place_with_a_run: Path) -> None:
    """Its own functions, which exist only while it completes, print what they are given instead."""
    script = f"""
    compadd() {{ shift; print -l -- ${{(M)@:#${{words[CURRENT]}}*}} }}
    _describe() {{ print -l -- ${{(P)2%%:*}} }}
    words=(metarl {words})
    CURRENT=$#words
    source '{completion_file("zsh")}'
    """
    assert printed_by("zsh", script, place_with_a_run).split() == [found]


def test_tcsh_has_rules_for_names(place_with_a_run: Path) -> None:
    """Rules are tried in their order, and flags and the values of flags have theirs before."""
    rules = completion_file("tcsh").read_text(encoding="utf-8").splitlines()
    numbers = {
        start: next(number for number, rule in enumerate(rules) if rule.strip().startswith(f"'{start}"))
        for start in (
            "c/--/",
            "n/--preset/(def",
            "n@--resume@",
            "n@{--start",
            "n/train/(maml ",
            "N/train/(point",
            "p/*/",
        )
    }
    assert list(numbers.values()) == sorted(numbers.values())

    shipped = sorted(config.parent.name for config in reference_runs().glob("*/config.yaml"))
    for start, expected in (("n@--resume@", ["run"]), ("n@{--start", ["run", *shipped])):
        runs = re.search("`(.*)`", rules[numbers[start]])
        assert runs is not None
        assert printed_by("sh", runs[1], place_with_a_run).split() == expected
    if shutil.which("tcsh"):
        assert printed_by("tcsh", f"source {completion_file('tcsh')}", place_with_a_run) == ""


def printed_by(shell: str, script: str, place: Path) -> str:
    """What a script prints; it complains of nothing."""
    quick = ["-f"] if shell in ("zsh", "tcsh") else []
    done = subprocess.run([shell, *quick, "-c", script], cwd=place, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout
