"""Any Gymnasium environment as a family of tasks: `GymnasiumTasks` from Python, `from_yaml` from a file."""

import copy
import hashlib
import importlib
import inspect
import multiprocessing
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import yaml
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces.utils import flatten, flatten_space
from numpy.typing import NDArray
from torch import Tensor

from metarl.envs.cores import num_cores
from metarl.envs.env_family import EnvFamily, PicturedEnv
from metarl.envs.external.action_map import ActionMap
from metarl.envs.external.worker_pool import NO_SUCCESS, SingleEnv, TaskValues, WorkerPool
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Choice, Integers, LogUniform, Normal, Range, Task, Uniform, num_tasks_of

ONE_PER_CORE = -1

SetTask = Callable[[gymnasium.Env[Any, Any], TaskValues], None]
"""Writes a task into a live environment."""

MakeKeywords = Callable[[TaskValues], Mapping[str, Any]]
"""Arguments of `gymnasium.make` for a task."""


@dataclass(frozen=True)
class EnvSpec:
    """How a task becomes a Gymnasium environment; plain data, sent to worker processes.

    Attributes:
        env_id: id for `gymnasium.make`; "module:id" imports the module first.
        fixed: arguments of `gymnasium.make` for every task.
        keywords: arguments of `gymnasium.make` for a task; the environment is made anew where they change.
        set_task: writes a task into a live environment, before each reset.
        seed_parameter: task parameter that seeds every reset: the environment's own randomness is the task then.
        make: takes the place of `gymnasium.make(env_id, …)`.
    """

    env_id: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    keywords: MakeKeywords | None = None
    set_task: SetTask | None = None
    seed_parameter: str = ""
    make: Callable[..., gymnasium.Env[Any, Any]] | None = None

    def for_pictures(self) -> "EnvSpec":
        """The same environments, made to render arrays.

        Raises:
            ValueError: `make` takes no render_mode.
        """
        if self.make is not None:
            parameters = inspect.signature(self.make).parameters.values()
            if not any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters):
                raise ValueError(f"what makes {self.env_id} takes no argument render_mode")
        return replace(self, fixed={**self.fixed, "render_mode": "rgb_array"})

    def build(self, keywords: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
        """A live environment without a time limit."""
        if self.make is not None:
            return self.make(**keywords)
        return gymnasium.make(self.env_id, disable_env_checker=True, max_episode_steps=-1, **keywords)


class ExternalEnv(SingleEnv):
    """One Gymnasium environment that takes tasks, with the spaces that our policies need.

    Observations are flattened to float32 vectors by Gymnasium's utilities: Dict, Tuple, Box, Discrete (one-hot),
    MultiDiscrete and MultiBinary alike. Bounded Box actions are those of [−1, 1] stretched to the bounds and clipped;
    Discrete actions pass. The environment's registered time limit is taken off: the horizon belongs to the caller.

    Args:
        spec: how a task becomes an environment.
        task: the first one.

    Raises:
        ValueError: the environment cannot be made, or has spaces that no policy here can handle.
    """

    def __init__(self, spec: EnvSpec, task: TaskValues) -> None:
        self._spec = spec
        self._task = task
        self._made_with: Any = None
        self._env: gymnasium.Env[Any, Any] | None = None
        if spec.fixed.get("render_mode") == "rgb_array" and multiprocessing.parent_process() is not None:
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame complains where there is no display
        self.set_task(task)
        self._build()

    @property
    def native_spaces(self) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
        """Observation and action space of the environment itself."""
        assert self._env is not None
        return self._env.observation_space, self._env.action_space

    def set_task(self, task: TaskValues) -> None:
        """See SingleEnv.set_task."""
        self._task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode of the current task."""
        env = self._build()
        if self._spec.set_task is not None:
            self._spec.set_task(env, self._task)
        if self._spec.seed_parameter:
            seed = int(self._task[self._spec.seed_parameter])
        obs, info = env.reset(seed=seed)
        return self._vector(obs), info

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take an action of this class's own space."""
        assert self._env is not None
        obs, reward, terminated, truncated, info = self._env.step(self._stretched(action))
        return self._vector(obs), float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """See gymnasium.Env.render."""
        assert self._env is not None
        return self._env.render()

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()

    def _build(self) -> gymnasium.Env[Any, Any]:
        """The live environment, made anew where the task asks for other arguments."""
        spec = self._spec
        keywords = {**spec.fixed, **(spec.keywords(self._task) if spec.keywords else {})}
        if self._env is not None and _equal(keywords, self._made_with):
            return self._env
        self.close()
        try:
            env = spec.build(keywords)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(f"{spec.env_id} cannot be made with the arguments {sorted(keywords)}: {reason}") from error
        self._env, self._made_with, self.metadata = env, keywords, env.metadata
        self._adopt_spaces(env)
        return env

    def _adopt_spaces(self, env: gymnasium.Env[Any, Any]) -> None:
        try:
            flat = flatten_space(env.observation_space)
        except NotImplementedError:
            flat = None
        if not isinstance(flat, Box):
            raise ValueError(
                f"{self._spec.env_id}: observations {env.observation_space} cannot be flattened to a vector"
            )
        low, high = (bound.astype(np.float32) for bound in (flat.low, flat.high))
        self.observation_space = Box(low, high, dtype=np.float32)
        space = env.action_space
        if isinstance(space, Discrete) and space.start == 0:
            self.action_space = space
        elif isinstance(space, Box) and len(space.shape) == 1:
            self.action_space = Box(-1.0, 1.0, space.shape, np.float32)
            self._actions = ActionMap.between(self.action_space, space)
        else:
            raise ValueError(f"{self._spec.env_id}: actions must be Discrete from 0 or a Box (A,), got {space}")

    def _vector(self, obs: Any) -> NDArray[np.float32]:
        assert self._env is not None
        return np.asarray(flatten(self._env.observation_space, obs), np.float32)

    def _stretched(self, action: Any) -> Any:
        if isinstance(self.action_space, Discrete):
            return int(action)
        return self._actions(action).astype(self.native_spaces[1].dtype)


def _equal(keywords: Any, others: Any) -> bool:
    try:
        return bool(keywords == others)
    except ValueError:  # arrays
        return False


class GymnasiumFamily(EnvFamily):
    """A Gymnasium environment, its tasks stepped in worker processes.

    Args:
        spec: how a task becomes an environment.
        example: any task; an environment is made of it to learn the spaces.
        horizon: H.
        num_workers: processes, ONE_PER_CORE, or 0 for all in this process.

    Raises:
        ValueError: the environment cannot be made, or has spaces that no policy here can handle.
    """

    def __init__(self, spec: EnvSpec, example: TaskValues, horizon: int, num_workers: int) -> None:
        self.spec, self.horizon = spec, horizon
        self._example = example
        one = ExternalEnv(spec, example)
        self.observation_space, self.action_space = one.observation_space, one.action_space
        self.render_fps = one.metadata.get("render_fps") or EnvFamily.render_fps
        self._draws = "rgb_array" in one.metadata.get("render_modes", ())
        one.close()
        self._workers = num_cores() if num_workers == ONE_PER_CORE else num_workers
        self.pool = self._new_pool()

    def _new_pool(self) -> WorkerPool:
        spec, example = self.spec, self._example
        return WorkerPool(lambda: ExternalEnv(spec, example), spec.env_id, self._workers)

    def single(self) -> ExternalEnv:
        """One environment in this process."""
        return ExternalEnv(self.spec, self._example)

    def bind(self, tasks: Task, num_episodes: int) -> "BoundExternalEnv":
        """See EnvFamily.bind."""
        return BoundExternalEnv(self, tasks, num_episodes)

    def bind_for_pictures(self, tasks: Task, num_episodes: int) -> PicturedEnv:
        """See EnvFamily.bind_for_pictures; environments of their own, with render_mode "rgb_array"."""
        if not self._draws:
            raise ValueError(f"{self.spec.env_id} has no render mode rgb_array")
        drawing = copy.copy(self)
        drawing.spec = self.spec.for_pictures()
        drawing.pool = drawing._new_pool()
        return BoundExternalEnv(drawing, tasks, num_episodes)


class BoundExternalEnv:
    """M tasks × E episodes of live environments; implements the BatchedEnv protocol of `metarl.envs.rollout`.

    Episodes are seeded from the generator, so that they do not depend on the number of workers.

    Attributes:
        horizon: H of the family.
        batch_shape: (M, E).
    """

    def __init__(self, family: GymnasiumFamily, tasks: Task, num_episodes: int) -> None:
        self.horizon = family.horizon
        self.batch_shape = (num_tasks_of(tasks), num_episodes)
        self._pool = family.pool
        self._tasks = [task for task in task_values(tasks) for _ in range(num_episodes)]
        self._device = next(iter(tasks.values())).device
        self._success: NDArray[np.int8] = np.zeros(0, np.int8)

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode everywhere; returns obs (M, E, O)."""
        seeds = torch.randint(2**31, (len(self._tasks),), generator=generator, device=generator.device).tolist()
        observed = self._pool.reset(list(zip(self._tasks, seeds, strict=True)))
        self._success = observed["success"]
        return self._tensor(observed["obs"])

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step everywhere: action (M, E, A) -> obs (M, E, O), reward (M, E), terminated bool (M, E)."""
        observed = self._pool.step(action.flatten(0, 1).cpu().numpy())
        self._success = observed["success"]
        obs, reward, terminated = (self._tensor(observed[name]) for name in ("obs", "reward", "terminated"))
        return obs, reward, terminated.bool()

    def success(self) -> Tensor | None:
        """See BatchedEnv.success: "success" or "is_success" of the environment's info."""
        if (self._success == NO_SUCCESS).all():
            return None
        return self._tensor(self._success).gt(0)

    def picture(self, task: int, episode: int) -> NDArray[np.uint8]:
        """See PicturedEnv.picture."""
        return self._pool.picture(task * self.batch_shape[1] + episode)

    def close_pictures(self) -> None:
        """See PicturedEnv.close_pictures: ends the workers."""
        self._pool.close()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.copy()).to(self._device).reshape(*self.batch_shape, *array.shape[1:])


