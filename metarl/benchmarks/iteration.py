"""Speed of one meta-iteration, measured beside a plain loop over tasks that does the same work."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.benchmarks.environments import checked_families
from metarl.benchmarks.plain_loop import PlainLoop
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import tasks_to_json
from metarl.training.accelerate import capture_rollouts
from metarl.training.memory import peak_memory_mb
from metarl.training.meta_iteration import MetaBatch, sample_iteration

PLAIN_TASKS = 4  # the plain loop is linear in tasks; this many are timed and scaled up


@dataclass(frozen=True)
class Workload:
    """A meta-iteration of MAML with one inner step.

    Attributes:
        env: a registered family.
        num_tasks: M.
        episodes: E.
        horizon: H; None: the family's.
        hidden_size: units of each of the two hidden layers.
        fvp_fraction: share of the episodes on which Fisher products are estimated.
        fvp_memory: megabytes of derivatives that are kept for them.
        num_threads: CPU threads of the meta-update.
        device: where everything lies.
    """

    env: str
    num_tasks: int = 40
    episodes: int = 20
    horizon: int | None = None
    hidden_size: int = 64
    fvp_fraction: float = 0.2
    fvp_memory: float = 512
    num_threads: int = 1
    device: str = "cpu"


class _Measured:
    """A workload made ready, its episodes, and how long each phase takes."""

    def __init__(self, workload: Workload, repeats: int) -> None:
        self.distribution = make_distribution(workload.env)
        self.distribution.env.horizon = workload.horizon or self.distribution.horizon
        device = torch.device(workload.device)
        self.generator = torch.Generator(device).manual_seed(0)
        config = MAMLConfig(
            policy=PolicyConfig(hidden_sizes=(workload.hidden_size, workload.hidden_size)),
            fvp_fraction=workload.fvp_fraction,
            fvp_memory=workload.fvp_memory,
        )
        spaces = self.distribution.observation_space, self.distribution.action_space
        learners = {
            outer: MAML(*spaces, replace(config, outer=outer), self.generator, workload.num_threads)
            for outer in ("trpo", "ppo")
        }
        self.learner = learners["trpo"]
        start = self.learner.state_dict()
        self.capture_error = capture_rollouts(self.distribution, self.learner, self.generator)
        self._workload = workload
        support, query, *_ = self._sample()
        assert query is not None
        self.batches = [*support, query]

        def median(function: Callable[[], Any]) -> float:
            return median_seconds(function, repeats, device)

        collected: list[float] = []
        sampling_and_adaptation = median(lambda: collected.append(self._sample().collect_seconds))
        self.seconds = {
            "sampling": float(np.median(collected[1:])),  # the first one is the untimed warm-up
            "meta_gradient": median(lambda: self.learner.meta_gradient(support, query)),
        }
        self.line_search_trials = 1
        for outer, learner in learners.items():
            update = _UpdateFromStart(learner, support, query)
            self.seconds[f"meta_update_{outer}"] = median(update)
            self.seconds[f"iteration_{outer}"] = sampling_and_adaptation + self.seconds[f"meta_update_{outer}"]
            self.line_search_trials = int(update.metrics.get("line_search_trials", self.line_search_trials))
        self.learner.load_state_dict(start)

    def _sample(self) -> MetaBatch:
        tasks = self.distribution.sample(self._workload.num_tasks, "train", self.generator)
        return sample_iteration(self.distribution, self.learner, tasks, self._workload.episodes, self.generator)


def bench(workload: Workload, repeats: int, plain_loop: bool = True) -> dict[str, Any]:
    """Time one meta-iteration and, in the same process, one CPU core where it ran on a GPU, and the plain loop.

    Args:
        workload: what is timed.
        repeats: how often each phase is; medians are reported, after one untimed run.
        plain_loop: whether to time the plain loop, which is slow, as well.

    Returns:
        figures in seconds, steps per second, megabytes, and ratios to ours: cpu / GPU, plain / batched.

    Raises:
        UserError: not a registered family.
    """
    workload = replace(workload, env=checked_families([workload.env])[0])
    measured = _Measured(workload, repeats)
    env_steps = sum(batch.env_steps for batch in measured.batches)
    figures = asdict(workload) | {
        "horizon": measured.distribution.horizon,
        "env_steps": env_steps,
        "env_steps_per_s": env_steps / measured.seconds["sampling"],
        "peak_memory_mb": peak_memory_mb(torch.device(workload.device)),
        "capture_error": measured.capture_error,
    }
    figures |= {f"{phase}_s": seconds for phase, seconds in measured.seconds.items()}
    others = {}
    if workload.device != "cpu":
        others["cpu"] = _Measured(replace(workload, device="cpu", num_threads=1), repeats).seconds
    if plain_loop:
        others["plain"] = _plain_seconds(workload, measured)
        figures["plain_env_steps_per_s"] = env_steps / others["plain"]["sampling"]
    for other, seconds in others.items():
        figures |= {f"{other}_{phase}_s": value for phase, value in seconds.items()}
        figures |= {f"{other}_{phase}_ratio": value / measured.seconds[phase] for phase, value in seconds.items()}
    return figures


def _plain_seconds(workload: Workload, measured: _Measured) -> dict[str, float]:
    """Each phase of the plain loop, on a CPU, from some of the tasks."""
    count, distribution = min(PLAIN_TASKS, workload.num_tasks), measured.distribution
    spaces = distribution.observation_space, distribution.action_space
    learner = MAML(*spaces, measured.learner.config, torch.Generator())
    learner.load_state_dict({name: leaf.cpu() for name, leaf in measured.learner.state_dict().items()})
    plain = PlainLoop(FAMILIES[workload.env].gymnasium_id, learner, workload.episodes)
    described = tasks_to_json(distribution.sample(count, "test"))
    prepared = plain.tasks([batch.tasks(slice(0, count)).to("cpu") for batch in measured.batches])

    def seconds(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        return (time.perf_counter() - start) * workload.num_tasks / count

    phases = {
        "sampling": seconds(lambda: [plain.sample(task) for task in described]),
        "meta_gradient": seconds(lambda: plain.gradient(prepared)),
        "meta_update_trpo": seconds(lambda: plain.updated(prepared, measured.line_search_trials)),
    }
    adaptation = seconds(lambda: [plain.adapted(plain.meta, support) for support, _ in prepared])
    return phases | {"iteration_trpo": phases["sampling"] + adaptation + phases["meta_update_trpo"]}


class _UpdateFromStart:
    """The meta-update that these episodes were collected for: a second one would search in vain for a step."""

    def __init__(self, learner: MAML, support: list[Episodes], query: Episodes) -> None:
        self._learner, self._support, self._query = learner, support, query
        self._start = learner.state_dict()
        self.metrics: dict[str, float] = {}

    def __call__(self) -> None:
        self._learner.load_state_dict(self._start)
        self.metrics = self._learner.meta_update(self._support, self._query)


def median_seconds(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Of some calls, after an untimed one; what a GPU has been told to do is waited for."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))
