"""`metarl render`: adaptation as a video, as a picture, and as a map of the task space."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from metarl.agents.learner import Learner
from metarl.cli.flags.run_selection import TaskSelection
from metarl.console import counted, print_json, say
from metarl.envs.registry import env_label
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of, tasks_to_json
from metarl.errors import UserError, require_at_least
from metarl.evaluation.adaptation import rollout_generator
from metarl.evaluation.evaluation import summarize
from metarl.evaluation.memory import require_memory_of_evaluation
from metarl.rendering.captions import return_text, task_text
from metarl.rendering.draw import (
    Pace,
    ShownAdaptation,
    draw_episodes,
    draw_heat_map,
    draw_trajectories,
    fixed_parameters,
    has_plane,
    is_still,
)
from metarl.rendering.heat_map import HeatMap
from metarl.rendering.task_grid import task_grid
from metarl.run.build import load_learner
from metarl.run.config import TrainConfig
from metarl.run.device import resolve_device

MOST_ROWS = 8
FINEST_GRID = 200
"""Cells along each dimension."""


@dataclass(frozen=True, kw_only=True)
class Render(TaskSelection):
    """Show adaptation: the policy before and after each adaptation step side by side, as a video or a picture.

    Attributes:
        out: file to write. .mp4 or .gif: a video; .png: trajectories where the family has a plane (navigation, grids,
            driving), else pictures through an episode.
        heat_map: write a .png of the return before and after adaptation over a grid of the task space instead.
        over: heat map: the one or two task parameters to vary, needed where there are more. The others are those of
            --task, or of the family's default task.
        grid: heat map: cells along each dimension.
        num_tasks: number of tasks, shown one below the other.
        episodes: episodes per task and step; by default as many as trained with. Videos show the first of them.
        seed: seed of the rollouts; the returns are those of 'metarl evaluate' with the same seed and tasks.
        fps: frames per second; by default the family's own pace.
        every: video: environment steps from one frame to the next, at the same pace; by default 1, and more for
            episodes longer than 250 steps.
    """

    out: str
    heat_map: bool = False
    over: tuple[str, ...] = ()
    grid: int = 20
    num_tasks: int = 2
    fps: float | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        """Reject values out of range, and flags that do not go together, naming the flag."""
        super().__post_init__()
        require_at_least(self, grid=2, every=1)
        if self.num_tasks > MOST_ROWS:
            raise UserError(f"num_tasks must be at most {MOST_ROWS} in one picture, got {self.num_tasks}")
        if self.grid > FINEST_GRID:
            raise UserError(f"grid must be at most {FINEST_GRID}, got {self.grid}")
        if self.fps is not None and not 0.1 <= self.fps <= 100:
            raise UserError(f"fps must be between 0.1 and 100, got {self.fps}")

        if self.over and not self.heat_map:
            raise UserError("--over goes with --heat-map")
        if self.heat_map and not is_still(self.out):
            raise UserError(f"a heat map is a picture: --out must end in .png, got {self.out!r}")

    def execute(self, console: Console) -> int:
        """Adapt, draw and write."""
        run = self.open_run()
        distribution, learner, _ = load_learner(run, self.checkpoint, self.device)
        generator = rollout_generator(resolve_device(self.device), self.seed)

        draw = self._heat_map if self.heat_map else self._adaptation
        data, lines = draw(run.config, distribution, learner, generator)

        if self.json:
            print_json({"run": str(run.path), "file": self.out, "seed": self.seed, **data})
            return 0
        for line in lines:
            say(console, line)
        say(console, f"{data['total_env_steps']:,} environment steps; written: {self.out}")
        return 0

    def _adaptation(
        self, config: TrainConfig, distribution: TaskDistribution, learner: Learner, generator: torch.Generator
    ) -> tuple[dict[str, Any], list[str]]:
        """A video or a still; what to report of it, as data and as lines."""
        tasks = self._tasks(distribution, generator)
        steps, episodes = self._budget(config, learner)
        title = _title(config)
        require_memory_of_evaluation(distribution, num_tasks_of(tasks), episodes, steps, "--episodes or --steps")
        shown = ShownAdaptation(distribution, learner, tasks, steps, episodes)

        if is_still(self.out) and has_plane(distribution):
            batches = draw_trajectories(self.out, shown, generator)
        else:
            task_label = "the task" if self.task else f"{self.split} task"
            batches = draw_episodes(self.out, title, task_label, shown, generator, Pace(self.fps, self.every))

        evaluation = summarize(batches, pooled=learner.sampling.pooled)
        data = {"tasks": tasks_to_json(tasks), "return": evaluation.returns.T.tolist(), **evaluation.to_json()}
        which = self._which(num_tasks_of(tasks))
        curve = " → ".join(map(return_text, evaluation.return_mean))
        return data, [f"{title}, {which}, {counted(episodes, 'episode')} a step: mean return {curve}"]

    def _heat_map(
        self, config: TrainConfig, distribution: TaskDistribution, learner: Learner, generator: torch.Generator
    ) -> tuple[dict[str, Any], list[str]]:
        """A heat map; what to report of it, as data and as lines."""
        # The task parameters that the map does not vary.
        fixed = distribution.parse_task(self.task) if self.task else distribution.default_task()
        grid = task_grid(distribution, self.over, fixed, self.grid)
        steps, episodes = self._budget(config, learner)
        num_tasks = num_tasks_of(grid.tasks)
        require_memory_of_evaluation(distribution, num_tasks, episodes, steps, "--grid, --episodes or --steps")

        title = f"{_title(config)}: return over the task space, {counted(episodes, 'episode')} a step"
        shown = ShownAdaptation(distribution, learner, grid.tasks, steps, episodes)
        heat = draw_heat_map(self.out, title, shown, grid, generator)

        lines = [f"{title}, {counted(num_tasks, 'task')}"]
        if grid.fixed:
            lines.append(fixed_parameters(grid))
        lines.append(_weakest(heat, distribution))
        return heat.to_json(), lines

    def _tasks(self, distribution: TaskDistribution, generator: torch.Generator) -> Task:
        """The tasks to show, on the generator's device."""
        if not self.task:
            return distribution.sample(self.num_tasks, self.split, generator)
        return {name: value.to(generator.device) for name, value in distribution.parse_task(self.task).items()}

    def _budget(self, config: TrainConfig, learner: Learner) -> tuple[int, int]:
        """Adaptation steps, and episodes of each step."""
        steps = learner.adaptation_steps if self.steps is None else self.steps
        return steps, self.episodes or config.episodes

    def _which(self, count: int) -> str:
        """The tasks in words."""
        if self.task:
            return f"the task {self.task}"
        return counted(count, f"{self.split} task")


def _title(config: TrainConfig) -> str:
    return f"{config.agent} on {env_label(config.env)}"


def _weakest(heat: HeatMap, distribution: TaskDistribution) -> str:
    """The task with the lowest return after adaptation, in the training range where the grid has tasks of it."""
    worst = heat.weakest
    grid = heat.grid
    varied = [name for name in distribution.train if name not in grid.fixed]
    task = {name: grid.tasks[name][worst : worst + 1] for name in varied}

    where = " in the training range" if bool(grid.trained.any()) else ""
    curve = " → ".join(map(return_text, heat.returns[:, worst]))
    return f"weakest{where}: {task_text(task)}, return {curve}"