class GymnasiumTasks(TaskDistribution):
    """Tasks of any Gymnasium environment: by arguments of `gymnasium.make`, by a callable, or by its seed.

    A task parameter that neither `keywords` nor `set_task` takes up is an argument of `gymnasium.make` of that name:
    a number (whole where its range is), or an array.

    Args:
        env_id: id for `gymnasium.make`; "module:id" imports the module first.
        train: range of each task parameter.
        ood: ranges outside training.
        horizon: steps after which an episode is truncated; by default the registered time limit.
        keywords: arguments of `gymnasium.make` for a task, where they are not the parameters themselves.
        set_task: writes a task into the live environment before each episode, `set_task(env, task)`.
        seed_parameter: parameter that seeds every reset, so that what the environment draws there is the task.
        fixed: arguments of `gymnasium.make` for every task.
        make: takes the place of `gymnasium.make(env_id, …)`; env_id is a mere label then.
        test: ranges of the test split, where a benchmark has test tasks of its own.
        num_workers: processes that step the environments; ONE_PER_CORE, or 0 for this process. Workers import the
            main module, so a script needs `if __name__ == "__main__":`.

    Raises:
        ValueError: unknown id, arguments that the environment does not take, spaces that no policy here can handle,
            or no horizon.
    """

    def __init__(
        self,
        env_id: str,
        train: Mapping[str, Range],
        ood: Mapping[str, Range] | None = None,
        horizon: int | None = None,
        keywords: MakeKeywords | None = None,
        set_task: SetTask | None = None,
        seed_parameter: str = "",
        fixed: Mapping[str, Any] | None = None,
        make: Callable[..., gymnasium.Env[Any, Any]] | None = None,
        test: Mapping[str, Range] | None = None,
        num_workers: int = ONE_PER_CORE,
    ) -> None:
        if not train:
            raise ValueError("a task distribution needs at least one task parameter")
        if seed_parameter and seed_parameter not in train:
            raise ValueError(f"seed_parameter {seed_parameter!r} is none of the task parameters {sorted(train)}")
        names = [name for name in train if name != seed_parameter]
        if keywords is None and set_task is None and names:
            whole = {name for name in names if isinstance(train[name], Integers)}
            keywords = Arguments(tuple(names), frozenset(whole))
        spec = EnvSpec(env_id, dict(fixed or {}), keywords, set_task, seed_parameter, make)
        seeded = torch.Generator().manual_seed(0)
        example = task_values({name: range_.sample(1, seeded) for name, range_ in train.items()})[0]
        family = GymnasiumFamily(spec, example, horizon or _registered_horizon(env_id), num_workers)
        super().__init__(family, train, ood, name=env_id, test=test)
        self.family = family


