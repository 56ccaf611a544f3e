"""Output is what it says: JSON stands alone whatever environments print, and a narrow terminal cuts no number."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from metarl.cli.main import main
from metarl.console import format_number, print_json, reserved_output, show_table
from metarl.errors import EXIT_BAD_INPUT
from metarl.evaluation.evaluation import NOT_HELD_OUT
from tests.helpers.workbench import ENV, RUN, complaint, train_arguments

pytest_plugins = ["tests.helpers.run_fixtures"]

TALKATIVE = """
import os, subprocess, sys
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Talkative(CartPoleEnv):
    def reset(self, **keywords):
        print("from Python")
        os.write(1, b"from C\\n")
        subprocess.run(["echo", "from a program"])
        return super().reset(**keywords)


gymnasium.register("Talkative-v0", Talkative, max_episode_steps=10)
"""


def test_json_stands_alone_whatever_environments_print(tmp_path: Path) -> None:
    """In a process of its own, whose real descriptors they write to."""
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    (tmp_path / "env.yaml").write_text(
        "env_id: talkative:Talkative-v0\nnum_workers: 1\nkeywords: []\nset_task: talk_task:set\n"
        "task: {gravity: {choice: [9, 10]}}\n"
    )
    (tmp_path / "talk_task.py").write_text("def set(env, task):\n    env.unwrapped.gravity = float(task['gravity'])\n")
    command = [sys.executable, "-m", "metarl", "check", "env.yaml", "--seconds", "0.2", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert isinstance(json.loads(done.stdout), dict), done.stdout
    for said in ("from Python", "from C", "from a program"):
        assert said in done.stderr


@pytest.mark.parametrize("split", ["test", "train"])
def test_below_tasks_that_are_not_held_out_stands_what_was_chosen_on_them(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one seed and of two; tasks that are said to be those of training need no such line."""
    little = "--iterations 1 --num-tasks 2 --episodes 2 --test-tasks 1 --num-threads 1"
    for seed in ("0", "1"):
        command = f"train maml grid-navigation {little} --seed {seed} --name {seed} --run-dir"
        assert main([*command.split(), str(tmp_path)]) == 0
    capsys.readouterr()

    one, other = str(tmp_path / "0"), str(tmp_path / "1")
    for runs in ([one], [one, other]):
        assert main(["evaluate", *runs, "--episodes", "2", "--split", split]) == 0
        assert (NOT_HELD_OUT in capsys.readouterr().out.splitlines()) == (split == "test")


def test_only_json_reaches_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with reserved_output(True):
        print("chatter")
        print_json({"a": 1})
        print("more chatter", file=sys.stdout)
    print_json([2])
    with reserved_output(False):
        print("plain")
    captured = capfd.readouterr()
    assert captured.out == '{"a": 1}\n[2]\nplain\n'
    assert captured.err == "chatter\nmore chatter\n"


def test_an_error_leaves_no_json_and_standard_output_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), reserved_output(True):
        print_json({"half": "done"})
        raise ValueError("no")
    os.write(1, b"again\n")
    assert capfd.readouterr().out == "again\n"


def test_printed_commands_run_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without_figures: None
) -> None:
    """Whatever the name of the run, the words of the shell are those of the command."""
    monkeypatch.chdir(tmp_path)
    name = "my run ü 'one' & more"
    assert main(train_arguments(Path("the runs"), "--name", name, "--iterations", "1")) == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in printed if line.startswith("  metarl ")]
    assert [words[1] for words in commands] == ["evaluate", "evaluate", "tensorboard"]
    for words in commands[:1]:
        assert words[2] == f"the runs/{name}"
        assert main([*words[1:3], "--num-tasks", "1", "--steps", "0"]) == 0
    assert commands[-1] == ["metarl", "tensorboard", f"the runs/{name}"]


@pytest.mark.parametrize("columns", [20, 40])
def test_a_narrow_terminal_shows_every_number(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("adaptation step", "mean return", "95% interval", title="a long title")
    table.add_row("0", "-1234567.89", "[-1234568.01, -1234566.77]")
    console = Console(width=columns)
    show_table(console, table)
    text = capsys.readouterr().out
    assert "…" not in text
    assert all(number in text for number in ("-1234567.89", "-1234568.01", "-1234566.77"))
    assert console.width == columns

    stiff = Table()
    stiff.add_column("mean at\nthe end", no_wrap=True)
    stiff.add_row("-1234567.89 and more than that")
    show_table(console, stiff)
    assert "-1234567.89 and more than that" in capsys.readouterr().out


def test_a_table_that_fits_is_as_wide_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("a", "b")
    table.add_row("some words that wrap", "1")
    console = Console(width=30)
    show_table(console, table)
    shown = capsys.readouterr().out
    console.print(table)
    assert capsys.readouterr().out == shown


def test_evaluate_shows_returns_in_twenty_columns(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["evaluate", RUN, "--num-tasks", "2"]) == 0
    text = capsys.readouterr().out
    assert main(["evaluate", RUN, "--num-tasks", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert all(f"{mean:.2f}".replace("-", "−") in text for mean in data["return_mean"])


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "tab\t", "\udcff"])
def test_a_name_that_would_disturb_every_message_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "maml", ENV, "--name", name]) == EXIT_BAD_INPUT
    message = complaint(capsys)
    assert "name must be a plain directory name" in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (-12.345, ".2f", "−12.35"),
        (-1234.5, ".1f", "−1,234.5"),
        (1234567.0, "+.0f", "+1,234,567"),
        (0.25, "+.1%", "+25.0%"),
        (-0.25, "+.2f", "−0.25"),
        (-0.004, ".2f", "0.00"),
        (-0.004, "+.2f", "+0.00"),
        (float("nan"), ".2f", "nan"),
    ],
)
def test_numbers_for_people_have_a_real_minus_sign_and_zero_has_none(value: float, spec: str, text: str) -> None:
    assert format_number(value, spec) == text


@pytest.mark.usefixtures("without_figures")
def test_no_number_that_people_read_has_the_sign_of_a_keyboard(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the console, in the model card and on the page, but for what is typed; in JSON and CSV the other way round."""
    assert main(["evaluate", RUN, "--num-tasks", "2", "--out", "out"]) == 0
    assert main(["adapt", RUN, "--task", "goal=0.6,0.8", "--out", "policy", "--no-onnx"]) == 0
    assert main(["compare", RUN, "--num-tasks", "2", "--baselines", "random", "oracle", "--out", "compared"]) == 0
    assert main(["report", RUN, "--out", "report.html"]) == 0
    card = (workplace / "policy" / "README.md").read_text().partition("## How to run it")[0]
    page = re.sub("data:image/[^\"']*|<style.*?</style>", "", (workplace / "report.html").read_text(), flags=re.DOTALL)

    for text in (capsys.readouterr().out, card, page.partition("<h2>How to reproduce it")[0]):
        assert re.search(r"−\d", text)
        assert not re.search(r"(?<![\w,=/-])-\d+\.\d", text)

    for file in ("out/evaluation-test.json", "policy/policy.json", "compared/comparison.csv"):
        assert "−" not in (workplace / file).read_text(encoding="utf-8")
