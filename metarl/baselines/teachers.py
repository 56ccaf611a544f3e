"""Teachers for distillation: policies specialised on training tasks, made once for a run and kept in its directory.

runs/<name>/
teachers.safetensors their tasks, parameters and episodes
teachers.json        where they come from, what they cost and how good they are
experts/             models and logs of Stable-Baselines3, where these are the teachers
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from metarl.agents.policies.cnn import make_policy
from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.agents.policies.parameters import Parameters, concatenate, map_parameters, shapes_of
from metarl.agents.teachers import TaughtConfig, Teachers, Teaching
from metarl.console import counted, format_number
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import Episodes, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of, select_tasks
from metarl.errors import UserError
from metarl.evaluation.adaptation import adapt_to_tasks, rollout_generator
from metarl.evaluation.memory import episode_bytes, parameter_bytes, require_memory
from metarl.run.build import load_learner
from metarl.run.checkpoint import BEST, Checkpoint, CheckpointError, Progress, read_checkpoint, write_checkpoint
from metarl.run.config import TrainConfig
from metarl.run.files import what_stands_at, write_atomically
from metarl.run.find_run import EXPERT_ALGORITHMS
from metarl.run.run_directory import RunDirectory
from metarl.run.schema import read_json

if TYPE_CHECKING:  # slow to import, and not always needed
    from stable_baselines3.common.base_class import BaseAlgorithm

    from metarl.baselines.sb3 import TaskJob

TEACHERS_FILE = "teachers.safetensors"
SUMMARY_FILE = "teachers.json"
EXPERTS = "experts"

SEED_OFFSET = 2_000_000
"""The generator of the teachers' tasks and episodes is seeded with the run's seed plus this."""

TASKS_AT_ONCE = 50
"""How many tasks a run's policy is adapted to side by side."""

BEHAVIOUR = "behaviour"


@dataclass(frozen=True)
class TeachersSummary:
    """What is known of a run's teachers.

    Attributes:
        teacher: the run or the algorithm they come from.
        num_teachers: N.
        training_env_steps: environment steps of the meta-training that they come from; 0 for experts.
        env_steps: environment steps that specialising them took, their last episodes included.
        return_mean: mean return on their own tasks.
        policy: their network.
    """

    teacher: str
    num_teachers: int
    training_env_steps: int
    env_steps: int
    return_mean: float
    policy: PolicyConfig


def check_teacher(config: TrainConfig) -> None:
    """Check a configuration's teacher before anything is written; other agents have none.

    Raises:
        UserError: none given, no such run, not trained, or of another environment.
    """
    if is_taught(config) and not is_expert(teaching_of(config).teacher):
        teacher_run(config).checkpoints.load(BEST)


def check_teachers_memory(config: TrainConfig, distribution: TaskDistribution) -> None:
    """Refuse more teachers than fit into the memory that is free now; other agents have none.

    Raises:
        UserError: names their number.
    """
    if not is_taught(config):
        return

    asked = teaching_of(config)
    network = PolicyConfig() if is_expert(asked.teacher) else teacher_run(config).config.learner.policy
    policy = make_policy(distribution.observation_space, distribution.action_space, network)
    # Each has an own policy, and its last episodes are kept until all are made.
    needed = parameter_bytes(policy.num_parameters, asked.num_teachers)
    needed += episode_bytes(distribution, asked.num_teachers * config.episodes)
    what = f"num_teachers {asked.num_teachers} × episodes {config.episodes} × horizon {distribution.horizon}"
    require_memory(needed, what, "--num-teachers or --episodes", config.device)


def is_taught(config: TrainConfig) -> bool:
    """Whether the agent learns from teachers."""
    return isinstance(config.learner, TaughtConfig)


def teaching_of(config: TrainConfig) -> Teaching:
    """The teachers that the configuration of an agent that `is_taught` asks for."""
    assert isinstance(config.learner, TaughtConfig)
    return config.learner.teaching


