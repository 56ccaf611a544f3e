"""The device that a command computes on."""

import re

import torch

from metarl.errors import UserError


def resolve_device(device: str) -> torch.device:
    """The device of that name, which must exist on this machine.

    Args:
        device: 'auto' (a GPU if there is one), 'cpu', 'cuda' or 'cuda:N'.

    Raises:
        UserError: no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")

    kind, _, index = device.partition(":")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(index or 0) >= num_gpus:
        raise UserError(f"device {device!r} is not there: this machine has {num_gpus} CUDA devices")
    return torch.device(device)
