"""TaskDistribution: a family of environments, named ranges of its parameters, and splits."""

import copy
import json
import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.envs.env_family import EnvFamily, require_horizon, require_units_that_fit
from metarl.envs.rollout import BatchedEnv
from metarl.envs.spaces.action_map import PolicySpace
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Range, Task, named_once, num_tasks_of, select_tasks

FROZEN_SIZE = 1000
"""Number of tasks in each frozen list: validation, test and ood."""

_FROZEN_SEEDS = {"validation": 1_000_003, "test": 2_000_003, "ood": 3_000_017}

_HELD_OUT_TENTHS = {"train": (0, 6), "validation": (6, 8), "test": (8, 10)}
"""Which tenths of the tasks belong to a split where tasks are held out."""

_MAX_DRAWS = 1000
_PRIME = 2**31 - 1

SPLITS = ("train", *_FROZEN_SEEDS)
"""All splits; `ood` only where a distribution has ranges for it."""


class TaskDistribution:
    """A distribution over tasks of one family of environments, with the splits train, validation, test and ood.

    `train` samples new tasks each time. `validation` and `test` are frozen lists of FROZEN_SIZE tasks, sampled from
    the same ranges with seeds of their own: the first n of them are the same on every machine and in every run, so
    that results can be compared. No task stands in a list twice. In a continuous space the three splits share no task;
    a space of a few choices (two directions, say) has no other tasks to offer, and they do (`shares_tasks`), unless the
    choices are enough to be shared out (`held_out`). `ood` is a frozen list from outside the training ranges:
    extrapolation.

    Attributes:
        name: name in the registry, or the place it was loaded from; shown in reports.
        env: the family, a TaskEnv where it is written in torch.
        train: range of each task parameter.
        ood: ranges outside training; a parameter not named keeps its training range. Empty: no ood split.
        test: ranges of the test split where they are not those of training: benchmarks that name their test tasks.
        held_out: whether each task belongs to one of train, validation and test alone, by a hash of its parameters:
            6, 2 and 2 tenths of all. For families of some hundred to some thousand tasks.
    """

    def __init__(
        self,
        env: EnvFamily,
        train: Mapping[str, Range],
        ood: Mapping[str, Range] | None = None,
        name: str = "",
        test: Mapping[str, Range] | None = None,
        held_out: bool = False,
    ) -> None:
        if not train:
            raise ValueError("a task distribution needs at least one task parameter")
        for split, ranges in (("ood", ood), ("test", test)):
            unknown = set(ranges or {}) - set(train)
            if unknown:
                raise ValueError(f"{split} ranges name {sorted(unknown)}, but the task parameters are {sorted(train)}")

        require_horizon(env)
        require_units_that_fit(env)
        self.env = env
        self.train = dict(train)
        self.ood = dict(ood or {})
        self.test = dict(test or {})
        self.name = name or type(self).__name__
        self.held_out = held_out
        self._train_tasks: Task | None = None

    @property
    def task_env(self) -> TaskEnv:
        """The family as a TaskEnv.

        Raises:
            ValueError: it is not written in torch.
        """
        if not isinstance(self.env, TaskEnv):
            raise ValueError(f"{self.name} is not written in torch: it has no TaskEnv")
        return self.env

    @property
    def observation_space(self) -> Box:
        """Gymnasium space of one observation."""
        return self.env.observation_space

    @property
    def action_space(self) -> PolicySpace:
        """The space that policies act in; that of a torch environment itself is `env.action_space`.

        Raises:
            ValueError: no policy here acts in the environment's own.
        """
        try:
            return self.env.action_map.policy
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @property
    def horizon(self) -> int:
        """Number of steps after which an episode is truncated, H."""
        return self.env.horizon

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits this distribution offers."""
        return SPLITS if self.ood else tuple(split for split in SPLITS if split != "ood")

    def ranges(self, split: str) -> dict[str, Range]:
        """Range of each task parameter in a split.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}; its splits are {', '.join(self.splits)}")
        own_ranges = {"ood": self.ood, "test": self.test}.get(split, {})
        return {**self.train, **own_ranges}

    def sample(self, num_tasks: int, split: str = "train", generator: torch.Generator | None = None) -> Task:
        """Sample tasks, leaves (M, …), on the generator's device (CPU without one).

        Args:
            num_tasks: M ≥ 1; a frozen list of fewer distinct tasks gives those that it has.
            split: "train" samples with the generator; the other splits give the first M of their frozen list.
            generator: needed for "train", not used by the frozen splits but for its device.

        Raises:
            ValueError: unknown split, M out of range, or no generator for the training split.
        """
        ranges = self.ranges(split)
        if num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, got {num_tasks}")

        if split == "train":
            if generator is None:
                raise ValueError("sampling the training split needs a generator")
            return self._sample_train(num_tasks, generator)

        if num_tasks > FROZEN_SIZE:
            raise ValueError(f"num_tasks must be at most {FROZEN_SIZE} in split {split!r}, got {num_tasks}")
        device = generator.device if generator is not None else torch.device("cpu")

        # The whole list is sampled on the CPU, whatever M and the device, so that task i is always the same.
        frozen = torch.Generator().manual_seed(_FROZEN_SEEDS[split])
        tasks = self._draw(ranges, FROZEN_SIZE, split, frozen)
        distinct = _first_of_each(tasks)[:num_tasks]
        return {name: value[distinct].to(device) for name, value in tasks.items()}

    def _draw(self, ranges: Mapping[str, Range], num_tasks: int, split: str, generator: torch.Generator) -> Task:
        """Draw tasks; where some are held out, those of other splits are drawn again."""
        tasks = {name: range_.sample(num_tasks, generator) for name, range_ in ranges.items()}
        if not self.held_out or split == "ood":
            return tasks

        first, last = _HELD_OUT_TENTHS[split]
        for _ in range(_MAX_DRAWS):
            tenth = _tenth(tasks)
            foreign = (tenth < first) | (tenth >= last)
            if not bool(foreign.any()):
                return tasks
            for name, range_ in ranges.items():
                tasks[name][foreign] = range_.sample(int(foreign.sum()), generator)
        raise ValueError(f"{self.name} has too few tasks to hold some of them out: no {split} task was found")

    @property
    def num_distinct_tasks(self) -> int | None:
        """Number of tasks that the training ranges hold, all splits together; None where it is not finite."""
        counts = [range_.count for range_ in self.train.values()]
        known = [count for count in counts if count is not None]
        return math.prod(known) if len(known) == len(counts) else None

    def shares_tasks(self, split: str) -> bool:
        """Whether a split holds tasks that training draws as well, because the family has few and keeps none apart."""
        own_ranges = {"ood": self.ood, "test": self.test}.get(split, {})
        count = self.num_distinct_tasks
        return count is not None and count <= FROZEN_SIZE and not self.held_out and not own_ranges

    def exhausts(self, split: str, num_tasks: int) -> bool:
        """Whether so many tasks of a split are all that there are, and no sample of more."""
        count = self.num_distinct_tasks
        drawn_again = split == "train"  # with replacement
        return not drawn_again and self.shares_tasks(split) and count is not None and num_tasks >= count

    def _sample_train(self, num_tasks: int, generator: torch.Generator) -> Task:
        if self._train_tasks is None:
            return self._draw(self.train, num_tasks, "train", generator)

        count = num_tasks_of(self._train_tasks)
        index = torch.randint(count, (num_tasks,), generator=generator, device=generator.device)
        on_device = {name: value.to(index.device) for name, value in self._train_tasks.items()}
        return select_tasks(on_device, index)

    def with_train_tasks(self, tasks: Task) -> Self:
        """The same distribution, except that its training split samples from these N tasks, with replacement."""
        restricted = copy.copy(self)
        restricted._train_tasks = tasks
        return restricted

    def default_task(self) -> Task:
        """The one task of `gymnasium.make(id)` without a task, leaves (1, …)."""
        params = self.env.get_default_params()
        if params is None:
            return self.sample(1, "train", torch.Generator().manual_seed(0))
        return {name: value.unsqueeze(0) for name, value in params.items()}

    def parse_task(self, task: str | Mapping[str, Any]) -> Task:
        """Read one task, leaves (1, …).

        Args:
            task: a mapping of parameter names to numbers, the same as a JSON object, or the short form
                "goal=0.3,0.2 gain=0.5".

        Raises:
            ValueError: malformed, unknown or missing parameters, wrong shape, or outside both the training and
                the ood ranges.
        """
        values = _parse_task_text(task) if isinstance(task, str) else dict(task)

        if set(values) != set(self.train):
            raise ValueError(
                f"task {task!r} names the parameters {sorted(map(str, values))}; {self.name} needs {sorted(self.train)}"
            )

        return {name: self._parse_value(name, values[name]) for name in self.train}

    def _parse_value(self, name: str, raw: Any) -> torch.Tensor:
        """One task parameter, (1, …)."""
        train = self.train[name]
        try:
            if _holds_truth_values(raw):  # torch would make 1 of true
                raise TypeError
            value = torch.as_tensor(raw, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise ValueError(f"task parameter {name!r} must be numbers, got {raw!r:.200}") from None

        # The short form "gain=0.5" gives a list even of one number.
        if value.ndim == 1 and len(value) == 1 and train.shape == ():
            value = value[0]
        if tuple(value.shape) != train.shape:
            raise ValueError(
                f"task parameter {name!r} must have shape {train.shape}, got {raw!r} of shape {tuple(value.shape)}"
            )

        allowed = [train, *(ranges[name] for ranges in (self.test, self.ood) if name in ranges)]
        if not any(bool(range_.contains(value.unsqueeze(0))) for range_ in allowed):
            described = " or ".join(str(range_) for range_ in allowed)
            raise ValueError(f"task parameter {name!r} = {raw!r} is outside its range: {described}")
        return value.unsqueeze(0)

    def bind(self, tasks: Task, num_episodes: int) -> BatchedEnv:
        """Bind M tasks × E episodes to an environment that `collect` steps."""
        return self.env.bind(tasks, num_episodes)


def _tenth(tasks: Task) -> Tensor:
    """A number from 0 to 9 for each task, by a hash of its parameters, (M,); the same on every machine and device."""
    digest = torch.zeros(num_tasks_of(tasks), dtype=torch.int64, device=next(iter(tasks.values())).device)
    for _, value in sorted(tasks.items()):
        for element in value.float().reshape(len(value), -1).T:
            digest = (digest * 1_000_003 + element.contiguous().view(torch.int32).long() + 1) % _PRIME

    return (digest * 48_271 % _PRIME) % 10


def _first_of_each(tasks: Task) -> list[int]:
    """Indices of the tasks that no earlier one equals, ascending."""
    rows = torch.cat([value.reshape(len(value), -1).double() for value in tasks.values()], dim=1).numpy()
    first: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row.tobytes(), index)
    return list(first.values())


def _holds_truth_values(raw: Any) -> bool:
    """Whether true or false stands where a number should, alone or in a list."""
    if isinstance(raw, list | tuple):
        return any(_holds_truth_values(one) for one in raw)
    return isinstance(raw, bool)


def _parse_task_text(text: str) -> dict[str, Any]:
    """Read a JSON object or 'name=1,2 other=3'."""
    if text.lstrip().startswith("{"):
        try:
            values = json.loads(text, object_pairs_hook=named_once)
        except RecursionError:
            raise ValueError(f"task {text!r:.80} is not valid JSON: nested too deep") from None
        except ValueError as error:
            raise ValueError(f"task {text!r:.200} is not valid JSON: {error}") from None
        assert isinstance(values, dict)
        return values

    values = {}
    for item in text.replace(";", " ").split():
        name, separator, numbers = item.partition("=")
        try:
            parsed = [float(number) for number in numbers.split(",")]
        except ValueError:
            parsed = []

        if not (name and separator and parsed) or name in values:
            raise ValueError(f"task {text!r} is malformed at {item!r}: write 'name=1.0,2.0 other=3.0' or a JSON object")
        values[name] = parsed

    return values
