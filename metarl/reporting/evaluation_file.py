"""What evaluation-<split>.json holds: its form, checked where the file is read."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from metarl.baselines.distillation_report import DistillationReport
from metarl.errors import UserError
from metarl.run.schema import SchemaError, parse, read_json

Interval = tuple[float, float]


class InterpretationForm(TypedDict):
    """What `Interpretation.to_json` gives of P parameters after each of K steps."""

    parameters: list[str]
    relative_change_mean: list[list[float | None]]
    relative_change_std: list[list[float | None]]
    share_mean: list[float | None]
    similarity_distance_rank_correlation: float | None


class EstimateForm(TypedDict):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


class EvaluationForm(TypedDict):
    """What `metarl evaluate --json` prints; the lists hold K + 1 values."""

    checkpoint_iteration: int
    training_env_steps: int
    task: str | None
    seed: int
    num_tasks: int
    episodes_per_step: int
    adaptation_steps: int
    episodes: list[int]
    env_steps: list[float]
    return_mean: list[float]
    return_ci95: list[Interval]
    gain_mean: float
    gain_ci95: Interval
    total_env_steps: int
    success_rate: NotRequired[list[float]]
    success_ci95: NotRequired[list[Interval]]
    trial_return_mean: NotRequired[float]
    trial_return_ci95: NotRequired[Interval]
    optimum: NotRequired[list[float]]
    score: NotRequired[EstimateForm]
    return_lost: NotRequired[EstimateForm]
    held_out: NotRequired[bool]
    intervals_over: NotRequired[str]
    interpretation: NotRequired[InterpretationForm]
    distillation: NotRequired[dict[str, Any]]


_CURVES = ("episodes", "env_steps", "return_mean", "return_ci95", "success_rate", "success_ci95", "optimum")


def read_evaluation(path: Path) -> dict[str, Any]:
    """The evaluation in a file.

    Raises:
        UserError: it is not one; names the file and the field.
    """
    data: dict[str, Any] = read_json(path, EvaluationForm)
    try:
        _require_lengths(data)
        if DistillationReport.name in data:
            kept = data[DistillationReport.name]
            known = {name: kept[name] for name in DistillationReport.__dataclass_fields__ if name in kept}
            parse(known, DistillationReport, DistillationReport.name)
    except SchemaError as error:
        raise UserError(f"{path}: {error}") from None
    return data


def _require_lengths(data: dict[str, Any]) -> None:
    """Refuse curves that are not of K + 1 points, and an interpretation that is not of P parameters.

    Raises:
        SchemaError: names the field.
    """
    for name in ("num_tasks", "episodes_per_step"):
        if data[name] < 1:
            raise SchemaError(name, f"must be at least 1, got {data[name]}")

    points = data["adaptation_steps"] + 1
    lists = {name: data[name] for name in _CURVES if name in data}
    if ("success_rate" in lists) != ("success_ci95" in lists):
        raise SchemaError("success_rate", "needs success_ci95, and the other way round")
    for name, values in lists.items():
        _require_length(name, values, points)

    found = data.get("interpretation")
    if found is None:
        return
    parameters = len(found["parameters"])
    _require_length("interpretation.share_mean", found["share_mean"], parameters)
    for name in ("relative_change_mean", "relative_change_std"):
        _require_length(f"interpretation.{name}", found[name], points - 1)
        for number, row in enumerate(found[name]):
            _require_length(f"interpretation.{name}[{number}]", row, parameters)
            if [value is None for value in row] != [value is None for value in found["relative_change_mean"][number]]:
                raise SchemaError(f"interpretation.{name}[{number}]", "has no value where the mean has one")


def _require_length(field: str, values: list[Any], length: int) -> None:
    if len(values) != length:
        raise SchemaError(field, f"must hold {length} values, got {len(values)}")
