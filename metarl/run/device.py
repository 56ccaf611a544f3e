"""The device that a command computes on."""

import torch

from metarl.errors import UserError


def resolve_device(device: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:N' -> a device that is there.

    Raises:
        UserError: no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {device!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(device)
