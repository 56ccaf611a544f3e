"""Findings from pairs of rollouts: what must be equal is, and what a task parameter must change it does."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.envs.checks.by_name import SEED
from metarl.envs.checks.finding import Finding
from metarl.envs.checks.live_env import moving_reward_statistics
from metarl.envs.checks.trace import Trace, first_difference
from metarl.envs.checks.trial import Trial
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily, task_values
from metarl.envs.task_env import TaskEnv
from metarl.envs.task_space import Integers, LogUniform, Normal, Range, Task, Uniform, num_tasks_of

TASKS_ALONE = 3
"""Tasks that are tried one after the other, and then the other way round."""

MOST_ELEMENTS = 16
"""A parameter of more elements than these is changed as a whole only."""


# What must be equal


def determinism(trial: Trial, trace: Trace) -> Finding:
    """Whether a seed decides everything: the same rollout twice, and tasks one after another in two orders."""
    again = first_difference(trace, trial.run())
    drifting = _drifting(trial) if again.startswith("reward") else []
    if drifting:
        text = f"rewards differ when the same is played again, since {', '.join(drifting)} divides them"
        return Finding("determinism", "note", text, "take it off, and check again", {"repeats": False})
    if again:
        return Finding(
            "determinism",
            "fault",
            f"the same seed and actions gave two rollouts that differ: after other episodes the {again} was another",
            _repeats_need(trial),
            {"repeats": False},
        )

    order = list(range(min(TASKS_ALONE, num_tasks_of(trial.tasks))))
    forwards = {index: trial.run_alone(index) for index in order}
    backwards = {index: trial.run_alone(index) for index in reversed(order)}
    for index in order:
        difference = first_difference(forwards[index], backwards[index])
        if difference:
            return Finding(
                "determinism",
                "fault",
                f"what a task gives depends on the tasks before it: in another order the {difference} differs",
                "something of one task is left in the next: let reset() and the setting of a task write everything",
                {"repeats": True, "depends_on_order": True},
            )
    text = "the same seed and actions give the same rollout, in whatever order tasks come"
    return Finding("determinism", "ok", text, numbers={"repeats": True, "depends_on_order": False})


def _drifting(trial: Trial) -> list[str]:
    """What divides rewards by running statistics that cannot be held still."""
    if not isinstance(trial.env, GymnasiumFamily):
        return []
    return moving_reward_statistics(trial.env.spec, task_values(trial.tasks)[0])


def _repeats_need(trial: Trial) -> str:
    """What can be the cause where a rollout cannot be repeated: both look the same from outside."""
    source = "the generator `rng`" if isinstance(trial.env, TaskEnv) else "self.np_random, which reset(seed=…) seeds"
    return (
        "runs cannot be repeated, nor tasks compared: something is kept from episode to episode (a counter, running "
        f"statistics), which reset() must write, or random numbers come from elsewhere than {source}"
    )


# What must differ


def effects(trial: Trial, trace: Trace, deterministic: bool, redrawn: Sequence[str]) -> list[Finding]:
    """For each task parameter: whether it changes the trajectory, with the same seed, actions and other parameters.

    Args:
        trial: what was run.
        trace: what it gave.
        deterministic: whether a seed decides everything; if not, nothing can be told apart.
        redrawn: attributes that the environment's reset() overwrites after the task has set them.
    """
    if not deterministic:
        text = "cannot be tried, because two rollouts differ anyway"
        return [Finding(f"task: {name}", "note", text, "mend that first") for name in trial.distribution.train]
    return [_effect(trial, trace, name, redrawn) for name in trial.distribution.train]


def _effect(trial: Trial, trace: Trace, name: str, redrawn: Sequence[str]) -> Finding:
    """Whether one parameter changes the trajectory."""
    changed = _with_other_values(trial, trial.tasks, name)
    if changed is None:
        text = f"has a single value: {trial.distribution.train[name]}"
        return Finding(f"task: {name}", "note", text, "give it a range, or make it a constant of the environment")

    difference = first_difference(trace, trial.run(changed))
    tried = trial
    further = trial.further()
    while not difference and (other := next(further, None)):
        tried = other
        difference = _difference_in(tried, name)

    if not difference:
        return _without_effect(trial, tried, name, redrawn)
    if difference.startswith("observation at the reset") and name != _seed_parameter(trial):
        return Finding(
            f"task: {name}",
            "note",
            "changes the first observation",
            "if the policy can read the task there, nothing is left to adapt to: leave it out of the observation",
            {"changes": difference},
        )

    idle = _idle_elements(trial, name)
    if idle:
        which = ", ".join(map(str, idle))
        return Finding(
            f"task: {name}",
            "note",
            f"changes the trajectory (first in the {difference}), but not its elements {which}",
            "either they are ignored, or they act only where random actions do not lead",
            {"changes": difference, "idle_elements": idle},
        )
    text = f"changes the trajectory (first in the {difference})"
    return Finding(f"task: {name}", "ok", text, numbers={"changes": difference})


def _without_effect(trial: Trial, tried: Trial, name: str, redrawn: Sequence[str]) -> Finding:
    """The finding where no observation and no reward changed."""
    if name == _seed_parameter(trial) and list(trial.distribution.train) == [SEED]:
        return Finding(
            f"task: {name}", "note", "changes nothing: reset() draws nothing from it", "name what tasks vary"
        )

    text = f"changes nothing: the same seed and actions gave the same numbers for other values, in {tried.size}"
    if redrawn:
        attributes = ", ".join(redrawn)
        advice = f"reset() overwrites {attributes} after the task has set it: keep it there, or set it in reset()"
    elif isinstance(trial.env, GymnasiumFamily):
        advice = (
            "it does not reach the physics: many environments compute constants when they are made, so set what step() "
            "reads; if it acts only where random actions do not lead, it is well"
        )
    else:
        advice = (
            f"no method reads params[{name!r}], or it acts only where random actions do not lead; tasks that do not "
            "differ cannot be adapted to"
        )
    return Finding(f"task: {name}", "fault", text, advice, {"changes": None})


def _difference_in(trial: Trial, name: str) -> str:
    """What a parameter changes in another trial."""
    changed = _with_other_values(trial, trial.tasks, name)
    assert changed is not None
    return first_difference(trial.run(), trial.run(changed))


def _idle_elements(trial: Trial, name: str) -> list[list[int]]:
    """Elements of a parameter that change nothing alone, by their indices; only where each may be changed alone."""
    range_ = trial.distribution.train[name]
    independent = isinstance(range_, Uniform | LogUniform | Normal | Integers)
    count = int(torch.tensor(range_.shape).prod()) if range_.shape else 0
    if not (independent and 2 <= count <= MOST_ELEMENTS and isinstance(trial.env, TaskEnv)):
        return []

    places = torch.ones(range_.shape).nonzero().tolist()
    start = time.perf_counter()
    for other in trial.further():
        places = _idle_in(other, name, places)
        # Too slow to tell: nothing is said then.
        if time.perf_counter() - start > trial.seconds:
            return []
        if not places:
            break
    return places


def _idle_in(trial: Trial, name: str, places: Sequence[list[int]]) -> list[list[int]]:
    """Those of some elements that change nothing in a trial."""
    trace = trial.run()
    others = _other_values(trial.distribution.train[name], trial.tasks[name])
    idle = []
    for place in places:
        index: Any = (slice(None), *place)
        values = trial.tasks[name].clone()
        values[index] = others[index]
        if not first_difference(trace, trial.run({**trial.tasks, name: values})):
            idle.append(place)
    return idle


def _with_other_values(trial: Trial, tasks: Task, name: str) -> Task | None:
    """The same tasks with other values of one parameter; None where it has only one."""
    values = tasks[name]
    others = _other_values(trial.distribution.train[name], values)
    return None if torch.equal(values, others) else {**tasks, name: others}


def _other_values(range_: Range, values: Tensor) -> Tensor:
    """Other values of a parameter for M tasks, as many as possible of them different."""
    generator = torch.Generator().manual_seed(1234)
    others = range_.sample(len(values), generator)
    for _ in range(20):
        same = (others == values).flatten(1).all(dim=1) if values.ndim > 1 else others == values
        if not bool(same.any()):
            break
        again = range_.sample(len(values), generator)
        others[same] = again[same]
    return others


def _seed_parameter(trial: Trial) -> str:
    """The parameter that seeds every reset, "" where there is none; it should be seen at once."""
    return trial.env.spec.seed_parameter if isinstance(trial.env, GymnasiumFamily) else ""
