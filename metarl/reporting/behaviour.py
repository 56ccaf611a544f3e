"""Frames of what a run's policy does, for the page of a run whose family has no plane to draw paths in."""

import math
import sys
from dataclasses import dataclass

import numpy as np

from metarl.envs.registry import env_label
from metarl.errors import UserError
from metarl.evaluation.adaptation import rollout_generator
from metarl.rendering.draw import ShownAdaptation, has_plane, record
from metarl.rendering.encode import still_bytes
from metarl.rendering.video import STRIP_LENGTH, Row, image_size, strip
from metarl.run.build import load_learner
from metarl.run.checkpoint import BEST
from metarl.run.device import resolve_device
from metarl.run.run_directory import RunDirectory

NUM_TASKS = 2

FRAMES = 50
"""So many images are taken of an episode of full length, at most; a strip chooses from them."""

MOSTLY_WHITE = 0.5
"""A picture with more white is a drawing on paper, which a dark page may invert; others are photographs."""


@dataclass(frozen=True)
class Behaviour:
    """Frames of episodes on two tasks, before adaptation and after its last step.

    Attributes:
        png: the file, as bytes.
        is_photograph: whether it loses its sense where a page inverts its pictures for its dark mode.
        env_steps: environment steps that it took.
    """

    png: bytes
    is_photograph: bool
    env_steps: int


def behaviour_of(run: RunDirectory, device: str) -> Behaviour | None:
    """Frames of the run's policy; None where paths say more, where there is no policy, or nothing can be drawn.

    Args:
        run: the run.
        device: where to act, as in `resolve_device`.
    """
    if not run.checkpoints.path(BEST).is_file():
        return None
    distribution, learner, _ = load_learner(run, BEST, device)
    if has_plane(distribution):
        return None

    generator = rollout_generator(resolve_device(device), seed=0)
    tasks = distribution.sample(NUM_TASKS, "test", generator)
    stride = math.ceil(distribution.horizon / FRAMES)
    shown = ShownAdaptation(distribution, learner, tasks, learner.adaptation_steps, run.config.episodes)
    try:
        rows, batches = record("test task", shown, generator, image_size(STRIP_LENGTH), stride)
    # The page is whole without them.
    except (UserError, ValueError) as error:
        print(f"metarl: no frames of behaviour: {error}", file=sys.stderr)
        return None

    # Before and after: the steps in between are in the other figures.
    rows = [Row(row.label, [row.scenes[0], *row.scenes[1:][-1:]]) for row in rows]
    image = strip(f"{run.config.agent} on {env_label(run.config.env)}", rows, stride)
    white = float(np.mean((image > 250).all(axis=2)))
    return Behaviour(still_bytes(image), white < MOSTLY_WHITE, sum(batch.env_steps for batch in batches))
