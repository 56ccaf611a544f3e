"""Stable-Baselines3 on our tasks: training from scratch on one task, pretraining over many, fine-tuning."""

import contextlib
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from metarl.agents.sb3 import ObservationScale, SB3Policy, ScaledVecEnv, learn_with_evaluations, load_model, make_model
from metarl.envs.adapters.arguments import SAMPLE
from metarl.envs.adapters.sb3 import make_sb3_vec_env
from metarl.envs.external.worker_process import kill, prepare_worker, starting_workers
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import collect
from metarl.envs.spaces.action_map import DEFAULT_SCALE
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_space import Task
from metarl.errors import TrainingError
from metarl.evaluation.evaluation import standard_errors
from metarl.run.files import write_atomically

MODEL_FILE = "model.zip"
TRAINING_ENVS = 20
"""Parallel episodes on a new task: as many as a meta-learner collects before each adaptation step."""
PRETRAINING_ENVS = 400
"""Parallel episodes of pretraining, a new task in each: as many as the 20 tasks × 20 episodes of a meta-iteration."""


@dataclass(frozen=True)
class TaskJob:
    """Train one SB3 model on one task; plain data, for another process.

    Attributes:
        algorithm: name in `metarl.agents.sb3.ALGORITHMS`.
        env: name for `make_distribution`.
        task: parameter → value without a leading dimension, as nested lists.
        seed: of the model and of the evaluations.
        schedule: environment steps at which to evaluate; the last is the budget.
        episodes: E of each evaluation.
        directory: where the model and SB3's own log are written.
        pretrained: zip of the model to start from; "": from scratch.
        changes: arguments of the algorithm's class to set otherwise than in `metarl.agents.sb3`.
        action_scale: span of actions where a Box has no bounds, see `metarl.envs.spaces.action_map`.
        observation_scale: what the model sees of observations; None: they as they are.
    """

    algorithm: str
    env: str
    task: dict[str, Any]
    seed: int
    schedule: tuple[int, ...]
    episodes: int
    directory: str
    pretrained: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    action_scale: float = DEFAULT_SCALE
    observation_scale: ObservationScale | None = None


@dataclass(frozen=True)
class LearningCurve:
    """What a TaskJob measured.

    Attributes:
        env_steps: environment steps of training at each evaluation, P of them.
        returns: mean return of the evaluation's episodes.
        evaluation_env_steps: environment steps that the evaluations took besides.
        errors: standard error of each mean return over its episodes.
    """

    env_steps: list[int]
    returns: list[float]
    evaluation_env_steps: int
    errors: list[float]


def learn_task(job: TaskJob) -> LearningCurve:
    """Train on the one task, evaluating on the way with deterministic actions, and save the model."""
    torch.set_num_threads(1)  # one process per core
    distribution = make_distribution(job.env, job.action_scale)
    task: Task = {name: torch.tensor([value], dtype=float_dtype()) for name, value in job.task.items()}

    train_env = _scaled(make_sb3_vec_env(distribution, TRAINING_ENVS, task=task, seed=job.seed), job.observation_scale)
    initial = load_model(job.algorithm, job.pretrained, train_env) if job.pretrained else None
    model = make_model(job.algorithm, train_env, job.seed, job.directory, initial, changes=job.changes)

    evaluation_env = distribution.bind(task, job.episodes)

    def evaluate(current: BaseAlgorithm) -> tuple[float, float, int]:
        # The same random numbers at every point: the curve shows the model's change, not theirs.
        generator = torch.Generator().manual_seed(job.seed)
        episodes = collect(evaluation_env, SB3Policy(current, job.observation_scale), {}, generator)
        return episodes.returns.double().mean().item(), float(standard_errors(episodes)[0]), episodes.env_steps

    points = learn_with_evaluations(model, job.schedule, evaluate)
    _save(model, Path(job.directory) / MODEL_FILE)

    return LearningCurve(
        env_steps=[env_steps for env_steps, _ in points],
        returns=[mean for _, (mean, _, _) in points],
        evaluation_env_steps=sum(taken for _, (_, _, taken) in points),
        errors=[error for _, (_, error, _) in points],
    )


