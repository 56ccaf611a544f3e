"""The sampling loop: `collect` steps a BatchedEnv with a policy and returns Episodes.

Environment, policy and result meet in these shapes, for M tasks × E episodes of H steps:

    env.reset(generator)                 -> obs (M, E, O)
    policy.apply(P, obs, memory)         -> distribution over actions, memory
    env.step(action)                     -> obs (M, E, O), reward (M, E), terminated bool (M, E)
    policy.observe(memory, action, reward, terminated)   -> memory; optional
    collect(env, policy, adapted, generator)   -> Episodes, leaves (M, E, H, …)

An action is (M, E, A), or (M, E) integers where actions are discrete.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.envs.graphs.capture import is_capturing
from metarl.envs.spaces.answers import CheckedPolicy
from metarl.envs.task_space import Task, task_text


class BatchedEnv(Protocol):
    """What `collect` steps: M tasks × E episodes at once.

    An implementation neither resets by itself nor knows the time limit: both belong to `collect`. It goes on
    accepting steps after termination; `collect` masks what it returns then. Where it has the attributes `label`, what
    error messages call it, and `tasks`, the M tasks, they stand in error messages; where it has `action_space`, that
    in which policies act, their first actions are checked against it.

    Attributes:
        horizon: number of steps of an episode, H.
        batch_shape: (M, E).
    """

    horizon: int
    batch_shape: tuple[int, int]

    def reset(self, generator: torch.Generator) -> Tensor:
        """Start an episode everywhere; returns obs (M, E, O)."""
        ...

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step everywhere: action (M, E, A) -> obs (M, E, O), reward (M, E), terminated bool (M, E)."""
        ...

    def success(self) -> Tensor | None:
        """Whether each episode has succeeded so far, bool (M, E); None where success is not defined."""
        ...


class ActionDistribution(Protocol):
    """What a policy returns: a batch of distributions over actions."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one action from each."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Named parameters, leaves (*batch, …)."""
        ...


class ActingPolicy(Protocol):
    """What `collect` needs of a policy. Where nothing was remembered before, its memory is None at the first step.

    A memory is a tensor, or a tuple, list or dict of tensors, with leaves (M, E, …), the same ones at every step. A
    policy may define `observe(memory, action, reward, terminated) -> memory` besides (see `ObservingPolicy`).
    """

    def apply(self, params: dict[str, Tensor], obs: Tensor, memory: Any = None) -> tuple[Any, Any]:
        """Distribution over actions for obs (M, E, O), and the memory for the next step."""
        ...


@runtime_checkable
class ObservingPolicy(Protocol):
    """A policy that also sees what it did and earned, so that it can learn inside its memory."""

    def observe(self, memory: Any, action: Tensor, reward: Tensor, terminated: Tensor) -> Any:
        """The memory after a step: action (M, E, A) as it was sampled, reward (M, E), terminated bool (M, E)."""
        ...


class AdaptedPolicy(Protocol):
    """What a policy has become by adaptation: what `collect` acts with."""

    @property
    def params(self) -> dict[str, Tensor]:
        """Task-batched P with leaves (M, …), or one shared P."""
        ...

    @property
    def memory(self) -> Any:
        """What it remembers from earlier episodes, leaves (M, E, …); None where that is nothing."""
        ...


@dataclass(frozen=True)
class Episodes:
    """One batch of episodes, detached from any graph. Values where mask is 0 are zero and mean nothing.

    Attributes:
        obs: (M, E, H, O), what the agent saw before each action.
        action: (M, E, H, A), as the policy sampled it; (M, E, H) integers for discrete actions.
        reward: (M, E, H).
        mask: (M, E, H), 1 where the step was really taken, 0 after termination.
        terminated: (M, E) bool; an episode that did not terminate was truncated at the horizon.
        last_obs: (M, E, O), what the agent saw after its last real step.
        behaviour: parameters of the distribution each action was sampled from, leaves (M, E, H, …).
        success: (M, E) bool, whether the episode succeeded at any time; None where the environment does not say.
        memory: what the policy remembers after the last real step of each episode, leaves (M, E, …); None for a policy
            without memory.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    mask: Tensor
    terminated: Tensor
    last_obs: Tensor
    behaviour: dict[str, Tensor]
    success: Tensor | None = None
    memory: Any = None

    @property
    def env_steps(self) -> int:
        """Number of environment steps really taken, over all tasks and episodes."""
        return int(self.mask.count_nonzero().item())  # a float32 sum is exact up to 2²⁴ only

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode, (M, E)."""
        return self.reward.sum(dim=-1)

    def tasks(self, index: slice | Tensor) -> "Episodes":
        """The episodes of some tasks; views where the index is a slice."""
        return _map_tensors(lambda tensor: tensor[index], self)

    def to(self, device: torch.device | str) -> "Episodes":
        """The episodes on another device."""
        return _map_tensors(lambda tensor: tensor.to(device), self)

    @staticmethod
    def concatenate(parts: Sequence["Episodes"], dim: int = 0) -> "Episodes":
        """Concatenate batches: along dim 0 their tasks, along dim 1 the episodes of the same tasks."""
        return _map_tensors(lambda *tensors: torch.cat(tensors, dim), *parts)