def number(value: NDArray[Any], whole: bool) -> Any:
    """A scalar as Python's number, an array as it is."""
    if np.ndim(value) > 0:
        return value.astype(np.int64) if whole else value
    return round(float(value)) if whole else float(value)


def task_values(tasks: Task) -> list[TaskValues]:
    """The tasks of a batch as numpy arrays, one mapping each."""
    arrays = {name: value.cpu().numpy() for name, value in tasks.items()}
    return [{name: array[index] for name, array in arrays.items()} for index in range(num_tasks_of(tasks))]


def _registered_horizon(env_id: str) -> int:
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        limit = gymnasium.spec(name).max_episode_steps
    except Exception as error:
        raise ValueError(f"unknown Gymnasium environment {env_id!r}: {' '.join(str(error).split())}") from error
    if limit is None:
        raise ValueError(f"{env_id} has no time limit of its own; give a horizon")
    return limit


_RANGES: dict[str, Callable[..., Range]] = {
    "uniform": lambda low, high, units: Uniform(low, high, units),
    "log_uniform": lambda low, high, units: LogUniform(low, high, units),
    "normal": lambda mean, std, units: Normal(mean, std, units),
    "integers": lambda low, high, units: Integers(low, high, units),
    "choice": lambda *values, units: Choice(values, units),
}
_KEYS = {"env_id", "task", "horizon", "num_workers", "make", "set_task", "seed_parameter", "config", "keywords"}


