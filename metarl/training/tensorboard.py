"""The one owner of what TensorBoard shows of a run, and of the names of the values in metrics.jsonl.

What each tag means stands in README.md beside this file, under "What is logged".
"""

import struct
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from metarl.evaluation.evaluation import Evaluation
from metarl.run.checkpoint import Progress
from metarl.run.config import TrainConfig, flat_items
from metarl.run.run_directory import RunDirectory
from metarl.training.meta_iteration import MetaIteration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Tags that end in _k are followed by the number k of adaptation steps: "eval/return_k0", "eval/return_k1", ….
TRAIN_RETURN = "train/return_k"
TRAIN_METRIC = "train/"
"""Followed by the name that the learner gives to a metric."""

EVAL_RETURN = "eval/return_k"
EVAL_SUCCESS = "eval/success_k"
EVAL_GAIN = "eval/gain"
EVAL_ADAPTATION = "eval/adaptation"
EVAL_TRAJECTORIES = "eval/trajectories"

TEST_RETURN = "test/return_k"
TEST_SUCCESS = "test/success_k"
TEST_GAIN = "test/gain"
TEST_FIGURE = "test/"
"""Followed by the name of a figure of the evaluation."""

CURRICULUM_METRIC = "curriculum/"
"""Followed by the name that the curriculum gives to a metric."""
CURRICULUM_TASKS = "curriculum/tasks"

TIME_COLLECT = "time/collect"
TIME_ADAPT = "time/adapt"
TIME_META_UPDATE = "time/meta_update"
TIME_EVALUATE = "time/evaluate"
TIME_ENV_STEPS_PER_SECOND = "time/env_steps_per_second"

_RGBA = 4
"""TensorBoard's number for images with four channels, as matplotlib writes them."""

_CHARTS = {
    "validation return after k adaptation steps": EVAL_RETURN,
    "validation success rate after k adaptation steps": EVAL_SUCCESS,
    "training return after k adaptation steps": TRAIN_RETURN,
}
"""Title → tag of the charts that hold the curves of all k."""

_BOOKKEEPING = {
    "name",
    "run_dir",
    "device",
    "num_threads",
    "compile_env",
    "cuda_graphs",
    "physics_determinism",
    "checkpoint_interval",
    "eval_interval",
    "eval_tasks",
    "test_tasks",
}
"""Settings that do not change what is learned; HPARAMS leaves them out."""

_FIRST_SETTINGS = ("agent", "env", "preset", "seed")
"""Settings that HPARAMS shows first: what tells runs apart; the others follow by their names."""

_TEST_SUFFIX = ".test"
"""How the file of events of the evaluation at the end differs from those of training."""


