"""`metarl bench`: which benchmark, of what, and how it is shown."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from metarl.benchmarks import tables as bench_report
from metarl.benchmarks.environments import Throughput, checked_families, throughput
from metarl.benchmarks.iteration import Workload, bench
from metarl.benchmarks.robots import RobotThroughput, checked_robots, robot_throughput
from metarl.benchmarks.rollouts import rollout_rates
from metarl.benchmarks.scaling import scaling
from metarl.benchmarks.scaling import write as write_scaling
from metarl.console import say
from metarl.errors import UserError, require_at_least
from metarl.run.config import DEFAULT_ENV
from metarl.run.device import resolve_device
from metarl.run.files import check_directory_writable
from metarl.training import distributed

TOGETHER = ("iteration", "sb3", "envs")
"""What 'all' measures, in one run."""


@dataclass(frozen=True)
class Bench:
    """Measure the speed on this machine, each time beside what one would use instead, in one run.

    Attributes:
        what: 'iteration': one MAML meta-iteration beside a plain loop over tasks and, on a GPU, one CPU core;
            'rollouts': environment steps with the policy in the loop as the batch grows; 'envs': steps of each family
            beside Gymnasium's vector environments and, with the extra 'bench', gymnax; 'sb3': Stable-Baselines3 PPO
            collecting on our VecEnv and on its own; 'robots': steps of the MuJoCo families beside MuJoCo's own rollout,
            Gymnasium's vector environments and, where it is installed, EnvPool; 'scaling': how a meta-iteration grows
            with tasks, episodes, horizon, width and processes (minutes); 'all': iteration, sb3 and envs.
        envs: registered environments; 'iteration', 'rollouts' and 'scaling' take one; by default point-navigation/finn,
            for 'envs' every family but the robots, for 'robots' one of each robot.
        num_tasks: M, tasks of 'iteration'.
        episodes: E, episodes per task of 'iteration'.
        horizon: H of 'iteration'; by default the family's.
        hidden_size: units of each of the policy's two hidden layers.
        num_envs: environments side by side of 'envs' (by default 1,024), 'robots' and 'sb3' (400).
        seconds: how long 'envs' and 'robots' step each environment.
        compile: whether 'envs' measures compiled steps as well.
        repeats: timed repetitions; medians are shown.
        num_threads: CPU threads of the meta-update, and of 'robots'; 0 takes one per core.
        fvp_fraction: share of the episodes on which MAML-TRPO's Fisher products are estimated.
        fvp_memory: megabytes of derivatives that are kept for them.
        device: of 'iteration' and 'rollouts': 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        plain: whether 'iteration' times the plain loop, which takes a minute.
        json: print JSON and nothing else.
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
        names = {part: self._names(part) for part in parts}
        progress, data = Console(stderr=True) if self.json else console, {}
        for part in parts:
            data[part], table = self._measured(part, names[part], progress)
            if not self.json:
                console.print(table)
        if self.json:
            print(json.dumps(data if self.what == "all" else data[self.what]))
        return 0

    def _names(self, what: str) -> list[str]:
        """The environments to measure.

        Raises:
            UserError: unknown, or several where one is taken.
        """
        if what == "robots":
            return list(checked_robots(self.envs))
        names = list(checked_families(self.envs or (() if what == "envs" else (DEFAULT_ENV,))))
        if what in ("iteration", "rollouts", "scaling") and len(names) != 1:
            raise UserError(f"bench {what} takes one environment, got {', '.join(names)}")
        return names

    def _measured(self, what: str, names: list[str], progress: Console) -> tuple[Any, Table]:
        """Figures as plain data, and their table."""
        match what:
            case "iteration":
                figures = self._iteration(names[0])
                return figures, bench_report.iteration_table(figures)
            case "rollouts":
                growth = rollout_rates(names[0], resolve_device(self.device), self.hidden_size, self.repeats)
                return growth.to_json(), bench_report.rollouts_table(growth)
            case "envs":
                rates = [self._throughput(name, progress) for name in names]
                return [rate.to_json() for rate in rates], bench_report.envs_table(rates)
            case "robots":
                robots = [self._robot_throughput(name, progress) for name in names]
                return [one.to_json() for one in robots], bench_report.robots_table(robots)
            case "sb3":
                from metarl.benchmarks.sb3 import sb3_collection  # slow to import, and not always needed

                collections = [sb3_collection(name, self.num_envs or 400, self.repeats) for name in names]
                return [one.to_json() for one in collections], bench_report.sb3_table(collections)
            case _:
                out = Path(self.out)
                check_directory_writable(out)
                points = scaling(names[0], self.num_threads or 1, lambda line: say(progress, line))
                for path in write_scaling(points, names[0], out):
                    say(progress, f"written: {path}")
                return [dataclasses.asdict(p) for p in points], bench_report.scaling_table(points, names[0])

    def _iteration(self, name: str) -> dict[str, Any]:
        own = {f.name for f in dataclasses.fields(Workload)} - {"env", "num_threads", "device"}
        workload = Workload(
            name,
            num_threads=self.num_threads or distributed.local_cores(),
            device=str(resolve_device(self.device)),
            **{field: getattr(self, field) for field in own},
        )
        return bench(workload, self.repeats, self.plain)

    def _throughput(self, name: str, progress: Console) -> Throughput:
        say(progress, name)
        return throughput(name, self.num_envs or 1024, self.seconds, distributed.local_cores(), self.compile)

    def _robot_throughput(self, name: str, progress: Console) -> RobotThroughput:
        say(progress, name)
        return robot_throughput(name, self.num_envs or 400, self.seconds, self.num_threads or distributed.local_cores())