pytree.register_dataclass(Episodes)  # so that functions of episodes can be captured


def _map_tensors(function: Callable[..., Tensor], *parts: Episodes) -> Episodes:
    """Apply a function to the corresponding tensors of one or several Episodes."""
    mapped: dict[str, Any] = {}
    for name in (field.name for field in fields(Episodes)):
        values = [getattr(part, name) for part in parts]
        mapped[name] = None if values[0] is None else pytree.tree_map(function, *values)
    return Episodes(**mapped)


def collect(
    env: BatchedEnv,
    policy: ActingPolicy,
    adapted: AdaptedPolicy | dict[str, Tensor],
    generator: torch.Generator,
) -> Episodes:
    """Run one batch of episodes, every task with its own policy parameters.

    Nothing in the loop waits for the device: terminated episodes are stepped on and masked afterwards, and what the
    policy remembers of them stays as it was after their last real step. Where rollouts of this policy are captured as
    CUDA graphs (`TaskEnv.capture_rollouts`), the graphs run instead of the loop.

    Args:
        env: M tasks × E episodes.
        policy: the functional policy.
        adapted: the policy as it is adapted; or task-batched P with leaves (M, …), or one shared P, alone: then it
            remembers nothing from before.
        generator: drives the policy's and the environment's randomness.

    Raises:
        FloatingPointError: an action, observation or reward of a step really taken is not finite; names environment,
            task and step.
        ValueError: what it remembers is of other episodes than those of `env`, or its first answer is no distribution
            over actions of this environment.
    """
    params, memory = (adapted, None) if isinstance(adapted, dict) else (adapted.params, adapted.memory)
    _check_memory(memory, env.batch_shape)

    rollout = None
    if isinstance(env, CapturableEnv) and env.rollout_graphs and env.rollout_graphs.policy is policy:
        rollout = env.rollout_graphs.collect(env, params, generator, memory)
    if rollout is None:
        rollout = collect_eagerly(env, policy, params, generator, memory)

    _check_finite(env, *rollout)
    return rollout.episodes


def _check_memory(memory: Any, batch_shape: tuple[int, int]) -> None:
    """Refuse a memory of other tasks or episodes than those that begin."""
    if memory is None:
        return
    for leaf in pytree.tree_leaves(memory):
        if isinstance(leaf, Tensor) and tuple(leaf.shape[:2]) != tuple(batch_shape):
            expected = f"tasks × episodes = {tuple(batch_shape)}"
            raise ValueError(f"a policy's memory must be of {expected}, got a leaf of shape {tuple(leaf.shape)}")


def _checked(policy: ActingPolicy, env: BatchedEnv, take_step: "Advance") -> ActingPolicy:
    """The policy, whose answer is looked at before the environment acts on it; not where kernels are made of it."""
    if take_step is not advance or is_capturing():
        return policy
    return CheckedPolicy(policy, env.batch_shape, getattr(env, "action_space", None))


class Rollout(NamedTuple):
    """What was collected.

    Attributes:
        episodes: M tasks × E episodes.
        finite: whether all numbers of a task are, (M,); a sum of large numbers may say no where they are.
    """

    episodes: Episodes
    finite: Tensor


