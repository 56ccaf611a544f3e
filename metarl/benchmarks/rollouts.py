"""Environment steps per second with the policy in the loop, as the batch grows until it does not fit."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metarl.agents.learner import Learner, MetaBatch
from metarl.agents.maml import MAML, MAMLConfig
from metarl.agents.policies.memory.base import RecurrentConfig
from metarl.agents.policies.mlp import PolicyConfig
from metarl.agents.rl2 import RL2, RL2Config
from metarl.benchmarks.iteration import median_seconds
from metarl.envs.registry import make_distribution
from metarl.envs.rollout import advance, begin, collect
from metarl.envs.task_distribution import TaskDistribution
from metarl.envs.task_space import Task
from metarl.evaluation.memory import available_bytes
from metarl.training.machine.accelerate import use_graphs

NUM_TASKS = 40
EPISODES = {"cpu": (1, 4, 20, 100, 400), "cuda": (20, 100, 1_000, 4_000, 16_000, 64_000, 256_000)}
"""Per task, by type of device."""

UPDATE_TRIALS = 10
"""Per task, of the update of a recurrent policy; each is one episode."""

COUNTED_EPISODES = 20
"""Per task, of the step whose bytes are counted."""


@dataclass(frozen=True)
class RolloutRate:
    """Environment steps per second of one batch size.

    Attributes:
        num_envs: environments side by side.
        eager: each operation launched by the host.
        captured: as a CUDA graph; None where there is no GPU.
        fused: as a CUDA graph of fewer kernels; None where there is no GPU.
        utilization: share of the time in which the GPU was busy, as its driver says; None where it does not.
    """

    num_envs: int
    eager: float
    captured: float | None
    fused: float | None
    utilization: float | None

    @property
    def best(self) -> float:
        """The fastest one."""
        return max(self.eager, self.captured or 0.0, self.fused or 0.0)


@dataclass(frozen=True)
class RolloutGrowth:
    """Rates of growing batches, and what the memory would allow.

    Attributes:
        env: the family.
        device: where they ran.
        device_name: its model.
        hidden_size: units of each of the two hidden layers, or of the recurrent unit.
        step_bytes: bytes that the operations of one environment step read and write.
        bytes_per_s: what the device reads and writes when it copies.
        rates: by growing batch.
        capture_error: what could not be captured or fused, and why; None where all could, or there are no graphs.
        update: environment steps per second through one epoch of RL²'s update; None for a policy without memory.
    """

    env: str
    device: str
    device_name: str
    hidden_size: int
    step_bytes: float
    bytes_per_s: float
    rates: Sequence[RolloutRate]
    capture_error: str | None
    update: float | None = None

    @property
    def memory_bound(self) -> float:
        """Environment steps per second at which the operations, one after the other, would use up the bandwidth."""
        return self.bytes_per_s / self.step_bytes

    @property
    def best(self) -> RolloutRate:
        """Of the fastest batch size."""
        return max(self.rates, key=lambda rate: rate.best)

    def to_json(self) -> dict[str, Any]:
        """Plain data with the bound and the best rate's share of it."""
        share = self.best.best / self.memory_bound
        return asdict(self) | {"memory_bound": self.memory_bound, "share_of_bound": share}


def rollout_rates(
    name: str, device: torch.device, hidden_size: int, repeats: int, recurrent: bool = False, num_threads: int = 1
) -> RolloutGrowth:
    """Measure rollouts of a fresh policy on 40 tasks × ever more episodes.

    Args:
        name: a registered family that is written in torch.
        device: where.
        hidden_size: units of each of the two hidden layers, or of the recurrent unit.
        repeats: rollouts of each size; the median counts.
        recurrent: the policy is a GRU, and RL²'s update is measured too.
        num_threads: CPU threads of that update.
    """
    generator = torch.Generator(device).manual_seed(0)
    distribution = make_distribution(name)
    learner = _learner(distribution, hidden_size, recurrent, generator, num_threads)
    tasks = distribution.sample(NUM_TASKS, "train", generator)

    rates, capture_error = _growing_rates(distribution, learner, tasks, generator, repeats)
    return RolloutGrowth(
        env=distribution.name,
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        hidden_size=hidden_size,
        step_bytes=_bytes_per_env_step(distribution, learner, tasks, generator),
        bytes_per_s=_copied_bytes_per_second(device, repeats),
        rates=rates,
        capture_error=capture_error,
        update=_update_rate(distribution, learner, tasks, generator, repeats) if recurrent else None,
    )


