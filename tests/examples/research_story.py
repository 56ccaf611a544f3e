"""A researcher's story: is MAML better than joint training on this family? Five seeds of each, and one picture.

    python research_story.py

What it prints and draws holds for other seeds and other tasks: the intervals see both. The commands would be

    metarl train maml point-dynamics --seeds 0-4 --iterations 30
    metarl train multitask point-dynamics --seeds 0-4 --iterations 10000 --max-env-steps STEPS
    metarl compare runs/maml-… runs/multitask-… --baselines random oracle
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

import metarl
from metarl.comparison.comparison import Comparison
from metarl.evaluation.intervals import mean_interval

AGENTS = ("maml", "multitask")
COLOURS = dict(zip(AGENTS, ("tab:blue", "tab:orange"), strict=True))


def train(env: str, seeds: Sequence[int], iterations: int, **size: Any) -> dict[str, list[metarl.Run]]:
    """Runs of MAML, one for each seed, and of joint training, each on as many environment steps.

    An iteration of joint training takes fewer steps than one of MAML. Agents that had different budgets get no verdict.

    Args:
        env: as `metarl envs` lists them.
        seeds: of the runs.
        iterations: of MAML.
        size: further settings of both, such as num_tasks=20.
    """
    runs: dict[str, list[metarl.Run]] = {agent: [] for agent in AGENTS}
    for seed in seeds:
        maml = metarl.train("maml", env, seed=seed, iterations=iterations, **size)
        env_steps = int(maml.metrics()["env_steps"].iloc[-1])
        joint = metarl.train("multitask", env, seed=seed, iterations=10_000, max_env_steps=env_steps, **size)
        runs["maml"].append(maml)
        runs["multitask"].append(joint)
    return runs


def compare(runs: dict[str, list[metarl.Run]], **size: Any) -> Comparison:
    """All of them on the same held-out tasks; the seeds of an agent are pooled.

    Args:
        runs: of each agent.
        size: further settings of the comparison, such as num_tasks=20.
    """
    every_run = [run for agent in AGENTS for run in runs[agent]]
    return metarl.compare(every_run, baselines=["random", "oracle"], **size)


def learning_curves(axes: Axes, runs: dict[str, list[metarl.Run]]) -> None:
    """Validation return after adaptation while it trained: mean over seeds with its 95% interval."""
    for agent, seeds in runs.items():
        last = max(column for column in seeds[0].metrics() if column.startswith("eval/return_k"))
        tables = [run.metrics().set_index("iteration")[["env_steps", last]].dropna() for run in seeds]
        of_every_seed = pandas.concat(tables, axis="columns", join="inner")
        env_steps = of_every_seed["env_steps"].mean(axis="columns")
        returns = of_every_seed[last].to_numpy()  # (points, seeds)

        ends = np.array([mean_interval(row[:, None]).ends for row in returns])
        axes.plot(env_steps, returns.mean(axis=1), color=COLOURS[agent], label=agent)
        axes.fill_between(env_steps, *ends.T, color=COLOURS[agent], alpha=0.15, linewidth=0)
    axes.set(xlabel="environment steps of training", ylabel="return after adaptation")
    axes.set_title("validation tasks, while they trained")
    axes.legend(loc="lower right")


def adaptation(axes: Axes, comparison: Comparison) -> None:
    """Return against experience of a held-out task, over seeds and tasks, between the two references.

    Steps: between two of them nothing adapts.
    """
    for curve in comparison.curves:
        if curve.kind == "reference":
            axes.axhline(curve.mean[0], color="dimgrey", linestyle="--", linewidth=1)
            above_right: dict[str, Any] = {
                "textcoords": "offset points",
                "xytext": (-4, 2),
                "ha": "right",
                "va": "bottom",
            }
            axes.annotate(curve.label, (1, curve.mean[0]), xycoords=("axes fraction", "data"), **above_right)
            continue

        estimates = [mean_interval(curve.returns[:, point]) for point in range(len(curve.env_steps))]
        below_and_above = np.abs(np.array([estimate.ends for estimate in estimates]).T - curve.mean)
        colour = COLOURS[curve.label.split()[0]]
        style: dict[str, Any] = {"marker": "o", "capsize": 3, "drawstyle": "steps-post"}
        axes.errorbar(curve.env_steps, curve.mean, below_and_above, color=colour, **style)
    axes.set(xlabel="environment steps on the new task", title=f"{comparison.which_tasks}, afterwards")


def draw(runs: dict[str, list[metarl.Run]], comparison: Comparison) -> Figure:
    """Learning curves and adaptation side by side, on one scale of returns."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    learning_curves(left, runs)
    adaptation(right, comparison)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.margins(y=0.08)
        axes.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))

    num_seeds = len(runs[AGENTS[0]])
    figure.suptitle(f"{comparison.env}: {num_seeds} seeds, mean and 95% interval")
    return figure


def main() -> None:
    """The whole story, at the size that the command line gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="point-dynamics", help="as `metarl envs` lists them")
    parser.add_argument("--seeds", type=int, default=5, help="of each agent")
    parser.add_argument("--iterations", type=int, default=30, help="of MAML")
    parser.add_argument("--num-tasks", type=int, default=10, help="of each iteration")
    parser.add_argument("--episodes", type=int, default=10, help="of each task and adaptation step")
    parser.add_argument("--out", type=Path, default=Path("study.png"), help="the picture")
    given = parser.parse_args()

    size = {"num_tasks": given.num_tasks, "episodes": given.episodes, "eval_tasks": 10, "test_tasks": 20}
    runs = train(given.env, range(given.seeds), given.iterations, **size)
    comparison = compare(runs, num_tasks=20, episodes=given.episodes)
    for pair in comparison.pairwise_comparisons:
        print(f"{pair.ours} against {pair.theirs}: {pair.verdict}, by {pair.difference.text('+.2f')}")
    draw(runs, comparison).savefig(given.out, dpi=200)


if __name__ == "__main__":
    main()