@torch.no_grad()
def collect_eagerly(
    env: BatchedEnv,
    policy: ActingPolicy,
    params: dict[str, Tensor],
    generator: torch.Generator,
    memory: Any,
    take_step: "Advance | None" = None,
) -> Rollout:
    """What `collect` does where nothing is captured; nothing waits for the device.

    Args:
        env: M tasks × E episodes.
        policy: acts.
        params: its parameters.
        generator: drives both.
        memory: what the policy remembers from earlier episodes.
        take_step: what takes a step everywhere; None: `advance`.
    """
    take_step = take_step or advance
    carry = begin(env, generator, memory)
    records: dict[str, Tensor] = {}
    steps: list[dict[str, Tensor]] = []

    for time in range(env.horizon):
        acting = _checked(policy, env, take_step) if time == 0 else policy
        try:
            carry, step = take_step(env, acting, params, carry, generator)
        except Exception:
            _blame_environment(env, records, carry, time)
            raise
        if is_capturing():
            steps.append(step)  # a graph stacks them in a few operations at the end
            continue

        # The first step shows which tensors there are to record, and their shapes.
        if not records:
            _check_memory(carry.memory, env.batch_shape)
            records = _records_by_episode(step, env.horizon)
        for name, value in step.items():
            records[name][time] = value

    for name in steps[0] if steps else ():
        records[name] = torch.stack([step[name] for step in steps])
    return to_rollout(records, carry, env.success(), handed_over=True)


# The parts of a rollout, which captured rollouts are made of as well


@dataclass(frozen=True)
class Carry:
    """What a rollout carries from step to step, besides the environment's own state.

    Attributes:
        obs: (M, E, O).
        alive: (M, E) bool, whether the episode goes on.
        last_obs: (M, E, O), what the agent saw after its last real step.
        memory: the policy's, leaves (M, E, …); None where it has none, or before its first step.
    """

    obs: Tensor
    alive: Tensor
    last_obs: Tensor
    memory: Any = None

    def fields(self) -> dict[str, Any]:
        """What it is made of, by name; without the memory where there is none."""
        fields = {"obs": self.obs, "alive": self.alive, "last_obs": self.last_obs}
        return fields if self.memory is None else fields | {"memory": self.memory}


_CONTIGUOUS = torch.contiguous_format

_BEHAVIOUR = "behaviour."
"""Prefix under which parameters of the action distribution stand in a step's record."""


class _AtWork:
    """Marks the environment whose reset or step runs, for `env_at_work`."""

    env: BatchedEnv | None = None
    calls = 0

    def __call__(self, env: BatchedEnv) -> "_AtWork":
        self.env = env
        self.calls += 1
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.env = None


_at_work = _AtWork()


def env_at_work() -> tuple[str, Any] | None:
    """Name of the environment whose reset or step runs now, and what changes as it gets on; None where none runs.

    For another thread than that which collects: two answers that are equal, a while apart, mean that it hangs. Where an
    environment has a method `progress`, as one of many live environments does, what that gives changes as well.
    """
    env = _at_work.env
    calls = _at_work.calls
    if env is None:
        return None
    progress = getattr(env, "progress", None)
    return getattr(env, "label", "") or type(env).__name__, (calls, progress() if callable(progress) else None)


def begin(env: BatchedEnv, generator: torch.Generator, memory: Any = None) -> Carry:
    """Start an episode everywhere, with what the policy remembers from earlier ones."""
    with _at_work(env):
        obs = env.reset(generator)
    alive = torch.ones(env.batch_shape, dtype=torch.bool, device=obs.device)
    return Carry(obs, alive, last_obs=obs, memory=memory)


def advance(
    env: BatchedEnv, policy: ActingPolicy, params: dict[str, Tensor], carry: Carry, generator: torch.Generator
) -> tuple[Carry, dict[str, Tensor]]:
    """Take one step everywhere.

    Returns:
        What is carried on to the next step, and the record of this one for `to_episodes`, leaves (M, E, …).
    """
    distribution, memory = policy.apply(params, carry.obs, carry.memory)
    action = distribution.sample(generator)
    with _at_work(env):
        obs, reward, terminated = env.step(action)

    record = {"obs": carry.obs, "action": action, "reward": reward, "taken": carry.alive}
    for name, value in distribution.parameters().items():
        record[_BEHAVIOUR + name] = value

    observe = getattr(policy, "observe", None)  # see ObservingPolicy; asking a protocol costs more, at every step
    if observe is not None:
        memory = observe(memory, action, reward, terminated)
    alive = carry.alive & ~terminated
    if _surely_all(carry.alive):
        return Carry(obs, alive, obs, memory), record

    last_obs = torch.where(carry.alive.unsqueeze(-1), obs, carry.last_obs)
    return Carry(obs, alive, last_obs, _freeze_ended(memory, carry)), record


def _surely_all(flags: Tensor) -> bool:
    """Whether all are true, where to ask costs nothing: a GPU would be waited for, and a graph serves other flags."""
    return flags.device.type == "cpu" and not is_capturing() and bool(flags.all())