def is_expert(teacher: str) -> bool:
    """Whether the teacher is an algorithm of Stable-Baselines3, and not a run."""
    return teacher in EXPERT_ALGORITHMS


def load_or_train_teachers(
    run: RunDirectory, distribution: TaskDistribution, say: Callable[[str], None]
) -> tuple[Teachers, int]:
    """The run's teachers, and the environment steps that they cost; trained now if they are not there or damaged.

    Args:
        run: of an agent that learns from teachers.
        distribution: gives the tasks.
        say: shows a line of progress.

    Raises:
        UserError: the teacher cannot be used.
    """
    try:
        teachers = load_teachers(run, distribution)
        summary = read_summary(run)
    except (CheckpointError, UserError):
        say("specialising the teachers")
        teachers, summary = _train_teachers(run, distribution)
        # The summary last: teachers whose summary is missing are trained again.
        write_checkpoint(run.path / TEACHERS_FILE, Checkpoint(_to_tensors(teachers), Progress()))
        write_atomically(run.path / SUMMARY_FILE, json.dumps(asdict(summary), indent=1).encode())

    mean = format_number(summary.return_mean, ".2f")
    say(
        f"{counted(summary.num_teachers, 'teacher')}, return {mean} on their tasks, "
        f"for {summary.env_steps:,} environment steps"
    )
    return teachers, summary.env_steps


def load_teachers(run: RunDirectory, distribution: TaskDistribution) -> Teachers:
    """The run's teachers, which were made before.

    Raises:
        CheckpointError, UserError: there are none, or they cannot be read.
    """
    stored = read_checkpoint(run.path / TEACHERS_FILE).tensors
    tensors = {name: value.to(run.config.device) for name, value in stored.items()}
    policy = make_policy(distribution.observation_space, distribution.action_space, read_summary(run).policy)
    policy.observations.activate(run.config.device)
    try:
        teachers = _from_tensors(policy, tensors)
        _check_teachers(teachers, distribution)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"{run.path / TEACHERS_FILE} does not hold teachers: {error}") from None
    return teachers


def read_summary(run: RunDirectory) -> TeachersSummary:
    """What is known of a run's teachers.

    Raises:
        UserError: the run has none, or the file cannot be read.
    """
    summary = read_json(run.path / SUMMARY_FILE, TeachersSummary)
    assert isinstance(summary, TeachersSummary)
    return summary


class SpecialisedTeachers(NamedTuple):
    """Teachers together with what came of making them.

    Attributes:
        teachers: one policy for each of N tasks.
        episodes: of each teacher on its task.
        env_steps: environment steps of making them, and of the episodes.
    """

    teachers: Teachers
    episodes: Episodes
    env_steps: int


def adapted_teachers(run: RunDirectory, tasks: Task, episodes: int, generator: torch.Generator) -> SpecialisedTeachers:
    """Teachers that are a trained run's policy, adapted to each task.

    Args:
        run: any trained run.
        tasks: N tasks, on the generator's device.
        episodes: E per task and adaptation step.
        generator: drives the rollouts.
    """
    distribution, learner, _ = load_learner(run, device=str(generator.device))
    params: list[Parameters] = []
    last: list[Episodes] = []
    env_steps = 0

    # A part of the tasks at a time, to limit the memory that their episodes take.
    for start in range(0, num_tasks_of(tasks), TASKS_AT_ONCE):
        some = select_tasks(tasks, slice(start, start + TASKS_AT_ONCE))
        done = adapt_to_tasks(learner, distribution, some, learner.adaptation_steps, episodes, generator)
        params.append(done.adapted.params)
        last.append(done.batches[-1])
        env_steps += sum(batch.env_steps for batch in done.batches)

    teachers = Teachers(learner.policy, concatenate(params), tasks)
    return SpecialisedTeachers(teachers, Episodes.concatenate(last), env_steps)


