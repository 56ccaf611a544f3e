"""The plan of a comparison: what was asked for, checked and looked up, before anything is measured or written."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarl.agents.registry import AGENTS, find_agent, is_agent
from metarl.agents.teachers import TaughtConfig
from metarl.baselines.strategies import STRATEGIES, why_it_cannot_play
from metarl.baselines.teachers import can_teach
from metarl.comparison.config import (
    DEFAULT_BASELINES,
    NONE,
    PRETRAINED,
    REFERENCES,
    SB3_BASELINES,
    CompareConfig,
)
from metarl.envs.registry import make_distribution
from metarl.envs.spaces.action_map import DEFAULT_SCALE
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task, num_tasks_of
from metarl.errors import UserError, unknown
from metarl.evaluation.memory import FLOAT, require_memory, require_memory_of_evaluation
from metarl.run.checkpoint import BEST
from metarl.run.config import TrainConfig
from metarl.run.device import resolve_device
from metarl.run.files import read_file
from metarl.run.run_directory import RunDirectory
from metarl.run.schema import load_json

QUICK_TRAINING_SHARE = 0.2
"""Share of the run's meta-training steps that a baseline trained here gets with --quick; the table shows the steps."""


@dataclass(frozen=True)
class Plan:
    """What is compared, on which tasks, and at what expense.

    Attributes:
        config: what was asked for.
        device: where meta-learners act and are trained.
        runs: the trained runs in the order in which they were named; the first one is the subject.
        env: their environment.
        distribution: its tasks.
        tasks: the M held-out tasks, leaves (M, …).
        pools: label → the runs that it stands for, one for each seed.
        baselines: labels of the baselines in their order.
        sb3_changes: SB3 baseline → arguments of its algorithm that are not the default ones.
        training_env_steps: environment steps of meta-training for each baseline trained here.
    """

    config: CompareConfig
    device: str
    runs: Sequence[RunDirectory]
    env: str
    distribution: TaskDistribution
    tasks: Task
    pools: Mapping[str, Sequence[RunDirectory]]
    baselines: Sequence[str]
    sb3_changes: Mapping[str, dict[str, Any]]
    training_env_steps: int

    @property
    def labels(self) -> list[str]:
        """Every agent that is compared, the subject first."""
        return [*self.pools, *self.baselines]

    @property
    def num_tasks(self) -> int:
        """M; fewer than were asked for where the family has no more distinct ones."""
        return num_tasks_of(self.tasks)

    @property
    def exhaustive(self) -> bool:
        """Whether the tasks are all that there are, and no sample of more."""
        return self.distribution.exhausts(self.config.split, self.num_tasks)

    @property
    def episodes_that_err(self) -> int | None:
        """E where the tasks are all that there are, so that nothing but episodes and seeds is left to chance."""
        return self.config.episodes if self.exhaustive else None

    @property
    def action_scale(self) -> float:
        """That of all runs; the usual one where it changes nothing."""
        scale = self.runs[0].config.action_scale
        return DEFAULT_SCALE if self.distribution.env.same_actions(scale, DEFAULT_SCALE) else scale

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as plain data."""
        config = self.config
        return {
            "runs": {str(run.path): checkpoint_digest(run) for run in self.runs},
            "baselines": list(self.baselines),
            "num_tasks": self.num_tasks,
            "budget": config.task_budget,
            "sb3_settings": dict(self.sb3_changes),
            "seeds": config.seeds,
            "split": config.split,
            "episodes": config.episodes,
            "steps": config.steps,
            "quick": config.quick,
        }

    def protocol(self) -> dict[str, Any]:
        """What decides one measurement besides the agent, as plain data."""
        protocol: dict[str, Any] = {
            "env": self.env,
            "split": self.config.split,
            "num_tasks": self.num_tasks,
            "episodes": self.config.episodes,
        }
        # Only now measurements of all tasks that there are hold their errors.
        if self.exhaustive:
            protocol["exhaustive"] = True

        # What was measured before there was a scale stays valid.
        return protocol if self.action_scale == DEFAULT_SCALE else protocol | {"action_scale": self.action_scale}


def make_plan(config: CompareConfig) -> Plan:
    """Check what was asked for, and look up what is needed to do it; writes nothing.

    Raises:
        UserError, ValueError: it cannot be done.
    """
    if not config.runs:
        raise UserError("compare needs a run: metarl compare RUN …; train one with: metarl train")
    device = str(resolve_device(config.device))

    runs = [RunDirectory.open(run, config.run_dir) for run in config.runs]
    env = common_env(runs)
    distribution = make_distribution(env, runs[0].config.action_scale)
    check_action_scales(runs, distribution)
    if config.task_budget < distribution.horizon:
        raise UserError(
            f"budget must be at least one episode, {distribution.horizon} environment steps of {env}, "
            f"got {config.task_budget}"
        )
    _check_memory(config, runs[0], distribution, device)
    tasks = distribution.sample(config.tasks_compared, config.split)

    pools = pool_seeds(runs)
    baselines = [name for name in check_baselines(config.baselines, runs[0], distribution) if name not in pools]
    sb3_changes = check_sb3_settings(config.sb3_settings, distribution)

    # A fair comparison gives each baseline what the subject had.
    share = QUICK_TRAINING_SHARE if config.quick else 1.0
    training_env_steps = max(1, round(runs[0].last_progress().env_steps * share))
    return Plan(
        config=config,
        device=device,
        runs=runs,
        env=env,
        distribution=distribution,
        tasks=tasks,
        pools=pools,
        baselines=baselines,
        sb3_changes=sb3_changes,
        training_env_steps=training_env_steps,
    )


def _check_memory(config: CompareConfig, subject: RunDirectory, distribution: TaskDistribution, device: str) -> None:
    """Refuse measurements that do not fit into the memory that is free now.

    Raises:
        UserError: names their size and what to lower.
    """
    steps = getattr(subject.config.learner, "adaptation_steps", 1) if config.steps is None else config.steps
    lower = "--num-tasks, --episodes or --steps"
    require_memory_of_evaluation(distribution, config.tasks_compared, config.episodes, steps, lower, device)


# ---------------------------------------------------------------------- runs


def common_env(runs: Sequence[RunDirectory]) -> str:
    """The environment of all runs.

    Raises:
        UserError: there are several.
    """
    first = runs[0]
    name = make_distribution(first.config.env).name

    for run in runs:
        if make_distribution(run.config.env).name != name:
            raise UserError(
                f"runs of different environments cannot be compared: {first.path} is of {first.config.env}, "
                f"{run.path} of {run.config.env}"
            )
    return first.config.env


def check_action_scales(runs: Sequence[RunDirectory], distribution: TaskDistribution) -> None:
    """Refuse runs whose policies' actions mean different things in the same environment.

    Raises:
        UserError: names two of them.
    """
    first = runs[0]
    for run in runs:
        if not distribution.env.same_actions(first.config.action_scale, run.config.action_scale):
            raise UserError(
                f"runs of different action scales cannot be compared: {first.path} has action_scale "
                f"{first.config.action_scale:g}, {run.path} {run.config.action_scale:g}"
            )


def pool_seeds(runs: Iterable[RunDirectory]) -> dict[str, list[RunDirectory]]:
    """Runs that differ only in their seed and where they ran, by the label of their agent.

    Two settings of one agent are told apart by the name of their first run.

    Raises:
        UserError: a run is given twice, or a copy of it.
    """
    pools: list[list[RunDirectory]] = []
    for run in runs:
        pool = next((pool for pool in pools if same_but_for_seed(pool[0].config, run.config)), None)
        if pool is None:
            pools.append([run])
            continue

        for other in pool:
            _require_another_seed(other, run)
        pool.append(run)

    # The agent's name is enough of a label where it has one pool only.
    agents = [pool[0].config.agent for pool in pools]
    labelled = {}
    for agent, pool in zip(agents, pools, strict=True):
        label = agent if agents.count(agent) == 1 else f"{agent} ({pool[0].path.name})"
        labelled[label] = pool
    return labelled


def _require_another_seed(one: RunDirectory, other: RunDirectory) -> None:
    """Refuse what would pass for two seeds and is one: the intervals would be too narrow.

    Raises:
        UserError: names both runs and what they have in common.
    """
    if one.path.resolve() == other.path.resolve():
        raise UserError(f"run {other.path} is given twice")
    if one.config.seed == other.config.seed:
        raise UserError(
            f"runs {one.path} and {other.path} have the same settings and the same seed, {one.config.seed}: "
            "runs that are pooled need a seed of their own each"
        )

    # The configuration of a copy may have been edited, where no checkpoint tells what it was.
    best = [run.checkpoints.path(BEST).is_file() for run in (one, other)]
    if all(best) and _best_digest(one) == _best_digest(other):
        raise UserError(f"runs {one.path} and {other.path} hold the same best policy: a copy is no second seed")


def same_but_for_seed(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether two configurations differ at most in their seed, their name and where they ran."""

    def without_seed(config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(
            config,
            seed=0,
            name="",
            run_dir="",
            device="",
            num_threads=0,
            logger="tensorboard",
            action_scale=DEFAULT_SCALE,
        )

    return without_seed(one) == without_seed(other)


def checkpoint_digest(run: RunDirectory) -> str:
    """SHA-256 of a run's best checkpoint, which identifies what was trained.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    run.checkpoints.load(BEST)  # a damaged file is refused now, not when its agent's turn comes
    return _best_digest(run)


def _best_digest(run: RunDirectory) -> str:
    """SHA-256 of the file of a run's best checkpoint."""
    return hashlib.sha256(read_file(run.checkpoints.path(BEST))).hexdigest()


# ---------------------------------------------------------------------- baselines


def check_baselines(requested: Sequence[str], subject: RunDirectory, distribution: TaskDistribution) -> list[str]:
    """The requested baselines in their order, each once.

    Left out, unless it was asked for by name, is the oracle where the family has none, and a student where the subject
    cannot teach.

    Raises:
        UserError, ValueError: unknown, or cannot act in these environments.
    """
    chosen = [name for name in dict.fromkeys(requested) if name != NONE]
    known = (*AGENTS, *SB3_BASELINES, *REFERENCES, *STRATEGIES, NONE)
    for name in chosen:
        if is_agent(name):
            find_agent(name)
        elif name not in known:
            raise unknown("baseline", name, known)
        refused = why_it_cannot_play(name, distribution.env) if name in STRATEGIES else ""
        if refused:
            raise UserError(f"{refused}, not {subject.config.env}; leave it out of --baselines")
        if name in SB3_BASELINES:
            from metarl.agents.sb3 import check_algorithm  # slow to import, and not always needed

            check_algorithm(name.removesuffix(PRETRAINED), distribution.action_space)

    # The default list is for all families; who names the oracle wants to hear that there is none.
    if "oracle" in chosen and not distribution.env.has_oracle:
        if requested != DEFAULT_BASELINES:
            raise UserError(f"{subject.config.env} has no oracle; leave it out of --baselines")
        chosen.remove("oracle")
    for name in filter(_is_student, list(chosen)):
        if can_teach(subject.config):
            continue
        if requested != DEFAULT_BASELINES:
            raise UserError(f"{subject.config.agent} cannot teach a student; leave {name} out of --baselines")
        chosen.remove(name)
    return chosen


def _is_student(name: str) -> bool:
    """Whether it is an agent that learns from teachers."""
    return is_agent(name) and issubclass(find_agent(name).config_class, TaughtConfig)


def check_sb3_settings(text: str, distribution: TaskDistribution) -> dict[str, dict[str, Any]]:
    """Baseline → arguments of its algorithm, tried out on a model.

    Args:
        text: a JSON object of this kind; "" stands for an empty one.
        distribution: what the model would learn.

    Raises:
        UserError, ValueError: not such an object, of another baseline, or arguments that the algorithm refuses.
    """
    try:
        settings = load_json(text or "{}")
    except UserError as error:
        raise UserError(f"sb3_settings: {error}") from None
    if not isinstance(settings, dict) or not all(isinstance(value, dict) for value in settings.values()):
        raise UserError('sb3_settings must look like {"ppo": {"gamma": 0.9}}')

    for label, changes in settings.items():
        if label not in SB3_BASELINES:
            raise unknown("baseline", label, SB3_BASELINES)
        _check_sb3_numbers(label, changes)
        _try_sb3_settings(label, changes, distribution)
    return settings


def _check_sb3_numbers(label: str, changes: dict[str, Any]) -> None:
    """Refuse numbers that an algorithm takes, and fails of when it has collected its first steps.

    Raises:
        UserError: names the argument.
    """
    for name, value in changes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"sb3_settings of {label}: {name} must be finite, got {value}")
        if name in ("n_epochs", "batch_size") and not (type(value) is int and value >= 1):
            raise UserError(f"sb3_settings of {label}: {name} must be a whole number of at least 1, got {value!r:.60}")