Advance = Callable[
    [Any, ActingPolicy, dict[str, Tensor], Carry, torch.Generator],
    tuple[Carry, dict[str, Tensor]],
]
"""What takes one step everywhere: `advance`, or the same in fewer kernels."""


def _freeze_ended(memory: Any, carry: Carry) -> Any:
    """The new memory where the step was really taken; the old one of episodes that had ended before it."""
    if memory is None or carry.memory is None:
        return memory

    def choose(new: Any, old: Any) -> Any:
        if not isinstance(new, Tensor):
            return new  # a count of steps, the same for all episodes
        alive = carry.alive.reshape(*carry.alive.shape, *(1,) * (new.ndim - carry.alive.ndim))
        return torch.where(alive, new, old)

    return pytree.tree_map(choose, memory, carry.memory)


def make_records(step: dict[str, Tensor], horizon: int) -> dict[str, Tensor]:
    """Allocate room for the records of H steps, leaves (H, M, E, …).

    Keeping the tensors of each step instead would scatter them among the short-lived ones of the same step. The C
    library could not use the gaps again: memory grew by three times the size of the records.
    """
    return {name: value.new_empty((horizon, *value.shape)) for name, value in step.items()}


def _records_by_episode(step: dict[str, Tensor], horizon: int) -> dict[str, Tensor]:
    """The same with the steps of each episode side by side in memory, as they will be in `Episodes`: no copy is due."""
    records = {}
    for name, value in step.items():
        tasks, episodes, *rest = value.shape
        records[name] = value.new_empty((tasks, episodes, horizon, *rest)).movedim(2, 0)
    return records


def to_rollout(records: dict[str, Tensor], end: Carry, success: Tensor | None, handed_over: bool = False) -> Rollout:
    """What was collected, from the records of H steps; see `to_episodes`."""
    episodes = to_episodes(records, end, success, handed_over)
    return Rollout(episodes, _finite_tasks(episodes))


def to_episodes(records: dict[str, Tensor], end: Carry, success: Tensor | None, handed_over: bool = False) -> Episodes:
    """Episodes from the records of H steps, leaves (H, M, E, …).

    Args:
        records: of each step.
        end: what is carried on at the end.
        success: of each episode.
        handed_over: the episodes may take the records' memory; otherwise they share none with them.
    """
    steps = {}
    for name, record in records.items():
        by_episode = record.movedim(0, 2)
        steps[name] = by_episode.contiguous() if handed_over else by_episode.clone(memory_format=_CONTIGUOUS)

    # Zero whatever happened after an episode's end.
    taken = steps.pop("taken")
    for values in steps.values() if not _surely_all(taken) else ():
        trailing = (1,) * (values.ndim - taken.ndim)
        values.masked_fill_(~taken.reshape(*taken.shape, *trailing), 0)

    behaviour = {name.removeprefix(_BEHAVIOUR): steps[name] for name in steps if name.startswith(_BEHAVIOUR)}
    return Episodes(
        obs=steps["obs"],
        action=steps["action"],
        reward=steps["reward"],
        mask=taken.to(steps["reward"].dtype),
        terminated=~end.alive,
        last_obs=end.last_obs,
        behaviour=behaviour,
        success=success,
        memory=end.memory if _is_of_episodes(end.memory) else None,
    )


def _is_of_episodes(memory: Any) -> bool:
    """Whether a memory holds tensors alone; a plain count of steps means nothing once they are over."""
    return all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(memory))


def _finite_tasks(episodes: Episodes) -> Tensor:
    """See Rollout.finite."""
    observed = episodes.obs.sum(dim=(1, 2, 3)) + episodes.last_obs.sum(dim=(1, 2))
    total = observed + episodes.reward.sum(dim=(1, 2))

    # Infinity times zero is not a number, so a single comparison finds both.
    return (total * 0).eq(0)


def _check_finite(env: BatchedEnv, episodes: Episodes, finite: Tensor) -> None:
    """Raise for the first task whose observations or rewards are not finite; waits for the device once."""
    if bool(finite.all()):
        return

    # A sum of large numbers may overflow where none of them is infinite; only the numbers themselves tell.
    for task in finite.logical_not().nonzero().flatten().tolist():
        fault = _first_fault(episodes.tasks(slice(task, task + 1)).to("cpu"))
        if fault:
            raise FloatingPointError(f"{_describe(env, task)} {fault}")


