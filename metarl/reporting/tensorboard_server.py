"""TensorBoard on localhost: which runs it opens, and that it shows curves as they were measured.

Nothing here imports PyTorch, so that the page is there soon.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.errors import UserError, did_you_mean
from metarl.run.find_run import reference_run, reference_runs

MOST_RUNS = 40
"""TensorBoard selects none of its runs where there are more: every chart is empty then."""

_TASK_LOGS = "sb3"
"""Directory of a comparison in which earlier versions kept one log for each task of Stable-Baselines3."""

_CHANGES_OF_SCRIPT = {
    b'"_smoothingWeight",{defaultValue:.6}': b'"_smoothingWeight",{defaultValue:.0}',
    b"image-rendering: pixelated": b"image-rendering: auto     ",
    b"image-rendering:pixelated": b"image-rendering:auto     ",
}
"""In TensorBoard's script: smoothing of CUSTOM SCALARS, and pictures that are shrunk by leaving out pixels, so that
nobody can read what is written in them. What stands in place of either is as long."""


@dataclass(frozen=True)
class Board:
    """What TensorBoard is to show.

    Attributes:
        directory: of a run or of an agent in a comparison: it holds events itself.
        name: its name on the page, with "/" between parts.
    """

    directory: Path
    name: str


@contextlib.contextmanager
def log_directory(runs: Sequence[str], run_dir: str) -> Iterator[tuple[Path, str]]:
    """The directory to serve, and a line that says what it leaves out, or "".

    The directory of all runs is served as it is, so that new runs appear on the page. Where it holds too many, or runs
    are named, a temporary directory of links stands for it.

    Args:
        runs: runs and comparisons by path or name; empty: everything in run_dir.
        run_dir: where they are looked for.

    Raises:
        UserError: there is no such directory or run, or it holds no events.
    """
    if runs:
        boards = [board for run in runs for board in boards_of(_find(run, run_dir))]
        whole = None
        left_out = 0
    else:
        whole = _directory_of_runs(run_dir)
        boards = boards_below(whole)
        left_out = len(list(_directories_with_events(whole))) - len(boards)

    note = ""
    if len(boards) > MOST_RUNS:
        note = f"shows the {MOST_RUNS} newest of {len(boards)} runs; name those to see: metarl tensorboard RUN …"
        boards = sorted(boards, key=_age)[:MOST_RUNS]
    if whole is not None and not note and not left_out:
        yield whole, ""
        return

    with tempfile.TemporaryDirectory(prefix="metarl-tensorboard-") as temporary:
        for board in boards:
            link = Path(temporary) / board.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():  # the same run, named twice
                link.symlink_to(board.directory.resolve(), target_is_directory=True)
        yield Path(temporary), note


def _directory_of_runs(run_dir: str) -> Path:
    """The directory of all runs."""
    directory = Path(run_dir)
    # An installed package has the reference runs, but not the checkout that their path belongs to.
    if not directory.is_dir() and directory == Path("runs/reference"):
        directory = reference_runs()
    if not directory.is_dir():
        raise UserError(f"there is no directory {run_dir!r}; train a run with: metarl train")
    return directory


def _find(run: str, run_dir: str) -> Path:
    """A run or a comparison by its path or name."""
    candidates = (Path(run), Path(run_dir) / run, reference_run(run))
    for path in candidates:
        if run and path is not None and path.is_dir():
            return path
    below = Path(run_dir).iterdir() if Path(run_dir).is_dir() else ()
    known = [path.name for path in (*below, *reference_runs().iterdir()) if path.is_dir()]
    meant = did_you_mean(run, known)
    raise UserError(
        f"there is no run or comparison {run!r}{meant}, neither here nor in {run_dir}/; train one: metarl train"
    )


def boards_of(path: Path) -> list[Board]:
    """What a run, a comparison or a directory of runs holds, under its own name.

    Raises:
        UserError: it holds no events.
    """
    name = path.resolve().name
    boards = [Board(board.directory, f"{name}/{board.name}".removesuffix("/.")) for board in boards_below(path)]
    if not boards:
        raise UserError(f"{path} holds nothing for TensorBoard: no events.out.tfevents file lies in it")
    return boards


def boards_below(path: Path) -> list[Board]:
    """Every directory at or below `path` that holds events, without one log for each task of a baseline."""
    boards = []
    for directory in _directories_with_events(path):
        parts = directory.relative_to(path).parts
        if _TASK_LOGS not in parts:
            shown = [part for part in parts if part != "tensorboard"]
            boards.append(Board(directory, "/".join(shown) or "."))
    return boards


def _directories_with_events(path: Path) -> Iterable[Path]:
    return sorted({events.parent for events in path.glob("**/events.out.tfevents*")})


def _age(board: Board) -> float:
    """Newest first."""
    return -max(events.stat().st_mtime for events in board.directory.glob("events.out.tfevents*"))


def serve(directory: Path, port: int) -> int:
    """Serve a directory until Ctrl-C; returns the exit code."""
    from tensorboard import program  # slow to import

    def server(application: Any, flags: Any) -> Any:
        return program.create_port_scanning_werkzeug_server(without_smoothing(application), flags)

    board = program.TensorBoard(server_class=server)
    address = ["--host", "localhost", "--port", str(port)]
    board.configure(argv=[None, "--logdir", str(directory), *address, "--load_fast", "false"])
    return int(board.main())


def without_smoothing(application: Callable[..., Any]) -> Callable[..., Any]:
    """TensorBoard's application (WSGI), which opens with curves as they were measured.

    Its own default, a moving average of 0.6, draws a validation return of −40 at −75 where there are few points. The
    page takes the setting from its address, but CUSTOM SCALARS has it in its script alone. The slider still changes it.
    Pictures are shrunk smoothly.
    """

    def as_measured(environment: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environment.get("PATH_INFO") == "/" and not environment.get("QUERY_STRING"):
            start_response("302 Found", [("Location", "/?smoothing=0"), ("Content-Length", "0")])
            return [b""]

        if environment.get("PATH_INFO") == "/index.js":
            plain = {**environment, "HTTP_ACCEPT_ENCODING": ""}  # compressed, it cannot be changed
            return [_changed(part) for part in application(plain, start_response)]
        return application(environment, start_response)

    return as_measured


def _changed(script: bytes) -> bytes:
    """TensorBoard's script without what hides how things are."""
    for its_own, ours in _CHANGES_OF_SCRIPT.items():
        script = script.replace(its_own, ours)
    return script