def _try_sb3_settings(label: str, changes: dict[str, Any], distribution: TaskDistribution) -> None:
    """Make a model with these arguments: SB3 says what it refuses only then."""
    from metarl.agents.sb3 import check_changes, make_model  # slow to import, and not always needed
    from metarl.baselines.sb3 import TRAINING_ENVS
    from metarl.envs.adapters.sb3 import make_sb3_vec_env

    env = make_sb3_vec_env(distribution, TRAINING_ENVS)
    check_changes(label.removesuffix(PRETRAINED), changes)
    _check_sb3_memory(label, changes, distribution)
    try:
        make_model(label.removesuffix(PRETRAINED), env, seed=0, changes=changes)
    except (TypeError, AssertionError) as error:
        raise UserError(f"sb3_settings of {label}: {error}") from None


def _check_sb3_memory(label: str, changes: dict[str, Any], distribution: TaskDistribution) -> None:
    """Refuse arguments that make an algorithm keep more steps than fit into the memory that is free now.

    Raises:
        UserError: names the argument.
    """
    from metarl.baselines.sb3 import TRAINING_ENVS  # slow to import, and not always needed

    obs_size = math.prod(distribution.observation_space.shape)
    action_size = math.prod(distribution.action_space.shape or (1,))
    # Of each step: two observations, the action, reward, value, log-probability, advantage, return, end.
    of_step = FLOAT * (2 * obs_size + action_size + 6)

    for name, envs in (("n_steps", TRAINING_ENVS), ("buffer_size", 1), ("batch_size", 1)):
        count = changes.get(name)
        if isinstance(count, int) and count > 0:
            what = f"sb3_settings of {label}: {name} {count}"
            require_memory(of_step * envs * count, what, f"{name} in --sb3-settings")
