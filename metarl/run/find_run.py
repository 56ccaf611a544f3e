"""Where runs lie: by their path, by their name, or as part of this project. Nothing here waits for PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from metarl.errors import UserError, did_you_mean, unknown

CONFIG_FILE = "config.yaml"
CHECKPOINTS = "checkpoints"

EXPERT_ALGORITHMS = ("ppo", "a2c")
"""What --teacher may name instead of a run: algorithms of Stable-Baselines3 with stochastic policies like ours."""

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


def find_run(run: str, parent: str = "runs") -> Path:
    """The directory of a run by its path, by its name below `parent`, or of a reference run by its name.

    Raises:
        UserError: there is none; says which runs there are.
    """
    candidates = (Path(run), Path(parent) / run, reference_run(run))
    path = next((path for path in candidates if path is not None and path.is_dir()), None)
    if path is not None:
        return path

    own = _run_names(Path(parent))
    shipped = [name for name in _run_names(reference_runs()) if _has_policy(reference_runs() / name)]
    if own:
        raise unknown("run", run, [*own, *shipped])
    raise UserError(
        f"there is no run {run!r}{did_you_mean(run, shipped)}, neither here nor in {parent}/; "
        "train one with: metarl train, "
        f"or take one that is shipped: {', '.join(shipped)}"
    )


def _run_names(parent: Path) -> list[str]:
    """Names of the runs in a directory."""
    names = (path.parent.name for path in parent.glob(f"*/{CONFIG_FILE}"))
    return sorted(name for name in names if not name.startswith("."))  # not one that is being made


def _has_policy(path: Path) -> bool:
    """Whether a run comes with a checkpoint, and not only with its results."""
    return (path / CHECKPOINTS / "best.safetensors").is_file()


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What runs of somebody else may do.

    Attributes:
        trust: let the runs that are named import modules from the working directory, even if they were made somewhere
            else.
    """

    trust: bool = False


@dataclass(frozen=True, kw_only=True)
class RunPlaces:
    """Where runs are looked for, and where they compute.

    Attributes:
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        run_dir: where runs are looked for by name.
    """

    device: str = "auto"
    run_dir: str = "runs"


@dataclass(frozen=True, kw_only=True)
class RunAccess(Trust, RunPlaces):
    """What the commands on trained runs share."""
