"""Evaluate a run's policy on one split or task, with the report and the figures that people see of it."""

import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.agents.learner import Learner, Section
from metarl.agents.policies.parameters import Parameters
from metarl.baselines.distillation_report import DistillationReport, distillation_report
from metarl.baselines.references import reference_episodes
from metarl.console import counted, format_number
from metarl.envs.registry import env_label
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of, select_tasks, task_text, tasks_to_json
from metarl.errors import UserError
from metarl.evaluation.adaptation import adaptation_loop, noting_path, rollout_generator, rollouts_in
from metarl.evaluation.evaluation import NOT_HELD_OUT, TASKS_LISTED, Evaluation, cautions, describe_tasks, summarize
from metarl.evaluation.interpretation import Interpretation, interpret
from metarl.evaluation.memory import parameter_bytes, require_memory_of_evaluation
from metarl.run.build import load_learner
from metarl.run.checkpoint import BEST, Checkpoint
from metarl.run.device import resolve_device
from metarl.run.files import write_atomically
from metarl.run.run_directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {
    "adaptation": "return against episodes of experience on the new task",
    "trajectories": "paths before and after each adaptation step",
    "parameter-change": "which parameters move in adaptation",
    "direction-similarity": "whether similar tasks move the policy alike",
}
"""What each figure of an evaluation shows; its file is <figure>-<split>.png."""


