"""Measuring the agents that are ours: trained runs, baselines meta-trained here, and the references beside them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console

from metarl.agents.learner import Learner
from metarl.agents.teachers import TaughtConfig
from metarl.baselines.references import reference_episodes
from metarl.baselines.strategies import StrategyLearner
from metarl.baselines.teachers import total_training_env_steps
from metarl.comparison.directory import ComparisonDirectory
from metarl.comparison.measurements import Measurement, make_curve
from metarl.comparison.plan import Plan, checkpoint_digest, same_but_for_seed
from metarl.errors import UserError
from metarl.evaluation.adaptation import adaptation_episodes, rollout_generator
from metarl.evaluation.evaluation import standard_errors, summarize
from metarl.evaluation.pooling import rollout_seed
from metarl.evaluation.statistics import Curve
from metarl.run.build import build, load_learner
from metarl.run.checkpoint import BEST
from metarl.run.config import TrainConfig
from metarl.run.presets import default_config
from metarl.run.run_directory import RunDirectory, as_file_name
from metarl.training.trainer import Trainer, resolve

UNLIMITED_ITERATIONS = 100_000
"""Iterations of a baseline: more than it takes, because its environment steps are what ends its training."""


# ---------------------------------------------------------------------- trained runs


def measure_runs(plan: Plan, directory: ComparisonDirectory, label: str, runs: Sequence[RunDirectory]) -> Curve:
    """Adaptation of meta-trained runs, one for each seed."""
    measurements = [_measure_run(plan, directory, label, run, index) for index, run in enumerate(runs)]
    spent = [total_training_env_steps(run) for run in runs]
    validation = [run.last_progress().evaluation_env_steps for run in runs]
    training = round(float(np.mean(spent)))
    chosen = round(float(np.mean(validation)))
    return make_curve(label, "meta-learner", training, measurements, chosen, plan.episodes_that_err)


def _measure_run(plan: Plan, directory: ComparisonDirectory, label: str, run: RunDirectory, index: int) -> Measurement:
    def trained() -> Learner:
        return load_learner(run, BEST, plan.device).learner

    return _measure_adaptation(plan, directory, label, {"checkpoint": checkpoint_digest(run)}, trained, index)


def _measure_adaptation(
    plan: Plan,
    directory: ComparisonDirectory,
    label: str,
    agent: dict[str, Any],
    load: Callable[[], Learner],
    index: int = 0,
) -> Measurement:
    """Adaptation of one learner to all tasks.

    Args:
        plan: gives the tasks, K and E.
        directory: keeps the measurement, so that it is made once.
        label: of the agent.
        agent: what tells this learner from others of the label, as plain data.
        load: gives the learner; called only where there is something to measure.
        index: its place among the seeds of the label, from 0.
    """
    seed = rollout_seed(0, index, plan.exhaustive)

    def measure() -> Measurement:
        learner = load()
        generator = rollout_generator(torch.device(plan.device), seed)
        steps = learner.adaptation_steps if plan.config.steps is None else plan.config.steps
        tasks = {name: value.to(plan.device) for name, value in plan.tasks.items()}
        batches = adaptation_episodes(learner, plan.distribution, tasks, steps, plan.config.episodes, generator)

        evaluation = summarize(batches, pooled=learner.sampling.pooled)
        # What no task is charged for merely measures: the batch after the last step, and further trials of a task.
        measuring = evaluation.total_env_steps - round(float(evaluation.env_steps[-1]) * plan.num_tasks)
        errors = evaluation.errors.tolist() if evaluation.errors is not None and plan.exhaustive else None
        return Measurement(evaluation.env_steps.tolist(), evaluation.returns.tolist(), measuring, errors)

    settings = {**agent, **plan.protocol(), "steps": plan.config.steps}
    if seed != 0:
        settings["rollout_seed"] = seed  # what was measured before with that of all stays apart
    return directory.measurements.load_or_measure(label, settings, measure)


# ---------------------------------------------------------------------- baselines that are meta-trained here


def train_baseline(plan: Plan, directory: ComparisonDirectory, agent: str, seed: int, console: Console) -> RunDirectory:
    """Meta-train a baseline, or go on with it; where it is done already, this costs nothing.

    Raises:
        UserError: the directory holds a run of this name that was trained with other settings.
        TrainingError: training met a number that is not finite.
        KeyboardInterrupt: training was asked to stop.
    """
    config = _training_config(plan, directory, agent, seed)
    path = directory.trained / config.name
    run = RunDirectory.open(str(path)) if path.exists() else RunDirectory.create(config)
    if not same_but_for_seed(run.config, config):
        raise UserError(f"{path} was trained with other settings; choose another --out")

    with run.locked():
        trainer = Trainer(run, console)
        trainer.resume()
        trainer.train()
        # The trainer ends its iteration and saves before it returns; the comparison must not go on as if it were done.
        if trainer.stop_requested:
            raise KeyboardInterrupt
    return run


def _training_config(plan: Plan, directory: ComparisonDirectory, agent: str, seed: int) -> TrainConfig:
    """The agent's default preset, for as many environment steps as the plan allows."""
    config = default_config(agent, plan.env)
    if isinstance(config.learner, TaughtConfig):
        learner = config.learner.taught_by(str(plan.runs[0].path), _affordable_teachers(plan, config))
        config = dataclasses.replace(config, learner=learner)

    config = dataclasses.replace(
        config,
        seed=seed,
        device=plan.device,
        num_threads=plan.config.num_threads,
        iterations=UNLIMITED_ITERATIONS,
        max_env_steps=plan.training_env_steps,
        action_scale=plan.action_scale,
        name=f"{as_file_name(agent)}-seed{seed}",
        run_dir=str(directory.trained),
    )
    return resolve(config)


