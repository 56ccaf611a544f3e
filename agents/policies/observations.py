"""What a policy's network sees of an observation: normalised by running statistics, or pixels from 0 to 1."""

from collections.abc import Sequence

import torch
from gymnasium.spaces import Box
from torch import Tensor
from torch.nn import functional

from metarl.envs.rollout import Episodes
from metarl.envs.spaces.observation import FlatImage

CLIP = 10.0
"""Normalised observations are clipped to ± this: a sensor that jumps once must not drown the others."""

GRID = 8
"""Fields of an image, in height and in width, whose brightness a baseline sees."""

_CONSTANT = 1e-6
"""A standard deviation below this share of the mean is rounding: such an observation is shifted and not scaled."""


class ObservationNormalizer:
    """Normalises observations by the mean and the standard deviation of those seen in training so far.

        clip((o − mean) / std, ±10)

    The statistics are part of what is meta-trained: they change between meta-iterations only, and go wherever the
    parameters go. Before the first `merge` it hands observations on as they are.

    The numbers that it computes with are tensors that change in place, so that a CUDA graph sees the change.

    Source: `VecNormalize` of Stable-Baselines3; variances as in Chan, Golub & LeVeque 1979, "Updating Formulae and a
        Pairwise Algorithm for Computing Sample Variances".

    Attributes:
        active: whether it does anything; if not, observations pass untouched.

    Args:
        size: O.
    """

    def __init__(self, size: int) -> None:
        self.active = False
        self._count = torch.zeros((), dtype=torch.float64)
        self._mean = torch.zeros(size, dtype=torch.float64)
        self._squares = torch.zeros(size, dtype=torch.float64)  # Σ (o − mean)²

        self._shift = torch.zeros(size, dtype=torch.float32)
        self._factor = torch.ones(size, dtype=torch.float32)
        self._limit = torch.full((), torch.inf, dtype=torch.float32)

    def __call__(self, obs: Tensor) -> Tensor:
        """What the network sees of (…, O)."""
        if not self.active:
            return obs
        return ((obs - self._shift) * self._factor).clamp(-self._limit, self._limit)

    def summary(self, obs: Tensor) -> Tensor:
        """What a baseline takes of (…, O): the same."""
        return self(obs)

    @property
    def count(self) -> int:
        """Observations that the statistics are of; 0 before the first `merge`."""
        return int(self._count)

    @property
    def shift_and_factor(self) -> tuple[Tensor, Tensor]:
        """What is taken from an observation, and what the rest is multiplied with, both (O,)."""
        return self._shift, self._factor

    def activate(self, device: torch.device | str = "cpu") -> None:
        """Be active from now on, with the numbers on a device."""
        self.active = True
        for name in ("_count", "_mean", "_squares", "_shift", "_factor", "_limit"):
            setattr(self, name, getattr(self, name).to(device))

    def deactivate(self) -> None:
        """Hand observations on as they are from now on, and forget what was seen."""
        self.active = False
        for tensor in (self._count, self._mean, self._squares):
            tensor.zero_()
        self._refresh()

    # ------------------------------------------------------------------ statistics

    def moments(self, batches: Sequence[Episodes]) -> Tensor:
        """Number, sum and sum of squares of the observations of some batches, about the present mean: (1 + 2·O,).

        The sum of several processes' moments is that of all their batches. Float64; masked steps do not count.
        """
        total = torch.zeros(1 + 2 * len(self._mean), dtype=torch.float64, device=self._mean.device)
        for batch in batches:
            # One task at a time: a batch in double precision would take twice the memory of the batch.
            for obs, mask in zip(batch.obs, batch.mask, strict=True):
                taken = mask.double().unsqueeze(-1)
                deviation = (obs.double() - self._mean) * taken
                sums = (deviation.sum(dim=(0, 1)), deviation.square_().sum(dim=(0, 1)))
                total += torch.cat([taken.sum().reshape(1), *sums])
        return total

    def merge(self, moments: Tensor) -> None:
        """Add what `moments` gave; what the network sees changes with it."""
        count, (total, squares) = moments[0], moments[1:].chunk(2)
        self._count += count
        self._mean += total / self._count
        self._squares += squares - total.square() / self._count
        self._refresh()

    def set(self, shift: Tensor, factor: Tensor) -> None:
        """Normalise by these numbers, both (O,), which do not change any more.

        Raises:
            ValueError: they are not of this size.
        """
        if shift.shape != self._shift.shape or factor.shape != self._factor.shape:
            raise ValueError(f"{len(self._shift)} observations cannot be normalised by {len(shift)} numbers")
        self.active = True
        self._shift.copy_(shift)
        self._factor.copy_(factor)
        self._limit.fill_(CLIP)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that is needed to go on, as copies; nothing where it is not active."""
        if not self.active:
            return {}
        named = {"count": self._count, "mean": self._mean, "squares": self._squares}
        return {name: value.clone() for name, value in named.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: it is the state of other observations; nothing is changed.
        """
        if not state:
            self.deactivate()
            return
        if state["mean"].shape != self._mean.shape:
            raise ValueError(f"the statistics are of {len(state['mean'])} observations, not of {len(self._mean)}")

        self.active = True
        self._count.copy_(state["count"])
        self._mean.copy_(state["mean"])
        self._squares.copy_(state["squares"])
        self._refresh()

    def _refresh(self) -> None:
        """Compute what the network's observations are made with, in place."""
        std = (self._squares / self._count.clamp(min=1)).clamp(min=0).sqrt()
        varies = std > _CONSTANT * self._mean.abs()
        self._shift.copy_(self._mean)
        self._factor.copy_(torch.where(varies, 1 / std, 1.0))
        self._limit.fill_(CLIP if self._count > 0 else torch.inf)


class PixelScaling(ObservationNormalizer):
    """Scales the pixels of images from 0 … 255 to 0 … 1; there is nothing to learn.

    Args:
        image: the space of the pixels.
    """

    def __init__(self, image: FlatImage) -> None:
        super().__init__(1)
        self._image = image
        self._factor.fill_(1 / 255)

    def summary(self, obs: Tensor) -> Tensor:
        """What a baseline takes of (…, O): the mean brightness in each field of an 8 × 8 grid, for each channel.

        The pixels themselves would ask for a matrix of their number squared.
        """
        pixels = self._image.as_channels_first(obs).flatten(0, -4)
        grid = functional.adaptive_avg_pool2d(pixels, GRID).flatten(1)
        return grid.reshape(*obs.shape[:-1], -1) / 255

    @property
    def count(self) -> int:
        """No statistics are kept."""
        return 0

    def moments(self, batches: Sequence[Episodes]) -> Tensor:
        """None."""
        return torch.zeros(3, dtype=torch.float64, device=self._mean.device)

    def merge(self, moments: Tensor) -> None:
        """Nothing changes."""

    def _refresh(self) -> None:
        """Nothing changes."""


def observations_of(space: Box) -> ObservationNormalizer:
    """What makes a policy's observations of a space ready; not active yet."""
    return PixelScaling(space) if isinstance(space, FlatImage) else ObservationNormalizer(space.shape[0])
