"""`metarl bench`: which benchmark, of what, and how it is shown."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from metarl.agents.policies.mlp import MLPPolicy, PolicyConfig
from metarl.benchmarks import tables as bench_report
from metarl.benchmarks.environments import checked_families, throughput
from metarl.benchmarks.iteration import Workload, bench
from metarl.benchmarks.robots import checked_robots, gpu_robot_throughput, robot_throughput
from metarl.benchmarks.rollouts import rollout_rates
from metarl.benchmarks.scaling import scaling
from metarl.benchmarks.scaling import write as write_scaling
from metarl.console import print_json, say, show_table
from metarl.envs.registry import make_distribution
from metarl.errors import UserError, require_at_least
from metarl.evaluation.memory import environment_bytes, episode_bytes, parameter_bytes, require_memory
from metarl.run.config import DEFAULT_ENV
from metarl.run.device import resolve_device
from metarl.run.files import check_directory_writable
from metarl.training.machine import distributed
from metarl.training.machine.accelerate import first_use

TOGETHER = ("iteration", "sb3", "envs")
"""What 'all' measures."""


@dataclass(frozen=True)
class Bench:
    """Measure the speed on this machine, each time beside what one would use instead, in one run.

    Attributes:
        what: what to measure. 'iteration': one MAML meta-iteration beside a plain loop over tasks and, on a GPU, beside
            one CPU core; 'rollouts': environment steps with the policy in the loop as the batch grows; 'envs': steps
            of each family beside Gymnasium's vector environments and, with the extra 'bench', gymnax; 'sb3':
            Stable-Baselines3 PPO collecting on our VecEnv and on its own; 'robots': steps of the MuJoCo families
            beside MuJoCo's own rollout, Gymnasium's vector environments and, where it is installed, EnvPool, on a GPU
            beside MuJoCo Warp's own steps; 'scaling': how a meta-iteration grows with tasks, episodes, horizon, width
            and processes, which takes minutes; 'all': iteration, sb3 and envs.
        envs: registered environments; 'iteration', 'rollouts' and 'scaling' take one. By default
            point-navigation/finn; for 'envs' every family but the robots, for 'robots' one of each robot.
        num_tasks: M, tasks of 'iteration'.
        episodes: E, episodes per task of 'iteration'.
        horizon: H of 'iteration'; by default the family's.
        hidden_size: units of each of the policy's two hidden layers, or of its recurrent unit.
        recurrent: 'rollouts' of a policy with a GRU, and RL²'s update of it.
        num_envs: environments side by side; by default 1024 for 'envs', 400 for 'sb3' and 'robots', 4096 for 'robots'
            on a GPU.
        seconds: how long 'envs' and 'robots' step each environment; on a GPU 'robots' play whole episodes instead, as
            often as --repeats says.
        compile: whether 'envs' also measures compiled steps.
        repeats: timed repetitions; medians are shown.
        num_threads: CPU threads of the meta-update, and of 'robots'; 0 = one per core.
        fvp_fraction: share of the episodes on which MAML-TRPO's Fisher products are estimated.
        fvp_memory: megabytes for derivatives that are kept from one Fisher product to the next.
        device: of 'iteration', 'rollouts' and 'robots': 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        plain: whether 'iteration' times the plain loop, which takes a minute.
        json: print JSON and nothing else; progress goes to standard error.
        out: directory of scaling.csv and scaling.png.
    """

    what: Annotated[
        tyro.conf.Positional[Literal["iteration", "rollouts", "envs", "sb3", "robots", "scaling", "all"]],
        tyro.conf.arg(metavar="WHAT"),
    ] = "iteration"
    envs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="ENV")] = ()
    num_tasks: int = 40
    episodes: int = 20
    horizon: int | None = None
    hidden_size: int = 64
    recurrent: bool = False
    num_envs: int | None = None
    seconds: float = 1.0
    compile: bool = True
    repeats: int = 3
    num_threads: int = 1
    fvp_fraction: float = 0.2
    fvp_memory: float = 512
    device: str = "auto"
    plain: bool = True
    json: bool = False
    out: str = "runs/scaling"

    def __post_init__(self) -> None:
        """Reject values out of range, naming the flag."""
        require_at_least(self, num_tasks=1, episodes=1, horizon=1, hidden_size=1, num_envs=1, repeats=1, num_threads=0)
        if not self.seconds > 0:
            raise UserError(f"seconds must be positive, got {self.seconds}")

    def execute(self, console: Console) -> int:
        """Measure and print."""
        parts = TOGETHER if self.what == "all" else (self.what,)
        names = {part: self._names(part) for part in parts}  # before the work, so that a wrong name costs nothing
        progress = Console(stderr=True) if self.json else console

        data = {}
        for part in parts:
            data[part], table = self._measure(part, names[part], progress)
            if not self.json:
                show_table(console, table)

        if self.json:
            print_json(data if self.what == "all" else data[self.what])
        return 0

    def _names(self, what: str) -> list[str]:
        """The environments to measure.

        Raises:
            UserError: unknown, or several where one is taken.
        """
        if what == "robots":
            return list(checked_robots(self.envs))

        every_family = what == "envs"
        default = () if every_family else (DEFAULT_ENV,)
        names = list(checked_families(self.envs or default))
        if what in ("iteration", "rollouts", "scaling") and len(names) != 1:
            raise UserError(f"bench {what} takes one environment, got {', '.join(names)}")
        return names

    def _measure(self, what: str, names: list[str], progress: Console) -> tuple[Any, Table]:
        """Measurements as plain data, and their table."""
        match what:
            case "iteration":
                self._say_what_compiles(progress)
                return self._iteration(names[0])
            case "rollouts":
                self._say_what_compiles(progress)
                return self._rollouts(names[0])
            case "envs":
                return self._envs(names, progress)
            case "robots":
                return self._robots(names, progress)
            case "sb3":
                return self._sb3(names)
            case _:
                return self._scaling(names[0], progress)

    def _say_what_compiles(self, progress: Console) -> None:
        """Both measure fused graphs as well, where there are graphs."""
        if notice := first_use(resolve_device(self.device), fuse=True):
            say(progress, notice)

    def _iteration(self, name: str) -> tuple[Any, Table]:
        # The other fields of a workload are flags of the same name.
        own = {field.name for field in dataclasses.fields(Workload)} - {"env", "num_threads", "device", "cuda_graphs"}
        workload = Workload(
            name,
            num_threads=self._threads,
            device=str(resolve_device(self.device)),
            **{field: getattr(self, field) for field in own},
        )
        _require_memory_of_iteration(workload)
        figures = bench(workload, self.repeats, self.plain)
        return figures, bench_report.iteration_table(figures)

    def _rollouts(self, name: str) -> tuple[Any, Table]:
        _require_memory_of_iteration(Workload(name, num_tasks=1, episodes=1, hidden_size=self.hidden_size))
        device = resolve_device(self.device)
        rates = rollout_rates(name, device, self.hidden_size, self.repeats, self.recurrent, self._threads)
        return rates.to_json(), bench_report.rollouts_table(rates)

    def _envs(self, names: list[str], progress: Console) -> tuple[Any, Table]:
        rates = []
        for name in names:
            say(progress, name)
            cores = distributed.local_cores()
            _require_memory_of_envs(name, self.num_envs or 1024)
            rates.append(throughput(name, self.num_envs or 1024, self.seconds, cores, self.compile))
        return [rate.to_json() for rate in rates], bench_report.envs_table(rates)

    def _robots(self, names: list[str], progress: Console) -> tuple[Any, Table]:
        device = resolve_device(self.device)
        if device.type == "cuda":
            return self._robots_on_gpu(names, device, progress)

        rates = []
        for name in names:
            say(progress, name)
            _require_memory_of_envs(name, self.num_envs or 400)
            rates.append(robot_throughput(name, self.num_envs or 400, self.seconds, self._threads))
        return [rate.to_json() for rate in rates], bench_report.robots_table(rates)

    def _robots_on_gpu(self, names: list[str], device: torch.device, progress: Console) -> tuple[Any, Table]:
        from metarl.envs.physics.warp import WorldsDoNotFitError

        num_envs = self.num_envs or 4096
        rates = []
        for name in names:
            say(progress, name)
            try:
                rates.append(gpu_robot_throughput(name, num_envs, device, self.hidden_size, repeats=self.repeats))
            except WorldsDoNotFitError as error:
                raise error.lower("--num-envs") from error
        return [rate.to_json() for rate in rates], bench_report.gpu_robots_table(rates)

    def _sb3(self, names: list[str]) -> tuple[Any, Table]:
        from metarl.benchmarks.sb3 import sb3_collection  # slow to import, and not always needed

        for name in names:
            _require_memory_of_envs(name, self.num_envs or 400)
        rates = [sb3_collection(name, self.num_envs or 400, self.repeats) for name in names]
        return [rate.to_json() for rate in rates], bench_report.sb3_table(rates)

    def _scaling(self, name: str, progress: Console) -> tuple[Any, Table]:
        out = Path(self.out)
        check_directory_writable(out)
        points = scaling(name, self.num_threads or 1, lambda line: say(progress, line))
        for path in write_scaling(points, name, out):
            say(progress, f"written: {path}")
        return [dataclasses.asdict(point) for point in points], bench_report.scaling_table(points, name)

    @property
    def _threads(self) -> int:
        """CPU threads: as many as asked for, or one per core."""
        return self.num_threads or distributed.local_cores()


BYTES_OF_LIVE_ENV = 20_000
"""Of one object of Gymnasium's with its wrappers, which our batches are measured beside."""


