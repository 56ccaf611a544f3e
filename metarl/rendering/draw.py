"""`metarl render`: adaptation as a film, as a picture, and as a map of the task space."""

import io
import json
import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console

from metarl.agents.learner import MetaLearner
from metarl.console import say
from metarl.envs.env_family import RenderableEnv
from metarl.envs.registry import env_label
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of, tasks_to_json
from metarl.errors import UserError, require_at_least
from metarl.evaluation import plots
from metarl.evaluation.adaptation import adapt_in, rollout_generator
from metarl.evaluation.evaluation import summarize
from metarl.rendering import heat_map
from metarl.rendering.camera import Camera
from metarl.rendering.captions import film_rows, return_text, task_text
from metarl.rendering.encode import STILL, checked_output, write_film, write_still
from metarl.rendering.task_grid import task_grid
from metarl.rendering.video import STRIP_LENGTH, Film, picture_size, strip
from metarl.run.build import load_learner
from metarl.run.checkpoint import BEST
from metarl.run.config import MAX_SEED
from metarl.run.device import resolve_device
from metarl.run.files import write_atomically
from metarl.run.run_directory import RunDirectory
from metarl.training.memory import available_bytes, episode_bytes

MOST_ROWS = 8
MOST_FRAMES = 250
"""Longer episodes are filmed every other step, every third, …, and played at their own pace."""

FINEST_GRID = 200
"""Cells along each dimension."""


