"""`metarl report`: a run on one self-contained HTML page, to look at, keep and send."""

import base64
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup
from rich.console import Console

from metarl.agents.registry import AGENTS
from metarl.baselines.distillation_report import DistillationReport
from metarl.console import say
from metarl.envs.registry import FAMILIES, env_label
from metarl.errors import UserError, require_at_least
from metarl.evaluation.plots import figure_bytes
from metarl.reporting.learning_curves import learning_curves
from metarl.reporting.run_evaluation import FIGURES, evaluate_run, evaluation_file, figure_file
from metarl.run.checkpoint import BEST
from metarl.run.config import flat_items
from metarl.run.files import check_writable, write_atomically
from metarl.run.reproduce import train_command
from metarl.run.run_directory import METADATA_FILE, METRICS_FILE, RunDirectory

LABELS = ("test", "ood", "validation", "train", "task")
"""What an evaluation file may be of, in the order of the page."""
REPORT_FILE = "report.html"
PAGE_SCALE = 0.62
"""Width of a picture on the page per width of its PNG: two of them fit side by side, with writing that can be read."""

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Report:
    """Write a run's report: one HTML page with its settings, curves, tables and pictures, that loads nothing else.

    Evaluations that lie in the run are shown as they are, others are made; the run's own files are only read.

    Attributes:
        run: a run's directory, or its name below run_dir.
        out: the page; by default report.html in the run.
        split: which evaluations; by default those that lie in the run, or else 'test'.
        num_tasks: evaluate anew, on as many tasks; by default as the run did.
        device: where to evaluate: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        run_dir: where runs are looked for by name.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    out: str = ""
    split: tuple[Literal["test", "ood", "train", "validation"], ...] = ()
    num_tasks: int | None = None
    device: str = "auto"
    run_dir: str = "runs"

    def __post_init__(self) -> None:
        """Reject values out of range, naming the flag."""
        require_at_least(self, num_tasks=1)

    def execute(self, console: Console) -> int:
        """Write the page."""
        run = RunDirectory.open(self.run, self.run_dir)
        out = Path(self.out) if self.out else run.path / REPORT_FILE
        _check_writable(out)
        recorded = [label for label in LABELS if (run.path / evaluation_file(label)).is_file()]
        sections = []
        for label in self.split or recorded or ["test"]:
            section = None if self.num_tasks else recorded_section(run, label)
            if section is None:
                section = new_section(run, label, self.num_tasks, self.device)
                steps = section.data["total_env_steps"]
                say(console, f"evaluated on {section.title}: {steps:,} environment steps")
            sections.append(section)
        page = render(run, sections)
        write_atomically(out, page.encode())
        say(console, f"written to {out} ({len(page) / 1e6:.1f} MB)")
        return 0


@dataclass(frozen=True)
class Section:
    """One evaluation on the page.

    Attributes:
        label: its split, or "task".
        data: what `metarl evaluate --json` prints of it.
        figures: PNGs by their names in FIGURES.
        recorded: whether it lay in the run; else it was made for the page.
    """

    label: str
    data: dict[str, Any]
    figures: dict[str, bytes]
    recorded: bool

    @property
    def title(self) -> str:
        """On what."""
        count = self.data["num_tasks"]
        return f"the task {self.data['task']}, {count} times" if self.data["task"] else f"{count} {self.label} tasks"

    @property
    def kept(self) -> list[str]:
        """What a distilled student keeps of its teachers."""
        data = self.data.get("distillation")
        return DistillationReport.from_json(data).lines() if data else []

    @property
    def movers(self) -> list[tuple[str, float]]:
        """The parameters that most of the displacement lies in, with their shares, until nine tenths are named."""
        found = self.data.get("interpretation")
        if not found or None in found["share_mean"]:
            return []
        shares = sorted(zip(found["parameters"], found["share_mean"], strict=True), key=lambda pair: -pair[1])
        return [pair for number, pair in enumerate(shares) if sum(share for _, share in shares[:number]) < 0.9]


def recorded_section(run: RunDirectory, label: str) -> Section | None:
    """The evaluation that lies in the run, with its figures; None where it has none, or only of an older policy.

    Raises:
        UserError: the file is not an evaluation.
    """
    path = run.path / evaluation_file(label)
    if not path.is_file():
        return None
    data = _read_json(path)
    files = {name: run.path / figure_file(name, label) for name in FIGURES}
    figures = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    for name, image in figures.items():
        if not image.startswith(_PNG):
            raise UserError(f"{files[name]} is not a PNG")
    if run.checkpoints.path(BEST).is_file():
        wanted = {"adaptation"} | ({"parameter-change"} if data.get("adaptation_steps") else set())
        iteration = run.checkpoints.load(BEST).progress.iteration
        if iteration != data.get("checkpoint_iteration") or not wanted <= figures.keys():
            return None
    return Section(label, data, figures, recorded=True)


def new_section(run: RunDirectory, label: str, num_tasks: int | None, device: str) -> Section:
    """Evaluate, with the settings of the evaluation that lies in the run where there is one.

    Raises:
        CheckpointError, UserError, ValueError: the run cannot be evaluated so.
    """
    path = run.path / evaluation_file(label)
    before = _read_json(path) if path.is_file() else {}
    evaluated = evaluate_run(
        run,
        split=label if label != "task" else "test",
        task=before.get("task") or "",
        num_tasks=num_tasks or before.get("num_tasks", run.config.test_tasks),
        steps=before.get("adaptation_steps"),
        episodes=before.get("episodes_per_step"),
        seed=before.get("seed", 0),
        device=device,
    )
    figures = {name: figure_bytes(figure) for name, figure in evaluated.figures.items()}
    return Section(label, evaluated.to_json(), figures, recorded=False)


def render(run: RunDirectory, sections: list[Section]) -> str:
    """The page.

    Args:
        run: the run, of which metadata.json and metrics.jsonl may be missing.
        sections: its evaluations, at least one.

    Raises:
        UserError: a file of the run, or an evaluation, is not what it should be.
    """
    metadata = _read_json(run.path / METADATA_FILE) if (run.path / METADATA_FILE).is_file() else {}
    metrics = run.read_metrics() if (run.path / METRICS_FILE).is_file() else []
    config, settings = run.config, flat_items(run.config)
    pages = Environment(
        loader=PackageLoader("metarl.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": _number, "image": _image}
    try:
        curves = learning_curves(metrics)
        return pages.get_template("report.html").render(
            name=run.path.resolve().name,
            config=config,
            env=env_label(config.env),
            agent_summary=AGENTS[config.agent].summary,
            env_summary=FAMILIES[config.env].summary if config.env in FAMILIES else "",
            settings={
                "run": {key: value for key, value in settings.items() if "." not in key},
                "learner": {key.partition(".")[2]: value for key, value in settings.items() if "." in key},
            },
            sections=sections,
            shows=FIGURES,
            curves=figure_bytes(curves) if curves else None,
            progress=metrics[-1] if metrics else None,
            metadata=metadata,
            started_as=shlex.join(["metarl", *map(str, metadata.get("command", [])[1:])]),
            command=train_command(config),
        )
    except (UndefinedError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"the files of {run.path} are not those of a run: {error}") from None


def _number(value: float, form: str) -> str:
    """A number with a real minus sign."""
    return format(value, form).replace("-", "−")


def _image(image: bytes, alt: str) -> Markup:
    """A PNG that the page holds in itself, at PAGE_SCALE."""
    width = int.from_bytes(image[16:20], "big")  # of the PNG's header
    data = base64.b64encode(image).decode()
    return Markup('<img width="{}" alt="{}" src="data:image/png;base64,{}">').format(
        round(PAGE_SCALE * width), alt, data
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object")
    return data


def _check_writable(out: Path) -> None:
    """Say that the page cannot be written before the work.

    Raises:
        UserError: not a page's name, or a place where nothing can be written.
    """
    if out.suffix != ".html":
        raise UserError(f"out must end in .html, got {str(out)!r}")
    check_writable(out)