@dataclass(frozen=True)
class RunEvaluation:
    """A run's policy adapted to M tasks.

    Attributes:
        run: the run.
        checkpoint: whose parameters were adapted.
        distribution: what the tasks come from.
        tasks: M tasks.
        split: where they come from; None for M copies of one task.
        task: that task as it was written, None for a split.
        seed: of the rollouts.
        batches: episodes after k = 0 … K adaptation steps.
        interpretation: how the parameters moved; None without adaptation.
        pooled: whether the episodes of a step inform one policy, or are separate trials (`Sampling.pooled`).
        section: what the learner says of itself besides; None where that is nothing.
        references: "random", and "oracle", the policy that knows the task → return on each task, (M,); empty where the
            family has no oracle.
        num_asked: tasks that were asked for; a frozen list may hold fewer.
    """

    run: RunDirectory
    checkpoint: Checkpoint
    distribution: TaskDistribution
    tasks: Task
    split: str | None
    task: str | None
    seed: int
    batches: list[Episodes]
    interpretation: Interpretation | None
    section: Section | None
    pooled: bool = True
    references: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    num_asked: int = 0

    @cached_property
    def evaluation(self) -> Evaluation:
        """The adaptation curves that the episodes show."""
        # The optimum of a trial is a mean over all tasks that there are.
        known = self._exhaustive and not self.pooled
        optimum = self.distribution.env.optimum(len(self.batches)) if known else ()
        return summarize(self.batches, self._exhaustive, self.pooled, self.references, optimum)

    @property
    def _exhaustive(self) -> bool:
        return self.split is not None and self.distribution.exhausts(self.split, num_tasks_of(self.tasks))

    @property
    def _intervals_over(self) -> str:
        """What the intervals speak of; one episode of each task says nothing of others."""
        return "episodes" if self._exhaustive and self.evaluation.episodes_per_step > 1 else "tasks"

    @property
    def which_tasks(self) -> str:
        """What the tasks are: "100 test tasks", or how few there are and that training has met them."""
        count = num_tasks_of(self.tasks)
        if not self.split:
            return f"the task {self.task}, {counted(count, 'time')}"
        met = self.split != "train" and self.distribution.shares_tasks(self.split)
        return describe_tasks(count, self.split, not met, self.num_asked)

    def lines(self) -> list[str]:
        """What belongs below the table: what the intervals speak of, score, what adapting costs."""
        lines = []
        if self._exhaustive:
            over = f"intervals are over {self._intervals_over}"
            over += " on these tasks" if self._intervals_over == "episodes" else ", which is too wide: see --episodes"
            lines.append(f"{self.which_tasks}: each is evaluated once; {over}")
            lines += _by_task(self.tasks, self.evaluation)
        elif self.split:
            lines.append("intervals are over tasks: of other seeds of the training they say nothing")
            lines += cautions(num_tasks_of(self.tasks), [1], exhaustive=False)
        return [*lines, *self.caveats(), *self.evaluation.lines()]

    def caveats(self) -> list[str]:
        """What the choice of the tasks takes from the returns; of several seeds as of one."""
        chosen_on = self.split not in (None, "train") and not self.held_out
        return [NOT_HELD_OUT] if chosen_on else []

    @property
    def title(self) -> str:
        """Agent, environment and what was evaluated."""
        config = self.run.config
        count = self.evaluation.episodes_per_step
        episodes = f"{counted(count, 'episode')} a step" if self.pooled else f"{counted(count, 'trial')} each"
        return f"{config.agent} on {env_label(config.env)}: {self.which_tasks}, {episodes}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        config = self.run.config
        progress = self.checkpoint.progress
        data = {
            "agent": config.agent,
            "env": env_label(config.env),
            "run": str(self.run.path),
            "checkpoint_iteration": progress.iteration,
            "training_env_steps": progress.env_steps,
            "split": self.split,
            "task": self.task,
            "seed": self.seed,
            **self.evaluation.to_json(),
            "held_out": self.held_out,
            "intervals_over": self._intervals_over,
            "tasks": tasks_to_json(self.tasks),
            "returns": self.evaluation.returns.tolist(),
        }

        if self.interpretation:
            data["interpretation"] = self.interpretation.to_json()
        if self.section:
            data[self.section.name] = self.section.to_json()
        return data

    @property
    def held_out(self) -> bool:
        """Whether training never draws these tasks."""
        return self.split not in (None, "train") and not self.distribution.shares_tasks(self.split or "")

    @cached_property
    def figures(self) -> "dict[str, Figure]":
        """The figures that there are, by name; see FIGURES."""
        from metarl.evaluation import interpretation_plots, plots  # matplotlib is slow to import

        figures = {"adaptation": plots.adaptation_curve(self.evaluation, self.title)}

        paths = plots.trajectories(self.distribution, self.tasks, self.batches)
        if paths is not None:
            figures["trajectories"] = paths

        if self.interpretation:
            figures["parameter-change"] = interpretation_plots.parameter_change(self.interpretation, self.title)

            # Copies of one task, or a single one, have no pairs of tasks that differ.
            if self.split and num_tasks_of(self.tasks) > 1:
                similarity = interpretation_plots.direction_similarity(self.interpretation, self.title)
                figures["direction-similarity"] = similarity

        return figures

    @cached_property
    def images(self) -> dict[str, bytes]:
        """The figures as PNG files; each is drawn once."""
        from metarl.evaluation.plots import figure_bytes  # matplotlib is slow to import

        return {name: figure_bytes(figure) for name, figure in self.figures.items()}

    def write(self, directory: Path) -> None:
        """Write evaluation-<split>.json and the figures beside it, in place of those of an earlier evaluation."""
        label = self.split or "task"

        # An earlier evaluation may have had figures that this one has not.
        for name in FIGURES.keys() - self.images.keys():
            (directory / figure_file(name, label)).unlink(missing_ok=True)

        for name, png in self.images.items():
            write_atomically(directory / figure_file(name, label), png)
        write_atomically(directory / evaluation_file(label), json.dumps(self.to_json(), indent=1).encode())


def evaluation_file(label: str) -> str:
    """File of the evaluation of a split, or of a "task"."""
    return f"evaluation-{label}.json"