def _affordable_teachers(plan: Plan, config: TrainConfig) -> int:
    """As many adapted policies of the first run as leave the student at least half of the environment steps."""
    steps = load_learner(plan.runs[0]).learner.adaptation_steps

    # Adapting one teacher takes an episode batch per step, and one more batch shows the student what it does.
    cost = (steps + 1) * config.episodes * plan.distribution.horizon
    return max(1, plan.training_env_steps // (2 * cost))


# ---------------------------------------------------------------------- references


def measure_untrained(plan: Plan, directory: ComparisonDirectory) -> Curve:
    """The first run's agent before any training, with the same adaptation."""
    measurements = [_measure_initial(plan, directory, seed) for seed in range(plan.config.seeds)]
    return make_curve("untrained", "reference", 0, measurements, episodes=plan.episodes_that_err)


def _measure_initial(plan: Plan, directory: ComparisonDirectory, seed: int) -> Measurement:
    config = plan.runs[0].config

    def initial() -> Learner:
        return build(config, torch.Generator(plan.device).manual_seed(seed)).learner

    agent = {"learner": dataclasses.asdict(config.learner), "seed": seed}
    return _measure_adaptation(plan, directory, "untrained", agent, initial, index=seed)


def measure_strategy(plan: Plan, directory: ComparisonDirectory, name: str) -> Curve:
    """A classical strategy in trials of as many episodes as the first run's agent has batches."""
    steps = plan.config.steps
    if steps is None:
        steps = load_learner(plan.runs[0], BEST, plan.device).learner.adaptation_steps

    def strategy() -> Learner:
        return StrategyLearner(name, plan.distribution.env, steps, rollout_generator(torch.device(plan.device), seed=1))

    measurement = _measure_adaptation(plan, directory, name, {"trial_episodes": steps + 1}, strategy)
    return make_curve(name, "reference", 0, [measurement], episodes=plan.episodes_that_err)


def measure_reference(plan: Plan, directory: ComparisonDirectory, name: str) -> Curve:
    """What a reference gets in an episode: one point, since none remembers anything from one episode to the next."""

    def measure() -> Measurement:
        # On the CPU whatever the device: they have nothing to compute.
        generator = rollout_generator(torch.device("cpu"), seed=0)
        episodes = reference_episodes(plan.distribution, plan.tasks, plan.config.episodes, generator)[name]
        returns = episodes.returns.double().mean(dim=1).tolist()
        errors = [standard_errors(episodes).tolist()] if plan.exhaustive else None
        return Measurement([0.0], [returns], episodes.env_steps, errors)

    measurement = directory.measurements.load_or_measure(name, plan.protocol(), measure)
    return make_curve(name, "reference", 0, [measurement], episodes=plan.episodes_that_err)