def _blame_environment(env: BatchedEnv, records: dict[str, Tensor], carry: Carry, time: int) -> None:
    """Raise for what a policy that failed was given, where that was not finite; the policy is not at fault then.

    Args:
        env: the environment.
        records: of the steps before, leaves (H, M, E, …).
        carry: what the policy saw.
        time: number of steps before.
    """
    if is_capturing():
        return

    # As if the episodes had been truncated here.
    seen = {name: values[:time] for name, values in records.items()} or _no_steps(carry)
    rollout = to_rollout(seen, replace(carry, last_obs=carry.obs), None)
    _check_finite(env, *rollout)


def _no_steps(carry: Carry) -> dict[str, Tensor]:
    """Records of no step, where the policy failed at the first."""
    nothing = carry.alive.new_zeros((0, *carry.alive.shape), dtype=carry.obs.dtype)
    obs = carry.obs.new_zeros((0, *carry.obs.shape))
    return {"obs": obs, "action": nothing, "reward": nothing, "taken": nothing.bool()}


def _describe(env: BatchedEnv, task: int) -> str:
    """Environment and values of a task, as far as the environment tells them."""
    label = getattr(env, "label", "") or type(env).__name__
    tasks = getattr(env, "tasks", None)
    if tasks is None:
        return f"environment {label}, task {task} of the batch,"

    values = {name: leaf[task].cpu() for name, leaf in tasks.items()}
    return f"environment {label} on the task {task_text(values)}, task {task} of the batch,"


def _first_fault(episodes: Episodes) -> str:
    """What is not finite in the episodes (1, E, …) of a task, at the earliest step; empty where all is finite."""
    faults = []
    for episode in range(episodes.reward.shape[1]):
        for order, (what, values, first_step) in enumerate(_signals(episodes, episode)):
            broken = values.isfinite().logical_not().nonzero()
            if len(broken):
                row, entry = broken[0].tolist()
                number = f"{float(values[row, entry])}" + (f" in entry {entry}" if values.shape[1] > 1 else "")
                faults.append((row + first_step, order, episode, what, number))

    if not faults:
        return ""
    step, _, episode, what, number = min(faults)
    when = f"at step {step}" if step else "at the reset"
    return f"{what} that is not finite {when} of episode {episode}: {number}"


def _signals(episodes: Episodes, episode: int) -> tuple[tuple[str, Tensor, int], ...]:
    """Of one episode of the only task: action, reward and observations (H, …), with the step that each begins at.

    Within a step the policy acts, then comes the reward, then the next observation. Step 0 is the reset.
    """
    action = episodes.action[0, episode].unsqueeze(-1).flatten(1)
    reward = episodes.reward[0, episode].unsqueeze(-1)

    # What was seen before each action, and after the last one.
    obs = torch.cat([episodes.obs[0, episode], episodes.last_obs[:, episode]])
    taken = int(episodes.mask[0, episode].sum())
    obs[taken] = episodes.last_obs[0, episode]

    return (
        ("was given an action", action, 1),
        ("gave a reward", reward, 1),
        ("gave an observation", obs[: taken + 1], 0),
    )


class CapturedRollouts(Protocol):
    """Captured rollouts of one policy; see `metarl.envs.rollout_graphs`."""

    policy: ActingPolicy

    def collect(
        self, env: "CapturableEnv", params: dict[str, Tensor], generator: torch.Generator, memory: Any = None
    ) -> Rollout | None:
        """What `collect_eagerly` would return; None where that cannot be captured."""
        ...


@runtime_checkable
class CapturableEnv(BatchedEnv, Protocol):
    """A BatchedEnv whose steps are operations on tensors alone, so that a CUDA graph can hold them.

    Attributes:
        label: what messages call the environment.
        tasks: the M tasks.
        state: of the episodes, leaves (M, E, …); a step reads it and puts the next one in its place.
        generator: drives its steps; that of the last reset.
        rollout_graphs: captured rollouts; None where they are not captured.
        steps_per_graph: steps that one graph holds at most.
    """

    label: str
    tasks: Task
    state: Any
    generator: torch.Generator | None

    @property
    def rollout_graphs(self) -> CapturedRollouts | None:
        """See Attributes."""
        ...

    @property
    def steps_per_graph(self) -> int:
        """See Attributes."""
        ...

    def with_tasks(self, tasks: Task) -> "CapturableEnv":
        """The same environment with as many episodes of other tasks."""
        ...
