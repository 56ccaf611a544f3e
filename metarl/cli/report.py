"""`metarl report`: a run on one self-contained HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from metarl.cli.flags.run_selection import RunSelection
from metarl.console import say
from metarl.errors import require_at_least
from metarl.reporting.behaviour import behaviour_of
from metarl.reporting.html import (
    REPORT_FILE,
    check_page,
    new_section,
    recorded_labels,
    section_of,
    write_figures,
    write_page,
)
from metarl.run.files import check_directory_writable


@dataclass(frozen=True, kw_only=True)
class Report(RunSelection):
    """Write a run's report: one HTML page with its settings, curves, tables and pictures, that loads nothing else.

    Evaluations that are in the run are shown as they are, others are made; the run's own files are only read.

    Attributes:
        device: where to evaluate: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        out: the page; by default report.html in the run.
        split: which evaluations; by default those that are in the run, or else 'test'.
        num_tasks: evaluate again, on this many tasks; by default as many as the run did.
        figures: directory for each figure of the page as PDF and as SVG; evaluates again, because a run keeps PNGs.
    """

    out: str = ""
    split: tuple[Literal["test", "ood", "train", "validation"], ...] = ()
    num_tasks: int | None = None
    figures: str = ""

    def __post_init__(self) -> None:
        """Reject values out of range, naming the flag."""
        require_at_least(self, num_tasks=1)

    def execute(self, console: Console) -> int:
        """Write the page."""
        run = self.open_run()
        out = Path(self.out) if self.out else run.path / REPORT_FILE
        check_page(out)
        if self.figures:
            check_directory_writable(Path(self.figures))

        sections = []
        for label in self.split or recorded_labels(run) or ["test"]:
            make = new_section if self.figures else section_of
            section = make(run, label, self.num_tasks, self.device)
            if not section.recorded:
                steps = section.data["total_env_steps"]
                say(console, f"evaluated on {section.title}: {steps:,} environment steps")
            sections.append(section)

        size = write_page(run, sections, out, behaviour_of(run, self.device))
        if self.figures:
            files = write_figures(run, sections, Path(self.figures))
            say(console, f"figures as PDF and SVG: {len(files)} files in {self.figures}")
        say(console, f"written to {out} ({size / 1e6:.1f} MB)")
        return 0
