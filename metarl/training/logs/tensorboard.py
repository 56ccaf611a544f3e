"""TensorBoard as the place where a run's curves and figures are shown."""

import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from metarl.console import shell_command
from metarl.run.checkpoint import Progress

_RGBA = 4
"""TensorBoard's number for images with four channels, as matplotlib writes them."""

_FIRST_SETTINGS = ("agent", "env", "preset", "seed")
"""Settings that HPARAMS shows first: what tells runs apart; the others follow by their names."""

_TEST_SUFFIX = ".test"
"""How the file of events of the evaluation at the end differs from those of training."""


class TensorBoardBackend:
    """Writes files of events into the run.

    Args:
        writer: writes them.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    @classmethod
    def open(cls, run: Path, resumed_from: Progress | None) -> "TensorBoardBackend":
        """For training.

        Args:
            run: the run's directory.
            resumed_from: the progress of the checkpoint from which training goes on; events after it are purged. None
                for a run that begins: events of one that was killed before its first checkpoint are removed.
        """
        # Removed and not purged: of the layout and the hyper-parameters, which have no step, both copies would stay.
        if resumed_from is None:
            for left in run.glob("events.out.tfevents.*"):
                left.unlink()

        purge_step = None if resumed_from is None else resumed_from.env_steps + 1
        return cls(SummaryWriter(str(run), purge_step=purge_step))

    @classmethod
    def of_test(cls, run: Path, iteration: int) -> "TensorBoardBackend":
        """For the evaluation at the end: a file of its own, in place of the one of an earlier evaluation."""
        # TensorBoard would join both evaluations into one curve.
        for earlier in run.glob(f"events.out.tfevents.*{_TEST_SUFFIX}"):
            earlier.unlink()
        return cls(SummaryWriter(str(run), filename_suffix=_TEST_SUFFIX))

    @staticmethod
    def check() -> None:
        """It is always there."""

    @staticmethod
    def where_to_watch(run: Path) -> str:
        """The command that shows it."""
        return shell_command("metarl", "tensorboard", run)

    def hyper_parameters(self, settings: Mapping[str, int | float | str | bool], results: Collection[str]) -> None:
        """See Backend.hyper_parameters."""
        # TensorBoard would show a bool as 0.0000.
        shown = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
        experiment, start, end = hparams(shown, dict.fromkeys(results, 0.0))
        _show_first(experiment, _FIRST_SETTINGS)
        for summary in (experiment, start, end):
            self._writer._get_file_writer().add_summary(summary)

    def charts(self, charts: Mapping[str, str]) -> None:
        """See Backend.charts: those of CUSTOM SCALARS."""
        layout = {title: ["Multiline", [f"^{tag}\\d+$"]] for title, tag in charts.items()}
        self._writer.add_custom_scalars({"adaptation": layout})

    def image(self, tag: str, png: bytes, progress: Progress) -> None:
        """See Backend.image."""
        add_image(self._writer, tag, png, progress.env_steps)

    def row(self, row: Mapping[str, float], progress: Progress) -> None:
        """See Backend.row."""
        for tag, value in row.items():
            self._writer.add_scalar(tag, value, progress.env_steps)
        self._writer.flush()

    def close(self) -> None:
        """See Backend.close."""
        self._writer.close()


def _show_first(experiment: Summary, settings: Collection[str]) -> None:
    """Let HPARAMS show some settings before all others.

    TensorBoard sorts by name, but first those that are marked as different between runs.

    Args:
        experiment: what torch writes of all settings; changed in place.
        settings: names of those to mark.
    """
    plugin = experiment.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name in settings
    plugin.content = data.SerializeToString()


def add_image(writer: SummaryWriter, tag: str, png: bytes, step: int | None = None) -> None:
    """Write a PNG file as it is; torch's `add_figure` would draw the figure, decode and encode it once more.

    Args:
        writer: where to.
        tag: its name.
        png: the file's content; width and height stand at its beginning.
        step: the x-axis.
    """
    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(width=width, height=height, colorspace=_RGBA, encoded_image_string=png)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