@dataclass(frozen=True)
class Render:
    """Show adaptation: the policy before and after each adaptation step side by side, as a film or a picture.

    Attributes:
        run: a run's directory, or its name below run_dir.
        out: file to write. .mp4 or .gif: a film; .png: trajectories where the family has a plane (navigation, grids,
            driving), else pictures through an episode.
        heat_map: in place of that, a .png of the return before and after adaptation over a grid of the task space.
        over: heat map: the one or two task parameters to vary, where there are more; the others are those of --task, or
            of the family's default task.
        grid: heat map: cells along each dimension.
        split: which tasks: held-out 'test', 'ood' outside the training ranges, 'train' or 'validation'.
        task: this one task instead: 'goal=0.3,0.2' or a JSON object.
        num_tasks: number of tasks, one below the other.
        steps: K, adaptation steps; by default as many as trained for.
        episodes: episodes per task and step; by default as many as trained with. Films show the first of them.
        seed: seed of the rollouts; the returns are those of 'metarl evaluate' with the same seed and tasks.
        checkpoint: 'best' on the validation split, 'last', or an iteration.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        fps: frames per second; by default the family's own pace.
        every: film: environment steps from one frame to the next, played at the same pace; by default 1, and more for
            episodes longer than 250 steps.
        json: print one JSON object and nothing else.
        run_dir: where runs are looked for by name.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    out: str
    heat_map: bool = False
    over: tuple[str, ...] = ()
    grid: int = 20
    split: Literal["test", "ood", "train", "validation"] = "test"
    task: str = ""
    num_tasks: int = 2
    steps: int | None = None
    episodes: int | None = None
    seed: int = 0
    checkpoint: str = BEST
    device: str = "auto"
    fps: float | None = None
    every: int | None = None
    json: bool = False
    run_dir: str = "runs"

    def __post_init__(self) -> None:
        """Reject values out of range, and flags that do not go together, naming the flag."""
        require_at_least(self, num_tasks=1, steps=0, episodes=1, seed=0, grid=2, every=1)
        if self.seed > MAX_SEED:
            raise UserError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if self.num_tasks > MOST_ROWS:
            raise UserError(f"num_tasks must be at most {MOST_ROWS} in one picture, got {self.num_tasks}")
        if self.grid > FINEST_GRID:
            raise UserError(f"grid must be at most {FINEST_GRID}, got {self.grid}")
        if self.fps is not None and not 0.1 <= self.fps <= 100:
            raise UserError(f"fps must be between 0.1 and 100, got {self.fps}")
        if self.over and not self.heat_map:
            raise UserError("--over goes with --heat-map")
        if self.heat_map and not self.out.lower().endswith(STILL):
            raise UserError(f"a heat map is a picture: --out must end in .png, got {self.out!r}")

    def execute(self, console: Console) -> int:
        """Adapt, draw and write."""
        run = RunDirectory.open(self.run, self.run_dir)
        distribution, learner, _ = load_learner(run, self.checkpoint, self.device)
        generator = rollout_generator(resolve_device(self.device), self.seed)
        report = {"run": str(run.path), "file": self.out, "seed": self.seed}
        lines: list[str]
        if self.heat_map:
            more, lines = self._heat_map(run, distribution, learner, generator)
        else:
            more, lines = self._pictures(run, distribution, learner, generator)
        if self.json:
            print(json.dumps({**report, **more}))
            return 0
        for line in [*lines, f"{more['total_env_steps']:,} environment steps; written: {self.out}"]:
            say(console, line)
        return 0

    def _pictures(
        self, run: RunDirectory, distribution: TaskDistribution, learner: MetaLearner, generator: torch.Generator
    ) -> tuple[dict[str, Any], list[str]]:
        """A film or a still; what to report of it, as data and as lines."""
        if self.task:
            tasks = {name: value.to(generator.device) for name, value in distribution.parse_task(self.task).items()}
        else:
            tasks = distribution.sample(self.num_tasks, self.split, generator)
        still = self.out.lower().endswith(STILL)
        steps, episodes = self._amount(run, learner)
        in_plane = still and _has_plane(distribution)
        pictured = None if in_plane else _pictured(distribution, tasks, episodes)
        path = checked_output(self.out)
        title = f"{run.config.agent} on {env_label(run.config.env)}"
        if pictured is None:
            batches = adapt_in(distribution.bind(tasks, episodes), learner, steps, generator).batches
            figure = plots.trajectories(distribution, tasks, batches, num_tasks_of(tasks))
            assert figure is not None
            write_atomically(path, _png(figure))
        else:
            columns = STRIP_LENGTH if still else steps + 1
            stride = self.every or math.ceil(distribution.horizon / MOST_FRAMES)
            camera = Camera(pictured, picture_size(columns), stride)
            try:
                batches = adapt_in(camera, learner, steps, generator).batches
            finally:
                pictured.close_renderers()
            rows = film_rows(tasks, batches, camera, "the task" if self.task else f"{self.split} task")
            if still:
                write_still(path, strip(f"{title}: before and after each adaptation step", rows, stride))
            else:
                fps = self.fps or distribution.env.render_fps / stride
                write_film(path, Film(title, rows, distribution.horizon, stride), fps)
        evaluation = summarize(batches)
        more = {"tasks": tasks_to_json(tasks), "return": evaluation.returns.T.tolist(), **evaluation.to_json()}
        curve = " → ".join(return_text(value) for value in evaluation.return_mean)
        count = num_tasks_of(tasks)
        which = f"the task {self.task}" if self.task else f"{count} {self.split} task{'s' * (count > 1)}"
        return more, [f"{title}, {which}, {episodes} episodes a step: mean return {curve}"]

    def _heat_map(
        self, run: RunDirectory, distribution: TaskDistribution, learner: MetaLearner, generator: torch.Generator
    ) -> tuple[dict[str, Any], list[str]]:
        """A heat map; what to report of it, as data and as lines."""
        fixed = distribution.parse_task(self.task) if self.task else distribution.default_task()
        grid = task_grid(distribution, self.over, fixed, self.grid)
        steps, episodes = self._amount(run, learner)
        size = replace(run.config, num_tasks=num_tasks_of(grid.tasks), episodes=episodes)
        needed, available = (
            (steps + 1) * episode_bytes(size, distribution, learner),
            available_bytes(generator.device),
        )
        if available is not None and needed > available:
            raise UserError(
                f"{size.num_tasks} tasks × {episodes} episodes need about {needed / 1e9:,.1f} GB, and "
                f"{available / 1e9:,.1f} GB are free; lower --grid or --episodes"
            )
        path = checked_output(self.out)
        heat = heat_map.heat_map(learner, distribution, grid, steps, episodes, generator)
        title = (
            f"{run.config.agent} on {env_label(run.config.env)}: return over the task space, {episodes} episodes a step"
        )
        held = f"the others at {task_text(grid.fixed)}" if grid.fixed else ""
        write_atomically(path, _png(heat_map.draw(heat, title, held)))
        worst = heat.weakest
        at = {name: grid.tasks[name][worst : worst + 1] for name in distribution.train if name not in grid.fixed}
        curve = " → ".join(return_text(value) for value in heat.returns[:, worst])
        lines = [
            f"{title}, {num_tasks_of(grid.tasks)} tasks",
            *([held] if held else []),
            f"weakest{' in the training range' * bool(grid.trained.any())}: {task_text(at)}, return {curve}",
        ]
        return heat.to_json(), lines

    def _amount(self, run: RunDirectory, learner: MetaLearner) -> tuple[int, int]:
        """Adaptation steps and episodes a step."""
        return learner.adaptation_steps if self.steps is None else self.steps, self.episodes or run.config.episodes


def _has_plane(distribution: TaskDistribution) -> bool:
    return distribution.env.plane_path(torch.zeros(1, *distribution.observation_space.shape)) is not None


def _pictured(distribution: TaskDistribution, tasks: Task, episodes: int) -> RenderableEnv:
    """Environments that can be looked at.

    Raises:
        UserError: the family draws no pictures.
    """
    try:
        return distribution.env.bind_for_rendering(tasks, episodes)
    except ValueError as error:
        raise UserError(
            f"{distribution.name} cannot be filmed: {error}; 'metarl render --heat-map' needs no pictures"
        ) from None


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
