"""`metarl tensorboard` serves the runs' curves, figures and hyper-parameters; a browser shows them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarl.agents.registry import AGENTS
from metarl.cli.main import main
from metarl.errors import UserError
from metarl.reporting.tensorboard_server import MOST_RUNS, log_directory
from metarl.training.logs import run_log
from tests.helpers.browser import CHROMIUM, chromium
from tests.helpers.workbench import EPISODES, ITERATIONS, RUN, events_of, metrics_of, train

pytest_plugins = ["tests.helpers.run_fixtures"]

README = Path(run_log.__file__).parents[1] / "README.md"
PNG = b"\x89PNG\r\n\x1a\n"


COMPARISON = "compared"
"""Name of the comparison that `address` serves."""


@pytest.fixture(scope="module")
def comparison(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny comparison of the finished run, with one baseline of Stable-Baselines3."""
    out = tmp_path_factory.mktemp("comparison") / COMPARISON
    size = f"--num-tasks 2 --budget 100 --episodes {EPISODES} --num-threads 1 --baselines ppo random oracle"
    assert main(["compare", str(trained_run), *size.split(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def runs(trained_run: Path, comparison: Path) -> Path:
    """The runs of a user who has just compared: more than can be shown, the finished run and its comparison newest."""
    place = comparison.parent
    shutil.copytree(trained_run, place / RUN)
    for number in range(MOST_RUNS):
        make_events(place / f"old{number}", age=number)
    return place


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """Where `metarl tensorboard`, no run named, serves the finished run and its comparison."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "metarl", "tensorboard", "--run-dir", str(runs), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        address, end = f"http://localhost:{port}", time.monotonic() + 120
        while not _has_runs(address):
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server shows no run"
            time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.communicate()


def _has_runs(address: str) -> bool:
    try:
        return bool(get(address, "runs"))
    except OSError:
        return False


def get(address: str, path: str, post: object = None, **query: object) -> Any:
    """What the server's API answers."""
    url = f"{address}/data/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    data = None if post is None else json.dumps(post).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        body = answer.read()
    return body if body.startswith(PNG) else json.loads(body)


def test_the_server_has_every_curve_with_its_points(address: str, trained_run: Path) -> None:
    # A run for each agent of the comparison, and none for each task of a baseline.
    agents = [f"{COMPARISON}/{name}" for name in ("figures", "maml", "oracle", "ppo", "random")]
    shown = get(address, "runs")
    assert len(shown) <= MOST_RUNS
    assert sorted(name for name in shown if not name.startswith("old")) == [*agents, RUN]
    tags, rows = get(address, "plugin/scalars/tags")[RUN], metrics_of(trained_run)
    curves = {tag for row in rows for tag in row if "/" in tag}
    assert (
        {"eval/return_k0", "eval/return_k1", "eval/gain", "train/return_k0", "train/return_k1"} <= curves <= set(tags)
    )
    for tag in curves:
        points = get(address, "plugin/scalars/scalars", run=RUN, tag=tag)
        expected = [(row["env_steps"], pytest.approx(row[tag], rel=1e-6)) for row in rows if tag in row]
        assert [(step, value) for _, step, value in points] == expected
    report = json.loads((trained_run / "evaluation-test.json").read_text())
    for k, mean in enumerate(report["return_mean"]):
        ((_, step, value),) = get(address, "plugin/scalars/scalars", run=RUN, tag=f"test/return_k{k}")
        assert (step, value) == (report["training_env_steps"], pytest.approx(mean, rel=1e-6))


def test_the_server_has_every_figure(address: str) -> None:
    tags = get(address, "plugin/images/tags")[RUN]
    at_the_end = {"test/adaptation", "test/trajectories", "test/parameter_change", "test/direction_similarity"}
    assert set(tags) == {"eval/adaptation", "eval/trajectories", *at_the_end}
    for tag in tags:
        images = get(address, "plugin/images/images", run=RUN, tag=tag, sample=0)
        assert len(images) == (1 if tag in at_the_end else ITERATIONS + 1)
        for image in images:
            assert get(address, f"plugin/images/individualImage?{image['query']}").startswith(PNG)


def test_curves_are_shown_as_measured_on_every_page(address: str) -> None:
    """The script of CUSTOM SCALARS has TensorBoard's own smoothing, 0.6, no more."""
    with urllib.request.urlopen(f"{address}/index.js", timeout=60) as answer:
        script = answer.read()
    assert script.count(b'"_smoothingWeight",{defaultValue:.0}') >= 2
    assert b'"_smoothingWeight",{defaultValue:.6}' not in script
    assert not re.search(rb"image-rendering: ?pixelated", script), "pictures are shrunk by leaving out pixels"
    assert re.search(rb"image-rendering: ?auto", script)


def test_the_server_has_hyper_parameters_and_results(address: str, trained_run: Path) -> None:
    asked = {"allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 10}
    (group,) = get(address, "plugin/hparams/session_groups", post=asked)["sessionGroups"]
    shown = group["hparams"]
    assert (shown["agent"], shown["hidden_sizes"], shown["num_tasks"], shown["first_order"]) == (
        "maml",
        "(8,)",
        2,
        "false",
    )
    infos = get(address, "plugin/hparams/experiment", post={})["hparamInfos"]
    assert [info["name"] for info in infos[:4]] == ["agent", "env", "preset", "seed"]
    report = json.loads((trained_run / "evaluation-test.json").read_text())
    results = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    assert set(results) == {"eval/return_k0", "eval/return_k1", "eval/gain", "test/return_k1"}
    assert results["test/return_k1"] == pytest.approx(report["return_mean"][1], rel=1e-6)


def test_the_server_draws_all_adaptation_steps_in_one_chart(address: str) -> None:
    (category,) = get(address, "plugin/custom_scalars/layout")["category"]
    drawn = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
    assert drawn == {
        "validation return after k adaptation steps": [r"^eval/return_k\d+$"],
        "training return after k adaptation steps": [r"^train/return_k\d+$"],
    }
    for (pattern,) in drawn.values():
        matched = get(address, "plugin/custom_scalars/scalars", run=RUN, tag=pattern)
        assert len(matched["tag_to_events"]) == 2


def logged_in_readme() -> set[str]:
    """The tags in the table of the README's section "What is logged"."""
    section = README.read_text().partition("## What is logged\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def test_the_readme_explains_every_tag_constant() -> None:
    is_tag = re.compile(r"(TRAIN|EVAL|TEST|CURRICULUM|TIME)_\w+").fullmatch
    constants = {value for name, value in vars(run_log).items() if is_tag(name)}
    assert len(constants) > 15
    assert constants <= logged_in_readme()


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("agent", AGENTS)
def test_the_readme_explains_every_tag_that_a_run_writes(agent: str, trained_run: Path, tmp_path: Path) -> None:
    flags = ["--iterations", "1", "--curriculum", "hard-first"]
    if agent == "distill":
        flags = ["--iterations", "1", "--teacher", str(trained_run), "--num-teachers", "2"]
    tags = events_of(train(tmp_path, *flags, agent=agent)).Tags()
    without_k = {re.sub(r"_k\d+$", "_k", tag) for tag in [*tags["scalars"], *tags["images"]]}
    # What HPARAMS shows of the run is no curve.
    assert {tag for tag in without_k if not tag.startswith("_hparams_")} <= logged_in_readme()


def test_metarl_metrics_prints_what_the_readme_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics"]) == 0
    printed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert {tag for tag in logged_in_readme() if not tag.endswith("/")} <= printed
    assert main(["metrics", "divergence", "nats"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("train/"))
    assert line.startswith("train/kl ")
    assert main(["metrics", "nonsense"]) == 2


def test_at_most_as_many_runs_are_shown_as_tensorboard_selects(tmp_path: Path) -> None:
    """The newest ones; and none of a log for each task, as comparisons of earlier versions have them."""
    for number in range(MOST_RUNS + 2):
        make_events(tmp_path / "runs" / f"run{number}", age=number)
    for number in range(5):
        make_events(tmp_path / "runs" / "comparison" / "sb3" / "ppo-seed0" / f"task-{number}", age=0)

    with log_directory([], str(tmp_path / "runs")) as (directory, note):
        assert {path.name for path in directory.iterdir()} == {f"run{number}" for number in range(MOST_RUNS)}
        assert f"the {MOST_RUNS} newest of {MOST_RUNS + 2}" in note
    assert not directory.exists()

    with log_directory(["run41", str(tmp_path / "runs/run3")], str(tmp_path / "runs")) as (directory, note):
        assert {path.name for path in directory.iterdir()} == {"run41", "run3"}
        assert not note


def make_events(run: Path, age: float) -> None:
    """An events file of a run, some seconds old."""
    run.mkdir(parents=True)
    events = run / "events.out.tfevents.0"
    events.touch()
    os.utime(events, (1e9 - age, 1e9 - age))


def test_a_directory_with_few_runs_is_served_itself_so_that_new_runs_appear(tmp_path: Path) -> None:
    make_events(tmp_path / "one", age=0)
    with log_directory([], str(tmp_path)) as (directory, note):
        assert (directory, note) == (tmp_path, "")


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run or comparison 'nowhere'"), log_directory(["nowhere"], str(tmp_path)):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds nothing for TensorBoard"), log_directory(["empty"], str(tmp_path)):
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_shows_curves_figures_and_hyper_parameters(address: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as tab:
        tab.open(f"{address}/#timeseries")
        agents = [f"{COMPARISON}/{name}" for name in ("maml", "ppo", "random", "oracle")]
        curves = ["comparison/return", "eval/gain", "eval/return_k0", "eval/return_k1"]
        shown = tab.wait_for(RUN, *agents, *curves, "eval/adaptation", pictures=1)
        assert tab.evaluate("location.search").startswith("?smoothing=0")
        assert tab.evaluate("document.querySelectorAll('line-chart').length") > 0, "all runs are deselected"
        assert "No dashboards are active" not in shown
        tab.open(f"{address}/#custom_scalars")
        tab.wait_for(RUN, "validation return after k adaptation steps", "training return after k adaptation steps")
        tab.open(f"{address}/#hparams")
        tab.wait_for(RUN, "hidden_sizes", "num_tasks", "maml", "test/return_k1")