def _require_memory_of_envs(name: str, num_envs: int) -> None:
    """Refuse more environments side by side than fit into the memory that is free.

    Raises:
        UserError: names their number.
    """
    needed = environment_bytes(make_distribution(name), num_envs) + BYTES_OF_LIVE_ENV * num_envs
    require_memory(needed, f"{num_envs} environments of {name}", "--num-envs")


def _require_memory_of_iteration(workload: Workload) -> None:
    """Refuse a meta-iteration that does not fit into the memory that is free.

    Raises:
        UserError: names its size.
    """
    distribution = make_distribution(workload.env)
    distribution.env.horizon = workload.horizon or distribution.horizon
    network = PolicyConfig((workload.hidden_size, workload.hidden_size))
    policy = MLPPolicy(distribution.observation_space, distribution.action_space, network)

    batches = 2  # support and query
    needed = episode_bytes(distribution, batches * workload.num_tasks * workload.episodes)
    needed += parameter_bytes(policy.num_parameters, workload.num_tasks)
    what = f"num_tasks {workload.num_tasks} × episodes {workload.episodes} × horizon {distribution.horizon}"
    what += f" with hidden_size {workload.hidden_size}"
    require_memory(needed, what, "--num-tasks, --episodes, --horizon or --hidden-size", workload.device)
