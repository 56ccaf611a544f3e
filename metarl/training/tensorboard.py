"""What a run shows in TensorBoard besides its curves: hyper-parameters, charts of all k, the test at the end."""

from collections.abc import Iterable

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from metarl.reporting.run_evaluation import RunEvaluation
from metarl.run.config import TrainConfig, flat_items

_BOOKKEEPING = {"name", "run_dir", "device", "num_threads", "compile_env", "cuda_graphs", "checkpoint_interval"}
_BOOKKEEPING |= {"eval_interval", "eval_tasks", "test_tasks"}
"""Settings that do not change what is learned."""
_CHARTS = {
    "validation return after k adaptation steps": "eval/return_k",
    "validation success rate after k adaptation steps": "eval/success_k",
    "training return after k adaptation steps": "train/return_k",
}


def write_hyper_parameters(writer: SummaryWriter, config: TrainConfig, adaptation_steps: int) -> None:
    """Hyper-parameters under the names of their flags, and the results that HPARAMS shows beside them.

    Args:
        writer: of a run that begins.
        config: the resolved configuration.
        adaptation_steps: K.
    """
    settings = {name.rpartition(".")[2]: value for name, value in flat_items(config).items()}
    shown = {
        name: str(value).lower() if isinstance(value, bool) else value  # a bool would be shown as 0.0000
        for name, value in settings.items()
        if name not in _BOOKKEEPING
    }
    results = ["eval/return_k0", f"eval/return_k{adaptation_steps}", "eval/gain", f"test/return_k{adaptation_steps}"]
    for summary in hparams(shown, dict.fromkeys(results, 0.0)):
        writer._get_file_writer().add_summary(summary)


def write_layout(writer: SummaryWriter, tags: Iterable[str]) -> None:
    """Charts for CUSTOM SCALARS with all k = 0 … K in one.

    Args:
        writer: of a run that begins.
        tags: the curves that validation has.
    """
    drawn = {
        title: ["Multiline", [f"^{prefix}\\d+$"]]
        for title, prefix in _CHARTS.items()
        if prefix.startswith("train/") or any(tag.startswith(prefix) for tag in tags)
    }
    writer.add_custom_scalars({"adaptation": drawn})


def write_evaluation(evaluated: RunEvaluation) -> None:
    """Put an evaluation beside the run's events: `<split>/return_k…`, `<split>/gain` and its figures.

    It has a file of its own, in place of the one of an earlier evaluation. The x-axis is the environment steps that the
    evaluated checkpoint was trained for.
    """
    split, evaluation = evaluated.split or "task", evaluated.evaluation
    env_steps = evaluated.checkpoint.progress.env_steps
    for earlier in evaluated.run.path.glob(f"events.out.tfevents.*.{split}"):
        earlier.unlink()
    with SummaryWriter(str(evaluated.run.path), filename_suffix=f".{split}") as writer:
        for k, value in enumerate(evaluation.return_mean):
            writer.add_scalar(f"{split}/return_k{k}", value, env_steps)
        for k, value in enumerate([] if evaluation.success_rate is None else evaluation.success_rate):
            writer.add_scalar(f"{split}/success_k{k}", value, env_steps)
        writer.add_scalar(f"{split}/gain", evaluation.gains.mean(), env_steps)
        for name, figure in evaluated.figures.items():
            writer.add_figure(f"{split}/{name.replace('-', '_')}", figure, env_steps)
