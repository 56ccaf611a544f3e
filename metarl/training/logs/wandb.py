"""Weights & Biases as the place where a run's curves and figures are shown; needs the extra `wandb`.

A run of metarl is one run there, also when it is resumed: its id is kept in the run's directory. Offline
(WANDB_MODE=offline) each start writes a part of its own into the run, all with that id; `wandb sync` sends them, in
order, into the one run.
"""

import importlib.util
import io
import json
import os
import secrets
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypedDict

from metarl.envs.extras import how_to_install
from metarl.errors import UserError
from metarl.run.checkpoint import Progress
from metarl.run.files import write_atomically
from metarl.run.schema import read_json

ID_FILE = "wandb.json"
"""In the run: its id at Weights & Biases."""

MODES = ("online", "offline", "disabled", "shared")
"""What WANDB_MODE may be."""

X_AXIS = "env_steps"


class Identity(TypedDict):
    """What ID_FILE holds."""

    id: str


class WandbBackend:
    """Sends rows and figures to Weights & Biases, or keeps them in the run.

    Args:
        run: of the library.
        step: number of the first row; None: rows are numbered by their meta-iterations.
    """

    def __init__(self, run: Any, step: int | None = None) -> None:
        self._run = run
        self._step = step
        self._images: dict[str, bytes] = {}

    @classmethod
    def open(cls, run: Path, resumed_from: Progress | None) -> "WandbBackend":
        """For training.

        Args:
            run: the run's directory.
            resumed_from: the progress of the checkpoint from which training goes on. Rows after it are logged again,
                with the same numbers.

        Raises:
            UserError: the library refuses.
        """
        return cls(_start(run))

    @classmethod
    def of_test(cls, run: Path, iteration: int) -> "WandbBackend":
        """For the evaluation at the end.

        Args:
            run: the run's directory.
            iteration: number of meta-iterations that are done; what comes now follows them.
        """
        return cls(_start(run), step=iteration + 1)

    @staticmethod
    def check() -> None:
        """Refuse to begin without the library, in a mode that there is not, or without an account to send to.

        Raises:
            UserError: says what to do.
        """
        if importlib.util.find_spec("wandb") is None:
            raise UserError(f"--logger wandb needs the package wandb: {how_to_install('wandb')}")
        mode = _mode()
        if mode not in MODES:
            raise UserError(f"WANDB_MODE must be one of {', '.join(MODES)}, got {mode!r}")

        import wandb  # slow to import

        if mode in ("online", "shared") and not wandb.api.api_key:
            raise UserError("--logger wandb needs an account: run 'wandb login', or set WANDB_MODE=offline")

    @staticmethod
    def where_to_watch(run: Path) -> str:
        """Where it appears, or how to send it there."""
        if _mode() == "offline":
            return f"wandb sync {shlex.quote(str(run))}/wandb/offline-run-*"
        return f"your browser, at Weights & Biases: project {_project()}, run {run.name}"

    def hyper_parameters(self, settings: Mapping[str, int | float | str | bool], results: Collection[str]) -> None:
        """See Backend.hyper_parameters; the library shows the last value of every curve by itself."""
        self._run.config.update(dict(settings), allow_val_change=True)

    def charts(self, charts: Mapping[str, str]) -> None:
        """See Backend.charts: charts are laid out in the browser there."""

    def image(self, tag: str, png: bytes, progress: Progress) -> None:
        """See Backend.image; it is sent with the row."""
        self._images[tag] = png

    def row(self, row: Mapping[str, float], progress: Progress) -> None:
        """See Backend.row."""
        import wandb
        from PIL import Image

        values: dict[str, Any] = {**row, X_AXIS: progress.env_steps}
        for tag, png in self._images.items():
            values[tag] = wandb.Image(Image.open(io.BytesIO(png)))
        self._images = {}
        self._run.log(values, step=progress.iteration if self._step is None else self._step)

    def close(self) -> None:
        """See Backend.close."""
        self._run.finish()


def _start(run: Path) -> Any:
    """The library's run, the same one for each start of a run.

    Raises:
        UserError: the library refuses.
    """
    WandbBackend.check()
    import wandb

    # What happens on the console and in the git repository is nobody's business.
    settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
    try:
        started = wandb.init(
            project=_project(),
            name=run.name,
            id=_id_of(run),
            dir=str(run),
            resume=None if _mode() == "offline" else "allow",  # offline, the same id is all that there is to it
            reinit="create_new",
            settings=settings,
        )
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise UserError(f"--logger wandb: {' '.join(str(error).split())}") from None
    started.define_metric("*", step_metric=X_AXIS)
    return started


def _id_of(run: Path) -> str:
    """The id that is kept in the run; a new one at its first start.

    Raises:
        UserError: the file is damaged.
    """
    file = run / ID_FILE
    if file.is_file():
        return str(read_json(file, Identity)["id"])
    identity = Identity(id=secrets.token_hex(4))
    write_atomically(file, json.dumps(identity).encode())
    return identity["id"]


def _mode() -> str:
    """The library's own variable; a run is sent unless it says otherwise."""
    return os.environ.get("WANDB_MODE") or "online"


def _project() -> str:
    return os.environ.get("WANDB_PROJECT") or "metarl"