def pretrain(
    algorithm: str,
    env: str,
    env_steps: int,
    seed: int,
    directory: Path,
    show: Callable[[int], None],
    action_scale: float = DEFAULT_SCALE,
    observation_scale: ObservationScale | None = None,
) -> Path:
    """Train one model over the task distribution, a new task every episode; returns its zip.

    Args:
        algorithm: name in `metarl.agents.sb3.ALGORITHMS`.
        env: name for `make_distribution`.
        env_steps: environment steps, or up to its own batch size more.
        seed: of the model, the tasks and the environments.
        directory: where the model and SB3's own log are written.
        show: called with the number of environment steps so far.
        action_scale: as in TaskJob.
        observation_scale: as in TaskJob.
    """
    distribution = make_distribution(env, action_scale)
    train_env = _scaled(make_sb3_vec_env(distribution, PRETRAINING_ENVS, task=SAMPLE, seed=seed), observation_scale)
    model = make_model(algorithm, train_env, seed, directory, pretraining=True)

    def on_step(local: dict[str, Any], everything: dict[str, Any]) -> bool:
        show(min(model.num_timesteps, env_steps))
        return True

    model.learn(env_steps, callback=on_step)

    path = directory / MODEL_FILE
    _save(model, path)
    return path


def _scaled(env: VecEnv, scale: ObservationScale | None) -> VecEnv:
    """Environments whose observations are normalised, where a scale is given."""
    return env if scale is None else ScaledVecEnv(env, scale)


def _save(model: BaseAlgorithm, path: Path) -> None:
    """Write SB3's own zip, atomically: a model whose file is there is not trained again; its log ends here."""
    model.logger.close()
    buffer = io.BytesIO()
    model.save(buffer)
    write_atomically(path, buffer.getvalue())


def learn_tasks(jobs: Sequence[TaskJob], num_processes: int) -> Iterator[tuple[int, LearningCurve]]:
    """Work through jobs on several processes; yields (index, curve) as they come.

    Where the caller stops early, by an exception or Ctrl-C, the processes end at once.

    Raises:
        OSError: a file cannot be written; curves that came before are good.
        TrainingError: a job failed, or its process died; likewise.
    """
    if num_processes == 1 or len(jobs) == 1:
        for index, job in enumerate(jobs):
            with _failure_of(job):
                curve = learn_task(job)
            yield index, curve
        return

    with _process_pool(num_processes) as pool:
        futures: dict[Future[LearningCurve], int] = {}
        with starting_workers():
            for index, job in enumerate(jobs):
                futures[pool.submit(learn_task, job)] = index

        for future in as_completed(futures):
            index = futures[future]
            with _failure_of(jobs[index]):
                curve = future.result()
            yield index, curve


@contextlib.contextmanager
def _failure_of(job: TaskJob) -> Iterator[None]:
    """Raise a TrainingError that names the job, whatever went wrong in SB3: a setting, or a value not finite."""
    try:
        yield
    except OSError:
        raise  # a full disk names its file itself
    except Exception as error:
        lines = str(error).splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}"
        raise TrainingError(f"Stable-Baselines3's {job.algorithm} failed in {job.directory}: {reason}") from error


@contextlib.contextmanager
def _process_pool(num_processes: int) -> Iterator[Executor]:
    """Worker processes that end at once where the caller stops early, and not after the job that they are at."""
    pool = ProcessPoolExecutor(
        num_processes, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_process
    )

    before = set(multiprocessing.active_children())
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        kill([process for process in multiprocessing.active_children() if process not in before])
        raise

    pool.shutdown()


def _prepare_process() -> None:
    """Leave signals to the parent, end with it, and take one core."""
    prepare_worker()
    os.environ["OMP_NUM_THREADS"] = "1"
