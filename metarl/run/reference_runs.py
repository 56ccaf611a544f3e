"""The trained runs that come with the project, so that every command has something to show at once."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def reference_runs() -> Path:
    """The directory that holds them: part of the installed package, or `runs/reference/` of the checkout."""
    installed = PACKAGE / "reference_runs"
    return installed if installed.is_dir() else PACKAGE.parent / "runs" / "reference"


def reference_run(name: str) -> Path | None:
    """A reference run by its name or by its path in the checkout; None if `name` is no such run.

    Args:
        name: for example "maml-point-navigation" or "runs/reference/maml-point-navigation".
    """
    path = Path(name)
    is_named_so = path.parent in (Path(), Path("runs/reference"))
    found = reference_runs() / path.name
    return found if is_named_so and path.name and found.is_dir() else None
