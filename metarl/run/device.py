"""The device that a command computes on."""

import platform
import re
from pathlib import Path

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


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of this machine's CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The model of this machine's CPU; its architecture where the system does not tell the model."""
    try:
        information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        information = ""

    for line in information.splitlines():
        field, _, value = line.partition(":")
        if field.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