def figure_file(name: str, label: str) -> str:
    """File of one of its figures."""
    return f"{name}-{label}.png"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What a run's policy is evaluated on, and how.

    Attributes:
        split: where the tasks come from.
        task: adapt to this one task instead, num_tasks times over.
        num_tasks: M.
        steps: K; None: as many as it was trained for.
        episodes: E per task and step; None: as many as it was trained with.
        seed: of the rollouts.
        checkpoint: "best", "last" or an iteration.
        device: as in `resolve_device`.
    """

    split: str = "test"
    task: str = ""
    num_tasks: int = 100
    steps: int | None = None
    episodes: int | None = None
    seed: int = 0
    checkpoint: str = BEST
    device: str = "auto"


def evaluate_run(run: RunDirectory, settings: EvaluationSettings) -> RunEvaluation:
    """Adapt a run's policy to tasks; the run is only read.

    Raises:
        CheckpointError, UserError, ValueError: no such checkpoint, split, task or device.
    """
    distribution, learner, loaded = load_learner(run, settings.checkpoint, settings.device)
    device = resolve_device(settings.device)
    generator = rollout_generator(device, settings.seed)
    steps = learner.adaptation_steps if settings.steps is None else settings.steps
    episodes = settings.episodes or run.config.episodes
    num_tasks = settings.num_tasks

    # Kept beside the episodes are the policies that the interpretation compares.
    policies = parameter_bytes(getattr(learner.policy, "num_parameters", 0), (steps + 1) * num_tasks)
    lower = "--num-tasks, --episodes or --steps"
    require_memory_of_evaluation(distribution, num_tasks, episodes, steps, lower, generator.device, besides=policies)

    tasks = _tasks(distribution, settings, generator)
    path: list[Parameters] = []
    sample = noting_path(rollouts_in(distribution.bind(tasks, episodes), learner, generator), path)
    batches = adaptation_loop(learner, num_tasks_of(tasks), steps, sample, generator=generator).batches
    return RunEvaluation(
        run=run,
        checkpoint=loaded,
        distribution=distribution,
        tasks=tasks,
        split=None if settings.task else settings.split,
        task=settings.task or None,
        seed=settings.seed,
        batches=batches,
        interpretation=interpret(learner, distribution, tasks, settings.split, batches, path) if steps else None,
        pooled=learner.sampling.pooled,
        # Last, so that the evaluation's random numbers do not depend on the comparison's.
        section=learner.summary(_Evaluated(run, distribution, tasks, batches, generator)),
        references=_references(distribution, tasks, episodes, device, settings.seed),
        num_asked=num_tasks,
    )


def _references(
    distribution: TaskDistribution, tasks: Task, episodes: int, device: torch.device, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Returns of the random policy and the oracle on each task, with random numbers of their own; {} without oracle."""
    if not distribution.env.has_oracle:
        return {}

    found = reference_episodes(distribution, tasks, episodes, rollout_generator(device, seed))
    return {name: batch.returns.double().mean(dim=1).cpu().numpy() for name, batch in found.items()}


def _by_task(tasks: Task, evaluation: Evaluation) -> list[str]:
    """A line for each of a few tasks: its return before and after adaptation."""
    if num_tasks_of(tasks) > TASKS_LISTED:
        return []

    lines = []
    for row in range(num_tasks_of(tasks)):
        before, after = (format_number(evaluation.returns[k][row], ".2f") for k in (0, -1))
        lines.append(f"  {task_text(select_tasks(tasks, row))}: {before} → {after}")
    return lines


def _tasks(distribution: TaskDistribution, settings: EvaluationSettings, generator: torch.Generator) -> Task:
    """Tasks of the split, or as many copies of the one task, on the generator's device."""
    count = settings.num_tasks
    if not settings.task:
        return distribution.sample(count, settings.split, generator)

    parsed = distribution.parse_task(settings.task)
    return {name: value.expand(count, *value.shape[1:]).to(generator.device) for name, value in parsed.items()}


@dataclass(frozen=True)
class _Evaluated:
    """What a learner may ask of an evaluation (`metarl.agents.learner.Evaluated`)."""

    run: RunDirectory
    distribution: TaskDistribution
    tasks: Task
    batches: list[Episodes]
    generator: torch.Generator

    def comparison_with_teachers(self, student: Learner) -> DistillationReport | None:
        """What a student keeps of its teachers; None where the teacher is gone."""
        try:
            return distillation_report(self.run, student, self.distribution, self.tasks, self.batches, self.generator)
        except UserError as error:
            print(f"metarl: no comparison with the teacher: {error}", file=sys.stderr)
            return None
