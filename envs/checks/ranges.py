"""Findings on the numbers that an environment gives under random actions, and on the length of its episodes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metarl.envs.checks.finding import Finding, interval
from metarl.envs.checks.trace import Trace
from metarl.envs.checks.trial import Trial
from metarl.envs.external.gymnasium_tasks import GymnasiumFamily
from metarl.envs.registry import is_registered
from metarl.envs.spaces.fields import Field, name_of_index
from metarl.envs.spaces.observation import FlatImage
from metarl.envs.task_space import select_tasks

LARGE = 10.1
"""Observations beyond ±10, and a little, are hard for a network."""

SHOWN = 5
"""Entries that a line names before it says "and more"."""


def finite_numbers(trial: Trial, trace: Trace) -> Finding:
    """Whether all observations and rewards are finite."""
    at_reset = torch.ones_like(trace.ended[..., :1])
    counted = torch.cat([at_reset, trace.taken], dim=-1)
    broken_obs = ~trace.obs.isfinite().all(dim=-1) & counted
    broken_reward = ~trace.reward.isfinite() & trace.taken

    for name, broken, first_step in (("observation", broken_obs, 0), ("reward", broken_reward, 1)):
        if bool(broken.any()):
            task, _, step = broken.nonzero()[0].tolist()
            values = {key: value.tolist() for key, value in select_tasks(trial.tasks, task).items()}
            return Finding(
                "numbers",
                "fault",
                f"the {name} is not finite at step {step + first_step} of the task {str(values)[:200]}",
                "training stops there: look for a division by zero, a root of a negative number or a state that grows "
                "without bound, and end the episode before it",
            )
    return Finding("numbers", "ok", "all observations and rewards are finite")


def observations(trial: Trial, trace: Trace, fields: Sequence[Field]) -> list[Finding]:
    """The range of each observation, and whether a network can learn from it; one finding for each thing to know."""
    seen = trace.seen_obs.flatten(1).float()
    low, high = seen.amin(dim=0), seen.amax(dim=0)
    numbers = {"low": low.tolist(), "high": high.tolist()}
    text = f"within {_interval(low.min(), high.max())}"

    # A pixel has no name, and one that does not change is no news.
    if isinstance(trial.distribution.observation_space, FlatImage):
        pixels = f"pixels {text}; training scales 0 … 255 to 0 … 1"
        return [Finding("observations", "ok", pixels, numbers=numbers)]

    def with_range(index: int) -> str:
        return f"{name_of_index(fields, index)} {_interval(low[index], high[index])}"

    large = ((low < -LARGE) | (high > LARGE)).nonzero().flatten().tolist()
    outside = _outside(trial, low, high)
    constant = (low == high).nonzero().flatten().tolist()
    found = [
        ("beyond ±10", [with_range(index) for index in large], _advice_on_units(trial)),
        (
            "outside the observation space",
            [with_range(index) for index in outside],
            "training does not mind, Gymnasium's checker and clients that clip do: widen the bounds of the space",
        ),
        (
            "never changed",
            [name_of_index(fields, index) for index in constant],
            "harmless if they change later; else leave them out, they only slow learning down",
        ),
    ]

    notes = []
    for what, named, advice in found:
        if named:
            notes.append(Finding("observations", "note", f"{text}; {what}: {_listed(named)}", advice, numbers))
    return notes or [Finding("observations", "ok", text, numbers=numbers)]


def _advice_on_units(trial: Trial) -> str:
    """What is to be done about observations in large units; for most environments nothing."""
    if not isinstance(trial.env, GymnasiumFamily) and is_registered(trial.distribution.name):
        return (
            "networks learn best from numbers near ±1: --normalize-obs on normalises them by running statistics; auto "
            "leaves this project's own families as they are"
        )
    return "nothing need be done: training normalises these by running statistics, but with --normalize-obs off"


def _outside(trial: Trial, low: Tensor, high: Tensor) -> list[int]:
    """Indices of observations that left the observation space."""
    space = trial.distribution.observation_space
    below = low < torch.as_tensor(space.low).flatten().float()
    above = high > torch.as_tensor(space.high).flatten().float()
    outside: list[int] = (below | above).nonzero().flatten().tolist()
    return outside


def rewards(trace: Trace) -> Finding:
    """The range of rewards and returns, and whether there is anything to learn from."""
    taken = trace.taken
    reward = trace.reward[taken]
    returns = (trace.reward * taken).sum(dim=-1)
    numbers = {
        "low": float(reward.min()),
        "high": float(reward.max()),
        "return_low": float(returns.min()),
        "return_high": float(returns.max()),
    }

    text = f"within {_interval(reward.min(), reward.max())} a step, returns within"
    text = f"{text} {_interval(returns.min(), returns.max())}"
    if float(returns.min()) == float(returns.max()):
        return Finding(
            "rewards",
            "note",
            f"{text}: every episode earns the same",
            "a policy that starts at random has nothing to learn from; reward progress on the way, or let episodes "
            "start nearer to success",
            numbers,
        )
    return Finding("rewards", "ok", text, numbers=numbers)


def episodes(trial: Trial, trace: Trace) -> Finding:
    """How long episodes are, and whether they end by themselves."""
    lengths = trace.lengths.flatten().float()
    ended = float((lengths < trial.num_steps).float().mean())
    horizon = trial.distribution.horizon
    tried = "" if trial.num_steps == horizon else f" (tried for {trial.num_steps} steps only)"
    numbers = {
        "shortest": int(lengths.min()),
        "mean": float(lengths.mean()),
        "longest": int(lengths.max()),
        "ended_by_themselves": ended,
        "horizon": horizon,
        "steps_tried": trial.num_steps,
    }

    if int(lengths.max()) == 1 and horizon > 1:
        return Finding(
            "episodes",
            "fault",
            "every episode ends by itself at its first step",
            "terminal must be true only where an episode is over: is its comparison the wrong way round?",
            numbers,
        )
    if not ended:
        return Finding(
            "episodes", "ok", f"none ends by itself before the horizon of {horizon} steps{tried}", "", numbers
        )

    text = (
        f"{ended:.0%} end by themselves, after {lengths.min():g} to {lengths.max():g} steps (mean {lengths.mean():.3g})"
    )
    text = f"{text}; the horizon is {horizon}{tried}"
    return Finding("episodes", "ok", text, numbers=numbers)


def speed(trial: Trial) -> Finding:
    """Environment steps per second in this process."""
    num_envs = trial.actions.shape[0] * trial.actions.shape[1]
    rate = trial.steps_per_second
    text = f"{rate:,.0f} environment steps per second, {num_envs} side by side in this process"
    return Finding("speed", "ok", text, numbers={"steps_per_second": rate, "side_by_side": num_envs})


def _interval(low: Tensor, high: Tensor) -> str:
    return interval(float(low), float(high), 4)


def _listed(names: Sequence[str]) -> str:
    """The first few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