def _learner(
    distribution: TaskDistribution, hidden_size: int, recurrent: bool, generator: torch.Generator, num_threads: int
) -> Learner:
    """A fresh learner, whose policy acts."""
    spaces = distribution.observation_space, distribution.action_space
    if recurrent:
        config = RL2Config(policy=RecurrentConfig(hidden_size), trial_episodes=1, outer_epochs=1, minibatches=1)
        return RL2(*spaces, config, generator, num_threads)
    return MAML(*spaces, MAMLConfig(policy=PolicyConfig(hidden_sizes=(hidden_size, hidden_size))), generator)


def _update_rate(
    distribution: TaskDistribution, learner: Learner, tasks: Task, generator: torch.Generator, repeats: int
) -> float:
    """Environment steps per second through an update of one epoch, its passes before and after included."""
    env = distribution.bind(tasks, UPDATE_TRIALS)
    episodes = collect(env, learner.policy, learner.begin(NUM_TASKS), generator)
    batch = MetaBatch([], episodes)
    return episodes.env_steps / median_seconds(lambda: learner.update(batch), repeats, generator.device)


def _growing_rates(
    distribution: TaskDistribution, learner: Learner, tasks: Task, generator: torch.Generator, repeats: int
) -> tuple[list[RolloutRate], str | None]:
    """Rates of ever larger batches until one does not fit, and what could not be captured or fused."""
    env = distribution.task_env
    policy = learner.policy
    params = learner.begin(NUM_TASKS).params
    device = generator.device

    def rate(episodes: int) -> float:
        taken: list[int] = []

        def roll_out() -> None:
            taken.append(collect(env.bind(tasks, episodes), policy, params, generator).env_steps)

        seconds = median_seconds(roll_out, repeats, device)
        return sum(taken) / len(taken) / seconds

    refused: list[str] = []

    def rate_of_graphs(episodes: int, fuse: bool) -> float | None:
        said: list[str] = []
        use_graphs(distribution, learner, device, said.append, fuse)
        measured = None if env.rollout_graphs is None else rate(episodes)
        refused.extend(said)
        return None if said else measured  # what is refused is measured without graphs

    rates: list[RolloutRate] = []
    for episodes in EPISODES[device.type]:
        num_envs = NUM_TASKS * episodes
        if rates and not _fits(policy, num_envs, env.horizon, device):
            break

        env.rollout_graphs = None  # those of the batch before
        eager = rate(episodes)
        captured, fused = (rate_of_graphs(episodes, fuse) for fuse in (False, True))
        rates.append(RolloutRate(num_envs, eager, captured, fused, _utilization(device)))
    return rates, "; ".join(dict.fromkeys(refused)) or None


def _bytes_per_env_step(
    distribution: TaskDistribution, learner: Learner, tasks: Task, generator: torch.Generator
) -> float:
    """Bytes that the operations of one environment step, policy included, read and write."""
    params = learner.begin(NUM_TASKS).params
    bound = distribution.task_env.bind(tasks, COUNTED_EPISODES)
    carry = begin(bound, generator)

    # One step is enough: all are alike.
    counter = _TrafficCounter()
    with counter, torch.no_grad():
        advance(bound, learner.policy, params, carry, generator)
    return counter.bytes / (NUM_TASKS * COUNTED_EPISODES)


def _fits(policy: Any, num_envs: int, horizon: int, device: torch.device) -> bool:
    """Whether a rollout fits: its records, twice while they are put together, and the activations of a step."""
    free = available_bytes(device)
    if free is None:
        return True

    obs_size, action_size = policy.sizes[0], policy.sizes[-1]
    recorded = 2 * horizon * (obs_size + 3 * action_size + 3)
    activations = 4 * sum(policy.sizes)
    return bool(4 * num_envs * (recorded + activations) < free)  # 4 bytes a number


def _utilization(device: torch.device) -> float | None:
    """Share of the time in which the GPU was busy; None where nobody says."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except (ModuleNotFoundError, RuntimeError):  # needs nvidia-ml-py and a driver that answers
        return None


class _TrafficCounter(TorchDispatchMode):
    """Adds up the bytes of every tensor that an operation takes or gives, views excepted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in (*_tensors_in((args, kwargs)), *_tensors_in(result)):
                self.bytes += min(tensor.nbytes, tensor.untyped_storage().nbytes())  # what is expanded is read once
        return result


def _tensors_in(values: Any) -> list[Tensor]:
    """The tensors of nested arguments, each once."""
    tensors = {id(leaf): leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)}
    return list(tensors.values())


def _copied_bytes_per_second(device: torch.device, repeats: int) -> float:
    """Bytes per second that a copy reads and writes: the bandwidth of the device's memory."""
    source = torch.ones(2**26, device=device)  # 256 MB: more than caches hold
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), repeats, device)
