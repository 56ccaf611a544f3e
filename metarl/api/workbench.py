"""The workbench from Python: what the commands do, as functions that give objects instead of tables.

import metarl

run = metarl.train("maml", "cart-pole/mirrored", seed=1, iterations=30)
run.metrics().plot("env_steps", "eval/return_k1")
run.evaluate(split="ood").evaluation.return_mean
policy = run.adapt({"gravity": 9.0})
run.report()
run.render("video.gif")
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from metarl.cli.render import Render
from metarl.cli.train import Train
from metarl.comparison import report as comparison_report
from metarl.comparison.comparer import Comparer
from metarl.comparison.comparison import Comparison
from metarl.comparison.config import CompareConfig
from metarl.deployment.meta_policy import load
from metarl.deployment.policy import SpecialisedPolicy
from metarl.envs.external.live_env import LiveGymEnv
from metarl.envs.registry import with_options
from metarl.envs.spaces.precision import own_torch_settings
from metarl.errors import interruptible, unknown
from metarl.reporting.behaviour import behaviour_of
from metarl.reporting.html import REPORT_FILE, check_page, recorded_labels, section_of, write_page
from metarl.reporting.run_evaluation import EvaluationSettings, RunEvaluation, evaluate_run
from metarl.run.checkpoint import BEST
from metarl.run.config import DEFAULT_AGENT, DEFAULT_ENV, TrainConfig, with_settings
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory
from metarl.training.machine.memory import keep_freed_memory

if TYPE_CHECKING:
    import pandas


class Run:
    """A trained run on disk.

    Args:
        run: its directory, its name below run_dir, or the name of a reference run.
        run_dir: where runs are looked for by name.

    Raises:
        UserError: there is no such run.
    """

    def __init__(self, run: str | Path, run_dir: str = "runs") -> None:
        self._directory = RunDirectory.open(str(run), run_dir)

    def __repr__(self) -> str:
        """How a notebook shows it."""
        config = self.config
        return f"Run({str(self.path)!r}: {config.agent} on {config.env}, seed {config.seed})"

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._directory.path

    @property
    def config(self) -> TrainConfig:
        """Its resolved configuration."""
        return self._directory.config

    def metrics(self) -> "pandas.DataFrame":
        """What was logged: a row for each meta-iteration, a column for each metric, NaN where it was not measured.

        What the columns mean: `metarl metrics`.
        """
        import pandas  # slow to import

        return pandas.DataFrame(self._directory.read_metrics())

    def evaluate(
        self,
        split: str = "test",
        *,
        task: str = "",
        num_tasks: int = 100,
        steps: int | None = None,
        episodes: int | None = None,
        seed: int = 0,
        checkpoint: str = BEST,
        device: str = "auto",
    ) -> RunEvaluation:
        """Adapt to tasks that it never saw, as `metarl evaluate` does.

        Args:
            split: "test", "ood" outside the training ranges, "train" or "validation".
            task: this one task instead, 'goal=0.3,0.2' or a JSON object.
            num_tasks: M.
            steps: K, adaptation steps; None: as many as trained for.
            episodes: E, per task and step; None: as many as trained with.
            seed: of the rollouts.
            checkpoint: "best", "last", or an iteration.
            device: "auto", "cpu", "cuda" or "cuda:N".

        Returns:
            `.evaluation.return_mean` (K + 1,) and `.return_ci95`, `.figures`, `.to_json()`.

        Raises:
            UserError, ValueError: a value that is not allowed; the message says what is.
        """
        with _settings_of_commands():
            settings = EvaluationSettings(
                split=split,
                task=task,
                num_tasks=num_tasks,
                steps=steps,
                episodes=episodes,
                seed=seed,
                checkpoint=checkpoint,
                device=device,
            )
            return evaluate_run(self._directory, settings)

    def adapt(
        self, to: str | Mapping[str, Any] | LiveGymEnv, *, checkpoint: str = BEST, **how: Any
    ) -> SpecialisedPolicy:
        """A policy for one task.

        Args:
            to: a task of the family, as 'goal=0.3,0.2' or a mapping; or a live Gymnasium environment or robot.
            checkpoint: "best", "last", or an iteration.
            how: further arguments of `MetaPolicy.adapt_to`, or of `MetaPolicy.adapt` for a live environment: episodes,
                steps, seed, keep, ….

        Raises:
            UserError, ValueError: no such task or checkpoint, or arguments that are not allowed.
        """
        policy = load(self.path, checkpoint)
        if isinstance(to, str | Mapping):
            return policy.adapt_to(to, **how)
        return policy.adapt(to, **how)

    def report(self, out: str | Path = "", split: Sequence[str] = ()) -> Path:
        """Write its page, as `metarl report` does.

        Args:
            out: the file; by default report.html in the run.
            split: which evaluations; by default those that are in the run, or else "test".

        Returns:
            the file.

        Raises:
            UserError: it cannot be written.
        """
        page = Path(out) if out else self.path / REPORT_FILE
        check_page(page)
        with _settings_of_commands():
            labels = split or recorded_labels(self._directory) or ["test"]
            sections = [section_of(self._directory, label, None, "auto") for label in labels]
            write_page(self._directory, sections, page, behaviour_of(self._directory, "auto"))
        return page

    def render(self, out: str | Path, *, quiet: bool = False, **settings: Any) -> Path:
        """Show how it adapts, as `metarl render` does: a video (.gif, .mp4), a picture or a heat map (.png).

        Args:
            out: the file.
            quiet: print nothing.
            settings: flags of `metarl render` by their names with "_": task="goal=0.3,0.2", num_tasks=1,
                heat_map=True, ….

        Returns:
            the file.

        Raises:
            UserError, ValueError: a setting that is unknown or not allowed, or pictures that the family does not draw.
        """
        known = [field.name for field in dataclasses.fields(Render) if field.name not in _GIVEN_BY_RUN]
        for name in settings:
            if name not in known:
                raise unknown("setting", name, known)

        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
        }
        command = Render(run=str(self.path), out=str(out), **values)
        with _settings_of_commands():
            command.execute(Console(quiet=quiet))
        return Path(out)


_GIVEN_BY_RUN = ("run", "run_dir", "out", "json", "trust")
"""Flags of commands on a run that an object of it does not take."""


def train(
    agent: str = DEFAULT_AGENT,
    env: str = DEFAULT_ENV,
    *,
    preset: str = "default",
    env_options: Mapping[str, Any] | None = None,
    resume: str | Path = "",
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Meta-train an agent and evaluate it on held-out tasks, as `metarl train` does.

    Args:
        agent: as `metarl agents` lists them, or 'package.module:MyAgent'.
        env: as `metarl envs` lists them, 'package.module:MyDistribution', or a YAML file.
        preset: the named set of defaults.
        env_options: options of the environment in place of their defaults, such as {"horizon": 50}; `metarl envs ENV`
            lists them.
        resume: go on with this run instead; of the settings only `iterations` may be given.
        quiet: print nothing.
        settings: any flag of `metarl train` by its name with "_": seed=1, iterations=30, inner_lr=0.1, ….

    Returns:
        the finished run.

    Raises:
        UserError, ValueError: a setting that is unknown or not allowed; the message says what is.
        TrainingError: training failed; what was done is saved.
        KeyboardInterrupt: it was interrupted; what was done is saved, and `resume` goes on.
    """
    if resume:
        command = _resumed(resume, settings | ({"env_options": env_options} if env_options else {}))
    else:
        env = with_options(env, env_options or {})
        config = with_settings(default_config(agent, env, preset), settings)
        command = Train(**{field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)})

    # Interrupting a notebook ends the iteration and saves, as Ctrl-C does.
    with _settings_of_commands(), interruptible():
        code, run = command.train(Console(quiet=quiet))
    if code != 0:
        raise KeyboardInterrupt(f"stopped, all is saved; go on with: metarl.train(resume={str(run.path)!r})")
    return Run(run.path)


