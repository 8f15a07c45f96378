"""The one choice of a device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from configs.errors import RequestError
from configs.section import device_name


def pick_device(name: str, field: str = "train.device") -> torch.device:
    """The device of that name; `auto`: this process' GPU (torchrun's LOCAL_RANK), else the processor. `cuda` is this process' GPU too.

    RequestError for an unknown device or one that is not there; `field` names in it what the user set.
    """
    if name == "auto" and not torch.cuda.is_available() and (found := _unused_gpu()):
        line = f"warning: {field}=auto: expected a GPU that torch {torch.__version__} can use, found {found}; goes on on the processor"
        print(line, file=sys.stderr)
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device("cpu" if device_name(name) == "auto" else name)
    except ValueError as error:
        raise RequestError(f"{field}: {error}") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise RequestError(f"{field}: expected a CUDA device for '{name}', found {torch.cuda.device_count()}; use auto or cpu")
    return device


def _unused_gpu() -> str:
    """What there is of GPUs that PyTorch's CUDA cannot use; "" where there is none."""
    if any(Path(file).exists() for file in ("/proc/driver/nvidia/version", "/dev/nvidiactl")):
        return "NVIDIA's driver and no CUDA (`make check` compares their versions)"
    return "Apple's GPU, which is not supported" if torch.backends.mps.is_available() else ""
