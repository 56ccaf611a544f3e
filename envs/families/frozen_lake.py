"""Gymnasium's FrozenLake on random maps: where the holes are has to be found out."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from envs.families.external import GymnasiumTasks
from envs.task_space import Range
from envs.worker_pool import TaskValues

HORIZON = 30


@dataclass(frozen=True)
class SolvableLakes(Range):
    """Maps of n × n fields, 1 for a hole and 0 for ice: each hole with the same probability, if there is a way.

    Start (upper left) and goal (lower right) are no holes, and ice leads from one to the other.
    """

    size: int = 4
    hole_probability: float = 0.3
    units: str = "1"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject maps that are hardly ever solvable."""
        if not (self.size >= 2 and 0 <= self.hole_probability <= 0.5):
            raise ValueError(
                "SolvableLakes needs size >= 2 and hole_probability in [0, 0.5], "
                f"got {self.size} and {self.hole_probability}"
            )
        object.__setattr__(self, "shape", (self.size, self.size))

    def sample(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """See Range.sample; maps without a way are drawn again."""
        lakes = torch.empty((num_tasks, *self.shape), device=generator.device)
        missing = torch.ones(num_tasks, dtype=torch.bool, device=generator.device)
        while bool(missing.any()):
            drawn = torch.rand(lakes.shape, generator=generator, device=generator.device) < self.hole_probability
            drawn[:, 0, 0] = drawn[:, -1, -1] = False
            lakes[missing] = drawn[missing].float()
            missing = ~self.contains(lakes)
        return lakes

    def contains(self, value: Tensor) -> Tensor:
        """See Range.contains: holes are 0 or 1, and a flood from the start reaches the goal."""
        ice = value == 0
        reached = torch.zeros_like(ice)
        reached[:, 0, 0] = ice[:, 0, 0]
        for _ in range(self.size**2):
            wider = torch.nn.functional.pad(reached, (1, 1, 1, 1))
            beside = wider[:, :-2, 1:-1] | wider[:, 2:, 1:-1] | wider[:, 1:-1, :-2] | wider[:, 1:-1, 2:]
            reached = reached | (beside & ice)
        return reached[:, -1, -1] & (ice | (value == 1)).flatten(1).all(dim=1)

    def __str__(self) -> str:
        return f"solvable {self.size} × {self.size} maps, holes with probability {self.hole_probability:g}"


def description(task: TaskValues) -> dict[str, Any]:
    """FrozenLake's argument `desc`: rows of S(tart), F(rozen), H(ole) and G(oal)."""
    rows = ["".join("H" if hole else "F" for hole in row) for row in task["holes"]]
    rows[0] = f"S{rows[0][1:]}"
    rows[-1] = f"{rows[-1][:-1]}G"
    return {"desc": rows}


def frozen_lake() -> GymnasiumTasks:
    """Gymnasium's FrozenLake on random solvable 4 × 4 maps with hidden holes, not slippery, H = 30; ood: more holes."""
    return GymnasiumTasks(
        "FrozenLake-v1",
        train={"holes": SolvableLakes(hole_probability=0.25)},
        ood={"holes": SolvableLakes(hole_probability=0.45)},
        horizon=HORIZON,
        keywords=description,
        fixed={"is_slippery": False},
    )
