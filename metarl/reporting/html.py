"""A run on one self-contained HTML page, to look at, keep and send."""

import base64
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup
from matplotlib.figure import Figure

from metarl.agents.registry import find_agent
from metarl.baselines.distillation_report import DistillationReport
from metarl.console import counted, format_number
from metarl.envs.physics.robot_env import RobotEnv
from metarl.envs.registry import env_label, is_registered, make_distribution, summary_of
from metarl.errors import UserError
from metarl.evaluation.evaluation import NOT_HELD_OUT, describe_tasks
from metarl.evaluation.plots import figure_bytes
from metarl.reporting.behaviour import Behaviour
from metarl.reporting.evaluation_file import read_evaluation
from metarl.reporting.learning_curves import learning_curves
from metarl.reporting.run_evaluation import FIGURES, EvaluationSettings, evaluate_run, evaluation_file, figure_file
from metarl.run.checkpoint import BEST
from metarl.run.config import TrainConfig, flat_items
from metarl.run.files import check_writable, read_file, write_atomically
from metarl.run.reproduce import train_command
from metarl.run.run_directory import Metadata, RunDirectory

LABELS = ("test", "ood", "validation", "train", "task")
"""What an evaluation file may be of, in the order of the page."""

REPORT_FILE = "report.html"

VECTOR_FORMATS = ("pdf", "svg")

PAGE_SCALE = 0.37
"""Width of a picture on the page per width of its PNG: two of them fit side by side, with writing that can be read."""

PHONE_WIDTH = 560
"""Pictures that are wider than so many pixels are not shrunk to the width of a phone, but moved with a finger."""

