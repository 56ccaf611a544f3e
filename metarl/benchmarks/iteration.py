"""Speed of one meta-iteration, measured beside a plain loop over tasks that does the same work."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from metarl.agents.learner import MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.benchmarks.environments import checked_families
from metarl.benchmarks.plain_loop import PlainLoop
from metarl.envs.registry import FAMILIES, make_distribution
from metarl.envs.rollout import Episodes
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import tasks_to_json
from metarl.training.machine.accelerate import use_graphs
from metarl.training.machine.memory import peak_memory_mb
from metarl.training.meta_iteration import Sampled, sample_iteration

PLAIN_TASKS = 4
"""The plain loop takes as long for each task; so many are timed, and the time is scaled up."""


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
        cuda_graphs: how a GPU runs rollouts and updates; see TrainConfig.
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
    cuda_graphs: Literal["auto", "fused", "off"] = "auto"


@dataclass(frozen=True)
class _MeasuredIteration:
    """How long each phase of a meta-iteration takes, and what was timed.

    Attributes:
        distribution: gives the tasks.
        learner: MAML-TRPO, as it was before the updates that were timed.
        batches: support and query of one iteration.
        seconds: phase → median seconds.
        line_search_trials: how often the TRPO update looked for a step.
        capture_error: what the device's graphs could not hold, and why; None where all is well, or there are none.
    """

    distribution: TaskDistribution
    learner: MAML
    batches: list[Episodes]
    seconds: dict[str, float]
    line_search_trials: int
    capture_error: str | None


def _measure(workload: Workload, repeats: int) -> _MeasuredIteration:
    """Time each phase, the updates all on one meta-batch."""
    device = torch.device(workload.device)
    generator = torch.Generator(device).manual_seed(0)
    distribution = make_distribution(workload.env)
    distribution.env.horizon = workload.horizon or distribution.horizon
    learners = _learners(workload, distribution, generator)
    learner = learners["trpo"]
    refused: list[str] = []
    if workload.cuda_graphs != "off":
        for captured in reversed(learners.values()):  # the last one's policy is the one that samples
            use_graphs(distribution, captured, device, refused.append, fuse=workload.cuda_graphs == "fused")

    def sample() -> Sampled:
        tasks = distribution.sample(workload.num_tasks, "train", generator)
        return sample_iteration(distribution, learner, tasks, workload.episodes, generator)

    # A meta-batch of the initial parameters; every update begins at them.
    start = learner.state_dict()
    batch = sample().batch
    support, query = batch.support, batch.query
    assert query is not None

    collected: list[float] = []
    sampling_and_adaptation = median_seconds(lambda: collected.append(sample().collect_seconds), repeats, device)
    seconds = {
        "sampling": float(np.median(collected[1:])),  # the first one is the untimed warm-up
        "meta_gradient": median_seconds(lambda: learner.meta_gradient(support, query), repeats, device),
    }

    line_search_trials = 1
    for outer, updated in learners.items():
        update = _UpdateFromStart(updated, support, query)
        seconds[f"meta_update_{outer}"] = median_seconds(update, repeats, device)
        seconds[f"iteration_{outer}"] = sampling_and_adaptation + seconds[f"meta_update_{outer}"]
        line_search_trials = int(update.metrics.get("line_search_trials", line_search_trials))

    # The plain loop is to begin where the learner began.
    learner.load_state_dict(start)
    return _MeasuredIteration(
        distribution, learner, [*support, query], seconds, line_search_trials, "; ".join(refused) or None
    )


def _learners(workload: Workload, distribution: TaskDistribution, generator: torch.Generator) -> dict[str, MAML]:
    """MAML by its outer optimiser."""
    config = MAMLConfig(
        policy=PolicyConfig(hidden_sizes=(workload.hidden_size, workload.hidden_size)),
        fvp_fraction=workload.fvp_fraction,
        fvp_memory=workload.fvp_memory,
    )
    spaces = distribution.observation_space, distribution.action_space

    return {
        outer: MAML(*spaces, replace(config, outer=outer), generator, workload.num_threads) for outer in ("trpo", "ppo")
    }


def bench(workload: Workload, repeats: int, plain_loop: bool = True) -> dict[str, Any]:
    """Time one meta-iteration and, in the same process, what it is compared with.

    That is the plain loop and, where it ran on a GPU, the same work fused, without graphs, and on one CPU core.

    Args:
        workload: what is timed.
        repeats: how often each phase is; medians are reported, after one untimed run.
        plain_loop: whether to time the plain loop, which is slow, as well.

    Returns:
        figures in seconds, steps per second, megabytes, and ratios to ours: fused / graphs, eager / graphs, cpu / GPU,
        plain / batched; and what of ours, and of the fused one, could not be captured or fused.

    Raises:
        UserError: not a registered family.
    """
    workload = replace(workload, env=checked_families([workload.env])[0])
    measured = _measure(workload, repeats)

    env_steps = sum(batch.env_steps for batch in measured.batches)
    figures = asdict(workload) | {
        "horizon": measured.distribution.horizon,
        "env_steps": env_steps,
        "env_steps_per_s": env_steps / measured.seconds["sampling"],
        "peak_memory_mb": peak_memory_mb(torch.device(workload.device)),
        "capture_error": measured.capture_error,
    }
    figures |= {f"{phase}_s": seconds for phase, seconds in measured.seconds.items()}

    # In this process, right after: a ratio of two runs on a busy machine would say little.
    others = {}
    if workload.device != "cpu":
        fused = _measure(replace(workload, cuda_graphs="fused"), repeats)
        others["fused"] = fused.seconds
        figures["fused_capture_error"] = fused.capture_error
        others["eager"] = _measure(replace(workload, cuda_graphs="off"), repeats).seconds
        others["cpu"] = _measure(replace(workload, device="cpu", num_threads=1), repeats).seconds
    if plain_loop:
        others["plain"] = _plain_seconds(workload, measured)
        figures["plain_env_steps_per_s"] = env_steps / others["plain"]["sampling"]

    for other, seconds in others.items():
        figures |= {f"{other}_{phase}_s": value for phase, value in seconds.items()}
        figures |= {f"{other}_{phase}_ratio": value / measured.seconds[phase] for phase, value in seconds.items()}
    return figures


def _plain_seconds(workload: Workload, measured: _MeasuredIteration) -> dict[str, float]:
    """Each phase of the plain loop, on a CPU, from some of the tasks."""
    distribution = measured.distribution
    learner = MAML(
        distribution.observation_space, distribution.action_space, measured.learner.config, torch.Generator()
    )
    learner.load_state_dict({name: leaf.cpu() for name, leaf in measured.learner.state_dict().items()})
    plain = PlainLoop(FAMILIES[workload.env].gymnasium_id, learner, workload.episodes)

    num_tasks = min(PLAIN_TASKS, workload.num_tasks)
    tasks = tasks_to_json(distribution.sample(num_tasks, "test"))
    prepared = plain.tasks([batch.tasks(slice(0, num_tasks)).to("cpu") for batch in measured.batches])

    def seconds(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        return (time.perf_counter() - start) * workload.num_tasks / num_tasks

    phases = {  # the keys are those of the learner's own phases
        "sampling": seconds(lambda: [plain.sample(task) for task in tasks]),
        "meta_gradient": seconds(lambda: plain.gradient(prepared)),
        "meta_update_trpo": seconds(lambda: plain.updated(prepared, measured.line_search_trials)),
    }
    adaptation = seconds(lambda: [plain.adapted(plain.meta, support) for support, _ in prepared])
    return phases | {"iteration_trpo": phases["sampling"] + adaptation + phases["meta_update_trpo"]}


class _UpdateFromStart:
    """The meta-update from the parameters that collected the episodes: a second one in a row would find no step."""

    def __init__(self, learner: MAML, support: list[Episodes], query: Episodes) -> None:
        self._learner = learner
        self._support = support
        self._query = query
        self._start = learner.state_dict()
        self.metrics: dict[str, float] = {}

    def __call__(self) -> None:
        self._learner.load_state_dict(self._start)
        self.metrics = self._learner.update(MetaBatch(self._support, self._query))


def median_seconds(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median time of some calls, after an untimed one; a GPU is waited for until it has done what it was told."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))