def from_yaml(path: str | Path) -> GymnasiumTasks:
    """Read a distribution from a YAML file.

    Keys: `env_id`; `task`, parameter → {range: values, units: text, ood: {range: values}} with the ranges uniform,
    log_uniform, normal, integers and choice; and optionally `horizon`, `num_workers`, `make` (arguments of
    gymnasium.make for every task), `config` (names of the parameters that go into an argument "config", a dict whose
    other entries stand under `make`), `seed_parameter`, `set_task` ("package.module:function") and `keywords` (names of
    the parameters that are arguments themselves: by default all others, or none where there is a `set_task`).

    Raises:
        ValueError: the file is missing or malformed, or the environment does not take what it says; names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    try:
        distribution = _from_data(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    # Copies of one file are one environment, wherever they lie.
    distribution.name = f"{Path(path).name}:{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return distribution


def _from_data(data: Any) -> GymnasiumTasks:
    if not isinstance(data, dict) or not {"env_id", "task"} <= set(data):
        raise ValueError("needs at least the keys env_id and task")
    unknown = sorted(set(map(str, data)) - _KEYS)
    if unknown:
        raise ValueError(f"unknown keys {', '.join(unknown)}; allowed are {', '.join(sorted(_KEYS))}")
    if not isinstance(data["task"], dict) or not data["task"]:
        raise ValueError("task needs at least one parameter with its range")
    if not isinstance(data["env_id"], str):
        raise ValueError(f"env_id must be text, got {data['env_id']!r}")
    train, ood = {}, {}
    for name, entry in data["task"].items():
        train[name] = _range(name, entry)
        if "ood" in entry:
            ood[name] = _range(f"{name}.ood", entry["ood"], train[name].units)
    horizon = data.get("horizon")
    if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
        raise ValueError(f"horizon must be a whole number of at least 1, got {horizon!r}")
    num_workers = data.get("num_workers", ONE_PER_CORE)
    if not isinstance(num_workers, int) or num_workers < ONE_PER_CORE:
        raise ValueError(f"num_workers must be a whole number of at least 0, got {num_workers!r}")
    fixed = data.get("make") or {}
    if not isinstance(fixed, dict):
        raise ValueError(f"make must be a mapping of arguments, got {fixed!r}")
    seed_parameter = data.get("seed_parameter", "")
    in_config = _names(data, "config", train, [])
    rest = [name for name in train if name not in in_config and name != seed_parameter]
    as_arguments = _names(data, "keywords", train, [] if data.get("set_task") else rest)
    whole = frozenset(name for name in train if isinstance(train[name], Integers))
    keywords: MakeKeywords | None = None
    if in_config:
        keywords = InConfig(in_config, as_arguments, whole, fixed.get("config", {}))
    elif as_arguments:
        keywords = Arguments(as_arguments, whole)
    return GymnasiumTasks(
        data["env_id"],
        train,
        ood,
        horizon=horizon,
        keywords=keywords,
        set_task=_callable(data["set_task"]) if data.get("set_task") else None,
        seed_parameter=seed_parameter,
        fixed=fixed,
        num_workers=num_workers,
    )


@dataclass(frozen=True)
class Arguments:
    """Task parameters as arguments of `gymnasium.make`.

    Attributes:
        names: the parameters.
        whole: those that are whole numbers.
    """

    names: tuple[str, ...]
    whole: frozenset[str] = frozenset()

    def __call__(self, task: TaskValues) -> dict[str, Any]:
        """Arguments of `gymnasium.make` for a task."""
        return {name: number(task[name], name in self.whole) for name in self.names}


@dataclass(frozen=True)
class InConfig:
    """Task parameters as entries of one argument, "config", beside others that are arguments themselves.

    Attributes:
        inside: parameters that go into the config.
        outside: parameters that do not.
        whole: those of both that are whole numbers.
        config: its other entries.
    """

    inside: tuple[str, ...]
    outside: tuple[str, ...] = ()
    whole: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, task: TaskValues) -> dict[str, Any]:
        """Arguments of `gymnasium.make` for a task."""
        inside, outside = (Arguments(names, self.whole)(task) for names in (self.inside, self.outside))
        return {**outside, "config": {**self.config, **inside}}


def _names(data: dict[str, Any], key: str, train: Mapping[str, Range], default: list[str]) -> tuple[str, ...]:
    """Task parameters that a key of the file names."""
    names = data.get(key, default)
    foreign = sorted(set(map(str, names)) - set(train)) if isinstance(names, list) else [str(names)]
    if foreign:
        raise ValueError(f"{key} names {', '.join(foreign)}, but the task parameters are {', '.join(train)}")
    return tuple(names)


def _range(name: str, entry: Any, units: str = "") -> Range:
    known = ", ".join(_RANGES)
    if not isinstance(entry, dict):
        raise ValueError(f"task parameter {name!r} needs a range, one of {known}, got {entry!r}")
    kinds = [key for key in entry if key in _RANGES]
    unknown = sorted(set(map(str, entry)) - {*_RANGES, "units", "ood"})
    if len(kinds) != 1 or unknown:
        raise ValueError(f"task parameter {name!r} needs one range of {known}, and may have units and ood, got {entry}")
    try:
        return _RANGES[kinds[0]](*entry[kinds[0]], units=str(entry.get("units", units)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"task parameter {name!r}: {kinds[0]} cannot be {entry[kinds[0]]!r}: {error}") from None


def _callable(name: str) -> SetTask:
    module, _, attribute = str(name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"set_task {name!r}: {error}") from error
    if not callable(found):
        raise ValueError(f"set_task {name!r} is not callable")
    return found  # type: ignore[no-any-return]
