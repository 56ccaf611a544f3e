"""`check_environment`: everything that can be seen of an environment before anything is trained on it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metarl.envs.checks import comparisons, layout, live_env, ranges
from metarl.envs.checks.by_name import distribution_of
from metarl.envs.checks.contract import ContractError, check_single, check_task_env
from metarl.envs.checks.finding import Finding
from metarl.envs.checks.trial import Trial, TrialFailedError
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily, task_values
from metarl.envs.spaces.action_map import ActionMap
from metarl.envs.spaces.fields import Field, fields_of
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_env import TaskEnv

CONTRACT_BATCH = (4, 3)
"""M tasks × E episodes in which methods are called one by one; two numbers, so that no dimension passes for another."""

SHOWN_FIELDS = 30


@dataclass(frozen=True)
class EnvironmentCheck:
    """What a check found.

    Attributes:
        distribution: what was checked.
        kind: what the environment is, in words.
        fields: which index of the observations holds what.
        actions: what a policy's action becomes, in lines.
        findings: one for each thing that was looked at.
        steps_per_second: environment steps; 0 where it could not be stepped.
    """

    distribution: TaskDistribution
    kind: str
    fields: Sequence[Field]
    actions: Sequence[str]
    findings: Sequence[Finding]
    steps_per_second: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing will go wrong in training, as far as was seen."""
        return all(finding.level != "fault" for finding in self.findings)

    def with_findings(self, *findings: Finding) -> "EnvironmentCheck":
        """The same with further findings."""
        return dataclasses.replace(self, findings=[*self.findings, *findings])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "env": self.distribution.name,
            "kind": self.kind,
            "passed": self.passed,
            "horizon": self.distribution.horizon,
            "tasks": {name: str(range_) for name, range_ in self.distribution.train.items()},
            "observation": [field.to_json() for field in self.fields],
            "action": list(self.actions),
            "steps_per_second": self.steps_per_second,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """One plain page."""
        distribution = self.distribution
        names = max(len(f"{field.name}  ") if field.name else 0 for field in self.fields)
        lines = [f"{distribution.name}: {self.kind}, horizon {distribution.horizon}", ""]

        unstated = "" if any(field.unit for field in self.fields) else "; units are not stated"
        lines.append(f"observation (what a policy sees at each index{unstated})")
        for field in self.fields[:SHOWN_FIELDS]:
            unit = f"  [{field.unit}]" if field.unit else ""
            lines.append(f"  {field.indices:>9}  {field.name:{names}}{field.space}{unit}")
        if len(self.fields) > SHOWN_FIELDS:
            lines.append(f"  and {len(self.fields) - SHOWN_FIELDS} more fields")

        lines.append("action (a policy's → the environment's)")
        lines += [f"  {line}" for line in self.actions]
        lines.append("task parameters")
        lines += [f"  {name}: {range_} {range_.units}".rstrip() for name, range_ in distribution.train.items()]

        lines += ["", *self._finding_lines(), "", self._verdict()]
        return lines

    def _finding_lines(self) -> list[str]:
        column = max(len(finding.topic) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(
                f"{finding.level.upper() if finding.level == 'fault' else finding.level:5}  "
                f"{finding.topic:{column}}  {finding.text}"
            )
            if finding.advice:
                lines.append(f"{'':5}  {'':{column}}  → {finding.advice}")
        return lines

    def _verdict(self) -> str:
        faults = [finding.topic for finding in self.findings if finding.level == "fault"]
        if faults:
            return f"training will go wrong: {', '.join(faults)}"
        return "nothing was found that would go wrong in training"


def check_environment(name: str, seconds: float) -> EnvironmentCheck:
    """Look at an environment: shapes, spaces, tasks, randomness, numbers, episodes, speed.

    Args:
        name: as `distribution_of` takes it.
        seconds: how long rollouts may take, about; short episodes take less.

    Raises:
        ValueError: there is no such environment, or it cannot be made.
    """
    distribution, found = distribution_of(name)
    env = distribution.env
    kind = f"the Gymnasium environment {env.spec.env_id}" if isinstance(env, GymnasiumFamily) else "written in torch"

    shapes = _shapes(distribution)
    check = EnvironmentCheck(
        distribution=distribution,
        kind=kind,
        fields=fields_of(layout.native_observations(distribution), env.field_units),
        actions=layout.action_lines(ActionMap.of(env.native_action_space, env.action_scale)),
        findings=[*found, *shapes, layout.actions(distribution)],
    )
    # Nothing that a rollout shows can be trusted with wrong shapes.
    if not check.passed:
        return check

    try:
        trial = Trial.within(seconds, distribution)
        return dataclasses.replace(check, steps_per_second=trial.steps_per_second).with_findings(
            *_rollout_findings(trial, check.fields)
        )
    except TrialFailedError as error:
        advice = "training would stop there: mend it, or end the episode before it comes to this"
        return check.with_findings(Finding("step", "fault", f"it fails: {' '.join(str(error).split())}", advice))


def _shapes(distribution: TaskDistribution) -> list[Finding]:
    """Whether what the environment gives has the shapes that training needs."""
    env = distribution.env
    if isinstance(env, GymnasiumFamily):
        task = task_values(distribution.sample(1, "validation"))[0]
        return [live_env.returned_values(env.spec, task), *live_env.normalised_rewards(env.spec, task)]
    if not isinstance(env, TaskEnv):
        return []

    num_tasks, num_episodes = CONTRACT_BATCH
    tasks = distribution.sample(num_tasks, "validation")
    try:
        check_task_env(env, tasks, num_episodes)
    except ContractError as error:
        return [
            Finding(
                "shapes",
                "fault",
                str(error),
                "torch broadcasts other shapes into wrong numbers without an error: mend it before training",
            )
        ]

    try:
        check_single(env, tasks)
    except ContractError as error:
        advice = (
            "training does not need it; gymnasium.make and videos do: count dimensions from the last, as in x[..., 0]"
        )
        return [Finding("shapes", "note", str(error), advice)]
    return [Finding("shapes", "ok", "every method returns what it must, for batches and for one environment")]


def _rollout_findings(trial: Trial, fields: Sequence[Field]) -> list[Finding]:
    """What rollouts with random actions show."""
    trace = trial.run()
    finite = ranges.finite_numbers(trial, trace)
    findings = [finite]
    if finite.level == "ok":
        findings += [*ranges.observations(trial, trace, fields), ranges.rewards(trace)]

    determinism = comparisons.determinism(trial, trace)
    findings += [
        ranges.episodes(trial, trace),
        determinism,
        *comparisons.effects(trial, trace, determinism.level == "ok", _redrawn(trial)),
        ranges.speed(trial),
    ]
    return findings


def _redrawn(trial: Trial) -> list[str]:
    """Attributes that reset() overwrites after the task has set them."""
    if not isinstance(trial.env, GymnasiumFamily):
        return []

    first, second = task_values(trial.tasks)[:2]
    return live_env.redrawn_attributes(trial.env.spec, first, second)