def _train_teachers(run: RunDirectory, distribution: TaskDistribution) -> tuple[Teachers, TeachersSummary]:
    """Draw a run's training tasks and make a teacher for each of them."""
    config = run.config
    asked = teaching_of(config)
    generator = rollout_generator(torch.device(config.device), config.seed + SEED_OFFSET)
    tasks = distribution.sample(asked.num_teachers, "train", generator)

    if is_expert(asked.teacher):
        made = _train_experts(run, distribution, tasks, generator)
        training_env_steps = 0
    else:
        parent = teacher_run(config)
        made = adapted_teachers(parent, tasks, config.episodes, generator)
        training_env_steps = total_training_env_steps(parent)

    summary = TeachersSummary(
        teacher=asked.teacher,
        num_teachers=asked.num_teachers,
        training_env_steps=training_env_steps,
        env_steps=made.env_steps,
        return_mean=made.episodes.returns.double().mean().item(),
        policy=made.teachers.policy.config,
    )

    # Episodes are large, and kept only where the student learns on the states in them.
    if asked.keep_episodes:
        return replace(made.teachers, episodes=made.episodes), summary
    return made.teachers, summary


def total_training_env_steps(run: RunDirectory) -> int:
    """Environment steps of a run's training, and where it was taught by a run of that one's training as well."""
    own = run.last_progress().env_steps
    if is_taught(run.config):
        return own + read_summary(run).training_env_steps
    return own


def _train_experts(
    run: RunDirectory, distribution: TaskDistribution, tasks: Task, generator: torch.Generator
) -> SpecialisedTeachers:
    """Teachers that Stable-Baselines3 trains, one on each task; those that are there already are not trained again."""
    from metarl.agents.sb3 import load_model  # slow to import, and not always needed
    from metarl.baselines.sb3 import MODEL_FILE, TRAINING_ENVS, learn_tasks
    from metarl.envs.adapters.sb3 import make_sb3_vec_env

    config = run.config
    jobs = _expert_jobs(run, tasks)
    files = [Path(job.directory) / MODEL_FILE for job in jobs]
    for file in files:
        if what_stands_at(file):  # the library would open it, and wait for a pipe without end
            raise UserError(f"{file} is {what_stands_at(file)}, not a file")
    missing = [job for job, file in zip(jobs, files, strict=True) if not file.exists()]
    for _ in learn_tasks(missing, config.num_threads):
        pass  # their models are in the files; their curves are not needed

    env = make_sb3_vec_env(distribution, TRAINING_ENVS)
    models = [load_model(teaching_of(config).teacher, file, env) for file in files]
    teachers = _teachers_of_models(models, distribution, tasks, config.device)

    on_tasks = distribution.bind(tasks, config.episodes)
    episodes = collect(on_tasks, teachers.policy, teachers.params, generator)
    training_env_steps = sum(model.num_timesteps for model in models)
    return SpecialisedTeachers(teachers, episodes, training_env_steps + episodes.env_steps)


def _expert_jobs(run: RunDirectory, tasks: Task) -> list["TaskJob"]:
    """A training job of Stable-Baselines3 for each task."""
    from metarl.baselines.sb3 import TaskJob

    config = run.config
    asked = teaching_of(config)

    jobs = []
    for number in range(asked.num_teachers):
        job = TaskJob(
            algorithm=asked.teacher,
            env=config.env,
            task={name: value[number].tolist() for name, value in tasks.items()},
            seed=config.seed,
            schedule=(asked.expert_env_steps,),
            episodes=1,
            directory=str(run.path / EXPERTS / f"task-{number:03d}"),
            action_scale=config.action_scale,
        )
        jobs.append(job)

    return jobs


