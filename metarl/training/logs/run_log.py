"""The one owner of what is logged of a run: the names of the values, wherever they are shown, and metrics.jsonl.

What each tag means stands in metarl/training/README.md, under "What is logged".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from metarl.evaluation.evaluation import Evaluation
from metarl.run.checkpoint import Progress
from metarl.run.config import TrainConfig, flat_items
from metarl.run.run_directory import RunDirectory
from metarl.training.logs.backend import Backend
from metarl.training.logs.tensorboard import TensorBoardBackend
from metarl.training.logs.wandb import WandbBackend

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

_CHARTS = {
    "validation return after k adaptation steps": EVAL_RETURN,
    "validation success rate after k adaptation steps": EVAL_SUCCESS,
    "training return after k adaptation steps": TRAIN_RETURN,
}
"""Title → tag of the charts that hold the curves of all k."""

_BOOKKEEPING = {
    "name",
    "run_dir",
    "logger",
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

BACKENDS: dict[str, type[TensorBoardBackend] | type[WandbBackend]] = {
    "tensorboard": TensorBoardBackend,
    "wandb": WandbBackend,
}
"""--logger → where curves and figures are shown; metrics.jsonl is written besides each of them."""


@dataclass(frozen=True)
class MetaIteration:
    """What one meta-iteration did, over the tasks of all processes of the job.

    Attributes:
        env_steps: environment steps it took, adaptation included.
        returns: mean return of its tasks after k = 0 … K adaptation steps, one for each batch that was sampled.
        metrics: what the learner's update says of itself.
        curriculum: what the curriculum says of the tasks it drew.
        collect_seconds: wall-clock seconds of the rollouts.
        adapt_seconds: of the adaptation between them, the draw of the tasks included.
        update_seconds: of the meta-update.
    """

    env_steps: int
    returns: list[float]
    metrics: dict[str, float]
    curriculum: dict[str, float]
    collect_seconds: float
    adapt_seconds: float
    update_seconds: float

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the whole iteration."""
        return self.collect_seconds + self.adapt_seconds + self.update_seconds


class RunLog:
    """Writes what a run shows of its training: metrics.jsonl, TensorBoard or Weights & Biases.

    `iteration` and `validation` collect the values of one row; `write` writes the row. The x-axis of every curve is the
    number of environment steps that training has taken.

    Args:
        run: the run.
        resumed_from: the progress of the checkpoint from which training goes on; None for a run that begins.

    Raises:
        UserError: the backend cannot be had.
    """

    def __init__(self, run: RunDirectory, resumed_from: Progress | None) -> None:
        self._run = run
        self._backend: Backend = BACKENDS[run.config.logger].open(run.path, resumed_from)
        self._row: dict[str, float] = {}

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.close()

    def hyper_parameters(self, config: TrainConfig, adaptation_steps: int) -> None:
        """Write the hyper-parameters under the names of their flags, and which results belong beside them.

        Args:
            config: the resolved configuration.
            adaptation_steps: K.
        """
        settings: dict[str, int | float | str | bool] = {}
        for name, value in flat_items(config).items():
            flag = name.rpartition(".")[2]
            if flag not in _BOOKKEEPING:
                settings[flag] = value

        # Before and after adaptation is enough for a table; the curves have the steps between.
        last = adaptation_steps
        results = [f"{TEST_RETURN}{last}", f"{EVAL_RETURN}{last}", f"{EVAL_RETURN}0", EVAL_GAIN]
        self._backend.hyper_parameters(settings, results)

    def layout(self, with_success: bool) -> None:
        """Lay out the charts that show the curves of all k = 0 … K in one.

        Args:
            with_success: whether the environment tells success.
        """
        self._backend.charts(
            {title: tag for title, tag in _CHARTS.items() if with_success or tag != EVAL_SUCCESS},
        )

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
        from metarl.evaluation.plots import SCREEN_DPI, figure_bytes  # matplotlib is slow to import

        self._backend.image(tag, figure_bytes(figure, dpi=SCREEN_DPI), progress)

    def write(self, progress: Progress) -> None:
        """Write the row to the backend and to metrics.jsonl, and begin the next one."""
        self._backend.row(self._row, progress)

        counts = {
            "iteration": progress.iteration,
            "env_steps": progress.env_steps,
            "evaluation_env_steps": progress.evaluation_env_steps,
            "seconds": progress.seconds,
        }
        self._run.append_metrics(counts | self._row)
        self._row = {}

    @staticmethod
    def test(run: RunDirectory, evaluation: Evaluation, images: Mapping[str, bytes], progress: Progress) -> None:
        """Put the evaluation on the test split beside what was logged of training, in place of an earlier one.

        Args:
            run: the run.
            evaluation: what it found.
            images: its figures by name, as PNG files.
            progress: that of the evaluated checkpoint; its environment steps are the x-axis.
        """
        from metarl.evaluation.plots import for_screen  # matplotlib is slow to import

        row = {f"{TEST_RETURN}{k}": float(value) for k, value in enumerate(evaluation.return_mean)}
        if evaluation.success_rate is not None:
            row |= {f"{TEST_SUCCESS}{k}": float(value) for k, value in enumerate(evaluation.success_rate)}
        row[TEST_GAIN] = float(evaluation.gains.mean())

        backend: Backend = BACKENDS[run.config.logger].of_test(run.path, run.last_progress().iteration)
        for name, png in images.items():
            backend.image(f"{TEST_FIGURE}{name.replace('-', '_')}", for_screen(png), progress)
        backend.row(row, progress)
        backend.close()


def check_logger(logger: str) -> None:
    """Refuse a backend that cannot be had, before anything is written.

    Raises:
        UserError: says what is missing.
    """
    BACKENDS[logger].check()


def where_to_watch(run: RunDirectory) -> str:
    """What to do to see a run's curves."""
    return BACKENDS[run.config.logger].where_to_watch(run.path)
