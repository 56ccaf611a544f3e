"""What stands beside the images: tasks and returns as text."""

import numpy as np

from metarl.console import counted, format_number
from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task, num_tasks_of
from metarl.rendering.camera import EPISODE, Camera, Clip
from metarl.rendering.video import Row, Scene

LISTED = 8
"""Numbers of a task that its caption shows."""


def task_text(task: Task) -> str:
    """One task, leaves (1, …), as `--task` takes it, with three significant digits; cut short where it is long."""
    if sum(value.numel() for value in task.values()) <= LISTED:
        return " ".join(f"{name}={','.join(map(_decimal, value.flatten().tolist()))}" for name, value in task.items())

    # Long parameters, such as the walls of a maze, by their length alone.
    parts = []
    for name, value in task.items():
        short = value.numel() <= 2
        parts.append(task_text({name: value}) if short else f"{name} ({value.numel()} numbers)")
    return ", ".join(parts)


def _decimal(value: float) -> str:
    """Three significant digits, never with an exponent."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def video_rows(tasks: Task, batches: list[Episodes], camera: Camera, name: str, pooled: bool = True) -> list[Row]:
    """The tasks' clips with their captions.

    Args:
        tasks: M tasks.
        batches: episodes after k = 0 … K adaptation steps.
        camera: has recorded them.
        name: of a task; numbered where there are more.
        pooled: whether all episodes of a batch inform the adaptation, or each is a trial of its own.
    """
    num_tasks = num_tasks_of(tasks)
    rows = []
    for task in range(num_tasks):
        scenes = [
            _scene(k, batch, clips[task], task, pooled)
            for k, (batch, clips) in enumerate(zip(batches, camera.clips, strict=True))
        ]

        parameters = {parameter: value[task : task + 1] for parameter, value in tasks.items()}
        number = f" {task + 1}" if num_tasks > 1 else ""
        rows.append(Row(f"{name}{number}: {task_text(parameters)}", scenes))
    return rows


def _scene(k: int, batch: Episodes, clip: Clip, task: int, pooled: bool) -> Scene:
    returns = batch.returns[task]
    experience = k * len(returns) if pooled else k
    return Scene(
        caption=f"after {counted(experience, 'episode')}" if k else "before adaptation",
        value=f"return {return_text(returns.double().mean().item())}",
        note=f"mean of {counted(len(returns), 'episode')}; this one {return_text(returns[EPISODE].item())}",
        clip=clip,
    )


def return_text(value: float) -> str:
    """A return with two decimals where it is small, else one."""
    return format_number(value, ".2f" if abs(value) < 10 else ".1f")
