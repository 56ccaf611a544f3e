"""`metarl report`: the page is whole, true, safe and alone, and the run stays as it is."""

import base64
import io
import json
import os
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import yaml

from metarl.cli.main import main
from metarl.errors import EXIT_BAD_INPUT
from metarl.reporting import html
from metarl.reporting.behaviour import behaviour_of
from metarl.reporting.learning_curves import learning_curves
from metarl.reporting.run_evaluation import FIGURES
from metarl.run.config import TrainConfig, flat_items
from metarl.run.run_directory import RunDirectory
from tests.helpers.without_figures import empty_figures
from tests.helpers.workbench import RUN, TEST_TASKS, complaint, files_under, train, train_arguments

pytest_plugins = ["tests.helpers.run_fixtures"]

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}"
VOID = {"meta", "img", "br"}
MAY_LOAD = {"src", "href", "srcset", "poster", "data", "action", "background", "xlink:href"}


class Page(HTMLParser):
    """What a browser would make of a page.

    Attributes:
        tags: every element's name and attributes.
        tables: rows of cells' text, of each table.
        text: all text outside style.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = self.style = ""
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if "style" in self._open:
            self.style += data
            return
        self.text += data
        if self._open and "tr" in self._open and {"th", "td"} & set(self._open):
            self.tables[-1][-1][-1] += data

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """The decoded pictures by what they show."""
        found = {}
        for attributes in (attributes for tag, attributes in self.tags if tag == "img"):
            kind, _, data = str(attributes["src"]).partition(",")
            assert kind == "data:image/png;base64"
            found[str(attributes["alt"])] = imageio.imread(io.BytesIO(base64.b64decode(data, validate=True)))
        return found


def report(run: Path, *flags: str) -> Page:
    """The page that `metarl report` writes beside the run."""
    out = run.parent / "page.html"
    assert main(["report", str(run), "--out", str(out), *flags]) == 0
    return Page(out)


def shown(value: float, form: str = ".2f") -> str:
    return format(value, form).replace("-", "−")


def between(pair: list[float], form: str = ".2f") -> str:
    return f"[{shown(pair[0], form)}, {shown(pair[1], form)}]"


# ---------------------------------------------------------------------- what the page says


def test_table_shows_the_numbers_of_the_evaluation(workplace: Path) -> None:
    page = report(workplace / "runs" / RUN)
    data = json.loads((workplace / "runs" / RUN / "evaluation-test.json").read_text())
    header, *rows, gain = page.tables[0]
    assert header == ["adaptation step k", "episodes", "env steps", "mean return", "95% interval"]
    for k, row in enumerate(rows):
        steps, mean, interval = (data[name][k] for name in ("env_steps", "return_mean", "return_ci95"))
        assert row == [str(k), str(data["episodes"][k]), f"{steps:,.0f}", shown(mean), between(interval)]
    assert len(rows) == len(data["return_mean"]) == 2
    assert gain == ["gain", "", "", shown(data["gain_mean"], "+.2f"), between(data["gain_ci95"], "+.2f")]
    parameters = data["interpretation"]["parameters"]
    assert [row[0] for row in page.tables[1][1:]] == parameters
    for row, change, std, share in zip(
        page.tables[1][1:],
        data["interpretation"]["relative_change_mean"][0],
        data["interpretation"]["relative_change_std"][0],
        data["interpretation"]["share_mean"],
        strict=True,
    ):
        assert row[1:] == [f"{change:.4f} ± {std:.4f}" if change is not None else "–", f"{share:.1%}"]


def test_few_tasks_are_said_to_be_few_and_the_best_player_is_named(tmp_path: Path) -> None:
    """RL² on all goals of the grid: what the intervals are over, the score, and what could be earned."""
    run = RunDirectory.open("rl2-grid-navigation")
    evaluation = json.loads((run.path / "evaluation-test.json").read_text()) | {"optimum": [4.0, 11.0, 11.0, 11.1]}
    section = html.Section("test", evaluation, {}, recorded=True)
    html.write_page(run, [section], tmp_path / "page.html")

    text = " ".join((tmp_path / "page.html").read_text(encoding="utf-8").split())
    assert "21 distinct tasks, not held out" in text
    assert "Not held out: training drew these tasks, and checkpoints were chosen on them." in text
    assert "intervals over episodes on these tasks" in text
    assert "Nobody can earn more than 37.10 on average." in text
    assert "Score after adaptation: 0.997 [0.993, 1.002]" in text
    assert "against the latter: 7.7 [7.6, 7.9]." in text
    header, *rows, gain = Page(tmp_path / "page.html").tables[0]
    assert header[:2] == ["episode", "env steps"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert gain[:2] == ["gain", ""]


def test_a_trial_of_one_episode_has_no_gain(tmp_path: Path) -> None:
    run = RunDirectory.open("rl2-bandit")
    evaluation = json.loads((run.path / "evaluation-test.json").read_text())
    html.write_page(run, [html.Section("test", evaluation, {}, recorded=True)], tmp_path / "page.html")
    header, row = Page(tmp_path / "page.html").tables[0]
    assert (header[0], row[0]) == ("episode", "1")
    assert "gain" not in (tmp_path / "page.html").read_text(encoding="utf-8").split("<h2>")[0]


@pytest.mark.parametrize(
    ("env", "device", "determinism", "said"),
    [
        ("half-cheetah-direction", "cuda:0", "off", True),
        ("half-cheetah-direction", "cuda:0", "on", False),
        ("half-cheetah-direction", "cpu", "off", False),
        ("cart-pole@horizon=50", "cuda:0", "off", False),
    ],
)
def test_robots_on_a_gpu_may_not_repeat_themselves(env: str, device: str, determinism: str, said: bool) -> None:
    config = TrainConfig(env=env)
    sentence = html._same_seed(config, {"device": device, "physics_determinism": determinism})
    assert ("another run of the same seed may part from this one" in sentence) is said


def test_page_says_that_the_same_seed_gives_other_numbers(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.open(str(workplace / "runs" / RUN))
    assert run.read_metadata()["physics_determinism"] == "on"  # what 'auto' is on a CPU
    assert "may part" not in report(run.path).text
    monkeypatch.setattr(html, "_same_seed", lambda config, metadata: "Another run may part.")
    reproduce = report(run.path).text.partition("How to reproduce it")[2]
    assert "Another run may part." in reproduce.partition("Configuration")[0]


def test_page_tells_everything_about_the_run(workplace: Path) -> None:
    path = workplace / "runs" / RUN
    page, run = report(path), RunDirectory.open(str(path))
    about, last = json.loads((path / "metadata.json").read_text()), run.read_metrics()[-1]
    cells = {cell for table in page.tables for row in table for cell in row}
    assert {key.removeprefix("learner.") for key in flat_items(run.config)} <= cells
    assert {str(value) for value in flat_items(run.config).values()} <= cells | {""}
    assert {about["git_commit"], about["platform"], about["python"], *about["packages"].values()} <= cells
    assert {f"{last['env_steps']:,}", f"{last['evaluation_env_steps']:,}"} <= cells
    assert f"metarl train maml {run.config.env} " in page.text
    assert page.tags[0] == ("html", {"lang": "en"})
    assert f"{RUN} – metarl report" in page.text
    assert "`" not in page.text


def test_all_pictures_are_in_the_page_and_can_be_decoded(workplace: Path) -> None:
    pictures = report(workplace / "runs" / RUN).pictures
    assert set(pictures) > set(FIGURES.values())
    assert len(pictures) == len(FIGURES) + 1, "and the learning curves"
    for image in pictures.values():
        assert min(image.shape[:2]) > 200
        assert np.unique(image[::5, ::5].reshape(-1, image.shape[-1]), axis=0).shape[0] > 10, "an empty picture"


def test_each_figure_is_written_as_pdf_and_svg_where_it_is_asked_for(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = report(workplace / "runs" / RUN, "--figures", "figures", "--num-tasks", "2")
    figures = ["learning-curves", *(f"{name}-test" for name in FIGURES)]
    written = {path.name: path.read_bytes() for path in Path("figures").iterdir()}
    assert sorted(written) == sorted(f"{name}.{suffix}" for name in figures for suffix in ("pdf", "svg"))
    assert all(content.startswith(b"%PDF" if name.endswith("pdf") else b"<?xml") for name, content in written.items())
    assert len(page.pictures) == len(figures)

    Path("file").touch()
    assert main(["report", RUN, "--figures", "file/figures"]) == EXIT_BAD_INPUT
    assert "file/figures" in complaint(capsys)


def test_frames_of_the_policy_are_shown_where_there_is_no_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        empty_figures(patch.setattr)
        run = train(tmp_path, "--iterations", "1", env="cart-pole")
        page = report(run)
    (frames,) = (picture for shows, picture in page.pictures.items() if shows.startswith("the first episode"))
    assert frames.shape[1] > 900, "six images beside each other"
    steps = dict(page.tables[-4])["pictures of the policy, for this page"]
    assert int(steps.replace(",", "")) > 0

    # Nothing can be drawn: the page is written all the same.
    monkeypatch.setattr("metarl.reporting.behaviour.record", lambda *_: raise_error(ValueError("no OpenGL")))
    capsys.readouterr()
    assert behaviour_of(RunDirectory.open(str(run)), "cpu") is None
    assert "no frames of behaviour: no OpenGL" in capsys.readouterr().err


def raise_error(error: Exception) -> None:
    raise error


def test_learning_curves_show_the_metrics(trained_run: Path) -> None:
    rows = RunDirectory.open(str(trained_run)).read_metrics()
    figure = learning_curves(rows)
    assert figure is not None
    axes = figure.axes
    assert [a.get_title() for a in axes[:2]] == ["training return", "validation return"]
    assert {a.get_ylabel() for a in axes} == {"return"}
    assert [text.get_text() for text in axes[0].texts] == ["k = 0", "k = 1"]
    for column, prefix in enumerate(("train/return_k", "eval/return_k")):
        for row, x in enumerate(("iteration", "env_steps")):
            for k, line in enumerate(axes[2 * row + column].lines):
                points = [(one[x], one[f"{prefix}{k}"]) for one in rows if f"{prefix}{k}" in one]
                np.testing.assert_array_equal(np.asarray(line.get_xydata()), points)
    assert learning_curves([]) is None


def test_iteration_0_does_not_set_the_scale_of_learning_curves() -> None:
    rows = [{"iteration": n, "env_steps": 100 * n, "train/return_k0": -5.0 + 0.1 * n} for n in range(30)]
    rows[0]["train/return_k0"] = -900.0
    figure = learning_curves(rows)
    assert figure is not None
    assert figure.axes[0].get_ylim()[0] > -10


def test_success_rates_are_shown_where_there_are_some(workplace: Path) -> None:
    path = workplace / "runs" / RUN / "evaluation-test.json"
    data = json.loads(path.read_text()) | {"success_rate": [0.25, 0.5], "success_ci95": [[0.125, 0.5], [0.25, 0.75]]}
    path.write_text(json.dumps(data))
    header, first, second, _ = report(workplace / "runs" / RUN).tables[0]
    assert header[-2:] == ["success rate", "95% interval"]
    assert (first[-2:], second[-2:]) == (["25.0%", "[12.5%, 50.0%]"], ["50.0%", "[25.0%, 75.0%]"])


# ---------------------------------------------------------------------- alone, and safe


def test_page_loads_nothing_and_has_no_script(workplace: Path) -> None:
    page = report(workplace / "runs" / RUN)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on")]
        loaded = [str(attributes[name]) for name in MAY_LOAD & attributes.keys()]
        assert [address[:60] for address in loaded if not address.startswith("data:image/png;base64,")] == []
    for address in ("http://", "https://", "file:", "//"):
        without_pictures = page.text + page.style
        assert address not in without_pictures
    assert "url(" not in page.style
    assert "@import" not in page.style
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme: dark" in page.style
    assert "@media print" in page.style


def test_hostile_text_is_shown_as_text(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = workplace / "runs" / RUN.replace("run", HOSTILE.replace("/", ""))
    shutil.copytree(workplace / "runs" / RUN, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"name": HOSTILE, "run_dir": HOSTILE}))
    about = json.loads((run / "metadata.json").read_text())
    about |= {"command": ["x", HOSTILE], "platform": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    (run / "metadata.json").write_text(json.dumps(about))
    data = json.loads((run / "evaluation-test.json").read_text())
    data["interpretation"]["parameters"] = [HOSTILE] * len(data["interpretation"]["parameters"])
    (run / "evaluation-test.json").write_text(json.dumps(data | {"task": HOSTILE}))
    page = report(run)
    assert "<img src=x" not in page.source
    assert {str(a["src"])[:21] for tag, a in page.tags if tag == "img"} == {"data:image/png;base64"}
    assert page.text.count(HOSTILE) >= 7
    assert HOSTILE not in capsys.readouterr().err


# ---------------------------------------------------------------------- which evaluations


@pytest.mark.usefixtures("without_figures")
def test_what_lies_in_the_run_is_not_evaluated_again(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = workplace / "runs" / RUN
    assert main(["evaluate", RUN, "--split", "ood", "--num-tasks", "2", "--out", str(run)]) == 0
    assert main(["evaluate", RUN, "--task", "goal=0,1", "--num-tasks", "2", "--out", str(run)]) == 0
    monkeypatch.setattr("metarl.evaluation.adaptation.collect", lambda *arguments: pytest.fail("evaluated again"))
    page = report(run)
    titles = [f"{TEST_TASKS} test tasks", "2 ood tasks", "the task goal=0,1, 2 times"]
    assert [title for title in titles if title in page.text] == titles
    assert page.text.index(titles[0]) < page.text.index(titles[1]) < page.text.index(titles[2])
    assert len(page.tables) == 2 * 3 + 4


@pytest.mark.usefixtures("without_figures")
def test_a_split_is_evaluated_as_the_command_does(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(workplace / "runs" / RUN, "--split", "ood", "validation", "--num-tasks", "2")
    said = capsys.readouterr().out
    for number, split in enumerate(("ood", "validation")):
        assert main(["evaluate", RUN, "--split", split, "--num-tasks", "2", "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        means = [row[3] for row in page.tables[2 * number][1:-1]]
        assert means == [shown(mean) for mean in data["return_mean"]]
        assert f"evaluated on 2 {split} tasks: {data['total_env_steps']:,} environment steps" in said
        assert f"{data['total_env_steps']:,}" in {cell for row in page.tables[4] for cell in row}


@pytest.mark.usefixtures("without_figures")
def test_an_evaluation_of_an_older_policy_is_made_anew(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = workplace / "runs" / RUN
    current = report(run).tables
    data = json.loads((run / "evaluation-test.json").read_text())
    stale = data | {"checkpoint_iteration": data["checkpoint_iteration"] + 1, "return_mean": [0.0, 0.0]}
    (run / "evaluation-test.json").write_text(json.dumps(stale))
    capsys.readouterr()
    assert report(run).tables[:2] == current[:2]
    assert "evaluated on" in capsys.readouterr().out


@pytest.mark.parametrize("agent", ["reptile", pytest.param("multitask", marks=pytest.mark.slow)])
def test_every_agent_has_a_page(agent: str, tmp_path: Path) -> None:
    run = train(tmp_path, "--iterations", "1", agent=agent, env="grid-navigation")
    page = report(run, "--split", "test")
    assert f"{agent} on grid-navigation" in page.text
    assert len(page.pictures) == 5


@pytest.mark.usefixtures("without_figures")
def test_a_distilled_student_is_shown_beside_its_teacher(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--iterations", "1", "--name", "student", "--teacher", RUN, "--num-teachers", "2"]
    assert main(train_arguments(Path("runs"), *flags, agent="distill")) == 0
    capsys.readouterr()
    page = report(Path("runs/student"))
    assert f"student of {RUN} on {TEST_TASKS} of these tasks" in page.text


def test_a_published_run_without_checkpoints_is_shown_as_it_lies(workplace: Path) -> None:
    run = workplace / "runs" / RUN
    for name in ("metadata.json", "metrics.jsonl", "parameter-change-test.png"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    page = report(run)
    assert FIGURES["adaptation"] in page.pictures
    assert FIGURES["parameter-change"] not in page.pictures


# ---------------------------------------------------------------------- the run stays as it is


def test_report_adds_one_file_and_changes_nothing(workplace: Path) -> None:
    before = files_under(workplace)
    assert main(["report", RUN]) == 0
    after = files_under(workplace)
    page = after.pop(f"runs/{RUN}/report.html")
    assert after == before
    assert main(["report", RUN, "--out", "elsewhere/page.html"]) == 0
    assert Path("elsewhere/page.html").read_bytes() == page, "the same run, the same page"
    assert main(["report", RUN, "--split", "ood", "--num-tasks", "2", "--out", "elsewhere/page.html"]) == 0
    assert {name: content for name, content in files_under(workplace).items() if name in before} == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("report", "RUN"),
        ("report rum", "did you mean 'run'"),
        ("report runs", "not a run"),
        (f"report {RUN} --out file/page.html", "file/page.html cannot be written"),
        (f"report {RUN} --out /proc/nothing/page.html", "/proc/nothing/page.html cannot be written"),
        (f"report {RUN} --out folder.html", "folder.html cannot be written: it is a directory"),
        (f"report {RUN} --out runs/{RUN}/config.yaml", "out must end in .html, got 'runs/run/config.yaml'"),
        (f"report {RUN} --split validate", "'validate'"),
        (f"report {RUN} --num-tasks 0", "num_tasks must be at least 1"),
        (f"report {RUN} --split ood --num-tasks 1001", "at most 1000"),
        (f"report {RUN} --split ood --device tpu", "'tpu'"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    arguments: str, named: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "file").touch()
    (workplace / "folder.html").mkdir()
    before = files_under(workplace)
    assert main(arguments.split()) == EXIT_BAD_INPUT
    assert named in complaint(capsys)
    assert files_under(workplace) == before


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("metadata.json", b"{", "metadata.json: not JSON"),
        ("metadata.json", b"[]", "metadata.json: must be an object of named values"),
        ("metadata.json", b'{"packages": 3}', "metadata.json: packages: must be an object"),
        ("metrics.jsonl", b'{"train/return_k0": 1}\n', "metrics.jsonl, line 1: env_steps: is missing"),
        ("evaluation-test.json", b"\xff", "evaluation-test.json is not text in UTF-8"),
        ("evaluation-test.json", b"{}", "evaluation-test.json: adaptation_steps: is missing"),
        ("adaptation-test.png", b"text", "adaptation-test.png is not a PNG"),
    ],
)
def test_damaged_files_are_one_line(
    name: str, content: bytes, named: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = workplace / "runs" / RUN
    shutil.rmtree(run / "checkpoints")  # so that the files are taken as they are
    (run / name).write_bytes(content)
    assert main(["report", RUN]) == EXIT_BAD_INPUT
    assert named in complaint(capsys)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_stands_in_the_place_of_an_evaluation_is_named(
    make: Callable[[Path], object], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no other evaluation takes its place."""
    file = workplace / "runs" / RUN / "evaluation-test.json"
    file.unlink()
    make(file)
    assert main(["report", RUN]) == EXIT_BAD_INPUT
    assert "evaluation-test.json cannot be read: is a" in complaint(capsys)
