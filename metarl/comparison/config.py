"""What can be asked of a comparison, and the names of the baselines."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from metarl.envs.task_distribution import FROZEN_SIZE
from metarl.errors import UserError, require_at_least
from metarl.run.find_run import RunAccess

REFERENCES = ("random", "untrained", "oracle")
SB3_BASELINES = ("ppo", "a2c", "sac", "td3", "ddpg", "dqn", "ppo-pretrained")
PRETRAINED = "-pretrained"
"""Ends the name of an SB3 algorithm that is trained over many tasks first."""
NONE = "none"
DEFAULT_BASELINES = ("reptile", "multitask", "distill", "ppo", "ppo-pretrained", "random", "untrained", "oracle")

NUM_TASKS = 20
BUDGET = 30_000
QUICK_NUM_TASKS = 6
QUICK_BUDGET = 10_000


@dataclass(frozen=True)
class CompareConfig(RunAccess):
    """Compare trained runs with baselines on the same held-out tasks, counted in the same environment steps.

    Attributes:
        runs: trained runs of one environment; runs of one agent that differ only in their seed are pooled.
        baselines: what to compare them with. Agents are meta-trained first with as many environment steps as the
            first run: maml, reptile, multitask, distill (taught by the first run). Stable-Baselines3 from scratch on
            each task: ppo, a2c, sac, td3, ddpg, dqn; trained over many tasks, then fine-tuned: ppo-pretrained.
            References: random, oracle, and untrained, the first run's agent at its initialisation. On Bernoulli
            bandits: gittins, thompson, ucb1, epsilon-greedy, greedy; on tabular MDPs: psrl, opsrl, ucrl2.
            "none": none.
        num_tasks: M, held-out tasks; by default 20, with --quick 6.
        budget: environment steps that SB3 may spend on each task; by default 30000, with --quick 10000.
        seeds: seeds of each baseline.
        split: held-out 'test' tasks, 'ood' outside the training ranges, or 'validation'.
        episodes: episodes per task in each evaluation, and of each adaptation step.
        steps: K, adaptation steps of the meta-learners; by default as many as each was trained for.
        quick: a first look: fewer tasks and steps, and baselines trained here get a fifth of the meta-training.
        device: of the meta-learners: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        num_threads: CPU threads, and processes for SB3; 0 = one per core.
        sb3_settings: arguments for Stable-Baselines3 on the new tasks, as JSON: '{"ppo": {"gamma": 0.9}}'.
        out: directory of the comparison; by default run_dir/comparison-ENV. Work done there before is not done again.
    """

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    num_tasks: int | None = None
    budget: int | None = None
    seeds: int = 1
    split: Literal["test", "ood", "validation"] = "test"
    episodes: int = 20
    steps: int | None = None
    quick: bool = False
    num_threads: int = 0
    sb3_settings: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        """Reject values out of range, naming the field."""
        require_at_least(self, num_tasks=1, seeds=1, episodes=1, steps=1, num_threads=0)
        if self.num_tasks is not None and self.num_tasks > FROZEN_SIZE:
            raise UserError(f"num_tasks must be at most {FROZEN_SIZE}, got {self.num_tasks}")

    @property
    def tasks_compared(self) -> int:
        """M."""
        if self.num_tasks is not None:
            return self.num_tasks
        return QUICK_NUM_TASKS if self.quick else NUM_TASKS

    @property
    def task_budget(self) -> int:
        """Environment steps that SB3 may spend on each task."""
        if self.budget is not None:
            return self.budget
        return QUICK_BUDGET if self.quick else BUDGET