class RunLog:
    """Writes what a run shows of its training: TensorBoard's events and metrics.jsonl.

    `iteration` and `validation` collect the values of one row; `write` writes the row. The x-axis of every curve is the
    number of environment steps that training has taken.

    Args:
        run: the run.
        resumed_from: the progress of the checkpoint from which training goes on; None for a run that begins. Events
            after it are purged, and those of a run that was killed before its first checkpoint are removed.
    """

    def __init__(self, run: RunDirectory, resumed_from: Progress | None) -> None:
        # Removed and not purged: of the layout and the hyper-parameters, which have no step, both copies would stay.
        if resumed_from is None:
            for left in run.path.glob("events.out.tfevents.*"):
                left.unlink()

        purge_step = None if resumed_from is None else resumed_from.env_steps + 1
        self._run = run
        self._writer = SummaryWriter(str(run.path), purge_step=purge_step)
        self._row: dict[str, float] = {}

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def hyper_parameters(self, config: TrainConfig, adaptation_steps: int) -> None:
        """Write the hyper-parameters under the names of their flags, and the results that HPARAMS shows beside them.

        Args:
            config: the resolved configuration.
            adaptation_steps: K.
        """
        settings: dict[str, int | float | str] = {}
        for name, value in flat_items(config).items():
            flag = name.rpartition(".")[2]
            if flag not in _BOOKKEEPING:
                # TensorBoard would show a bool as 0.0000.
                settings[flag] = str(value).lower() if isinstance(value, bool) else value

        # Before and after adaptation is enough for a table; the curves have the steps between.
        last = adaptation_steps
        results = [f"{TEST_RETURN}{last}", f"{EVAL_RETURN}{last}", f"{EVAL_RETURN}0", EVAL_GAIN]
        experiment, start, end = hparams(settings, dict.fromkeys(results, 0.0))
        _show_first(experiment, _FIRST_SETTINGS)
        for summary in (experiment, start, end):
            self._writer._get_file_writer().add_summary(summary)

    def layout(self, with_success: bool) -> None:
        """Write the charts of CUSTOM SCALARS, which show the curves of all k = 0 … K in one.

        Args:
            with_success: whether the environment tells success.
        """
        charts = {
            title: ["Multiline", [f"^{tag}\\d+$"]]
            for title, tag in _CHARTS.items()
            if with_success or tag != EVAL_SUCCESS
        }
        self._writer.add_custom_scalars({"adaptation": charts})

    def iteration(self, done: MetaIteration) -> None:
        """Add a meta-iteration to the row."""
        # A learner that collects no episodes, as a student of its teachers' episodes, has no rate.
        rate = done.env_steps / done.collect_seconds if done.collect_seconds > 0 else 0.0

        self._row |= {f"{TRAIN_RETURN}{k}": value for k, value in enumerate(done.returns)}
        self._row |= {f"{TRAIN_METRIC}{name}": value for name, value in done.metrics.items()}
        self._row |= {f"{CURRICULUM_METRIC}{name}": value for name, value in done.curriculum.items()}
        self._row |= {
            TIME_COLLECT: done.collect_seconds,
            TIME_ADAPT: done.adapt_seconds,
            TIME_META_UPDATE: done.update_seconds,
            TIME_ENV_STEPS_PER_SECOND: rate,
        }

    def validation(self, evaluation: Evaluation, seconds: float) -> None:
        """Add an evaluation on the validation split to the row.

        Args:
            evaluation: what it found.
            seconds: wall-clock seconds that it took, with its figures.
        """
        self._row |= {f"{EVAL_RETURN}{k}": float(value) for k, value in enumerate(evaluation.return_mean)}
        if evaluation.success_rate is not None:
            self._row |= {f"{EVAL_SUCCESS}{k}": float(value) for k, value in enumerate(evaluation.success_rate)}
        self._row |= {EVAL_GAIN: float(evaluation.gains.mean()), TIME_EVALUATE: seconds}

    def figure(self, tag: str, figure: "Figure", progress: Progress) -> None:
        """Write a figure."""
        from metarl.evaluation.plots import figure_bytes  # matplotlib is slow to import

        add_picture(self._writer, tag, figure_bytes(figure), progress.env_steps)

    def write(self, progress: Progress) -> None:
        """Write the row to TensorBoard and to metrics.jsonl, and begin the next one."""
        for tag, value in self._row.items():
            self._writer.add_scalar(tag, value, progress.env_steps)
        self._writer.flush()  # so that a kill loses nothing of what the next checkpoint holds

        counts = {
            "iteration": progress.iteration,
            "env_steps": progress.env_steps,
            "evaluation_env_steps": progress.evaluation_env_steps,
            "seconds": progress.seconds,
        }
        self._run.append_metrics(counts | self._row)
        self._row = {}

    @staticmethod
    def test(run: RunDirectory, evaluation: Evaluation, pictures: Mapping[str, bytes], env_steps: int) -> None:
        """Put the evaluation on the test split beside the events of training.

        It has a file of its own, in place of the one of an earlier evaluation.

        Args:
            run: the run.
            evaluation: what it found.
            pictures: its figures by name, as PNG files.
            env_steps: environment steps that the evaluated checkpoint was trained for, the x-axis.
        """
        # TensorBoard would join both evaluations into one curve.
        for earlier in run.path.glob(f"events.out.tfevents.*{_TEST_SUFFIX}"):
            earlier.unlink()

        with SummaryWriter(str(run.path), filename_suffix=_TEST_SUFFIX) as writer:
            for k, value in enumerate(evaluation.return_mean):
                writer.add_scalar(f"{TEST_RETURN}{k}", value, env_steps)
            if evaluation.success_rate is not None:
                for k, value in enumerate(evaluation.success_rate):
                    writer.add_scalar(f"{TEST_SUCCESS}{k}", value, env_steps)
            writer.add_scalar(TEST_GAIN, evaluation.gains.mean(), env_steps)

            for name, picture in pictures.items():
                add_picture(writer, f"{TEST_FIGURE}{name.replace('-', '_')}", picture, env_steps)


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


def add_picture(writer: SummaryWriter, tag: str, picture: bytes, step: int | None = None) -> None:
    """Write a PNG file as it is; torch's `add_figure` would draw the figure, decode and encode it once more.

    Args:
        writer: where to.
        tag: its name.
        picture: the file's content; width and height stand at its beginning.
        step: the x-axis.
    """
    width, height = struct.unpack(">II", picture[16:24])
    image = Summary.Image(width=width, height=height, colorspace=_RGBA, encoded_image_string=picture)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
