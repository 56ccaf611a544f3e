"""What stands beside pictures: tasks and returns as text."""

import numpy as np

from metarl.envs.rollout import Episodes
from metarl.envs.task_space import Task, num_tasks_of
from metarl.rendering.camera import EPISODE, Camera
from metarl.rendering.video import Row, Scene

LISTED = 8
"""Numbers of a task that its caption shows."""


def task_text(task: Task) -> str:
    """One task, leaves (1, …), as `--task` takes it, with three significant digits; cut short where it is long."""
    if sum(value.numel() for value in task.values()) > LISTED:
        return ", ".join(
            f"{name} ({value.numel()} numbers)" if value.numel() > 2 else task_text({name: value})
            for name, value in task.items()
        )
    return " ".join(f"{name}={','.join(map(_decimal, value.flatten().tolist()))}" for name, value in task.items())


def _decimal(value: float) -> str:
    """Three significant digits, never with an exponent."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def film_rows(tasks: Task, batches: list[Episodes], camera: Camera, name: str) -> list[Row]:
    """The tasks' films with their captions.

    Args:
        tasks: M tasks.
        batches: episodes after k = 0 … K adaptation steps.
        camera: has filmed them.
        name: of a task; numbered where there are more.
    """
    rows = []
    for task in range(num_tasks_of(tasks)):
        scenes = []
        for k, (batch, clips) in enumerate(zip(batches, camera.clips, strict=True)):
            returns = batch.returns[task]
            caption = f"k = {k}   return {return_text(returns.double().mean().item())}"
            note = f"mean of {len(returns)} episodes; this one {return_text(returns[EPISODE].item())}"
            scenes.append(Scene(caption, note, clips[task]))
        one = {parameter: value[task : task + 1] for parameter, value in tasks.items()}
        number = f" {task + 1}" if num_tasks_of(tasks) > 1 else ""
        rows.append(Row(f"{name}{number}: {task_text(one)}", scenes))
    return rows


def return_text(value: float) -> str:
    """A return with two decimals where it is small, else one."""
    return (f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}").replace("-", "−")