def _teachers_of_models(
    models: Sequence["BaseAlgorithm"], distribution: TaskDistribution, tasks: Task, device: str
) -> Teachers:
    """The policies of N models of Stable-Baselines3, in this project's form."""
    from metarl.agents.sb3 import as_policy_parameters

    each = [map_parameters(lambda leaf: leaf.unsqueeze(0), as_policy_parameters(model)) for model in models]
    params = map_parameters(lambda leaf: leaf.to(device), concatenate(each))

    # Layer n has a bias of as many numbers as the layer has units; the last layer gives the action.
    num_layers = sum("bias" in name for name in params)
    hidden_sizes = tuple(int(params[f"layer{n}.bias"].shape[1]) for n in range(num_layers - 1))
    config = PolicyConfig(hidden_sizes, "tanh")
    policy = MLPPolicy(distribution.observation_space, distribution.action_space, config)
    return Teachers(policy, params, tasks)


def can_teach(config: TrainConfig) -> bool:
    """Whether a run's adapted policies are what a student learns from: perceptrons, each with parameters of its own."""
    policy = getattr(config.learner, "policy", None)
    return isinstance(policy, PolicyConfig)


def teacher_run(config: TrainConfig) -> RunDirectory:
    """The run that a configuration names as teacher.

    Raises:
        UserError: none is named, there is no such run, or it is of another environment.
    """
    teacher = teaching_of(config).teacher
    if not teacher:
        raise UserError(
            f"{config.agent} needs a teacher: --teacher RUN, or --teacher {' or '.join(EXPERT_ALGORITHMS)} for "
            "experts of Stable-Baselines3"
        )

    run = RunDirectory.open(teacher, config.run_dir)
    distribution = make_distribution(config.env)
    if make_distribution(run.config.env).name != distribution.name:
        raise UserError(f"teacher {run.path} is of {run.config.env}, the student of {config.env}")
    if not can_teach(run.config):
        raise UserError(f"teacher {run.path}: students learn from adapted perceptrons, and {run.config.agent} has none")
    if not distribution.env.same_actions(run.config.action_scale, config.action_scale):
        raise UserError(
            f"teacher {run.path} has action_scale {run.config.action_scale:g}, the student {config.action_scale:g}"
        )
    return run


def _to_tensors(teachers: Teachers) -> dict[str, Tensor]:
    """Teachers as named tensors, for a file."""
    tensors = {f"task.{name}": value for name, value in teachers.tasks.items()}
    tensors |= {f"params.{name}": value for name, value in teachers.params.items()}
    tensors |= {f"observations.{name}": value for name, value in teachers.policy.observations.state_dict().items()}

    if teachers.episodes is not None:
        leaves = {name: value for name, value in vars(teachers.episodes).items() if isinstance(value, Tensor)}
        tensors |= {f"episodes.{name}": value for name, value in leaves.items()}
        tensors |= {f"{BEHAVIOUR}.{name}": value for name, value in teachers.episodes.behaviour.items()}

    return tensors


def _from_tensors(policy: MLPPolicy, tensors: dict[str, Tensor]) -> Teachers:
    """Inverse of `_to_tensors`."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    policy.observations.load_state_dict(under("observations."))
    leaves: dict[str, Any] = under("episodes.")
    episodes = Episodes(**leaves, behaviour=under(f"{BEHAVIOUR}.")) if leaves else None
    return Teachers(policy, under("params."), under("task."), episodes)


def _check_teachers(teachers: Teachers, distribution: TaskDistribution) -> None:
    """Refuse teachers of other tasks, or of another network, than the run's.

    Raises:
        ValueError: names the tensor.
    """
    num_teachers = num_tasks_of(teachers.tasks) if teachers.tasks else 0
    expected = {f"task.{name}": (num_teachers, *range_.shape) for name, range_ in distribution.train.items()}
    for name, shape in teachers.policy.shapes.items():
        expected[f"params.{name}"] = (num_teachers, *shape)

    found = {f"task.{name}": value for name, value in teachers.tasks.items()}
    found |= {f"params.{name}": value for name, value in teachers.params.items()}
    different = sorted({name for name, _ in shapes_of(found).items() ^ expected.items()})
    if different:
        raise ValueError(f"names or shapes differ in {', '.join(different)}")
    for name, value in found.items():
        if not value.is_floating_point() or bool(value.isnan().any()):
            raise ValueError(f"{name} holds what is no number")
