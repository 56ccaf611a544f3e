"""Gymnasium's FrozenLake on random maps: where the holes are has to be found out."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.envs.external.gymnasium_tasks import GymnasiumTasks
from metarl.envs.external.worker_pool import TaskValues
from metarl.envs.family_entry import Family, Horizon
from metarl.envs.spaces.precision import float_dtype
from metarl.envs.task_space import Range

HORIZON = 30


@dataclass(frozen=True)
class SolvableLakes(Range):
    """Maps of n × n fields, 1 for a hole and 0 for ice, with a way over ice from start to goal.

    Start (upper left) and goal (lower right) are no holes. Each number of holes from `fewest` to `most` is equally
    likely, and then each map that has a way.
    """

    size: int
    fewest: int
    most: int
    units: str = "1"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject numbers of holes that leave no way."""
        spare = self.size**2 - (2 * self.size - 1)
        if not (self.size >= 2 and 0 <= self.fewest <= self.most <= spare):
            raise ValueError(
                f"SolvableLakes needs size >= 2 and 0 <= fewest <= most <= (size − 1)², "
                f"got size={self.size}, fewest={self.fewest}, most={self.most}"
            )
        object.__setattr__(self, "shape", (self.size, self.size))

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample; maps without a way are sampled again."""
        device = generator.device
        inner = self.size**2 - 2  # start and goal are no holes
        holes = torch.randint(self.fewest, self.most + 1, (num_tasks, 1), generator=generator, device=device)
        lakes = torch.zeros((num_tasks, self.size**2), device=device, dtype=float_dtype())
        missing = torch.ones(num_tasks, dtype=torch.bool, device=device)

        while bool(missing.any()):
            # The fields with the smallest random numbers become the holes.
            order = torch.rand((num_tasks, inner), generator=generator, device=device, dtype=float_dtype())
            rank = order.argsort(dim=1).argsort(dim=1)
            lakes[:, 1:-1] = torch.where(missing.unsqueeze(1), (rank < holes).float(), lakes[:, 1:-1])
            missing = ~self.contains(lakes.reshape(num_tasks, *self.shape))

        return lakes.reshape(num_tasks, *self.shape)

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains; a flood from the start must reach the goal."""
        ice = value == 0
        holes = value == 1

        reached = torch.zeros_like(ice)
        reached[:, 0, 0] = ice[:, 0, 0]
        for _ in range(self.size**2):
            wider = torch.nn.functional.pad(reached, (1, 1, 1, 1))
            beside = wider[:, :-2, 1:-1] | wider[:, 2:, 1:-1] | wider[:, 1:-1, :-2] | wider[:, 1:-1, 2:]
            reached = reached | (beside & ice)

        count = holes.flatten(1).sum(dim=1)
        allowed_count = (count >= self.fewest) & (count <= self.most)
        well_formed = (ice | holes).flatten(1).all(dim=1)
        return reached[:, -1, -1] & well_formed & allowed_count

    def __str__(self) -> str:
        return f"{self.size} × {self.size} maps with a way and {self.fewest} to {self.most} holes"


def description(task: TaskValues) -> dict[str, Any]:
    """FrozenLake's argument `desc`: rows of S(tart), F(rozen), H(ole) and G(oal)."""
    letters = np.where(task["holes"], "H", "F")
    rows = ["".join(row) for row in letters]
    rows[0] = f"S{rows[0][1:]}"
    rows[-1] = f"{rows[-1][:-1]}G"
    return {"desc": rows}


def frozen_lake(horizon: Horizon = HORIZON) -> GymnasiumTasks:
    """Gymnasium's FrozenLake on random solvable 4 × 4 maps with hidden holes, not slippery, H = 30; ood: more holes."""
    return GymnasiumTasks(
        "FrozenLake-v1",
        train={"holes": SolvableLakes(size=4, fewest=2, most=4)},
        ood={"holes": SolvableLakes(size=4, fewest=5, most=7)},
        horizon=horizon,
        keywords=description,
        fixed={"is_slippery": False},
        held_out=True,
    )


FAMILIES = (Family("frozen-lake", frozen_lake),)