def _resumed(run: str | Path, settings: Mapping[str, Any]) -> Train:
    """The command that goes on with a run.

    Raises:
        UserError: there is no such run, or other settings than `iterations` are given.
    """
    for name in settings:
        if name != "iterations":
            raise unknown("setting of a run that is resumed", name, ["iterations"])

    directory = RunDirectory.open(str(run))
    config = with_settings(directory.config, settings)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    return Train(**values | {"run_dir": str(directory.path.parent)}, resume=str(directory.path))


def compare(runs: Sequence["Run | str | Path"], *, quiet: bool = False, **settings: Any) -> Comparison:
    """Compare trained runs with baselines, as `metarl compare` does; writes its files, and goes on where it stopped.

    Args:
        runs: of one environment; those that differ only in their seed are pooled.
        quiet: print nothing.
        settings: flags of `metarl compare` by their names with "_": baselines=["ppo", "oracle"], quick=True, ….

    Returns:
        `.summaries`, `.pairwise_comparisons`, `.sample_efficiencies`, `.curves`, `.to_json()`.

    Raises:
        UserError, ValueError: a setting that is unknown or not allowed; the message says what is.
        TrainingError: a baseline could not be trained.
    """
    known = [field.name for field in dataclasses.fields(CompareConfig) if field.name not in ("runs", "trust")]
    for name in settings:
        if name not in known:
            raise unknown("setting", name, known)

    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    paths = tuple(str(run.path) if isinstance(run, Run) else str(run) for run in runs)
    with _settings_of_commands(), interruptible():
        comparer = Comparer.prepare(CompareConfig(runs=paths, **values), Console(quiet=quiet))
        comparison = comparer.compare()
        comparison_report.write(comparison, comparer.path)
    return comparison


@contextlib.contextmanager
def _settings_of_commands() -> Iterator[None]:
    """PyTorch's settings as the commands have them, so that numbers and speed are theirs; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # learners spread chunks of tasks over the cores instead
    keep_freed_memory()
    try:
        with own_torch_settings():
            yield
    finally:
        torch.set_num_threads(before)