NAMED_SHARE = 0.9
"""The page names the parameters that move most until they make up this share of the squared displacement."""

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Section:
    """One evaluation on the page.

    Attributes:
        label: its split, or "task".
        data: what `metarl evaluate --json` prints of it.
        figures: PNGs by their names in FIGURES.
        recorded: whether the run had it already; otherwise it was made for the page.
        drawings: the figures themselves, where it was made for the page.
    """

    label: str
    data: dict[str, Any]
    figures: dict[str, bytes]
    recorded: bool
    drawings: dict[str, Figure] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Which tasks it is on."""
        count = self.data["num_tasks"]
        task = self.data["task"]
        if task:
            return f"the task {task}, {counted(count, 'time')}"
        return describe_tasks(count, self.label, held_out=not self.caveat, asked=count)

    @property
    def caveat(self) -> str:
        """What the choice of the tasks takes from the returns; "" where they are held out."""
        chosen_on = self.label not in ("task", "train") and not self.data.get("held_out", True)
        return NOT_HELD_OUT.capitalize() if chosen_on else ""

    @property
    def intervals_over(self) -> str:
        """What the intervals speak of: others of these."""
        return "episodes on these tasks" if self.data.get("intervals_over") == "episodes" else "tasks"

    @property
    def kept(self) -> list[str]:
        """How close a distilled student comes to its teachers, as sentences; empty for other agents."""
        data = self.data.get(DistillationReport.name)
        return DistillationReport.from_json(data).lines() if data else []

    @property
    def movers(self) -> list[tuple[str, float]]:
        """The parameters that move most in adaptation, with their shares of the squared displacement."""
        found = self.data.get("interpretation")
        if not found or None in found["share_mean"]:
            return []
        shares = zip(found["parameters"], found["share_mean"], strict=True)

        named: list[tuple[str, float]] = []
        for parameter, share in sorted(shares, key=lambda pair: -pair[1]):
            if sum(already for _, already in named) >= NAMED_SHARE:
                break
            named.append((parameter, share))
        return named


def check_page(out: Path) -> None:
    """Find out that the page can be written, before the work.

    Raises:
        UserError: not a page's name, or a place where nothing can be written.
    """
    if out.suffix != ".html":
        raise UserError(f"out must end in .html, got {str(out)!r}")
    check_writable(out)


def recorded_labels(run: RunDirectory) -> list[str]:
    """The splits, and "task", of which the run has an evaluation, in the order of the page."""
    return [label for label in LABELS if os.path.lexists(run.path / evaluation_file(label))]


def section_of(run: RunDirectory, label: str, num_tasks: int | None, device: str) -> Section:
    """The run's own evaluation where it has one of its current policy, else a new one.

    Args:
        run: the run.
        label: a split, or "task".
        num_tasks: evaluate again, on this many tasks; None: as many as before.
        device: where to evaluate, as in `resolve_device`.
    """
    section = None if num_tasks else recorded_section(run, label)
    return section or new_section(run, label, num_tasks, device)


def recorded_section(run: RunDirectory, label: str) -> Section | None:
    """The evaluation in the run with its figures; None where it has none, or only of an older policy.

    Raises:
        UserError: the file is not an evaluation.
    """
    path = run.path / evaluation_file(label)
    if not os.path.lexists(path):  # what is there and no file is named when it is read
        return None
    data = read_evaluation(path)
    figures = _recorded_figures(run, label)

    # A published run may come without checkpoints: then there is no newer policy.
    if run.checkpoints.path(BEST).is_file():
        iteration = run.checkpoints.load(BEST).progress.iteration
        wanted = {"adaptation", "parameter-change"} if data.get("adaptation_steps") else {"adaptation"}
        if iteration != data.get("checkpoint_iteration") or not wanted <= figures.keys():
            return None
    return Section(label, data, figures, recorded=True)


def _recorded_figures(run: RunDirectory, label: str) -> dict[str, bytes]:
    """The figures of an evaluation that are in the run.

    Raises:
        UserError: a file is not a PNG.
    """
    figures = {}
    for name in FIGURES:
        file = run.path / figure_file(name, label)
        if not file.is_file():
            continue
        image = read_file(file)
        if not image.startswith(_PNG):
            raise UserError(f"{file} is not a PNG")
        figures[name] = image
    return figures


def new_section(run: RunDirectory, label: str, num_tasks: int | None, device: str) -> Section:
    """Evaluate, with the settings of the evaluation in the run where there is one.

    Raises:
        CheckpointError, UserError, ValueError: the run cannot be evaluated in this way.
    """
    path = run.path / evaluation_file(label)
    before = read_evaluation(path) if os.path.lexists(path) else {}

    # Settings that no earlier evaluation gives are those of `metarl evaluate`.
    settings = EvaluationSettings(
        split=label if label != "task" else "test",
        task=before.get("task") or "",
        num_tasks=num_tasks or before.get("num_tasks", run.config.test_tasks),
        steps=before.get("adaptation_steps"),
        episodes=before.get("episodes_per_step"),
        seed=before.get("seed", 0),
        device=device,
    )
    evaluated = evaluate_run(run, settings)
    return Section(label, evaluated.to_json(), evaluated.images, recorded=False, drawings=evaluated.figures)


def write_figures(run: RunDirectory, sections: list[Section], directory: Path) -> list[Path]:
    """Write every figure of the page as PDF and as SVG; returns the files.

    Args:
        run: the run.
        sections: evaluations that were made for the page.
        directory: made where it is not there.

    Raises:
        UserError: nothing can be written there.
    """
    figures = {}
    for section in sections:
        for name, figure in section.drawings.items():
            figures[f"{name}-{section.label}"] = figure

    curves = learning_curves(run.read_metrics())
    if curves is not None:
        figures["learning-curves"] = curves

    files = []
    for name, figure in figures.items():
        for suffix in VECTOR_FORMATS:
            file = directory / f"{name}.{suffix}"
            write_atomically(file, figure_bytes(figure, suffix))
            files.append(file)
    return files


def write_page(run: RunDirectory, sections: list[Section], out: Path, behaviour: Behaviour | None = None) -> int:
    """Write the page; returns its size in bytes.

    Args:
        run: the run, of which metadata.json and metrics.jsonl may be missing.
        sections: its evaluations, at least one.
        out: the file.
        behaviour: frames of what the policy does, where there are some.

    Raises:
        UserError: a file of the run, or an evaluation, is not what it should be.
    """
    try:
        page = _page(run, sections, behaviour).encode()
    except UserError:
        raise
    # What the template stumbles over where a file is JSON, but not what a run writes.
    except (UndefinedError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"the files of {run.path} are not those of a run: {error}") from None
    write_atomically(out, page)
    return len(page)


def _page(run: RunDirectory, sections: list[Section], behaviour: Behaviour | None) -> str:
    """The page as HTML."""
    metadata = run.read_metadata()
    metrics = run.read_metrics()
    curves = learning_curves(metrics)
    config = run.config

    return (
        _templates()
        .get_template("report.html")
        .render(
            name=run.path.resolve().name,
            config=config,
            env=env_label(config.env),
            agent_summary=_plain(find_agent(config.agent).summary),
            env_summary=_plain(summary_of(config.env)),
            settings=_settings(run),
            sections=sections,
            behaviour=behaviour,
            shows=FIGURES,
            curves=figure_bytes(curves) if curves else None,
            progress=metrics[-1] if metrics else None,
            metadata=metadata,
            started_as=shlex.join(["metarl", *metadata.get("command", [])[1:]]),
            command=train_command(config),
            same_seed=_same_seed(config, metadata),
        )
    )


def _same_seed(config: TrainConfig, metadata: Metadata) -> str:
    """What the same seed does not repeat, in a sentence; "" where it repeats everything."""
    if metadata.get("physics_determinism") != "off" or not metadata.get("device", "").startswith("cuda"):
        return ""
    if is_registered(config.env) and not isinstance(make_distribution(config.env).env, RobotEnv):
        return ""
    return (
        "Its physics ran on a GPU without a fixed order of sums (physics_determinism off): another run of the same "
        "seed may part from this one after some steps."
    )


def _templates() -> Environment:
    """The templates; what they show is escaped, and a name that they miss is an error."""
    templates = Environment(
        loader=PackageLoader("metarl.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": format_number, "counted": counted, "image": _image}
    return templates


def _settings(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """The configuration in two tables: the run's own settings and the learner's."""
    settings: dict[str, dict[str, Any]] = {"run": {}, "learner": {}}
    for key, value in flat_items(run.config).items():
        owner, dot, name = key.partition(".")
        if dot:
            settings["learner"][name] = value
        else:
            settings["run"][owner] = value
    return settings


def _plain(text: str) -> str:
    """A docstring's text without the backticks of its code."""
    return text.replace("`", "")


def _image(image: bytes, alt: str, scale: float = PAGE_SCALE, is_photograph: bool = False) -> Markup:
    """A PNG that the page holds in itself; a photograph is not inverted in dark mode."""
    width = round(scale * int.from_bytes(image[16:20], "big"))  # where a PNG's header has it
    kind = "photo" if is_photograph else "figure"
    if width > PHONE_WIDTH:
        kind += " wide"

    data = base64.b64encode(image).decode()
    element = Markup('<img class="{}" width="{}" alt="{}" src="data:image/png;base64,{}">')
    return element.format(kind, width, alt, data)
